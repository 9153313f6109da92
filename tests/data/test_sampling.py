from pathlib import Path

import numpy as np
import pytest

from common.data.samples import Sample
from common.data.sampling import EpochSampler, WeightedSampler, mining_weights, small_forgery_weights


def sample(share):
    mask = Path("m.npy") if share else None
    return Sample(case_id="x", image=Path("x.png"), mask=mask, group="x", area_share=share)


def test_small_forgeries_weigh_three_times():
    weights = small_forgery_weights([sample(s) for s in (0, 0.001, 0.0299, 0.03, 0.5)], 0.03, 3.0)
    assert weights == [1, 3, 3, 1, 1]


def test_draws_follow_the_weights():
    sampler = WeightedSampler([1.0] * 1000 + [3.0] * 1000, seed=0)
    indices = np.array([index for index, _ in sampler])
    assert len(indices) == len(sampler) == 2000
    assert (indices >= 1000).mean() == pytest.approx(0.75, abs=0.03)


def test_an_epoch_repeats_and_epochs_differ():
    sampler = WeightedSampler([1.0] * 50, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first != second


def test_every_draw_has_its_own_augmentation():
    seeds = [seed for _, seed in WeightedSampler([1.0, 0.0, 0.0, 0.0], seed=0)]
    assert len(set(seeds)) == 4


def test_mining_weighs_small_forgeries_and_hard_examples():
    samples = [sample(share) for share in (0, 0.0099, 0.01, 0.0499, 0.05, 0.9)]
    assert mining_weights(samples, [], 5.0) == [1, 3, 2, 2, 1, 1]
    assert mining_weights(samples, {0, 4}, 5.0) == [5, 3, 2, 2, 5, 1]
    assert mining_weights(samples, [1], 2.0) == [1, 2, 2, 2, 1, 1]


def test_new_weights_rule_the_next_iteration():
    sampler = WeightedSampler([1.0, 1.0, 0.0, 0.0], seed=0)
    assert {index for index, _ in sampler} <= {0, 1}
    sampler.reweigh([0.0, 0.0, 0.0, 2.0])
    assert {index for index, _ in sampler} == {3}
    other = WeightedSampler([0.0, 0.0, 0.0, 5.0], seed=0)
    assert list(sampler) == list(other)


def test_one_weight_a_sample():
    with pytest.raises(ValueError, match="2 weights for 3 samples"):
        WeightedSampler([1.0] * 3, seed=0).reweigh([1.0, 1.0])


def test_an_epoch_has_every_item_once():
    sampler = EpochSampler(50, seed=0)
    draws = list(sampler)
    assert len(sampler) == 50 and sorted(index for index, _ in draws) == list(range(50))
    assert [index for index, _ in draws] != list(range(50))
    assert len({seed for _, seed in draws}) == 50
    sampler.set_epoch(1)
    second = list(sampler)
    assert [index for index, _ in second] != [index for index, _ in draws] and not set(second) & set(draws)
    sampler.set_epoch(0)
    assert list(sampler) == draws == list(EpochSampler(50, seed=0)) != list(EpochSampler(50, seed=1))

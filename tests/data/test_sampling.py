from pathlib import Path

from common.data.samples import Sample
from common.data.sampling import WeightedSampler, small_forgery_weights

import numpy as np
import pytest


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

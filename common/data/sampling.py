"""Which samples an epoch sees, and how often."""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from common.data.samples import Sample


def small_forgery_weights(samples: Sequence[Sample], threshold: float, factor: float) -> list[float]:
    """`factor` for forgeries that cover less than `threshold` (a share) of their image, 1 for all others (seed)."""
    return [factor if sample.forged and sample.area_share < threshold else 1.0 for sample in samples]


def mining_weights(samples: Sequence[Sample], hard: Collection[int], hard_weight: float) -> list[float]:
    """Weights of the mining scripts: the smaller a forgery the more often, and hard examples as `hard_weight` says.

    Forged images have 3 below an area share of 1 %, 2 below 5 %, else 1; authentic ones 1 (seed, scripts 2 and 3).

    Args:
        samples: Inspected ones.
        hard: Positions of the hard examples in `samples`; theirs is `hard_weight` whatever they show.
        hard_weight: > 0.
    """
    by_size = (3.0, 2.0, 1.0)
    weights = [by_size[bisect_right((0.01, 0.05), s.area_share)] if s.forged else 1.0 for s in samples]
    for position in hard:
        weights[position] = hard_weight
    return weights


class WeightedSampler(Sampler):
    """Draw with replacement in proportion to weights; each draw carries a seed for its augmentation.

    An epoch's draws follow from `seed` and the epoch alone, on every process alike, so that a resumed run goes on as
    the unbroken one would, and several processes can each take their part of one sequence.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Hold the weights: one a sample, ≥ 0; their sum is what counts. An epoch has `len(weights)` draws."""
        self.probabilities = _probabilities(weights)
        self.seed = seed
        self.epoch = 0

    def reweigh(self, weights: Sequence[float]) -> None:
        """Draw by other weights from the next iteration on.

        Raises:
            ValueError: Not one weight a sample.
        """
        if len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for {len(self)} samples")
        self.probabilities = _probabilities(weights)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.probabilities)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        indices = rng.choice(len(self), size=len(self), p=self.probabilities)
        seeds = rng.integers(2**31, size=len(self))
        return zip(indices.tolist(), seeds.tolist(), strict=True)


class EpochSampler(Sampler):
    """Every item once an epoch, in random order; each with a seed for its augmentation.

    An epoch's order and seeds follow from `seed` and the epoch alone, as those of `WeightedSampler` do.
    """

    def __init__(self, count: int, seed: int) -> None:
        """Hold the number of items."""
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.count)
        seeds = rng.integers(2**31, size=self.count)
        return zip(order.tolist(), seeds.tolist(), strict=True)


def _probabilities(weights: Sequence[float]) -> np.ndarray:
    return np.asarray(weights, np.float64) / np.sum(weights)

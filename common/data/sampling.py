"""Which samples an epoch sees, and how often."""

from collections.abc import Iterator, Sequence

from common.data.samples import Sample

import numpy as np
from torch.utils.data import Sampler


def small_forgery_weights(samples: Sequence[Sample], threshold: float, factor: float) -> list[float]:
    """`factor` for forgeries that cover less than `threshold` (a share) of their image, 1 for all others (seed)."""
    return [factor if sample.forged and sample.area_share < threshold else 1.0 for sample in samples]


class WeightedSampler(Sampler):
    """Draw with replacement in proportion to weights; each draw carries a seed for its augmentation.

    An epoch's draws follow from `seed` and the epoch alone, on every process alike, so that a resumed run goes on as
    the unbroken one would, and several processes can each take their part of one sequence.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Hold the weights: one a sample, ≥ 0; their sum is what counts. An epoch has `len(weights)` draws."""
        self.probabilities = np.asarray(weights, np.float64) / np.sum(weights)
        self.seed = seed
        self.epoch = 0

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

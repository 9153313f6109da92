"""Weights of the samples, and the samplers that draw an epoch."""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from common.data.samples import Sample


def small_forgery_weights(samples: Sequence[Sample], threshold: float, factor: float) -> list[float]:
    """`factor` for forgeries that cover less than the share `threshold` of their image, else 1 (original recipe)."""
    return [factor if sample.forged and sample.area_share < threshold else 1.0 for sample in samples]


def mining_weights(samples: Sequence[Sample], hard: Collection[int], hard_weight: float) -> list[float]:
    """Weights of the mining scripts: higher for small forgeries, `hard_weight` for hard examples.

    Forged images have 3 below an area share of 1 %, 2 below 5 %, else 1; authentic ones 1 (original recipe, scripts 2
    and 3).

    Args:
        samples: Opened ones.
        hard: Positions of the hard examples in `samples`.
        hard_weight: > 0.
    """
    by_size = (3.0, 2.0, 1.0)
    weights = [by_size[bisect_right((0.01, 0.05), s.area_share)] if s.forged else 1.0 for s in samples]
    for position in hard:
        weights[position] = hard_weight
    return weights


class EpochSampler(Sampler[tuple[int, int]]):
    """Every item once an epoch, in random order, as `(index, seed)`: the seed is for its augmentation.

    An epoch's pairs depend on the sampler's seed and the epoch alone, on every process alike: a resumed run continues
    as the unbroken one would, and several processes can each take their part of one sequence.
    """

    def __init__(self, count: int, seed: int) -> None:
        """Set the number of items and the seed."""
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
        indices = self._draw(rng)
        seeds = rng.integers(2**31, size=self.count)
        return zip(indices.tolist(), seeds.tolist(), strict=True)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self.count)


class WeightedSampler(EpochSampler):
    """As `EpochSampler`, but drawn with replacement in proportion to weights; an epoch has one draw per weight."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Set the weights: one per sample, ≥ 0, in any unit."""
        super().__init__(len(weights), seed)
        self.reweigh(weights)

    def reweigh(self, weights: Sequence[float]) -> None:
        """Draw by other weights from the next iteration on.

        Raises:
            ValueError: Not one weight per sample.
        """
        if len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for {len(self)} samples")
        self.probabilities = np.asarray(weights, np.float64) / np.sum(weights)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.choice(self.count, size=self.count, p=self.probabilities)

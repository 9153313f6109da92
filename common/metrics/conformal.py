"""Split-conformal thresholds: verdicts "generated", "real" or neither with a bounded error rate.

Real images alone bound the rate at which such images are called generated, generated ones alone the other rate.

One class at a time (Vovk et al. 2005; Angelopoulos and Bates 2023, eq. 1): of n real images and a new one, all
exchangeable, the new one is among the highest m with a probability of at most m / (n + 1). So a threshold at the m-th
highest, m = ⌊(n + 1) α⌋, keeps the false-positive rate at α, whatever the scores' distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Products such as 100 · 0.29 lie just below the whole number that is meant.
ROUNDING = 1e-9

Verdict = Literal["generated", "real", "insufficient evidence", "not calibrated"]
"""`insufficient evidence` between the bounds; `not calibrated` where there are too few images for either bound."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Thresholds of the verdicts. From `lower` to `upper`, both included, the evidence is insufficient."""

    lower: float
    """Probabilities below are called real; −inf if there are too few images for a bound."""
    upper: float
    """Probabilities above are called generated; inf if there are too few images for a bound."""

    def verdict(self, prob: float) -> Verdict:
        """The verdict on an image with this probability.

        The comparisons are strict: where calibration maps all scores to one probability (slope 0), every verdict is
        "insufficient evidence".
        """
        if self.lower == -math.inf and self.upper == math.inf:
            return "not calibrated"
        if prob > self.upper:
            return "generated"
        return "real" if prob < self.lower else "insufficient evidence"


def fit_bounds(
    probs: np.ndarray, generated: np.ndarray, target_fpr: float, conditions: Sequence[str] | None = None
) -> Bounds:
    """Bounds that call at most `target_fpr` of real images generated, and of generated ones real.

    Both rates hold on average over the draw of these images, if new ones come from the same source and these were not
    trained on. Calibrating on the same images (`fit_calibration`) is allowed, since it keeps their order; choosing
    epochs by them makes the rates slightly optimistic. Where the classes do not overlap, `lower` is lowered to `upper`.

    Args:
        probs: (n,) of validation images, any monotone score.
        generated: bool (n,).
        target_fpr: In (0, 1).
        conditions: (n,), what was done to each image, such as a compression: the rates hold in each condition by
            itself, so the bounds are those of the worst one. Each image may occur in all of them.

    Returns:
        Bounds, infinite on a side whose class has fewer than `least_images` of a kind.

    Raises:
        ValueError: `target_fpr` outside (0, 1), or a probability that is nan.
    """
    if not 0 < target_fpr < 1:
        raise ValueError(f"a false-positive rate of {target_fpr} is not between 0 and 1")
    probs, generated = np.asarray(probs, np.float64), np.asarray(generated, bool)
    if np.isnan(probs).any():
        raise ValueError("a probability is nan")
    kinds = np.zeros(len(probs), int) if conditions is None else np.asarray(conditions)
    upper = -_worst_bound(-probs[~generated], kinds[~generated], target_fpr)
    return Bounds(lower=min(_worst_bound(probs[generated], kinds[generated], target_fpr), upper), upper=upper)


def least_images(rate: float) -> int:
    """Number of images of a class from which its bound is finite, ⌈1 / rate⌉ − 1: 19 for 5 %."""
    return math.ceil(1 / rate - ROUNDING) - 1


def _worst_bound(scores: np.ndarray, kinds: np.ndarray, rate: float) -> float:
    """The lowest `_low_bound` of the scores of one kind; −inf without any."""
    return min((_low_bound(scores[kinds == kind], rate) for kind in set(kinds.tolist())), default=-math.inf)


def _low_bound(scores: np.ndarray, rate: float) -> float:
    """The ⌊(n + 1) rate⌋-th lowest of n scores: the share of further ones strictly below is at most `rate`."""
    rank = math.floor((len(scores) + 1) * rate + ROUNDING)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank else -math.inf

"""Verdicts with a bounded error rate from a finite number of images: "generated", "real", or neither.

Split-conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2023, eq. 1), one class at a time: of n real images
and a new one, all exchangeable, the new one is among the highest m with a probability of at most m / (n + 1). So a
threshold at the m-th highest, m = ⌊(n + 1) α⌋, keeps the false-positive rate at α, whatever the scores' distribution.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Products such as 100 · 0.29 end just below the whole number that is meant.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Where the verdicts change. Between `lower` and `upper`, both included, the evidence is insufficient."""

    lower: float
    """Probabilities below are called real; −inf where nothing may be."""
    upper: float
    """Probabilities above are called generated; inf where nothing may be."""

    def verdict(self, prob: float) -> Literal["generated", "real", "insufficient evidence"]:
        """What to say of an image with this probability.

        The comparisons are strict, so that ties with a bound are left open: where calibration maps all scores to one
        probability (slope 0), nothing is called anything.
        """
        if prob > self.upper:
            return "generated"
        return "real" if prob < self.lower else "insufficient evidence"


def fit_bounds(probs: np.ndarray, generated: np.ndarray, target_fpr: float) -> Bounds:
    """Bounds that call at most `target_fpr` of real images generated, and of generated ones real.

    Both rates hold on average over the draw of these images, if new ones come from the same source and these took no
    part in training. Calibrating the probabilities on the same images (`fit_calibration`) is allowed, since it keeps
    their order; choosing among epochs by them makes the rates slightly optimistic. Where the classes lie apart there is
    no band: `lower` is lowered to `upper`, and its rate still holds.

    Args:
        probs: (n,) of validation images, any monotone score.
        generated: bool (n,).
        target_fpr: In (0, 1).

    Returns:
        Bounds, infinite on a side whose class has less than `needed_images(target_fpr)`.

    Raises:
        ValueError: `target_fpr` outside (0, 1), or a probability that is nan.
    """
    _check(target_fpr)
    probs, generated = np.asarray(probs, np.float64), np.asarray(generated, bool)
    if np.isnan(probs).any():
        raise ValueError("a probability is nan")
    upper = -_low_bound(-probs[~generated], target_fpr)
    return Bounds(lower=min(_low_bound(probs[generated], target_fpr), upper), upper=upper)


def needed_images(target_fpr: float) -> int:
    """How many images of a class it takes for a finite bound: ⌈1 / target_fpr⌉ − 1, as 19 for 5 %.

    Raises:
        ValueError: `target_fpr` outside (0, 1).
    """
    _check(target_fpr)
    return math.ceil((1 - ROUNDING) / target_fpr) - 1


def _low_bound(scores: np.ndarray, rate: float) -> float:
    """The ⌊(n + 1) rate⌋-th lowest of n scores: the share of further ones strictly below is at most `rate`."""
    rank = math.floor((len(scores) + 1) * rate + ROUNDING)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank else -math.inf


def _check(target_fpr: float) -> None:
    if not 0 < target_fpr < 1:
        raise ValueError(f"a false-positive rate of {target_fpr} is not between 0 and 1")

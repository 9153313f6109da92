"""From an image's score to the probability that it is forged."""

import math
from collections.abc import Sequence

import numpy as np


def log_odds(score: float) -> float:
    """ln(s / (1 − s)) of a score in [0, 1], kept finite."""
    score = min(max(score, 1e-6), 1 - 1e-6)
    return math.log(score / (1 - score))


def fit_calibration(scores: Sequence[float], forged: Sequence[bool]) -> dict[str, float]:
    """Platt scaling (Platt 1999): a logistic regression on the score's log-odds.

    Args:
        scores: One an image, in [0, 1] (`metrics.image_score`), of images the network was not trained on.
        forged: The truth.

    Returns:
        `slope` (≥ 0; 1 / slope is the temperature of Guo et al. 2017) and `intercept` for `calibrated`. With one class
        only, nothing can be fitted: the identity, 1 and 0. Where scores run against the truth, the slope is 0: they say
        nothing, and the share of forged images is the probability.
    """
    # Not above: it takes as long to import as half of torch, and whoever only applies a calibration needs none.
    from sklearn.linear_model import LogisticRegression

    forged = np.asarray(forged, bool)
    if forged.all() or not forged.any():
        return {"slope": 1.0, "intercept": 0.0}
    x = np.array([[log_odds(score)] for score in scores])
    fitted = LogisticRegression(C=1.0).fit(x, forged)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope < 0:
        slope, intercept = 0.0, log_odds(float(forged.mean()))
    return {"slope": slope, "intercept": intercept}


def calibrated(score: float, slope: float, intercept: float) -> float:
    """Probability in (0, 1) that an image with this score is forged."""
    return 1 / (1 + math.exp(-(slope * log_odds(score) + intercept)))

"""Platt scaling: from an image's score to the probability that it is forged."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit


def log_odds(score: float) -> float:
    """ln(s / (1 − s)) of a score in [0, 1], which is clipped to [1e-6, 1 − 1e-6]."""
    return float(logit(np.clip(score, 1e-6, 1 - 1e-6)))


def fit_calibration(scores: Sequence[float], forged: Sequence[bool]) -> dict[str, float]:
    """Fit a logistic regression on the log-odds of the scores (Platt 1999).

    Args:
        scores: (n,) in [0, 1] (`metrics.image_score`), of images the network was not trained on.
        forged: bool (n,), the truth.

    Returns:
        `slope` (≥ 0; 1 / slope is the temperature of Guo et al. 2017) and `intercept` for `calibrated`: the identity (1
        and 0) if there is only one class; slope 0 and the share of forged images if the scores rank them in reverse.
    """
    # Imported here because it takes half as long as torch, and `calibrated` does not need it.
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(forged, bool)
    if labels.all() or not labels.any():
        return {"slope": 1.0, "intercept": 0.0}
    x = np.array([[log_odds(score)] for score in scores])
    fitted = LogisticRegression(C=1.0).fit(x, labels)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope < 0:
        slope, intercept = 0.0, log_odds(float(labels.mean()))
    return {"slope": slope, "intercept": intercept}


def calibrated(score: float, slope: float, intercept: float) -> float:
    """Probability in (0, 1) that an image with this score is forged."""
    return float(expit(slope * log_odds(score) + intercept))

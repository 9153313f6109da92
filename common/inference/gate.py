"""The image-level decision: forged or authentic, before any region is drawn.

A verdict by any pixel above a threshold flags most authentic images. Here the image's score (a high quantile of its
map) becomes a calibrated probability, and that must reach the mode's threshold. Under oF1 an image is worth
calling forged when p · F1 > 1 − p, with F1 what its mask will score: at p = 0.65 for an expected F1 of 0.54.
"""

from typing import Literal

Mode = Literal["high-precision", "balanced", "default", "high-recall", "max-recall"]

THRESHOLDS: dict[Mode, float] = {
    "high-precision": 0.80,
    "balanced": 0.70,
    "default": 0.65,
    "high-recall": 0.60,
    "max-recall": 0.55,
}
"""Probability of being forged that an image must reach, by mode (the seed ensemble's five values)."""


def is_forged(forged_probability: float, mode: Mode) -> bool:
    """Whether an image with this calibrated probability in [0, 1] is called forged."""
    return forged_probability >= THRESHOLDS[mode]

"""Choices that the flags of a submission name (mode, views, runtime, grouping), and a fit's. Imports no network."""

from typing import Literal

Mode = Literal["high-precision", "balanced", "default", "high-recall", "max-recall"]

MODE_THRESHOLDS: dict[Mode, float] = {
    "high-precision": 0.80,
    "balanced": 0.70,
    "default": 0.65,
    "high-recall": 0.60,
    "max-recall": 0.55,
}
"""Probability of being forged that an image must reach, by mode (the original recipe's five values)."""

TTA = Literal["none", "flips", "full"]
"""Test-time augmentation: the views of an image whose maps are averaged."""

Backend = Literal["auto", "torch", "onnxruntime"]
"""What runs the networks."""

Grouping = Literal["merge", "components", "groups"]
"""Which regions of an image are one instance."""

Role = Literal["average", "union", "evidence", "gate"]
"""`average`: a network in the weighted mean; `union`: a network joined by the maximum; `evidence`: not a network,
joined after those (`join_evidence`); `gate`: has no map, and is a feature of the image-level decision alone."""

FEW, ORIGINAL, FITTED = COMPLETE = "few features", "+ regions", "fitted weights"
"""Names of the complete variants that a fit compares: decided by few features, by all, and with fitted weights too."""

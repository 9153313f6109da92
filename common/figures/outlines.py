"""Outlines of what two panels share: the whole of a field that both show, where everything in it agrees."""

from dataclasses import replace

import cv2
import numpy as np

from common.figures.panels import Panel
from common.forensics.alignment import warp_back
from common.forensics.copy_move import Copy

_SMOOTH = 2.5  # pixels: sigma of the blur of differences and of contrasts
_ALIKE = 2.0, 2.0  # factor on the region's mean difference, and gray levels: largest difference of what agrees
_CONTENT = 0.25, 1.5  # share of the region's contrast, and gray levels: least contrast of what is compared
_AGREES = 0.85  # share of the content that agrees


def shared_field(gray: np.ndarray, valid: np.ndarray, copy: Copy, source: Panel, target: Panel) -> Copy:
    """The copy with the whole field that its two panels share as its regions, if all that is seen there agrees.

    A correlation needs contrast: of cells on a dark ground it finds the cells. Where panels overlap, or one is shown
    again, the ground is shown again too.

    Args:
        gray: uint8 (H, W).
        valid: uint8 (H, W), 0 where the figure has nothing to compare.
        copy: Found between two panels.
        source: Panel of its source.
        target: Panel of its target, another one.

    Returns:
        The copy as it is where the field does not agree: then a part was copied.
    """
    window = source.window
    there = np.zeros(gray.shape, np.uint8)
    there[target.window] = 1
    shared = warp_back(there, copy.matrix, window) > 0
    region = copy.source[window] & shared
    if not region.any():
        return copy
    here, other = gray[window].astype(np.float32), warp_back(gray, copy.matrix, window).astype(np.float32)
    gain = _gain(here[region], other[region])
    difference = np.abs(gain * (here - here[region].mean()) - (other - other[region].mean()))
    difference = cv2.GaussianBlur(difference, (0, 0), _SMOOTH)
    contrast = np.maximum(gain * _contrast(here), _contrast(other))
    compared = shared & (np.minimum(valid[window], warp_back(valid, copy.matrix, window)) > 0)
    content = compared & (contrast >= _CONTENT[0] * np.median(contrast[region])) & (contrast >= _CONTENT[1])
    alike = difference <= _ALIKE[0] * difference[region].mean() + _ALIKE[1]
    if not content.any() or alike[content].mean() < _AGREES or alike[compared].mean() < _AGREES:
        return copy
    whole = np.zeros(gray.shape, np.uint8)
    whole[window] = shared
    moved = cv2.warpAffine(whole, copy.matrix, gray.shape[::-1], flags=cv2.INTER_NEAREST) > 0
    return replace(copy, source=copy.source | (whole > 0), target=copy.target | (moved & (there > 0)))


def _gain(here: np.ndarray, other: np.ndarray) -> float:
    """Factor on the contrast of `here` that fits it to `other`, both (n,)."""
    spread = float(here.std())
    return float(np.clip(other.std() / spread, 0.2, 5)) if spread else 1.0


def _contrast(gray: np.ndarray) -> np.ndarray:
    """Local deviation, float32 (h, w)."""
    mean = cv2.GaussianBlur(gray, (0, 0), _SMOOTH)
    return np.sqrt(np.maximum(cv2.GaussianBlur(gray * gray, (0, 0), _SMOOTH) - mean * mean, 0))

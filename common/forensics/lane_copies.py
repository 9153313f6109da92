"""Lanes of blots that are shown again: one, a run of neighbours or a whole strip, in their blot or in another one."""

from collections.abc import Sequence

import cv2
import numpy as np

from common.forensics.copy_move import LEAST_SCORE, Copy
from common.forensics.lane_fit import Fit, fit_pairs
from common.forensics.lane_score import describe_lanes, is_print, lane_score
from common.forensics.lane_search import Blot, Window, between_scales, find_pairs, prepare_blots

MOST_FITTED = 40
"""Pairs of places that are fitted, those that look most alike: bounds the time."""
_SEAM = 4  # pixels: so far from a seam, detail is not that of a region alone


def find_lane_copies(gray: np.ndarray, windows: Sequence[Window], *, between: bool = False) -> list[Copy]:
    """Find lanes that are shown again.

    Args:
        gray: uint8 (H, W).
        windows: Rows and columns of each blot, its lanes running downwards.
        between: Whether to compare the blots with one another alone, not with themselves.

    Returns:
        Pairs of regions by descending score, as high as their blots, without matching points.
    """
    blots = prepare_blots(gray, windows)
    fits = fit_pairs(blots, find_pairs(blots, between=between), MOST_FITTED)
    copies = []
    for fit in fits:
        source, target = blots[fit.source], blots[fit.target]
        if is_print(source.levels[fit.rows, fit.columns]):
            continue
        score = lane_score(describe_lanes(source, target, fit))
        if score >= LEAST_SCORE:
            copies.append(_copy(blots, fit, score, gray.shape))
    return sorted(copies, key=lambda copy: -copy.score)


def in_image(blots: Sequence[Blot], fit: Fit) -> np.ndarray:
    """A fit's matrix in the pixels of the image, float64 (2, 3)."""
    source, target = blots[fit.source], blots[fit.target]
    matrix = between_scales(fit.matrix, 1 / source.scale, 1 / target.scale)
    matrix[:, 2] += target.corner - matrix[:, :2] @ source.corner
    return matrix


def _copy(blots: Sequence[Blot], fit: Fit, score: float, shape: tuple[int, ...]) -> Copy:
    """Two regions in the pixels of the image."""
    source, matrix, columns = blots[fit.source], in_image(blots, fit), fit.columns
    edges = np.array([max(columns.start - _SEAM, 0), min(columns.stop + _SEAM, source.levels.shape[1])])
    left, right = np.rint(source.corner[0] + edges / source.scale).astype(int)
    top, high = int(source.corner[1]), round(len(source.levels) / source.scale)
    mask = np.zeros(shape, np.uint8)
    mask[top : top + high, left:right] = 1
    there = cv2.warpAffine(mask, matrix, shape[::-1], flags=cv2.INTER_NEAREST)
    points = np.zeros((0, 2, 2), np.float32)  # they are compared as wholes
    return Copy(
        source=mask > 0, target=there > 0, matrix=matrix, points=points, correlation=fit.correlation, score=score
    )

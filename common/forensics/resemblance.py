"""Score of a copy-move candidate: the probability that two similar regions are copies and not alike by nature.

Cells, bands, letters and windows resemble each other; only a copy has the same grain. A logistic model of features and
of their products, fitted on candidates of authentic images and of copy-moves in them (`benchmarks/copy_move_score.py`,
which writes the constants of `score_model.py`).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.special import expit

from common.forensics import score_model as model
from common.forensics.alignment import Aligned, warp_back
from common.forensics.gray import local_strength

FURTHEST = 4.0
"""Deviations from the mean beyond which a feature counts no more."""
MOST_PARALLEL = 4
"""Other candidates of one place with the same rotation and scale; more of them mean a periodic texture or text."""
MOST_OVERLAP = 0.25
"""Share of a region that its copy covers; a larger overlap means a periodic texture."""
PRINT_FLAT, PRINT_CONTRAST = 0.15, 2.5
"""Share of a region without detail, and ln of the median strength of its detail, from which it is print. Of the fit's
124 true copies with a score of 0.5 or more none has both; the smoothest micrographs are flat, but faint."""
FEW_CONTRAST = 0.5
"""The same logarithm, from which a region of few gray levels is print, and not a dim picture."""
LEAST_ISOTROPY = 0.03
"""Of a region's gradients. Of 63 true copies of score 0.3 or more the lowest has 0.17, an empty strip along the border
of a picture 0.001."""
LEAST_ENTROPY = 2.5
"""Of a region's gray levels, in bits. Letters, lines and empty dark background have less, cells with their surroundings
more."""

_SAME_TURN = 0.1  # largest difference of the linear parts of two transforms that are parallel
_GRADIENT = 1.5  # pixels: sigma of the blur before gradients are taken
_DETAIL = 1.2  # pixels: sigma of the blur whose residual is the detail
_AROUND = 3.0  # pixels: sigma of the window that its strength is measured in
_FLOOR = 0.5  # gray levels: weaker detail is rounding
_PADDING = 16  # pixels around a region, more than the windows reach
_INNER = 5  # pixels: rim in which the windows reach beyond the region
_FLAT = 3  # gray levels: a smaller range among 3 × 3 pixels is no detail
_LEAST = 30  # pixels that a correlation is taken of


def resemblance(gray: np.ndarray, found: Sequence[Aligned]) -> np.ndarray:
    """Probability of each candidate that it was copied, in (0, 1).

    Args:
        gray: float32 (H, W), gray levels.
        found: All candidates of the image: frequent repetition is natural.

    Returns:
        float64 (n,), 0 for text and periodic texture.
    """
    rows = describe(gray, found)
    return np.where(natural(rows, found), 0, expit(log_odds(rows).clip(-30, 30)))


def log_odds(rows: Sequence[dict[str, float]]) -> np.ndarray:
    """Log-odds of a copy, float64 (n,), of features as from `describe`."""
    values = np.array([[row[name] for name in model.FEATURES] for row in rows]).reshape(-1, len(model.FEATURES))
    # Beyond what the fit has seen, the products would grow without limit.
    z = ((values - np.array(model.MEAN)) / np.array(model.SCALE)).clip(-FURTHEST, FURTHEST)
    return model.INTERCEPT + z @ np.array(model.LINEAR) + np.einsum("ni,ij,nj->n", z, np.array(model.PRODUCTS), z)


def natural(rows: Sequence[dict[str, float]], found: Sequence[Aligned]) -> np.ndarray:
    """Which candidates are text, straight edges or periodic texture, bool (n,); `rows` as from `describe`."""
    return np.array(
        [
            _is_print(row) or row["isotropy"] < LEAST_ISOTROPY or _is_periodic(one, found)
            for row, one in zip(rows, found, strict=True)
        ],
        bool,
    )


def _is_print(row: dict[str, float]) -> bool:
    """Whether a region is of letters, lines and fills: strong edges between flat places, or of few gray levels."""
    few = row["entropy"] < LEAST_ENTROPY and row["contrast"] >= FEW_CONTRAST
    return few or (row["flat"] >= PRINT_FLAT and row["contrast"] >= PRINT_CONTRAST)


def _is_periodic(one: Aligned, found: Sequence[Aligned]) -> bool:
    """Whether a candidate is one of many parallel ones, or overlaps its own copy."""
    parallel = [other for other in found if np.abs(other.matrix[:, :2] - one.matrix[:, :2]).max() < _SAME_TURN]
    overlap = np.count_nonzero(one.source & one.target)
    return bool(_others(one, parallel) > MOST_PARALLEL or overlap > MOST_OVERLAP * np.count_nonzero(one.source))


def describe(gray: np.ndarray, found: Sequence[Aligned]) -> list[dict[str, float]]:
    """Features of each candidate.

    Returns:
        `grain`: Fisher's z of the correlation of fine detail, times ln of the number of matches.
        `matches`: ln of their number.
        `area`: ln of the region's pixels.
        `faint_grain`: Fisher's z of the same where detail is faintest: edges, which letters have, do not count.
        `flat`: share of the region without any detail, as between and within printed letters.
        `contrast`: ln of the median strength of detail, in gray levels.
        `entropy`: of the region's gray levels, in bits, at most 6: that of text and drawings is low.
        `difference`: ln of the mean difference between the two regions, relative to their contrast.
        `distance`: ln of the distance between them, in sides of the region.
        `stretch`: ln of the ratio of the scales of the two axes.
        `mirrored`: 0 or 1.
        `repeated`: ln of 1 + the number of other candidates of the same place.
        `isotropy`: ratio of the eigenvalues of the structure tensor, 0 for parallel edges, at most 1. It is no feature
            of the score's: any two straight edges correlate.
    """
    return [_describe(gray, one) | {"repeated": float(np.log1p(_others(one, found)))} for one in found]


def _describe(gray: np.ndarray, one: Aligned) -> dict[str, float]:
    x, y, width, height = cv2.boundingRect(one.source.astype(np.uint8))
    rows = slice(max(y - _PADDING, 0), min(y + height + _PADDING, gray.shape[0]))
    columns = slice(max(x - _PADDING, 0), min(x + width + _PADDING, gray.shape[1]))
    here, there, mask = gray[rows, columns], warp_back(gray, one.matrix, (rows, columns)), one.source[rows, columns]
    inner = cv2.erode(mask.astype(np.uint8), np.ones((_INNER, _INNER), np.uint8)) > 0
    if np.count_nonzero(inner) < _LEAST:
        inner = mask
    (detail, strength), (detail_there, strength_there) = _detail(here), _detail(there)
    both = np.sqrt(strength * strength_there)
    faint = inner & (both <= np.quantile(both[inner], 0.25))
    difference = np.abs(here - there)[inner].mean()
    levels = here.clip(0, 255).astype(np.uint8)
    flat = cv2.morphologyEx(levels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) < _FLAT
    longest, shortest = np.linalg.svd(one.matrix[:, :2], compute_uv=False)
    return {
        "grain": _fisher_z(detail, detail_there, inner) * np.log(len(one.points)),
        "matches": float(np.log(len(one.points))),
        "area": float(np.log(np.count_nonzero(mask))),
        "faint_grain": _fisher_z(detail, detail_there, faint),
        "flat": float(flat[inner].mean()),
        "contrast": float(np.log(np.median(both[inner]) + 0.2)),
        "entropy": min(_entropy(here[mask]), 6.0),
        "difference": float(np.log((difference + 0.2) / (here[mask].std() + 1))),
        "distance": float(np.log(_distance(one) / np.sqrt(np.count_nonzero(mask)) + 0.1)),
        "stretch": float(np.log(longest / shortest)),
        "mirrored": float(np.linalg.det(one.matrix[:, :2]) < 0),
        "isotropy": _isotropy(here, inner),
    }


def _detail(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fine detail at an even contrast, and its strength in gray levels, float32 (h, w) each."""
    detail = gray - cv2.GaussianBlur(gray, (0, 0), _DETAIL)
    strength = local_strength(detail, _AROUND)
    return detail / (strength + _FLOOR), strength


def _isotropy(gray: np.ndarray, where: np.ndarray) -> float:
    smooth = cv2.GaussianBlur(gray, (0, 0), _GRADIENT)
    gradient = np.stack([cv2.Sobel(smooth, cv2.CV_32F, *order)[where] for order in ((1, 0), (0, 1))]).astype(np.float64)
    low, high = np.linalg.eigvalsh(gradient @ gradient.T)
    return float(max(low, 0.0) / high) if high > 0 else 0.0


def _fisher_z(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Fisher's z of a correlation, artanh r, between -0.2 and 2.3; 0 for too few pixels."""
    a, b = one[where], other[where]
    if len(a) < _LEAST:
        return 0.0
    correlation = (a @ b) / np.sqrt((a @ a) * (b @ b) + 1e-9)
    return float(np.arctanh(np.clip(correlation, -0.2, 0.98)))


def _entropy(levels: np.ndarray) -> float:
    share = np.bincount(levels.astype(np.uint8), minlength=256) / len(levels)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _distance(one: Aligned) -> float:
    """Distance between the region's centre and its image, in pixels."""
    ys, xs = np.nonzero(one.source)
    centre = np.array([xs.mean(), ys.mean()])
    return float(np.linalg.norm(one.matrix @ (*centre, 1) - centre))


def _others(one: Aligned, found: Sequence[Aligned]) -> int:
    """Number of masks of other candidates that contain more than half of the region."""
    half = np.count_nonzero(one.source) / 2
    masks = (mask for other in found if other is not one for mask in (other.source, other.target))
    return sum(bool(np.count_nonzero(one.source & mask) > half) for mask in masks)

"""Score of two regions of blots that look alike: the probability that one is a copy of the other.

Lanes of one blot have the same shape by nature, and bands of other blots a similar one. A copy agrees in what their
shape does not determine: in the phases of its detail, beside those that its rows or columns share, and in the grain of
its smooth places. A logistic model of two features, fitted on strips of blots (`python -m benchmarks.blots fit`).
"""

import cv2
import numpy as np
from scipy import fft
from scipy.special import expit

from common.forensics.alignment import warp_back
from common.forensics.gray import local_strength
from common.forensics.lane_fit import Fit
from common.forensics.lane_search import Blot

FEATURES = ("grain", "phase")
MEAN = (1.377, 1.857)
SCALE = (1.047, 1.797)
WEIGHTS = (4.057, 3.473)
INTERCEPT = -6.684
FURTHEST = 4.0
"""Deviations from the mean beyond which a feature counts no more."""

_GRAIN = 1.2  # pixels: sigma of the blur whose residual is the grain
_FREQUENCIES = (0.03, 0.18)  # cycles a pixel: below, lanes are alike; above, JPEG leaves nothing
_SHARED = 1.5  # cycles across a region: what its rows or columns have in common
_AROUND, _ROUNDED = 4.0, 0.7  # pixels and gray levels: window and floor of the strength of grain, for its phases
_WIDE, _FLOOR, _STRONGEST = 6.0, 0.3, 3.0  # the same for its correlation, where stronger grain is a speck
_SLOPE = 2.0  # pixels: sigma of the blur before slopes are taken
_SMOOTH = 0.5  # share of a region, where it has the least slope
_SHIFTS = [(x, y) for y in (-9, -4, 0, 4, 9) for x in (-13, -8, -4, 0, 4, 8, 13) if (x, y) != (0, 0)]  # pixels
_EDGES, _FLAT = 3.0, 3.0  # pixels: window of the strength of edges; gray levels of 3 × 3 pixels: less is flat
_PRINT_FLAT, _PRINT_STRENGTH = 0.15, 2.0  # share of a region, and gray levels: flat blots have 1 at most
_LEAST_SPREAD = 0.02  # of the correlation at other shifts


def lane_score(features: dict[str, float]) -> float:
    """Probability of a copy, in (0, 1), of features as from `describe_lanes`."""
    values = np.array([features[name] for name in FEATURES])
    z = ((values - np.array(MEAN)) / np.array(SCALE)).clip(-FURTHEST, FURTHEST)
    return float(expit(INTERCEPT + z @ np.array(WEIGHTS)))


def describe_lanes(source: Blot, target: Blot, fit: Fit) -> dict[str, float]:
    """Features of two regions.

    Returns:
        `grain`: root of the correlation of grain in smooth places, by its root mean square at 34 other shifts.
        `phase`: root of the mean cosine of phase differences, by its deviation where phases are random.
    """
    region = fit.rows, fit.columns
    here, there = source.levels[region], warp_back(target.levels, fit.matrix, region)
    return {"grain": max(_grain(here, there), 0.0) ** 0.5, "phase": max(_phase(here, there), 0.0) ** 0.5}


def is_print(levels: np.ndarray) -> bool:
    """Whether a region, float32 (h, w), is of letters and lines: strong edges between flat places. Bands are soft."""
    spread = cv2.morphologyEx(levels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    strength = local_strength(_residual(levels), _EDGES)
    return bool((spread < _FLAT).mean() >= _PRINT_FLAT and np.median(strength) >= _PRINT_STRENGTH)


def _residual(levels: np.ndarray) -> np.ndarray:
    return levels - cv2.GaussianBlur(levels, (0, 0), _GRAIN)


def _phase(here: np.ndarray, there: np.ndarray) -> float:
    """Mean cosine of the phase differences of two regions' detail, times the root of twice their number."""
    high, wide = here.shape
    window = np.outer(np.hanning(high + 2)[1:-1], np.hanning(wide + 2)[1:-1])
    spectra = []
    for levels in (here, there):
        grain = _residual(levels)
        grain = grain / (local_strength(grain, _AROUND) + _ROUNDED)
        spectra.append(fft.rfft2((grain - (grain * window).sum() / window.sum()) * window))
    product = spectra[0] * np.conj(spectra[1])
    down, across = np.abs(fft.fftfreq(high))[:, None], fft.rfftfreq(wide)
    frequency = np.hypot(down, across)
    counted = (frequency >= _FREQUENCIES[0]) & (frequency < _FREQUENCIES[1])
    counted &= (down > _SHARED / high) & (across > _SHARED / wide)
    if not counted.any():
        return 0.0
    cosine = product.real[counted] / (np.abs(product[counted]) + 1e-9)
    return float(cosine.mean() * np.sqrt(2 * len(cosine)))


def _grain(here: np.ndarray, there: np.ndarray) -> float:
    """Correlation of two regions' grain where both are smooth, relative to that at other shifts."""
    slopes = [_slope(levels) for levels in (here, there)]
    slope = np.maximum(*(values / (np.median(values) + 0.05) for values in slopes))
    smooth = (slope <= np.quantile(slope, _SMOOTH)).astype(np.float32)
    one, other = (_even(_residual(levels)) for levels in (here, there))
    one = _without_profiles(one, smooth)

    def _correlation(values: np.ndarray) -> float:
        values = _without_profiles(values, smooth)
        return float((one * values).sum() / np.sqrt((one * one).sum() * (values * values).sum() + 1e-6))

    elsewhere = [_correlation(np.roll(other, shift, axis=(1, 0))) for shift in _SHIFTS]
    return _correlation(other) / max(float(np.sqrt(np.mean(np.square(elsewhere)))), _LEAST_SPREAD)


def _slope(levels: np.ndarray) -> np.ndarray:
    blurred = cv2.GaussianBlur(levels, (0, 0), _SLOPE)
    return np.hypot(*(cv2.Sobel(blurred, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))))


def _even(grain: np.ndarray) -> np.ndarray:
    """Grain at an even strength; specks count no more than strong grain."""
    return (grain / (local_strength(grain, _WIDE) + _FLOOR)).clip(-_STRONGEST, _STRONGEST)


def _without_profiles(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values where they count, without the means of rows and columns; 0 elsewhere."""
    values = values * where
    for axis in (1, 0):
        count = np.maximum(where.sum(axis=axis, keepdims=True), 1)
        values = values - where * (values.sum(axis=axis, keepdims=True) / count)
    return values

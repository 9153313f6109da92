"""Fit of a pair of places of blots: shift and stretch along both axes, and how far the likeness reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.forensics.alignment import move, warp_back
from common.forensics.lane_search import Blot, Pair

_BLURS = (1.5, 0.0)  # pixels: sigmas of the detail's blur, one fit after the other
_STEPS, _STILL = 6, 0.03  # most steps of a fit, and pixels: a shorter one ends it
_LONGEST_STEP = 2.0  # pixels
_MOST_FITTED = 20_000  # pixels that a fit looks at
_WORSE = 0.02  # loss of correlation that ends a fit
_LEAST_INSIDE = 0.5  # share of a region that has a place in the other blot
_LEAST_GAIN = 0.2
_CROPPED = 0.05  # of the height
_ALIKE, _LEAST_ALIKE = 0.5, 0.3  # correlation of a column, of that of the best one, and at least
_SMOOTH = 0.2  # of a piece's width: sigma over columns
_PERIODIC = 1.5  # widths of a region: what agrees so far beyond its own copy is a row of lanes that are alike
_NARROWEST = 12  # pixels of a region's width
_STRETCH = 1.25  # largest factor on an axis, beside that of the sizes at which pieces are sought
_LEAST_FIT, _LEAST_REGION = 0.3, 0.85  # correlation of a piece, and of a region: lanes of one gel reach 0.84
_EXPLAINED = 6.0  # pixels between two fits of one place


@dataclass(frozen=True, eq=False)
class Fit:
    """Two regions of blots that look alike."""

    source: int
    """Position of its blot."""
    target: int
    rows: slice
    """In the levels of the source."""
    columns: slice
    matrix: np.ndarray
    """float64 (2, 3): x, y in the levels of the source ↦ x, y in those of the target."""
    correlation: float
    """Of the detail."""

    @property
    def centre(self) -> np.ndarray:
        """x, y in the source."""
        return np.array([self.columns.start + self.columns.stop - 1, self.rows.start + self.rows.stop - 1]) / 2


def fit_pairs(blots: Sequence[Blot], pairs: Sequence[Pair], most: int) -> list[Fit]:
    """Regions around pairs, the first ones first; pairs that lie in an earlier region, or its copy, are left out.

    Args:
        blots: Of one image.
        pairs: Of them.
        most: Number of pairs that are fitted: bounds the time.
    """
    found: list[Fit] = []
    tried = 0
    for pair in pairs:
        middle = np.array([sum(pair.columns) / 2, len(blots[pair.source].levels) / 2])
        if any(_explains(fit, pair, middle) for fit in found):
            continue
        if tried == most:
            break
        tried += 1
        fit = _fit(blots[pair.source], blots[pair.target], pair)
        if fit is None:
            continue
        same = [earlier for earlier in found if _explains(earlier, fit, fit.centre)]
        if all(fit.correlation > earlier.correlation for earlier in same):
            found = [earlier for earlier in found if earlier not in same] + [fit]
    return found


def _explains(fit: Fit, other: Pair | Fit, here: np.ndarray) -> bool:
    """Whether a point (2,) of another pair lies in a fit's region, or in its copy, and is mapped alike."""
    if any(np.sign(np.diag(fit.matrix)) != np.sign(np.diag(other.matrix))):
        return False
    there = move(here[None], other.matrix)[0]
    for ends, one, two in (((other.source, other.target), here, there), ((other.target, other.source), there, here)):
        inside = ends == (fit.source, fit.target) and fit.columns.start <= one[0] < fit.columns.stop
        if inside and np.abs(move(one[None], fit.matrix)[0] - two).max() <= _EXPLAINED:
            return True
    return False


def _fit(source: Blot, target: Blot, pair: Pair) -> Fit | None:
    """The region that looks alike around a pair; None where the pair is worth nothing."""
    height = len(source.levels)
    rows = slice(round(_CROPPED * height), height - round(_CROPPED * height))
    correlation, matrix = _refined(source, target, pair.matrix, rows, slice(*pair.columns), _BLURS)
    stretch = np.abs(np.diag(matrix)) * target.ratio / source.ratio
    if correlation < _LEAST_FIT or max(*stretch, *(1 / stretch)) > _STRETCH:
        return None
    columns = _alike(source, target, matrix, rows, pair.columns)
    if pair.source == pair.target:
        alike, columns = columns, _off_itself(columns, matrix, sum(pair.columns) / 2)
        if matrix[0, 0] > 0 and alike.stop - alike.start > _PERIODIC * (columns.stop - columns.start):
            return None
    if columns.stop - columns.start < _NARROWEST:
        return None
    correlation, matrix = _refined(source, target, matrix, rows, columns, _BLURS[-1:])
    inside = has_place(target, matrix, rows, columns)
    if correlation < _LEAST_REGION or not inside.any():
        return None
    y, x = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    rows = slice(rows.start + int(y[0]), rows.start + int(y[-1]) + 1)
    columns = slice(columns.start + int(x[0]), columns.start + int(x[-1]) + 1)
    if columns.stop - columns.start < _NARROWEST or rows.stop - rows.start < _LEAST_INSIDE * height:
        return None
    return Fit(pair.source, pair.target, rows, columns, matrix, correlation)


def has_place(target: Blot, matrix: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Which pixels of a region are mapped into the other blot, bool (h, w): a rectangle."""
    inside = [
        (factor * np.arange(part.start, part.stop) + shift >= 1)
        & (factor * np.arange(part.start, part.stop) + shift <= side - 2)
        for factor, shift, part, side in zip(
            np.diag(matrix), matrix[:, 2], (columns, rows), target.levels.shape[::-1], strict=True
        )
    ]
    return inside[1][:, None] & inside[0]


def _refined(
    source: Blot, target: Blot, matrix: np.ndarray, rows: slice, columns: slice, blurs: Sequence[float]
) -> tuple[float, np.ndarray]:
    """The best correlation of a region's detail, and its matrix: Gauss-Newton on scale and shift along both axes."""
    best = (-1.0, matrix)
    thin = max(1, int(np.ceil(np.sqrt((rows.stop - rows.start) * (columns.stop - columns.start) / _MOST_FITTED))))
    centre = np.array([columns.start + columns.stop - 1, rows.start + rows.stop - 1]) / 2
    half = np.array([columns.stop - columns.start, rows.stop - rows.start]) / 2
    across = ((np.arange(columns.start, columns.stop, thin) - centre[0]) / half[0]).astype(np.float32)
    down = ((np.arange(rows.start, rows.stop, thin) - centre[1]) / half[1]).astype(np.float32)[:, None]
    for blur in blurs:
        details = [cv2.GaussianBlur(blot.detail, (0, 0), blur) if blur else blot.detail for blot in (source, target)]
        here = details[0][rows, columns][::thin, ::thin]
        slopes = [cv2.Sobel(details[1], cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))]
        best, current = (-1.0, best[1]), best[1].copy()
        for _ in range(_STEPS):
            inside = has_place(target, current, rows, columns)[::thin, ::thin]
            if inside.mean() < _LEAST_INSIDE:
                break
            there, *slope = (
                warp_back(values, current, (rows, columns))[::thin, ::thin] for values in (details[1], *slopes)
            )
            one, other = here[inside] - here[inside].mean(), there[inside] - there[inside].mean()
            product, energy = float(one @ other), float(other @ other)
            correlation = product / float(np.sqrt(one @ one * energy) + 1e-9)
            if correlation > best[0]:
                best = (correlation, current.copy())
            if correlation < best[0] - _WORSE or product <= 0:
                break
            gain = max(product / max(energy, 1e-9), _LEAST_GAIN)
            x, y = slope
            design = gain * np.stack([values[inside] for values in (x, x * across, y, y * down)], axis=1)
            normal = design.T @ design
            normal[np.diag_indices(4)] = 1.01 * normal.diagonal() + 1e-3  # against places without slopes
            step = np.linalg.solve(normal, design.T @ (one - gain * other)).clip(-_LONGEST_STEP, _LONGEST_STEP)
            current[:, 2] += step[::2] - step[1::2] * centre / half
            current[(0, 1), (0, 1)] += step[1::2] / half
            if np.abs(step).max() < _STILL:
                break
    return best


def _alike(source: Blot, target: Blot, matrix: np.ndarray, rows: slice, piece: tuple[int, int]) -> slice:
    """The columns around those of a piece that correlate."""
    columns = slice(0, source.levels.shape[1])
    weight = has_place(target, matrix, rows, columns)
    here, there = source.detail[rows], warp_back(target.detail, matrix, (rows, columns))
    sigma = max(_SMOOTH * (piece[1] - piece[0]), 3.0)

    def _sum(values: np.ndarray) -> np.ndarray:
        total = (values * weight).sum(axis=0, dtype=np.float32)
        return cv2.GaussianBlur(total[None], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[0]

    count = np.maximum(_sum(np.ones(here.shape, np.float32)), 1e-3)
    mean, mean_there = _sum(here) / count, _sum(there) / count
    covariance = _sum(here * there) / count - mean * mean_there
    variances = [_sum(values * values) / count - m * m for values, m in ((here, mean), (there, mean_there))]
    correlation = covariance / np.sqrt(np.maximum(variances[0], 1e-3) * np.maximum(variances[1], 1e-3))
    correlation[weight.mean(axis=0) < _LEAST_INSIDE] = -1
    best = piece[0] + int(correlation[slice(*piece)].argmax())
    low = np.flatnonzero(correlation < max(_ALIKE * correlation[best], _LEAST_ALIKE))
    start = low[low < best].max(initial=-1) + 1
    return slice(int(start), int(low[low > best].min(initial=len(correlation))))


def _off_itself(columns: slice, matrix: np.ndarray, middle: float) -> slice:
    """Columns around a middle that do not overlap their own image."""
    factor, shift = matrix[0, 0], matrix[0, 2]
    if factor < 0:
        mirror = shift / (1 - factor)
        if middle < mirror:
            return slice(columns.start, min(columns.stop, int(mirror)))
        return slice(max(columns.start, int(np.ceil(mirror))), columns.stop)
    apart = int(abs(factor * middle + shift - middle))
    if columns.stop - columns.start <= apart:
        return columns
    start = max(columns.start, min(int(middle - apart / 2), columns.stop - apart))
    return slice(start, start + apart)

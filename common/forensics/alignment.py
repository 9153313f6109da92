"""Alignment of matched regions: clusters of matches, their transforms, and the pixels that correlate under them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from scipy.spatial import KDTree

from common.components import connected
from common.forensics.holes import fill_holes
from common.forensics.matches import Matches

MIN_MATCHES = 3
"""Smallest number of matches in agreement whose transform is tested pixel by pixel."""
MAX_SCALE, MAX_STRETCH = 2.5, 1.35
"""Limits for a copy: the factor on lengths, up or down, and the ratio of the scales of its two axes."""

_NEIGHBOURS = 12
_TOLERANCE = 4.0, 0.25  # pixels, and share of the distance: scale and rotation of a key point are known to about 20 %
_REACH = 0.1, 48.0  # of the diagonal, at least pixels: how far apart two matches of one region may lie
_RESIDUAL = 2.5  # pixels
_MANY = 8  # points that determine an affine map
_MARGIN = 48.0  # pixels around the points, of the first window
_SIGMA = 2.5  # pixels, of the local correlation's window
_LEAST_VALID = 0.2  # share of the correlation's window
_NOISE = 0.5  # gray levels: detail much weaker than that does not correlate
_CORRELATION = 0.7
_SEPARATION = 12.0  # pixels between a place and its copy: nearer places are alike anyway
_RIM = 3  # pixels: width of the rim that the correlation window loses
_RIM_SIGMA = 0.8  # pixels: blur of the difference in the rim, where a copy ends from one pixel to the next
_ALIKE = 2.0, 1.0  # factor on a region's mean difference, and gray levels: largest difference of a place inside
_SLACK = 8  # pixels around the target that a refinement may move it by
_HALVES = 30.0  # pixels between two regions that are no halves of one object
_RETURNS = 5.0  # pixels: how near to its place a point returns that is mapped twice
_SPECK, _GAP = 3, 7  # pixels: thinner regions are removed, narrower gaps closed


@dataclass(frozen=True, eq=False)
class Aligned:
    """A region and the transform to its copy."""

    matrix: np.ndarray
    """float64 (2, 3): x, y ↦ x, y of the other region."""
    points: np.ndarray
    """float32 (n, 2, 2): the matches that `matrix` was first fitted to, x, y of source and target."""
    source: np.ndarray
    """bool (H, W), not empty."""
    target: np.ndarray
    """bool (H, W)"""
    correlation: float
    """Mean local correlation over the source, in [-1, 1]."""

    def explains(self, points: np.ndarray, tolerance: float = 5.0) -> bool:
        """Whether most of the matches (n, 2, 2) lie in the region and agree with its transform or the inverse."""
        return any(self._agrees(points[:, here], points[:, there], tolerance) for here, there in ((0, 1), (1, 0)))

    def _agrees(self, here: np.ndarray, there: np.ndarray, tolerance: float) -> bool:
        x, y = np.rint(here).astype(int).T
        inside = self.source[y.clip(0, self.source.shape[0] - 1), x.clip(0, self.source.shape[1] - 1)]
        error = np.linalg.norm(move(here, self.matrix) - there, axis=1)
        return bool(np.mean(inside & (error <= tolerance)) > 0.5)

    @cached_property
    def sample(self) -> np.ndarray:
        """At most 200 points of the region and their images, float64 (n, 2, 2)."""
        y, x = np.nonzero(self.source)
        chosen = np.linspace(0, len(x) - 1, min(len(x), 200)).astype(int)
        here = np.column_stack([x, y])[chosen]
        return np.stack([here, move(here, self.matrix)], axis=1)

    def one_side(self, valid: np.ndarray | None = None) -> "Aligned":
        """The region without the parts that are the copies of its other parts.

        A mirror image and a turn by 180° map a copy back to its source: the region then holds both. A part that
        overlaps its own image, as a symmetric object does, stays, and so does one whose image lies near it in the same
        picture.

        Args:
            valid: uint8 (H, W), 0 between pictures and under print. One picture by default.
        """
        here, there = self.sample[:, 0], self.sample[:, 1]
        away = np.linalg.norm(move(there, self.matrix) - here, axis=1)
        if np.median(away) > _RETURNS or not (self.source & self.target).any():
            return self
        source = self.source.astype(np.uint8)
        if valid is not None:  # a region may reach over the gap between two pictures
            source &= valid
        count, labels, stats, _ = cv2.connectedComponentsWithStats(source, connectivity=8)
        kept, copied = np.zeros_like(self.source), np.zeros_like(self.source)
        for number in 1 + np.argsort(-stats[1:count, cv2.CC_STAT_AREA], kind="stable"):
            part = labels == number
            if np.count_nonzero(part & copied) > np.count_nonzero(part) / 2:
                continue
            there = cv2.warpAffine(part.astype(np.uint8), self.matrix, part.shape[::-1], flags=cv2.INTER_NEAREST) > 0
            kept, copied = kept | part, copied | there
        if not _in_two_pictures(kept, copied, valid):
            apart = cv2.distanceTransform((~kept).astype(np.uint8), cv2.DIST_L2, 3)[copied]
            if apart.min(initial=np.inf) < _HALVES:  # the halves of one symmetric object lie close together
                return self
        return replace(self, source=kept, target=copied)

    @cached_property
    def weight(self) -> float:
        """Area in pixels times correlation."""
        return np.count_nonzero(self.source) * self.correlation


def _in_two_pictures(one: np.ndarray, other: np.ndarray, valid: np.ndarray | None) -> bool:
    """Whether two regions, bool (H, W), lie in two pictures, which are parted by what is not valid."""
    if valid is None:
        return False
    _, labels = cv2.connectedComponents(valid, connectivity=4)
    most = [np.bincount(labels[region & (labels > 0)], minlength=1).argmax() for region in (one, other)]
    return bool(most[0] != most[1])


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (n, 2) mapped by an affine matrix (2, 3)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def cluster_matches(matches: Matches, diagonal: float) -> list[np.ndarray]:
    """Clusters of matches that predict each other: positions in `matches`, the largest cluster first.

    Two matches agree where each one's linear map takes the offset between their sources near that between their
    targets. Neighbours are sought in the space of source and target together, where those of one region are close and
    chance ones are not.

    Args:
        matches: All matches.
        diagonal: Diagonal of the image in pixels.
    """
    if len(matches) < MIN_MATCHES:
        return []
    count = min(_NEIGHBOURS + 1, len(matches))
    places = np.concatenate([matches.source, matches.target], axis=1)
    reach = 2 * max(_REACH[0] * diagonal, _REACH[1])
    distance, other = KDTree(places).query(places, count, distance_upper_bound=reach)
    one = np.broadcast_to(np.arange(len(matches))[:, None], other.shape)
    near = np.isfinite(distance) & (one != other)
    one, other = one[near], other[near]
    offset, there = matches.source[other] - matches.source[one], matches.target[other] - matches.target[one]
    tolerance = _TOLERANCE[0] + _TOLERANCE[1] * np.linalg.norm(there, axis=1)
    agree = np.ones(len(one), bool)
    for match in (one, other):
        predicted = np.einsum("nij,nj->ni", matches.linear[match], offset)
        agree &= np.linalg.norm(there - predicted, axis=1) <= tolerance
    labels = connected(np.column_stack([one[agree], other[agree]]), len(matches))
    found = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    return sorted((one for one in found if len(one) >= MIN_MATCHES), key=len, reverse=True)


def fit_transforms(matches: Matches, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit transforms (2, 3) to a cluster, one after the other, each with its inliers, float32 (n, 2, 2).

    An affine map by OpenCV's MAGSAC++ (Barath et al. 2020), or for few points the least-squares similarity.

    Args:
        matches: All matches.
        chosen: Positions of the cluster in `matches`.
    """
    while len(chosen) >= MIN_MATCHES:
        source, target = matches.source[chosen].astype(np.float64), matches.target[chosen].astype(np.float64)
        matrix, inside = _affine(source, target)
        if matrix is None:
            mirrored = bool(np.median(np.linalg.det(matches.linear[chosen])) < 0)
            matrix, inside = _similarity(source, target, mirrored=mirrored)
        if matrix is None:
            return
        yield matrix, np.stack([source[inside], target[inside]], axis=1).astype(np.float32)
        chosen = chosen[~inside]


def _affine(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The affine map of points (n, 2), None for fewer than 8 or an implausible one, and its inliers (n,)."""
    if len(source) >= _MANY:
        matrix, inside = cv2.estimateAffine2D(
            source, target, method=cv2.USAC_MAGSAC, ransacReprojThreshold=_RESIDUAL, maxIters=1000
        )
        if matrix is not None and inside.sum() >= _MANY and _plausible(matrix):
            return matrix, inside.ravel() > 0
    return None, np.zeros(len(source), bool)


def _similarity(source: np.ndarray, target: np.ndarray, *, mirrored: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """The similarity of a few points (n, 2), refitted without outliers, and its inliers (n,)."""
    matrix, inside = similarity(source, target, mirrored=mirrored), np.ones(len(source), bool)
    for _ in range(3):
        residual = np.linalg.norm(move(source, matrix) - target, axis=1)
        inside = residual <= max(_RESIDUAL, np.median(residual))
        if inside.sum() < MIN_MATCHES:
            return None, inside
        matrix = similarity(source[inside], target[inside], mirrored=mirrored)
    return (matrix if _plausible(matrix) else None), inside


def similarity(source: np.ndarray, target: np.ndarray, *, mirrored: bool) -> np.ndarray:
    """Least-squares similarity between two sets of points (n, 2) (Umeyama 1991), float64 (2, 3)."""
    mean, mean_there = source.mean(axis=0), target.mean(axis=0)
    centred = source - mean
    left, strength, right = np.linalg.svd((target - mean_there).T @ centred)
    signs = np.array([1.0, 1.0 if (np.linalg.det(left @ right) < 0) == mirrored else -1.0])
    linear = (strength * signs).sum() / max((centred**2).sum(), 1e-9) * (left * signs @ right)
    return np.column_stack([linear, mean_there - linear @ mean])


def _plausible(matrix: np.ndarray) -> bool:
    """Whether scale and stretch are within the limits for a copy."""
    longest, shortest = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return MAX_SCALE**-2 <= longest * shortest <= MAX_SCALE**2 and longest <= MAX_STRETCH * shortest


def align(gray: np.ndarray, matrix: np.ndarray, points: np.ndarray, valid: np.ndarray | None = None) -> Aligned | None:
    """The region around some points whose pixels correlate under the transform of the points.

    Args:
        gray: float32 (H, W), gray levels.
        matrix: float64 (2, 3): x, y ↦ x, y.
        points: float32 (n, 2, 2), x, y of source and target.
        valid: uint8 (H, W), 0 where the image has nothing to compare: between panels, under print. All by default.

    Returns:
        The region; None where no pixels correlate. Its transform is refined by ECC (Evangelidis & Psarakis 2008) where
        that makes the region larger or more alike.
    """
    found = _grow(gray, matrix, points, points[:, 0], valid)
    if found is not None and (refined := _refine(gray, found)) is not None:
        again = _grow(gray, refined, points, found.sample[:, 0], valid)
        if again is not None and again.weight > found.weight:
            found = again
    return None if found is None else found.one_side(valid)


def _grow(
    gray: np.ndarray, matrix: np.ndarray, points: np.ndarray, known: np.ndarray, valid: np.ndarray | None
) -> Aligned | None:
    """The region of points, in a window that starts around `known` (n, 2) and grows until it contains the region."""
    height, width = gray.shape
    low, high = known.min(axis=0), known.max(axis=0)
    margin = np.maximum(high - low, _MARGIN)
    while True:
        x0, y0 = np.floor(low - margin).clip(0).astype(int)
        x1, y1 = np.minimum(np.ceil(high + margin) + 1, (width, height)).astype(int)
        window = slice(y0, y1), slice(x0, x1)
        correlation = local_correlation(gray, matrix, window, valid)
        mask = _region(correlation, points[:, 0] - (x0, y0))
        inner = (y0 > 0, y1 < height, x0 > 0, x1 < width)
        rims = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
        if not any(rim.any() for rim, free in zip(rims, inner, strict=True) if free):
            break
        margin = 3 * margin
    if not mask.any():
        return None
    source = np.zeros(gray.shape, bool)
    source[window] = mask
    target = cv2.warpAffine(source.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST) > 0
    return Aligned(matrix, points, source, target, float(correlation[mask].mean()))


def _region(correlation: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where the correlation (h, w) is high, around the points (n, 2), without holes; bool (h, w)."""
    mask = (correlation >= _CORRELATION).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_SPECK, _SPECK)))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_GAP, _GAP)))
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    x, y = np.rint(points).astype(int).T
    hit = np.zeros(count, np.uint8)
    hit[labels[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]] = 1
    hit[0] = 0
    return fill_holes(hit[labels]) > 0


def complete_masks(gray: np.ndarray, aligned: Aligned) -> tuple[np.ndarray, np.ndarray]:
    """Complete masks of source and target, bool (H, W) each: the region, its rim, and the gaps between its parts.

    The correlation's window loses the rim, and flat places have no correlation. So the region grows, in the rim and
    within its convex hull, by the places that differ no more than the region does.

    Args:
        gray: float32 (H, W), gray levels.
        aligned: The region and its transform.
    """
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _RIM + 1, 2 * _RIM + 1))
    source = aligned.source.astype(np.uint8)
    grown = cv2.dilate(source, disk)
    x, y, width, height = cv2.boundingRect(grown)
    window = slice(y, y + height), slice(x, x + width)
    distance = np.abs(gray[window] - warp_back(gray, aligned.matrix, window))
    hull = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(cv2.findNonZero(grown[window])), 1)
    inside = source[window] > 0
    for where, sigma in ((hull, _SIGMA), (grown[window], _RIM_SIGMA)):
        difference = cv2.GaussianBlur(distance, (0, 0), sigma)
        alike = difference <= _ALIKE[0] * difference[inside].mean() + _ALIKE[1]
        source[window] |= where & alike
    grown = cv2.morphologyEx(source, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) | aligned.source
    target = cv2.warpAffine(grown, aligned.matrix, gray.shape[::-1], flags=cv2.INTER_NEAREST)
    return grown > 0, target > 0


def _refine(gray: np.ndarray, aligned: Aligned) -> np.ndarray | None:
    """The transform refined by ECC on the pixels of both regions, float64 (2, 3); None without convergence."""
    if not aligned.target.any():
        return None
    x, y, width, height = cv2.boundingRect(aligned.source.astype(np.uint8))
    x0, y0, *size = cv2.boundingRect(aligned.target.astype(np.uint8))
    there = slice(max(y0 - _SLACK, 0), y0 + size[1] + _SLACK), slice(max(x0 - _SLACK, 0), x0 + size[0] + _SLACK)
    corner = np.array([there[1].start, there[0].start])
    start = np.column_stack([aligned.matrix[:, :2], aligned.matrix @ (x, y, 1) - corner]).astype(np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    template, where = gray[y : y + height, x : x + width], aligned.target[there].astype(np.uint8)
    try:
        _, matrix = cv2.findTransformECC(template, gray[there], start, cv2.MOTION_AFFINE, stop, where, gaussFiltSize=3)
    except cv2.error:  # it does not converge
        return None
    linear = matrix[:, :2].astype(np.float64)
    matrix = np.column_stack([linear, matrix[:, 2] + corner - linear @ (x, y)])
    return matrix if _plausible(matrix) else None


def local_correlation(
    gray: np.ndarray, matrix: np.ndarray, window: tuple[slice, slice], valid: np.ndarray | None = None
) -> np.ndarray:
    """Local correlation of each pixel with its image under `matrix`, float32 (h, w) in [-1, 1].

    Normalised cross-correlation in a Gaussian window, with the variance of noise added to the denominator: flat places
    do not correlate. 0 where the image point lies outside, or nearer than 12 pixels.

    Args:
        gray: float32 (H, W), gray levels.
        matrix: (2, 3): x, y ↦ x, y.
        window: Rows and columns to compute.
        valid: uint8 (H, W), 0 where there is nothing to compare; all by default.
    """
    here, there = gray[window], warp_back(gray, matrix, window)
    level = here.mean()  # avoids cancellation of large squares
    here, there = here - level, there - level
    weight, total = np.ones((), np.float32), np.ones((), np.float32)
    if valid is not None:
        weight = np.minimum(valid[window], warp_back(valid, matrix, window)).astype(np.float32)
        total = np.maximum(_blur(weight), np.float32(1e-3))

    def _mean(values: np.ndarray) -> np.ndarray:
        return _blur(values * weight) / total

    mean, mean_there = _mean(here), _mean(there)
    covariance = _mean(here * there) - mean * mean_there
    variance, variance_there = _mean(here * here) - mean * mean, _mean(there * there) - mean_there * mean_there
    product = (np.maximum(variance, 0) + _NOISE**2) * (np.maximum(variance_there, 0) + _NOISE**2)
    correlation = covariance / np.sqrt(product)
    (height, width), (rows, columns) = gray.shape, window
    x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)[:, None]
    x_there, y_there = (row[0] * x + row[1] * y + row[2] for row in matrix)
    outside = (x_there < 0) | (y_there < 0) | (x_there > width - 1) | (y_there > height - 1)
    outside |= (weight < 1) | (total < _LEAST_VALID)
    correlation[outside | ((x_there - x) ** 2 + (y_there - y) ** 2 < _SEPARATION**2)] = 0
    return correlation


def warp_back(gray: np.ndarray, matrix: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """The image, (H, W) or (H, W, C), sampled where `matrix` maps the pixels of a window, in its own type."""
    rows, columns = window
    shifted = np.column_stack([matrix[:, :2], matrix @ (columns.start, rows.start, 1)])
    size = columns.stop - columns.start, rows.stop - rows.start
    return cv2.warpAffine(gray, shifted, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _blur(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), _SIGMA, borderType=cv2.BORDER_REFLECT)

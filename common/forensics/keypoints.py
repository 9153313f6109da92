"""Matching of SIFT key points within one image, plain and mirrored."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.forensics.matches import Matches

MOST_KEYPOINTS = 5000
RATIO = 0.8  # of the distances to a copy and to the nearest place that is not one (Lowe 2004, section 7.1)
_COPIES = 4  # of one place that can be distinguished from the background
_NEIGHBOURS = 12  # per key point: copies and background, each several times where key points are dense
_CONTRAST, _EDGE = 0.005, 20.0  # OpenCV has 0.04 and 10
ENLARGED, ENLARGED_MANY = 900, 600
"""Pixels: longer side that a smaller picture is enlarged to, if it is the only one, and if it is one of many."""
_LEAST_SIDE = 300  # pixels: still smaller pictures are enlarged as much as one of this size
_CELLS = 16  # along each side, among which the key points are spread
_RADIUS, _SIZES = 8.0, 1.5  # in pixels and sizes of the key point: nearer places are one place
_LEAST_LIKENESS = 0.75  # of two descriptors that may match, up to 1: noise and JPEG take less
_CHUNK, _FOLDS = 128, 16  # rows of the matrix of similarities in work at once; see `_top`


@dataclass(frozen=True, eq=False)
class Keypoints:
    """n key points with descriptors. A place occurs once for each of its orientations."""

    place: np.ndarray
    """float32 (n, 2): x, y in pixels of the image"""
    size: np.ndarray
    """float32 (n,): diameter in pixels, twice the sigma of the scale"""
    angle: np.ndarray
    """float32 (n,): orientation in radians, from x towards y (downwards)"""
    descriptor: np.ndarray
    """float32 (n, 128), of length 1: Root-SIFT (Arandjelović & Zisserman 2012) as 4 rows, 4 columns, 8 orientations"""

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: np.ndarray) -> "Keypoints":
        return Keypoints(self.place[index], self.size[index], self.angle[index], self.descriptor[index])


def match_keypoints(gray: np.ndarray) -> Matches:
    """Match the key points of an image with one another.

    A neighbour in descriptor space is taken when it lies below, or before another that lies below, `RATIO` times the
    distance of the next: the generalised ratio test (g2NN, Amerini et al. 2011), which lets up to 4 copies of one place
    pass, with the last gap instead of the first since two good copies are equally near. Key points that lie together
    count as one place. Noise and repetition give matches too; their geometry is checked later.

    Args:
        gray: uint8 (H, W), of any contrast.

    Returns:
        The pairs, a few thousand at most in most images; none in a flat one.
    """
    return match_within(find_keypoints(gray, enlarged=ENLARGED))


def match_within(points: Keypoints) -> Matches:
    """Match key points with one another, as `match_keypoints` says."""
    if len(points) < 2:
        return Matches.none()
    tops = _nearest(points.descriptor, min(_NEIGHBOURS, len(points)))
    plain, flipped = (_passing(points, *top) for top in tops)
    first, second, distance = (np.concatenate(both) for both in zip(plain, flipped, strict=True))
    order = np.argsort(distance, kind="stable")
    return link(points, first[order], second[order], order >= len(plain[0]))


def match_between(here: Keypoints, there: Keypoints) -> Matches:
    """Match the key points of one picture with those of another one, plain and mirrored.

    A nearest neighbour, in either direction, is taken when its distance is below `RATIO` times that of the nearest
    place that lies apart from it (Lowe 2004).

    Args:
        here: In pixels of the image that holds both pictures.
        there: Likewise.

    Returns:
        The pairs, `here` first.
    """
    if min(len(here), len(there)) < 2:
        return Matches.none()
    both = concatenated([here, there])
    first, second, flips = [], [], []
    for mirrored, descriptor in enumerate((there.descriptor, mirror(there.descriptor))):
        similarity = here.descriptor @ descriptor.T
        near = _distinct(similarity, there)
        back = _distinct(np.ascontiguousarray(similarity.T), here)
        first += [near[0], back[1]]
        second += [near[1] + len(here), back[0] + len(here)]
        flips.append(np.full(len(near[0]) + len(back[0]), bool(mirrored)))
    return link(both, np.concatenate(first), np.concatenate(second), np.concatenate(flips))


def concatenated(parts: Sequence[Keypoints]) -> Keypoints:
    """All key points of several pictures."""
    return Keypoints(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("place", "size", "angle", "descriptor"))
    )


def _distinct(similarity: np.ndarray, points: Keypoints) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of (r, n) whose largest entry stands out from that of the nearest other place."""
    best = similarity.argmax(axis=1)
    value = np.take_along_axis(similarity, best[:, None], axis=1)[:, 0]
    rows = np.flatnonzero(value >= _LEAST_LIKENESS)  # most points of two different pictures have no likeness at all
    best, value = best[rows], value[rows]
    x, y = points.place.T
    radius = np.maximum(_RADIUS, _SIZES * points.size[best])[:, None]
    together = (x[best, None] - x) ** 2 + (y[best, None] - y) ** 2 < radius**2
    rival = np.where(together, -1, similarity[rows]).max(axis=1, initial=-1)
    stands_out = np.sqrt(np.maximum(2 - 2 * value, 0)) < RATIO * np.sqrt(np.maximum(2 - 2 * rival, 0))
    return rows[stands_out], best[stands_out]


def find_keypoints(gray: np.ndarray, most: int = MOST_KEYPOINTS, enlarged: int = ENLARGED_MANY) -> Keypoints:
    """Detect and describe SIFT key points, with a threshold relative to the image's contrast.

    Args:
        gray: uint8 (H, W).
        most: Largest number of key points, spread over the image; in each part the strongest are kept.
        enlarged: Longer side, in pixels, that a smaller image is enlarged to: it has few key points else.
    """
    height, width = gray.shape
    zoom = max(enlarged / max(height, width, _LEAST_SIDE), 1.0)
    # Corners on corners: (0, 0) is the centre of a pixel, so it moves by half of what the pixels grow.
    shift = (zoom - 1) / 2
    if zoom > 1:
        gray = cv2.resize(gray, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    low, high = np.percentile(gray, (0.5, 99.5))
    # As if the contrast were stretched to the full range, without rounding the pixels once more.
    contrast = _CONTRAST * max(high - low, 1.0) / 255
    sift = cv2.SIFT.create(0, 3, contrast, _EDGE, 1.6, enable_precise_upscale=True)
    found = sift.detect(gray, None)
    if not found:
        return Keypoints(*(np.empty(shape, np.float32) for shape in ((0, 2), 0, 0, (0, 128))))
    if len(found) > most:
        strength = np.array([point.response for point in found])
        found = [found[i] for i in _spread(np.asarray(cv2.KeyPoint.convert(found)), strength, gray.shape, most)]
    found, descriptor = sift.compute(gray, found)
    place, size, angle = (np.array([getattr(p, name) for p in found], np.float32) for name in ("pt", "size", "angle"))
    root = np.sqrt(descriptor / np.maximum(descriptor.sum(axis=1, keepdims=True), 1))
    return Keypoints((place - np.float32(shift)) / np.float32(zoom), size / np.float32(zoom), np.deg2rad(angle), root)


def mirror(descriptor: np.ndarray) -> np.ndarray:
    """Descriptors (n, 128) of the patches mirrored at the axis that their orientation gives."""
    grid = descriptor.reshape(-1, 4, 4, 8)
    return np.ascontiguousarray(grid[:, ::-1, :, -np.arange(8) % 8]).reshape(-1, 128)


def link(points: Keypoints, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> Matches:
    """Matches of the key points with the given indices, int (n,), (n,), mirrored or not, bool (n,).

    Of several between the same two places the first is kept.
    """
    places, number = np.unique(points.place, axis=0, return_inverse=True)
    pairs = np.sort(number.reshape(-1)[np.column_stack([first, second])], axis=1)
    keep = np.unique(pairs[:, 0] * len(places) + pairs[:, 1], return_index=True)[1]
    source, target = points[first[keep]], points[second[keep]]
    flip = np.where(mirrored[keep, None, None], np.diag([1, -1]), np.eye(2)).astype(np.float32)
    turn = _rotations(target.angle) @ flip @ _rotations(source.angle).transpose(0, 2, 1)
    return Matches(source.place, target.place, (target.size / source.size)[:, None, None] * turn)


def _rotations(angle: np.ndarray) -> np.ndarray:
    """Matrices (n, 2, 2) for x, y."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)


def _spread(place: np.ndarray, strength: np.ndarray, shape: tuple[int, int], most: int) -> np.ndarray:
    """Indices of the strongest points of each cell: all cells' first, then their second, until there are `most`.

    Of one rank the strongest are taken first: fewer than there are cells would all lie in the first of them else.
    """
    column, row = (place * (_CELLS / np.array(shape[::-1]))).astype(int).T
    order = np.lexsort((-strength, row * _CELLS + column))
    cell = (row * _CELLS + column)[order]
    rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
    return np.sort(order[np.lexsort((-strength[order], rank))[:most]])


def _nearest(descriptor: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The nearest descriptors of each, plain and mirrored: indices and similarities (n, count), the nearest first.

    Mirroring exchanges the rows of a descriptor in pairs. Sums and differences of these pairs, of 64 numbers each, give
    both similarities at the cost of one: the sum of their products is the plain one, the difference the mirrored one.
    """
    n = len(descriptor)
    half, other = descriptor[:, :64], mirror(descriptor)[:, :64]
    padding = (0, -n % _FOLDS), (0, 0)
    even, odd = (np.pad(part * np.float32(0.5**0.5), padding) for part in (half + other, half - other))
    # One piece of memory for all chunks: a fresh one each time costs more than the products.
    buffers = np.empty((3, _CHUNK, len(even)), np.float32)
    tops = []
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        a, b, plain = buffers[:, : rows.stop - start]
        np.matmul(even[rows], even.T, out=a)
        np.matmul(odd[rows], odd.T, out=b)
        np.add(a, b, out=plain)
        mirrored = np.subtract(a, b, out=a)
        plain[:, n:] = mirrored[:, n:] = -1
        tops.append((_top(plain, count), _top(mirrored, count)))
    return [
        (np.concatenate([i for i, _ in side]), np.concatenate([s for _, s in side])) for side in zip(*tops, strict=True)
    ]


def _top(similarity: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the largest entries in each row of (r, n), the largest first.

    The columns are folded to `_FOLDS` layers: the largest entries lie under the largest maxima of the layers.
    Partitioning the maxima, and then the columns below the best, takes a fraction of the time of partitioning all.
    """
    r, n = similarity.shape
    width = n // _FOLDS
    best = _largest(similarity.reshape(r, _FOLDS, width).max(axis=1), min(count, width))
    columns = (best[:, None] + np.arange(_FOLDS)[:, None] * width).reshape(r, -1)
    values = np.take_along_axis(similarity, columns, axis=1)
    chosen = _largest(values, count)
    order = np.take_along_axis(chosen, np.argsort(-np.take_along_axis(values, chosen, axis=1), axis=1), axis=1)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Columns of the largest entries in each row of (r, n), in no order."""
    return np.argpartition(values, -count, axis=1)[:, -count:]


def _passing(points: Keypoints, neighbour: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, ...]:
    """Key points and those of their neighbours (n, k) that pass the ratio test: indices (m,), (m,), distances (m,)."""
    radius = np.maximum(_RADIUS, _SIZES * points.size)
    x, y = np.moveaxis(points.place[neighbour], -1, 0)
    reach = radius[neighbour]

    def together(x0, y0, reach0, x1, y1, reach1):
        return (x0 - x1) ** 2 + (y0 - y1) ** 2 < np.minimum(reach0, reach1) ** 2

    again = together(x, y, reach, *(a[:, None] for a in (*points.place.T, radius)))
    for k in range(1, neighbour.shape[1]):  # beside one that is nearer in descriptor space
        again[:, k] |= together(*(a[:, :k] for a in (x, y, reach)), *(a[:, k, None] for a in (x, y, reach))).any(axis=1)
    distance = np.sqrt(np.maximum(2 - 2 * similarity, 0))
    # What lies beyond the last is at least as far away.
    distance[again] = np.broadcast_to(distance[:, -1:], distance.shape)[again]
    order = np.lexsort((again, distance), axis=1)[:, : _COPIES + 1]
    distance, again = (np.take_along_axis(a, order, axis=1) for a in (distance, again))
    gap = distance[:, :-1] < RATIO * distance[:, 1:]
    passed = np.logical_or.accumulate(gap[:, ::-1], axis=1)[:, ::-1] & ~again[:, :-1]
    first, rank = np.nonzero(passed)
    return first, np.take_along_axis(neighbour, order, axis=1)[first, rank], distance[first, rank]

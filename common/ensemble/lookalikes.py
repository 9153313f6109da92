"""Joining of regions with matching content: the source and the copy of a copy-move become one instance."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise

import cv2
import numpy as np
from scipy.ndimage import find_objects

from common.components import connected

THRESHOLD = 0.7  # correlation of two matching blobs; see `join_lookalikes` for what it was measured on
MOST_BLOBS = 32  # that are compared: among more, chance would join some
_MAX_RATIO = 3.0  # of areas and of longer sides of blobs with one content: outlines are predicted, not drawn
_SIDE = 64  # longer side of the smaller blob on the working scale, in pixels
_PADDING = 0.25  # of that side: how far two outlines of one content lie apart
_CORE = 0.3  # of a blob's greatest depth: what lies nearer to its outline need not be copied
_MIN_CORE = 100  # pixels on the working scale; fewer correlate by chance
_INSIDE = 0.5  # of a blob's pixels that lie in a known group: it belongs to it
_HOLDS = 0.125  # of a known group's pixels that a blob holds: it belongs to it, however far its outline bleeds beyond
_MIN_STD = 3.0  # gray levels; below it there is only the noise of an empty background

Runs = tuple[np.ndarray, np.ndarray]
"""Label and length, both (n,), of each run of equal pixels in a flattened label image. Images have far fewer runs than
pixels, so that counting and renumbering by runs is several times as fast."""


def label_runs(labels: np.ndarray) -> Runs:
    """The runs of a label image (H, W) of integers."""
    flat = labels.ravel()
    starts = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    starts = np.insert(starts, 0, 0) if flat.size else starts
    return flat[starts[:-1]], np.diff(starts)


def relabel(runs: Runs, numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`numbers[labels]`, (H, W), of the label image of that shape with these runs."""
    values, lengths = runs
    return np.repeat(numbers[values], lengths).reshape(shape)


def join_lookalikes(image: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Give blobs with matching content a common number.

    The inner part of the smaller blob of each pair is searched in and around the larger one, by normalised
    cross-correlation under the eight symmetries of the square, on a scale where it has at most 64 pixels a side. Fine
    texture at an even contrast is compared (`_texture`), since plain gray levels correlate above 0.9 for one in four
    pairs of unrelated cells or bands. Not found are copies that were scaled, turned by other angles, or are flat, tiny
    or thin, and blobs beyond the `MOST_BLOBS` largest.

    Measured on copies under those symmetries, 0.2 to 6 % of the image large, in outlines shifted, grown or shrunk by
    5 to 10 % of a blob's size, half of the images JPEG-compressed at quality 70 to 95; 215 copies and 430 unrelated
    pairs a set. Joined were 87 % of the copies and 0.2 % of the unrelated pairs in photographs (CASIA v1), 50 and 1.6 %
    in micrographs (BBBC038; of the copies that are neither flat nor tiny 67 %), 69 and 3.5 % in drawn blots, gels and
    cells (`common.making.drawing`). A threshold of 0.6 would make it 91 and 0.9, 62 and 5.6, 84 and 6.0 %.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: int32 (H, W): 0 background, 1 … n the blobs, each number in use.
        groups: Masks, bool (H, W), of regions with equal content that are known already
            (`common.forensics.copy_move`). Joined are the blobs of which at least half lies in one, and those that hold
            an eighth of it. (Of a copy of half the side, the smaller region is a fifth.)

    Returns:
        int32 (H, W): 0 background, 1 … m ≤ n the groups, in the order of their first blob. Matches are transitive.
    """
    boxes, runs = find_objects(labels), label_runs(labels)
    areas = np.bincount(*runs, minlength=len(boxes) + 1)[1:]
    sizes = np.column_stack([areas, [max(s.stop - s.start for s in box) for box in boxes]])
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    largest = np.argsort(-areas, kind="stable")[:MOST_BLOBS]

    def pairs_of(position: int) -> list[tuple[int, int]]:
        small, larger = largest[position], largest[:position]
        larger = larger[(sizes[larger] <= _MAX_RATIO * sizes[small]).all(axis=1)]
        core = _Core.of(gray, labels, boxes, small) if len(larger) else None
        return [(large, small) for large in larger if core is not None and core.is_in(gray, labels, boxes, large)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = list(chain.from_iterable(pool.map(pairs_of, range(1, len(largest)))))
    for mask in groups:
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        box = slice(y, y + height), slice(x, x + width)
        shared = np.bincount(labels[box][mask[box]], minlength=len(areas) + 1)[1:]
        belong = (shared >= _INSIDE * areas) | (shared >= _HOLDS * np.count_nonzero(mask[box]))
        pairs += pairwise(np.flatnonzero(belong & (shared > 0)).tolist())
    numbers = connected(np.array(pairs), len(boxes)) + 1
    return relabel(runs, np.append(0, numbers).astype(np.int32), labels.shape)


@dataclass(frozen=True)
class _Core:
    """The inner part of a blob on a working scale, which is searched for in larger blobs."""

    templates: list[np.ndarray]
    """Texture of its bounding box, float32 (h, w), under the eight symmetries of the square."""
    masks: list[np.ndarray]
    """Which pixels of them count, float32 (h, w) of 0 and 1."""
    margin: int
    """Pixels of the image around a larger blob in which it is searched too."""
    scale: float
    """Of the working scale, on lengths."""

    @classmethod
    def of(cls, gray: np.ndarray, labels: np.ndarray, boxes: list, index: int) -> "_Core | None":
        """That of a blob, given by its index of `boxes`; None if the blob is tiny, thin or flat."""
        side = max(s.stop - s.start for s in boxes[index])
        margin, scale = int(np.ceil(_PADDING * side)), min(1.0, _SIDE / side)
        window = _widened(boxes[index], margin)
        patch, blob = _scaled(gray[window], scale), _scaled((labels[window] == index + 1).astype(np.uint8), scale)
        depth = cv2.distanceTransform(blob, cv2.DIST_L2, 5)
        core = (depth > _CORE * depth.max()).astype(np.uint8)
        if np.count_nonzero(core) < _MIN_CORE or patch[core > 0].std() < _MIN_STD:
            return None
        x, y, width, height = cv2.boundingRect(core)
        inner = slice(y, y + height), slice(x, x + width)
        return cls(_symmetries(_texture(patch)[inner]), _symmetries(core[inner].astype(np.float32)), margin, scale)

    def is_in(self, gray: np.ndarray, labels: np.ndarray, boxes: list, index: int) -> bool:
        """Whether it correlates by `THRESHOLD` with a place in a blob, given by its index of `boxes`, or around it."""
        window = _widened(boxes[index], self.margin)
        field = _texture(_scaled(gray[window], self.scale))
        other = _scaled((labels[window] == index + 1).astype(np.uint8), self.scale).astype(np.float32)
        pairs = zip(self.templates, self.masks, strict=True)
        return any(_correlation(field, other, template, mask) >= THRESHOLD for template, mask in pairs)


def _correlation(field: np.ndarray, other: np.ndarray, template: np.ndarray, mask: np.ndarray) -> float:
    """The best correlation, in [-1, 1], of a masked template at a place of which the blob `other` covers half."""
    if (np.array(mask.shape) > field.shape).any():
        return -1.0
    found = cv2.matchTemplate(field, template, cv2.TM_CCOEFF_NORMED, mask=mask)
    # Beside the larger blob lies perhaps the smaller one, which is not its own copy; flat windows divide by 0.
    valid = (cv2.matchTemplate(other, mask, cv2.TM_CCORR) >= mask.sum() / 2) & (np.abs(found) <= 1.001)
    return float(found[valid].max(initial=-1))


def _widened(box: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    rows, columns = (slice(max(s.start - margin, 0), s.stop + margin) for s in box)
    return rows, columns


def _scaled(part: np.ndarray, scale: float) -> np.ndarray:
    size = [max(round(length * scale), 1) for length in part.shape[::-1]]
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA)


def _texture(gray: np.ndarray) -> np.ndarray:
    """Local contrast normalisation (Jarrett et al. 2009, section 2.1), float32 (h, w) of uint8 (h, w).

    Neither the slow change of brightness, alike in all bands and cells, nor one strong edge shall decide.
    """
    gray = gray.astype(np.float32)
    detail = gray - cv2.GaussianBlur(gray, (0, 0), 1.5)
    # 2 gray levels: weaker detail than that is noise, not to be raised to the contrast of the rest.
    return detail / np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 3) + 2**2)


def _symmetries(patch: np.ndarray) -> list[np.ndarray]:
    """The eight symmetries of the square, applied to (h, w)."""
    return [np.ascontiguousarray(np.rot90(side, k)) for side in (patch, patch[:, ::-1]) for k in range(4)]

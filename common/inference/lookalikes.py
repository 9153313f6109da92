"""Blobs that show the same: the source and the copy of a copy-move belong to one instance."""

from collections.abc import Sequence
from itertools import combinations, pairwise

from common.forensics.connecting import connected

import cv2
import numpy as np
from scipy.ndimage import find_objects

THRESHOLD = 0.7  # correlation of two blobs that show the same; see `join_lookalikes` for what it was measured on
MOST_BLOBS = 32  # that are compared: 496 pairs take some 6 s on a core, and among more, chance would join some
_MAX_RATIO = 3.0  # of areas and of longer sides of blobs on one content: outlines are predicted, not drawn
_SIDE = 64  # longer side of the smaller blob on the working scale, in pixels
_PADDING = 0.25  # of that side: how far two outlines of one content lie apart
_CORE = 0.3  # of a blob's greatest depth: what lies nearer to its outline need not be copied
_MIN_CORE = 100  # pixels on the working scale; fewer correlate by chance
_INSIDE = 0.5  # of a blob's pixels that lie in a known group: it belongs to it
_HOLDS = 0.125  # of a known group's pixels that a blob holds: likewise, however far its outline bleeds beyond
_MIN_STD = 3.0  # gray levels; below it there is only the noise of an empty background


def join_lookalikes(image: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Give blobs whose content matches a common number.

    The inner part of the smaller blob of each pair is searched in and around the larger one, by normalised
    cross-correlation under the eight symmetries of the square, on a scale where it has at most 64 pixels a side. What
    is compared is fine texture at an even contrast (`_texture`), since plain gray levels correlate above 0.9 for one
    in four pairs of unrelated cells or bands. Copies that were scaled, turned by other angles, or are flat, tiny or
    thin stay apart, and so do blobs beyond the `MOST_BLOBS` largest.

    Measured on copies under those symmetries, 0.2 to 6 % of the image large, in outlines shifted, grown or shrunk by
    5 to 10 % of a blob's size, half of the images JPEG-compressed at quality 70 to 95; 215 copies and 430 unrelated
    pairs a set. Joined were 87 % of the copies and 0.2 % of the unrelated pairs in photographs (CASIA v1), 50 and 1.6 %
    in micrographs (BBBC038; of the copies that are neither flat nor tiny 67 %), 69 and 3.5 % in drawn blots, gels and
    cells (`common.data.drawing`). A threshold of 0.6 would make it 91 and 0.9, 62 and 5.6, 84 and 6.0 %.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: int32 (H, W): 0 background, 1 … n the blobs, each number in use.
        groups: Masks, bool (H, W), of regions that are known to show the same (`common.forensics.copy_move`). The blobs
            that belong to one are joined: at least half of such a blob lies in it, or it holds an eighth of it. (Of a
            copy of half the side, the smaller region is a fifth.)

    Returns:
        int32 (H, W): 0 background, 1 … m ≤ n the groups, in the order of their first blob. Matches are transitive.
    """
    boxes = find_objects(labels)
    areas = np.bincount(labels.ravel())[1:]
    sizes = np.column_stack([areas, [max(s.stop - s.start for s in box) for box in boxes]])
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    largest = np.argsort(-areas, kind="stable")[:MOST_BLOBS]
    pairs = [
        (large, small)
        for large, small in combinations(largest, 2)
        if (sizes[large] <= _MAX_RATIO * sizes[small]).all()
        and _similarity(gray, labels, boxes, small, large) >= THRESHOLD
    ]
    for mask in groups:
        shared = np.bincount(labels[mask], minlength=len(areas) + 1)[1:]
        belong = (shared >= _INSIDE * areas) | (shared >= _HOLDS * np.count_nonzero(mask))
        pairs += pairwise(np.flatnonzero(belong & (shared > 0)))
    groups = connected(pairs, len(boxes))
    return np.array([0, *(group + 1 for group in groups)], np.int32)[labels]


def _similarity(gray: np.ndarray, labels: np.ndarray, boxes: list, small: int, large: int) -> float:
    """Best correlation in [-1, 1] of one blob's inner part in another; the blobs are given by indices of `boxes`."""
    side = max(s.stop - s.start for s in boxes[small])
    margin, scale = int(np.ceil(_PADDING * side)), min(1.0, _SIDE / side)

    def cut(index: int) -> list[np.ndarray]:
        window = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in boxes[index])
        parts = gray[window], (labels[window] == index + 1).astype(np.uint8)
        size = [max(round(length * scale), 1) for length in parts[0].shape[::-1]]
        return [cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in parts]

    (patch, blob), (field, other) = cut(small), cut(large)
    depth = cv2.distanceTransform(blob, cv2.DIST_L2, 5)
    core = (depth > _CORE * depth.max()).astype(np.uint8)
    size = np.count_nonzero(core)
    if size < _MIN_CORE or patch[core > 0].std() < _MIN_STD:
        return -1.0
    x, y, width, height = cv2.boundingRect(core)
    inner = slice(y, y + height), slice(x, x + width)
    field, other, best = _texture(field), other.astype(np.float32), -1.0
    turned = _symmetries(_texture(patch)[inner]), _symmetries(core[inner].astype(np.float32))
    for template, mask in zip(*turned, strict=True):
        if (np.array(template.shape) > field.shape).any():
            continue
        found = cv2.matchTemplate(field, template, cv2.TM_CCOEFF_NORMED, mask=mask)
        # Beside the larger blob lies perhaps the smaller one, which is not its own copy; flat windows divide by 0.
        valid = (cv2.matchTemplate(other, mask, cv2.TM_CCORR) >= size / 2) & (np.abs(found) <= 1.001)
        best = max(best, float(found[valid].max(initial=-1)))
    return best


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

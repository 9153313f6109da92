"""Blobs that show the same: the source and the copy of a copy-move belong to one instance."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise

import cv2
import numpy as np
from scipy.ndimage import find_objects

from common.components import connected
from common.ensemble.label_runs import relabel, row_runs

THRESHOLD = 0.7  # correlation of two blobs that show the same; see `join_lookalikes` for what it was measured on
MOST_BLOBS = 32  # that are compared: 496 pairs take about a second on a core, and among more, chance would join some
_MAX_RATIO = 3.0  # of areas and of longer sides of blobs on one content: outlines are predicted, not drawn
_SIDE = 64  # longer side of the smaller blob on the working scale, in pixels
_PADDING = 0.25  # of that side: how far two outlines of one content lie apart
_CORE = 0.3  # of a blob's greatest depth: what lies nearer to its outline need not be copied
_MIN_CORE = 100  # pixels on the working scale; fewer correlate by chance
_INSIDE = 0.5  # of a blob's pixels that lie in a known group: it belongs to it
_HOLDS = 0.125  # of a known group's pixels that a blob holds: likewise, however far its outline bleeds beyond
_FLAT = 0.01  # squared texture of a whole window: below it there are rounding errors alone
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
    cells (`common.making.drawing`). A threshold of 0.6 would make it 91 and 0.9, 62 and 5.6, 84 and 6.0 %.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: int32 (H, W): 0 background, 1 … n the blobs, each number in use.
        groups: Masks, bool (H, W), of regions that are known to show the same (`common.forensics.copy_move`). The blobs
            that belong to one are joined: at least half of such a blob lies in it, or it holds an eighth of it. (Of a
            copy of half the side, the smaller region is a fifth.)

    Returns:
        int32 (H, W): 0 background, 1 … m ≤ n the groups, in the order of their first blob. Matches are transitive.
    """
    boxes, runs = find_objects(labels), row_runs(labels)
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
        pairs += pairwise(np.flatnonzero(belong & (shared > 0)))
    groups = connected(pairs, len(boxes))
    return relabel(runs, np.array([0, *(group + 1 for group in groups)], np.int32), labels.shape)


class _Core:
    """What of a blob is searched for in larger ones: its inner part, on a working scale."""

    def __init__(self, patch: np.ndarray, mask: np.ndarray, margin: int, scale: float) -> None:
        """Hold it under the eight symmetries of the square.

        Args:
            patch: Texture of its bounding box, float32 (h, w).
            mask: Which pixels of it count, float32 (h, w) of 0 and 1.
            margin: Pixels of the image around a larger blob in which it is searched too.
            scale: Of the patch, on lengths.
        """
        self.templates, self.masks = _symmetries(patch), _symmetries(mask)
        self.margin, self.scale = margin, scale
        centred = mask * (patch - patch[mask > 0].mean())
        self.kernels = [_kernels(_symmetries(centred)[turned::2], self.masks[turned::2]) for turned in (0, 1)]
        self.spectra: dict[tuple[int, tuple[int, ...]], list[np.ndarray]] = {}

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
        return cls(_texture(patch)[inner], core[inner].astype(np.float32), margin, scale)

    def is_in(self, gray: np.ndarray, labels: np.ndarray, boxes: list, index: int) -> bool:
        """Whether it correlates by `THRESHOLD` with a place in a blob, given by its index of `boxes`, or around it."""
        window = _widened(boxes[index], self.margin)
        field = _texture(_scaled(gray[window], self.scale))
        likely = self._likely(field)
        if not likely:
            return False
        other = _scaled((labels[window] == index + 1).astype(np.uint8), self.scale).astype(np.float32)
        return any(self._correlation(field, other, number) >= THRESHOLD for number in likely)

    def _likely(self, field: np.ndarray) -> list[int]:
        """Which symmetries may correlate by `THRESHOLD` somewhere in a field (H, W): all that do, and few others.

        A correlation is a covariance over the deviations of both sides. Over all pixels of a mask the squared deviation
        from their mean is at least that over some of them: those that the mask shares with its mirror images, which
        are the same for four of the eight symmetries.
        """
        size = tuple(-(-length // 16) * 16 for length in field.shape)  # few sizes: spectra serve for many fields
        plain = _spectrum(field.astype(np.complex64), size)
        here = plain, plain, _spectrum(field + 1j * field * field, size)
        likely = []
        for turned, kernels in enumerate(self.kernels):
            height, width = np.subtract(field.shape, self.masks[turned].shape) + 1
            if min(height, width) < 1:  # lies nowhere inside
                continue
            if (turned, size) not in self.spectra:
                self.spectra[turned, size] = [_spectrum(kernel.conj(), size).conj() for kernel in kernels]
            first, second, sums = (
                _inverse(field * kernel)[:height, :width]
                for field, kernel in zip(here, self.spectra[turned, size], strict=True)
            )
            deviation = sums.imag - sums.real**2 / max(kernels[2].real.sum(), 1)
            bound = (THRESHOLD - 0.01) * np.sqrt(np.maximum(deviation, _FLAT))
            covariances = first.real, first.imag, second.real, second.imag
            likely += [turned + 2 * turns for turns, found in enumerate(covariances) if (found >= bound).any()]
        return likely

    def _correlation(self, field: np.ndarray, other: np.ndarray, number: int) -> float:
        """Best of one symmetry at a place of which the blob, the mask `other`, covers half; in [-1, 1]."""
        template, mask = self.templates[number], self.masks[number]
        if (np.array(mask.shape) > field.shape).any():
            return -1.0
        found = cv2.matchTemplate(field, template, cv2.TM_CCOEFF_NORMED, mask=mask)
        # Beside the larger blob lies perhaps the smaller one, which is not its own copy; flat windows divide by 0.
        valid = (cv2.matchTemplate(other, mask, cv2.TM_CCORR) >= mask.sum() / 2) & (np.abs(found) <= 1.001)
        return float(found[valid].max(initial=-1))


def _kernels(centred: list[np.ndarray], masks: list[np.ndarray]) -> list[np.ndarray]:
    """What is correlated with a field x, for four symmetries of one shape: complex64 (h, w) each.

    One transform carries two sums, its real and its imaginary part. Two kernels are pairs of templates less their mean,
    of norm 1. The third is the part that the masks share, of n pixels: with x + i x² it gives Σ x + i Σ x², and the
    squared deviation there is Σ x² − (Σ x)² / n.
    """
    first, second, third, fourth = (part / max(np.linalg.norm(centred[0]), 1e-6) for part in centred)
    return [first + 1j * second, third + 1j * fourth, np.minimum.reduce(masks).astype(np.complex64)]


def _spectrum(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Of a part, complex64 (h, w), with zeros up to a size."""
    padded = np.zeros(size, np.complex64)
    padded[: part.shape[0], : part.shape[1]] = part
    return _complex(cv2.dft(_planes(padded)))


def _inverse(spectrum: np.ndarray) -> np.ndarray:
    return _complex(cv2.dft(_planes(spectrum), flags=cv2.DFT_INVERSE | cv2.DFT_SCALE))


def _planes(part: np.ndarray) -> np.ndarray:
    """Complex64 (h, w) as OpenCV has it, float32 (h, w, 2)."""
    return part.view(np.float32).reshape(*part.shape, 2)


def _complex(planes: np.ndarray) -> np.ndarray:
    return planes.view(np.complex64)[..., 0]


def _widened(box: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in box)


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

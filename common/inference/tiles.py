"""Tiles: windows that cover an image, and their maps as one."""

from collections.abc import Iterable
from math import ceil

from common.data.transforms import resize_map

import numpy as np

Window = tuple[slice, slice]


def tile_windows(height: int, width: int, side: int, overlap: float = 0.25) -> list[Window]:
    """Square windows, row by row, that cover every pixel of an image: as few as the overlap allows, evenly spread.

    Where the image is shorter than `side` (pixels) they are clipped to it. Neighbours share at least `overlap` of the
    side, in [0, 1), but advance by a pixel at least.
    """
    rows, columns = (_spread(length, side, overlap) for length in (height, width))
    return [(row, column) for row in rows for column in columns]


def blend_tiles(tiles: Iterable[tuple[Window, np.ndarray]], height: int, width: int) -> np.ndarray:
    """Weighted mean (height, width), float32, of the maps of tiles that cover it.

    A tile counts less towards its borders, so that no seam shows where one ends. The mean is a running one (West
    1979): where all tiles agree it is exactly what they say. Maps may have any size, and are brought
    to that of their window.
    """
    blend, weights = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for window, prob in tiles:
        own, total = blend[window], weights[window]
        rows, columns = own.shape
        weight = np.outer(_falloff(rows), _falloff(columns))
        total += weight
        # In place, since a large image's tiles are: (prob − own) · weight / total
        difference = resize_map(prob, rows, columns) - own
        difference *= np.divide(weight, total, out=weight)
        own += difference
    return blend


def _spread(length: int, side: int, overlap: float) -> list[slice]:
    """Windows along one axis, the first at its beginning and the last at its end."""
    if length <= side:
        return [slice(0, length)]
    steps = ceil((length - side) / max(1, int(side * (1 - overlap))))
    starts = [step * (length - side) // steps for step in range(steps + 1)]
    return [slice(start, start + side) for start in starts]


def _falloff(length: int) -> np.ndarray:
    """A Hann window without its two zeros: a pixel that one tile alone covers must count."""
    return np.hanning(length + 2)[1:-1].astype(np.float32)

"""Square tiles of an image at its own resolution, overlapping, and the blending of their maps."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import ceil

import cv2
import numpy as np

from common.data.transforms import resize_map

Window = tuple[slice, slice]
"""Rows and columns of a tile."""

TILES_ALONG = 5
"""Without overlap, along the longer side of a large image: bounds the number of tiles, whatever the image's size."""


def bounded_shape(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width of an image of some shape (H, W, ...), shrunk until `TILES_ALONG` tiles span its longer side.

    Unchanged where they do already: they show each of its pixels.
    """
    height, width = shape[:2]
    scale = min(1.0, TILES_ALONG * side / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))


def bound_image(image: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, ...) at its `bounded_shape`, by area average."""
    height, width = bounded_shape(image.shape, side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def fill_tile(image: np.ndarray, side: int) -> np.ndarray:
    """An image or mask (H, W, ...) mirrored beyond its bottom and right edge to at least side × side pixels."""
    bottom, right = (max(0, side - length) for length in image.shape[:2])
    if not bottom and not right:
        return image
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)


def square_windows(height: int, width: int, side: int) -> list[Window]:
    """The tiles of an image of `bounded_shape`, each of side × side pixels once `fill_tile` has been applied."""
    return tile_windows(max(height, side), max(width, side), side)


def join_squares(maps: Iterable[np.ndarray], height: int, width: int, side: int) -> np.ndarray:
    """The map (height, width) of an image of `bounded_shape` from those of its `square_windows`, in order."""
    windows = square_windows(height, width, side)
    tiles = zip(windows, maps, strict=True)
    return blend_tiles(tiles, max(height, side), max(width, side))[:height, :width]


def tile_windows(height: int, width: int, side: int, overlap: float = 0.25) -> list[Window]:
    """Square windows, row by row, that cover every pixel of an image: as few as the overlap allows, evenly spread.

    Where the image is shorter than `side` (pixels) they are clipped to it. Neighbours share at least `overlap` of the
    side, in [0, 1), but advance by a pixel at least.
    """
    rows, columns = (_spread(length, side, overlap) for length in (height, width))
    return [(row, column) for row in rows for column in columns]


def blend_tiles(tiles: Iterable[tuple[Window, np.ndarray]], height: int, width: int) -> np.ndarray:
    """Weighted mean (height, width), float32, of the maps of tiles that cover it, row by row, as `tile_windows` does.

    A tile counts less towards its borders, so that no seam shows where one ends. The mean is a running one (West
    1979): where all tiles agree it is exactly their value. Maps may have any size, and are resized to their window.
    """
    # A tile's weight is a product of one for the row and one for the column: the mean along rows, then that of rows.
    blend, weights = np.zeros((height, width), np.float32), np.zeros((height, 1), np.float32)
    for rows, row in groupby(tiles, key=lambda tile: tile[0][0]):
        band, band_weights = np.zeros_like(blend[rows]), np.zeros((1, width), np.float32)
        for (_, columns), prob in row:
            own = band[:, columns]
            _update_mean(own, band_weights[:, columns], resize_map(prob, *own.shape), _falloff(own.shape[1]))
        _update_mean(blend[rows], weights[rows], band, _falloff(len(band))[:, None])
    return blend


def _update_mean(mean: np.ndarray, weights: np.ndarray, values: np.ndarray, weight: np.ndarray) -> None:
    """Add values to a running mean (h, w) with the weights (1, w) or (h, 1) so far. Both change in place."""
    weights += weight
    difference = values - mean
    difference *= weight / weights
    mean += difference


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

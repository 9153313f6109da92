"""Random square crops of images."""

import cv2
import numpy as np

from common.data.tiles import bound_image, bounded_shape, fill_tile
from common.data.transforms import shrink_mask


def crop_around(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    factors: tuple[float, float] = (2.0, 4.0),
    least: int = 128,
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a square that contains one forged region, at a random place in it.

    Args:
        image: (H, W, C).
        mask: uint8 (H, W) of 0 and 1. Of several connected regions one is drawn; an empty mask is treated as a region
            of 1 % of the image at a random place.
        rng: Random generator.
        factors: Range of the side of the square, as multiples of the longer side of the region.
        least: Smallest side of the square, in pixels.

    Returns:
        Image and mask of the square, smaller along a side where the image is smaller than the square.
    """
    height, width = mask.shape
    count, _, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count > 1:
        left, top, box_width, box_height = boxes[rng.integers(1, count), :4].tolist()
    else:
        box_width = box_height = max(1, round(0.1 * (height * width) ** 0.5))
        left, top = (int(rng.integers(max(room, 0) + 1)) for room in (width - box_width, height - box_height))
    side = max(least, round(rng.uniform(*factors) * max(box_width, box_height)))
    rows = _window(top, box_height, side, height, rng)
    columns = _window(left, box_width, side, width, rng)
    return image[rows, columns], mask[rows, columns]


def bound_pair(image: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, C) and its mask (H, W), shrunk as for prediction by squares of a side (`bounded_shape`)."""
    return bound_image(image, side), shrink_mask(mask, *bounded_shape(mask.shape, side))


def range_around(position: int | None, side: int, limit: int, rng: np.random.Generator) -> slice:
    """A random range of length `side` within `limit`, at least as long, that contains a position if there is one."""
    low, high = (0, limit - side) if position is None else (max(0, position - side + 1), min(position, limit - side))
    first = int(rng.integers(low, high, endpoint=True))
    return slice(first, first + side)


def random_square(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, *, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a random square of the image's own pixels; of a forged image one that shows some of the forgery.

    An image smaller than the square is mirrored at its edges.

    Args:
        image: (H, W, C).
        mask: uint8 (H, W) of 0 and 1.
        rng: Random generator.
        side: Of the square, in pixels.

    Returns:
        Image (side, side, C) and mask (side, side).
    """
    forged = np.flatnonzero(mask)
    width = mask.shape[1]
    image, mask = fill_tile(image, side), fill_tile(mask, side)
    row, column = divmod(int(rng.choice(forged)), width) if len(forged) else (None, None)
    rows, columns = range_around(row, side, len(mask), rng), range_around(column, side, mask.shape[1], rng)
    return image[rows, columns], mask[rows, columns]


def _window(start: int, length: int, side: int, limit: int, rng: np.random.Generator) -> slice:
    """A random range of length `side` within `limit` that contains the region; all of `limit` where it is shorter."""
    if side >= limit:
        return slice(0, limit)
    first = rng.integers(max(start + length - side, 0), min(start, limit - side), endpoint=True)
    return slice(int(first), int(first) + side)

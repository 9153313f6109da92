"""Crops around forgeries, in which small ones are large."""

import cv2
import numpy as np


def crop_around(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    factors: tuple[float, float] = (2.0, 4.0),
    least: int = 128,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square around one forged region, which lies anywhere in it.

    Args:
        image: (H, W, C).
        mask: uint8 (H, W) of 0 and 1. Of several connected regions one is drawn. Without any, the square is one for a
            region of 1 % of the image, anywhere.
        rng: Where the randomness comes from.
        factors: Smallest and largest side of the square, in longer sides of the region.
        least: Smallest side of the square, in pixels.

    Returns:
        Image and mask of the square. Where the image is shorter than the square, the crop is as short.
    """
    height, width = mask.shape
    count, _, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count > 1:
        left, top, box_width, box_height = boxes[rng.integers(1, count), :4].tolist()
    else:
        box_width = box_height = max(1, round(0.1 * (height * width) ** 0.5))
        left, top = rng.integers(max(width - box_width, 0) + 1), rng.integers(max(height - box_height, 0) + 1)
    side = max(least, round(rng.uniform(*factors) * max(box_width, box_height)))
    rows = _window(top, box_height, side, height, rng)
    columns = _window(left, box_width, side, width, rng)
    return image[rows, columns], mask[rows, columns]


def _window(start: int, length: int, side: int, limit: int, rng: np.random.Generator) -> slice:
    """A range of `side` within `limit` that holds the region, or all there is."""
    if side >= limit:
        return slice(0, limit)
    first = rng.integers(max(start + length - side, 0), min(start, limit - side), endpoint=True)
    return slice(int(first), int(first) + side)

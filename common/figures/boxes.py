"""Boxes of an image: x, y, width and height in pixels."""

from collections.abc import Iterable

import numpy as np

Box = tuple[int, int, int, int]
"""x, y, width and height in pixels."""
LEAST_SIDE, LEAST_LENGTH = 0.02, 0.043
"""Least shorter and longer side of a panel, as shares of the figure's longer side."""


def part_of(picture: np.ndarray, box: Box) -> np.ndarray:
    """The part of a picture (H, W, C) in a box."""
    x, y, wide, high = box
    return picture[y : y + high, x : x + wide]


def painted(boxes: Iterable[Box], shape: tuple[int, int], margin: int = 0) -> np.ndarray:
    """Mask of boxes with a margin in pixels, uint8 (H, W)."""
    mask = np.zeros(shape, np.uint8)
    for x, y, wide, high in boxes:
        mask[max(y - margin, 0) : y + high + margin, max(x - margin, 0) : x + wide + margin] = 1
    return mask


def is_large(size: tuple[int, int], longest: int) -> bool:
    """Whether a width and height may be a panel's, in a figure of a longest side."""
    return min(size) >= max(8, LEAST_SIDE * longest) and max(size) >= max(12, LEAST_LENGTH * longest)


def gap(one: Box, other: Box) -> float:
    """Distance between two boxes in pixels, along the axis where it is larger; 0 if they overlap."""
    across = max(one[0], other[0]) - min(one[0] + one[2], other[0] + other[2])
    down = max(one[1], other[1]) - min(one[1] + one[3], other[1] + other[3])
    return max(across, down, 0)


def overlap(one: Box, other: Box) -> float:
    """Share of the smaller box that the other covers."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(across, 0) * max(down, 0) / min(one[2] * one[3], other[2] * other[3])


def union(one: Box, other: Box) -> Box:
    """The smallest box that holds both."""
    x, y = min(one[0], other[0]), min(one[1], other[1])
    right, low = max(one[0] + one[2], other[0] + other[2]), max(one[1] + one[3], other[1] + other[3])
    return x, y, right - x, low - y

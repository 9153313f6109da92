"""An image of any size as the square patches that a network of one size looks at."""

from collections.abc import Sequence

import torch
from torch import Tensor

Position = tuple[int, int]
"""Row and column of a patch's upper left pixel."""


def pad_to_patch(image: Tensor, size: int) -> Tensor:
    """Reflect the borders of an image (..., H, W) until no side is shorter than `size`, equally on both sides."""
    for dim in (-2, -1):
        side = image.shape[dim]
        if side < size:
            before = (size - side) // 2
            image = image.index_select(dim, _reflected(torch.arange(-before, size - before), side).to(image.device))
    return image


def _reflected(places: Tensor, side: int) -> Tensor:
    """Places along a side of that length, those outside mirrored at its first and last pixel, as often as it takes."""
    period = max(2 * (side - 1), 1)
    places = places.remainder(period)
    return torch.where(places < side, places, period - places)


def patch_positions(
    height: int, width: int, size: int, stride: int, *, minimum: int = 4, cover_edges: bool = False
) -> list[Position]:
    """Where the patches of an image lie.

    SPAI's way (Karageorgiou et al. 2025): a grid from the upper left corner, whose remainder on the right and at the
    bottom is dropped, and, where it has fewer than `minimum` patches, five crops: the corners and the centre.

    Args:
        height: Of the image in pixels, at least `size` (`pad_to_patch`).
        width: Likewise.
        size: Side of a patch.
        stride: From patch to patch.
        minimum: Fewer patches than these become the five crops.
        cover_edges: Add a last row and column of patches that end with the image. A grid of stride 224 drops 23 % of
            an image of 1024².
    """
    rows, columns = (list(range(0, side - size + 1, stride)) for side in (height, width))
    if cover_edges:
        rows, columns = (
            places if places[-1] == side - size else [*places, side - size]
            for places, side in ((rows, height), (columns, width))
        )
    if len(rows) * len(columns) >= minimum:
        return [(row, column) for row in rows for column in columns]
    bottom, right = height - size, width - size
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]


def cut_patches(image: Tensor, positions: Sequence[Position], size: int) -> Tensor:
    """The patches (P, C, size, size) of an image (C, H, W)."""
    return torch.stack([image[:, row : row + size, column : column + size] for row, column in positions])

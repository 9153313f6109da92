"""Square patches of an image of any size: padding and positions."""

import torch
from torch import Tensor

Position = tuple[int, int]
"""Row and column of a patch's upper left pixel."""


def pad_to_patch(image: Tensor, size: int) -> Tensor:
    """Pad an image (..., H, W) by reflection until no side is shorter than `size`, equally on both sides."""
    for dim in (-2, -1):
        side = image.shape[dim]
        if side < size:
            before = (size - side) // 2
            image = image.index_select(dim, _reflected(torch.arange(-before, size - before), side).to(image.device))
    return image


def _reflected(places: Tensor, side: int) -> Tensor:
    """Places along a side of that length; those outside are mirrored at its first and last pixel, repeatedly."""
    period = max(2 * (side - 1), 1)
    places = places.remainder(period)
    return torch.where(places < side, places, period - places)


def patch_positions(
    height: int, width: int, size: int, stride: int, *, minimum: int = 4, cover_edges: bool = False
) -> list[Position]:
    """Positions of the patches of an image.

    As in SPAI (Karageorgiou et al. 2025): a grid from the upper left corner, without what remains on the right and at
    the bottom; if it has fewer than `minimum` patches, five crops instead: the corners and the centre.

    Args:
        height, width: Of the image in pixels, at least `size` (`pad_to_patch`).
        size: Side of a patch in pixels.
        stride: Pixels from one patch to the next.
        minimum: Number of patches below which the five crops are taken.
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

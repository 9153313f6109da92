"""How one network looks at images: as a whole or in tiles, and each of these mirrored and turned.

Views average out what depends on the orientation alone. Tiles keep small forgeries of large figures visible: the whole
figure at the network's resolution shows nothing of twelve pixels out of three thousand.
"""

from collections.abc import Iterator
from itertools import chain, islice
from math import ceil
from typing import Literal, NamedTuple

from common.data.transforms import resize_image, resize_map, to_channels, to_tensor
from common.inference.tiles import Window, blend_tiles, tile_windows

import numpy as np
import torch
from torch import Tensor, nn

TTA = Literal["none", "flips", "full"]
Tiles = Literal["none", "large"]

LARGE = 2
"""Longer sides of at least this many times the network's are large: the whole image shows half of their detail."""
TILES_ALONG = 5
"""Without overlap, along the longer side of a large image: bounds the number of tiles, whatever the image's size."""
TILE_WEIGHT = 2 / 3
"""Of the tiles' map beside that of the whole image: what only the tiles see passes thresholds up to 0.67, what only the
whole shows none above 0.33 (docs/LOG.md)."""
MIN_TILE = 128
"""Least side in pixels of tiles that are a share of the image: smaller ones show too little beside a forgery."""


class View(NamedTuple):
    """A symmetry of the square: mirrored left to right or not, then turned anticlockwise by quarters."""

    turns: int
    mirrored: bool

    def apply(self, x: Tensor) -> Tensor:
        """See square images or maps (..., S, S) this way."""
        return torch.rot90(x.flip(-1) if self.mirrored else x, self.turns, (-2, -1))

    def undo(self, x: Tensor) -> Tensor:
        """Bring what was seen this way, (..., S, S), back to the original's orientation."""
        x = torch.rot90(x, -self.turns, (-2, -1))
        return x.flip(-1) if self.mirrored else x


VIEWS: dict[TTA, tuple[View, ...]] = {
    "none": (View(0, False),),
    "flips": tuple(View(turns, mirrored) for turns in (0, 2) for mirrored in (False, True)),
    "full": tuple(View(turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
"""Test-time augmentation: as it is; with its three mirror images; all eight symmetries of the square."""


@torch.inference_mode()
def predict_views(network: nn.Module, images: Tensor, tta: TTA) -> Tensor:
    """Mean probabilities (N, S, S) over the views of images (N, C, S, S), float32."""
    probs = [view.undo(torch.sigmoid(network(view.apply(images)).float())[:, 0]) for view in VIEWS[tta]]
    return torch.stack(probs).mean(dim=0)


def predict_maps(
    network: nn.Module,
    images: list[np.ndarray],
    *,
    size: int,
    in_channels: int,
    device: torch.device,
    tta: TTA = "none",
    tiles: Tiles = "large",
    tile_share: float | None = None,
    batch_size: int = 8,
) -> list[np.ndarray]:
    """Probability maps of images of any sizes.

    Beside the images and their maps, memory holds one batch of the network and one image's channels at a time.

    Args:
        network: Logits (N, 1, S, S) for uint8 (N, C, S, S); on `device`, in evaluation mode.
        images: RGB (H, W, 3) uint8.
        size: S, the side of the network's input in pixels.
        in_channels: C, the network's channels (see `to_channels`).
        device: Where the network runs.
        tta: Views of each image and tile, which are averaged.
        tiles: `large` blends the map of the whole image with that of its tiles where the image is large, its longer
            side at least 2 · S; `none` never does.
        tile_share: Side of the tiles as a share in (0, 1] of the longer side, for a network trained on such crops: it
            sees every image through tiles only, whatever `tiles` says. None for the others.
        batch_size: Images or tiles at a time.

    Returns:
        float32 for each image: (H, W) for a large one that was tiled, (S, S) for the others.
    """
    windows = [_windows(*image.shape[:2], size, tiles, tile_share) for image in images]
    as_whole = tile_share is None

    def pieces() -> Iterator[np.ndarray]:
        for image, tiling in zip(images, windows, strict=True):
            channels = to_channels(image, in_channels)
            whole = [np.s_[:, :]] if as_whole else []
            yield from (resize_image(channels[window], size) for window in chain(whole, tiling))

    def predictions() -> Iterator[np.ndarray]:
        rest = pieces()
        while batch := [to_tensor(piece) for piece in islice(rest, batch_size)]:
            yield from predict_views(network, torch.stack(batch).to(device), tta).cpu().numpy()

    probs, maps = predictions(), []
    for image, tiling in zip(images, windows, strict=True):
        height, width = image.shape[:2]
        prob = next(probs) if as_whole else None
        if tiling:
            tiled = blend_tiles(zip(tiling, islice(probs, len(tiling)), strict=True), height, width)
            if as_whole:
                prob = TILE_WEIGHT * tiled + (1 - TILE_WEIGHT) * resize_map(prob, height, width)
            else:
                prob = tiled if is_large(height, width, size) else resize_image(tiled, size)
        maps.append(prob)
    return maps


def _windows(height: int, width: int, size: int, tiles: Tiles, tile_share: float | None) -> list[Window]:
    """The tiles through which an image is seen, none where it is seen as a whole only."""
    longer = max(height, width)
    if tile_share is not None:
        return tile_windows(height, width, max(MIN_TILE, round(tile_share * longer)))
    if tiles == "large" and is_large(height, width, size):
        return tile_windows(height, width, max(size, ceil(longer / TILES_ALONG)))
    return []


def is_large(height: int, width: int, size: int) -> bool:
    """Whether an image of height × width pixels is seen through tiles too, by a network whose input has side `size`."""
    return max(height, width) >= LARGE * size

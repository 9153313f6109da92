"""How networks look at images: as a whole or in tiles, and each of these mirrored and turned.

Views average out what depends on the orientation alone. Tiles keep small forgeries of large figures visible: the whole
figure at the network's resolution shows nothing of twelve pixels out of three thousand. Networks that see alike are
shown the same pieces: an image is analysed, cut and resized once for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.transforms import resize_image, resize_map, to_channels, to_tensor
from common.ensemble.tiles import Window, blend_tiles, tile_windows

Network = Callable[[Tensor], Tensor]
"""Logits (N, 1, S, S) of images (N, C, S, S) uint8: a module in evaluation mode, or what `common.ensemble.backends`
made of one."""

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
BATCH_SIZE = {"cpu": 8, "cuda": 128}
"""Pieces of 256² that networks look at at a time. Of larger ones fewer, by the cube of their side, since networks for
them are wider too: on a CPU one of 512², which is as fast there as two and takes half a GB less with FPN-B2."""


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


class Sight(NamedTuple):
    """What a network sees of an image."""

    size: int
    """S, the side of the network's input in pixels."""
    tile_share: float | None = None
    """Side of the tiles as a share in (0, 1] of the longer side, for a network trained on such crops: it sees every
    image through tiles only. None for the others, which see it as a whole, and a large one through tiles too."""


class Viewer(NamedTuple):
    """A network, and what it is to be shown."""

    network: Network
    sight: Sight
    in_channels: int = 3
    """C, the network's channels (see `to_channels`)."""

    def look(self, images: Tensor) -> Tensor:
        """Logits (N, 1, S, S) of pieces that have its channels first, and perhaps more."""
        return self.network(images[:, : self.in_channels])


@dataclass(frozen=True)
class Pieces:
    """Images as the networks of one sight see them."""

    sight: Sight
    shapes: list[tuple[int, int]]
    """Height and width of each image."""
    windows: list[list[Window]]
    """The tiles of each image, none where it is seen as a whole only."""
    pixels: Tensor
    """uint8 (N, C, S, S): of one image after the other the whole, unless the sight is of tiles only, and its tiles."""

    def maps(self, probs: np.ndarray) -> list[np.ndarray]:
        """The images' maps of those of their pieces, (N, S, S) float32.

        Returns:
            float32 for each image: (H, W) for a large one that was tiled, (S, S) for the others.
        """
        size, as_whole = self.sight.size, self.sight.tile_share is None
        rest, maps = iter(probs), []
        for (height, width), windows in zip(self.shapes, self.windows, strict=True):
            prob = next(rest) if as_whole else None
            if windows:
                tiled = blend_tiles(zip(windows, islice(rest, len(windows)), strict=True), height, width)
                if as_whole:
                    # In place: as an expression it would hold the map of a large image four times.
                    whole = resize_map(prob, height, width) * np.float32(1 - TILE_WEIGHT)
                    tiled *= np.float32(TILE_WEIGHT)
                    prob = np.add(tiled, whole, out=tiled)
                else:
                    prob = tiled if is_large(height, width, size) else resize_image(tiled, size)
            maps.append(prob)
        return maps


def cut(
    images: Sequence[np.ndarray],
    viewers: Sequence[Viewer],
    tiles: Tiles = "large",
    device: torch.device | str = "cpu",
) -> dict[Sight, Pieces]:
    """Show images to networks: each is analysed once, and cut and resized once for all networks of one sight.

    Args:
        images: RGB (H, W, 3) uint8, of any sizes.
        viewers: The networks.
        tiles: `large` shows the tiles of large images too, those with a longer side of at least 2 · S; `none` does not.
        device: Where the networks run, to which the pieces are brought.

    Returns:
        The pieces of each sight, with as many channels as any of its networks reads. Those of one image take at most
        about 50 · C · S² bytes for each sight, whatever the image's size.
    """
    channels: dict[Sight, int] = {}
    for viewer in viewers:
        channels[viewer.sight] = max(viewer.in_channels, channels.get(viewer.sight, 0))
    shapes = [image.shape[:2] for image in images]
    shown = {}
    for sight, count in channels.items():
        windows = [_windows(*shape, sight, tiles) for shape in shapes]
        n_pieces = sum(map(len, windows)) + (len(images) if sight.tile_share is None else 0)
        pixels = torch.empty((n_pieces, count, sight.size, sight.size), dtype=torch.uint8)
        shown[sight] = Pieces(sight, shapes, windows, pixels)
    places = dict.fromkeys(channels, 0)
    for number, image in enumerate(images):
        analysed = to_channels(image, max(channels.values(), default=3))
        for sight, pieces in shown.items():
            source = image if channels[sight] == 3 else analysed
            whole = [np.s_[:, :]] if sight.tile_share is None else []
            for window in chain(whole, pieces.windows[number]):
                pieces.pixels[places[sight]] = to_tensor(resize_image(source[window], sight.size))
                places[sight] += 1
    return {sight: replace(pieces, pixels=pieces.pixels.to(device)) for sight, pieces in shown.items()}


@torch.inference_mode()
def predict_views(network: Network, images: Tensor, tta: TTA) -> Tensor:
    """A network's mean probabilities (N, S, S), float32, over the views of images (N, C, S, S)."""
    probs = [view.undo(torch.sigmoid(network(view.apply(images)).float())[:, 0]) for view in VIEWS[tta]]
    return torch.stack(probs).mean(dim=0)


def at_a_time(size: int, device: torch.device) -> int:
    """How many pieces of a side in pixels are looked at at a time, by all networks together."""
    return max(1, int(BATCH_SIZE.get(device.type, BATCH_SIZE["cuda"]) * (256 / size) ** 3))


def streams(size: int, device: torch.device) -> int:
    """How many networks look at once, at pieces of a side in pixels, each with its share of torch's threads.

    On CPUs two with a thread each do more than one with two (docs/LOG.md). At least a piece at a time is left for each.
    """
    return min(torch.get_num_threads(), at_a_time(size, device)) if device.type == "cpu" else 1


def predict_pieces(
    viewer: Viewer, pieces: Pieces, tta: TTA = "none", batch_size: int | None = None, n_streams: int = 1
) -> np.ndarray:
    """A network's probabilities of what it is shown.

    Args:
        viewer: The network, on the device where the pieces are.
        pieces: What `cut` made for its sight.
        tta: Views of each image and tile, which are averaged.
        batch_size: Pieces at a time; by default a share of `at_a_time`.
        n_streams: Networks that share it.

    Returns:
        float32 (N, S, S), for `Pieces.maps`.
    """
    size, pixels = viewer.sight.size, pieces.pixels
    batch_size = batch_size or max(1, at_a_time(size, pixels.device) // n_streams)
    probs = np.empty((len(pixels), size, size), np.float32)
    for start in range(0, len(pixels), batch_size):
        batch = slice(start, start + batch_size)
        probs[batch] = predict_views(viewer.look, pixels[batch], tta).cpu().numpy()
    return probs


def _windows(height: int, width: int, sight: Sight, tiles: Tiles) -> list[Window]:
    """The tiles through which an image is seen, none where it is seen as a whole only."""
    longer, (size, tile_share) = max(height, width), sight
    if tile_share is not None:
        return tile_windows(height, width, max(MIN_TILE, round(tile_share * longer)))
    if tiles == "large" and is_large(height, width, size):
        return tile_windows(height, width, max(size, ceil(longer / TILES_ALONG)))
    return []


def is_large(height: int, width: int, size: int) -> bool:
    """Whether an image of height × width pixels is seen through tiles too, by a network whose input has side `size`."""
    return max(height, width) >= LARGE * size

"""The networks' inputs and maps: whole images and overlapping tiles, test-time augmentation, blending of tiles.

Test-time augmentation averages out what depends on the orientation alone. Tiles keep small forgeries of large figures
visible: resized to the network's input, twelve pixels out of three thousand vanish. Networks with the same input share
their pieces: an image's error levels are computed once, and it is cut and resized once for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.dataset import Framing
from common.data.tiles import (
    TILES_ALONG,
    Window,
    blend_tiles,
    bound_image,
    bounded_shape,
    fill_tile,
    join_squares,
    square_windows,
    tile_windows,
)
from common.data.transforms import resize_image, resize_map, to_channels, to_tensor
from common.ensemble.choices import TTA
from common.networks.pixels import probabilities

Network = Callable[[Tensor], Tensor]
"""Logits (N, 1, S, S) of images (N, C, S, S) uint8: a module in evaluation mode, or one of `common.ensemble.backends`.
"""

LARGE = 2
"""An image is large if its longer side is at least this many times the network's: resized, half of its detail is lost.
"""
TILE_WEIGHT = 2 / 3
"""Weight of the tiles' map; the whole image's has the rest. What only the tiles show passes thresholds up to 0.67, what
only the whole image shows none above 0.33 (docs/LOG.md)."""
MOST_MAPPED = 16_000_000
"""Pixels of a map: five tiles of 512 px along the longer side show no finer detail, and the memory is bounded."""
MIN_TILE = 128
"""Least side in pixels of tiles that are a share of the image: smaller ones show too little beside a forgery."""
BATCH_SIZE = {"cpu": 8, "cuda": 128}
"""Pieces of 256² in the networks at a time. Of larger ones fewer, by the cube of their side, since networks for them
are wider too: on a CPU one of 512², which is as fast there as two and takes half a GB less with FPN-B2."""
MOST_WORKERS = 4
"""Threads that predict batches at once: each holds the maps of a large image, 24 bytes a pixel with six networks."""


class View(NamedTuple):
    """A symmetry of the square: mirrored left to right or not, then turned anticlockwise by quarters."""

    turns: int
    mirrored: bool

    def apply(self, x: Tensor) -> Tensor:
        """Transform square images or maps (..., S, S)."""
        return torch.rot90(x.flip(-1) if self.mirrored else x, self.turns, (-2, -1))

    def undo(self, x: Tensor) -> Tensor:
        """The inverse of `apply`."""
        x = torch.rot90(x, -self.turns, (-2, -1))
        return x.flip(-1) if self.mirrored else x


VIEWS: dict[TTA, tuple[View, ...]] = {
    "none": (View(0, mirrored=False),),
    "flips": tuple(View(turns, mirrored) for turns in (0, 2) for mirrored in (False, True)),
    "full": tuple(View(turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
"""Test-time augmentation: the image as it is; with its three mirror images; all eight symmetries of the square."""


class InputSpec(NamedTuple):
    """How an image is brought to a network's input; networks with equal ones share their pieces."""

    size: int
    """S, the side of the network's input in pixels."""
    tile_share: float | None = None
    """Side of the tiles as a share in (0, 1] of the longer side, for a network trained on such crops: it gets every
    image as tiles only. None for the others, which get it as a whole, and a large one as tiles too."""
    framing: Framing = "squeeze"
    """crop for a network trained on squares of the images' own pixels: it gets every image as such tiles only."""

    @property
    def as_whole(self) -> bool:
        """Whether the network gets an image as a whole."""
        return self.tile_share is None and self.framing == "squeeze"


class PieceNetwork(NamedTuple):
    """A network and the input that it takes."""

    network: Network
    spec: InputSpec
    in_channels: int = 3
    """C, the network's channels (see `to_channels`)."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, 1, S, S) of pieces (N, ≥ C, S, S), of which the first C channels are used."""
        return self.network(images[:, : self.in_channels])


@dataclass(frozen=True)
class Pieces:
    """The pieces of some images for the networks of one `InputSpec`."""

    spec: InputSpec
    shapes: list[tuple[int, int]]
    """Height and width of each image."""
    windows: list[list[Window]]
    """The tiles of each image, none where only the whole image is used."""
    pixels: Tensor
    """uint8 (N, C, S, S): for each image the whole, unless the network takes tiles only, and then its tiles."""

    def maps(self, probs: np.ndarray) -> list[np.ndarray]:
        """Join the pieces' maps, (N, S, S) float32, to one for each image.

        Returns:
            float32 for each image: with framing crop at its `bounded_shape`. Else (H, W) for a large one that was
            tiled, scaled down to `MOST_MAPPED` pixels if it has more; (S, S) for the others.
        """
        size, as_whole = self.spec.size, self.spec.as_whole
        if self.spec.framing == "crop":
            rest = iter(probs)
            return [
                join_squares(islice(rest, len(windows)), *bounded_shape(shape, size), size)
                for shape, windows in zip(self.shapes, self.windows, strict=True)
            ]
        rest, maps = iter(probs), []
        for (height, width), windows in zip(self.shapes, self.windows, strict=True):
            prob = next(rest) if as_whole else None
            scale = min(1.0, (MOST_MAPPED / (height * width)) ** 0.5)
            if scale < 1:
                height, width = round(scale * height), round(scale * width)
                windows = [(_scaled(rows, scale), _scaled(columns, scale)) for rows, columns in windows]
            if windows:
                tiled = blend_tiles(zip(windows, islice(rest, len(windows)), strict=True), height, width)
                if prob is not None:
                    # In place: as an expression it would hold the map of a large image four times.
                    whole = resize_map(prob, height, width) * np.float32(1 - TILE_WEIGHT)
                    tiled *= np.float32(TILE_WEIGHT)
                    prob = np.add(tiled, whole, out=tiled)
                else:
                    prob = tiled if is_large(height, width, size) else resize_image(tiled, size)
            maps.append(prob)
        return maps


def extract_pieces(
    images: Sequence[np.ndarray], networks: Sequence[PieceNetwork], device: torch.device | str = "cpu"
) -> dict[InputSpec, Pieces]:
    """Cut and resize images for networks: once for all networks of one `InputSpec`.

    Args:
        images: RGB (H, W, 3) uint8, of any sizes.
        networks: Those that the pieces are for.
        device: Where the networks run, to which the pieces are moved.

    Returns:
        The pieces by `InputSpec`, with as many channels as any of its networks reads. Those of one image take at most
        about 50 · C · S² bytes, whatever the image's size.
    """
    channels: dict[InputSpec, int] = {}
    for network in networks:
        channels[network.spec] = max(network.in_channels, channels.get(network.spec, 0))
    shapes = [(image.shape[0], image.shape[1]) for image in images]
    found = {}
    for spec, count in channels.items():
        windows = [_windows(height, width, spec) for height, width in shapes]
        n_pieces = sum(map(len, windows)) + (len(images) if spec.as_whole else 0)
        pixels = torch.empty((n_pieces, count, spec.size, spec.size), dtype=torch.uint8)
        found[spec] = Pieces(spec, shapes, windows, pixels)
    places = dict.fromkeys(channels, 0)
    for number, image in enumerate(images):
        with_levels = to_channels(image, max(channels.values(), default=3))
        for spec, pieces in found.items():
            source = image if channels[spec] == 3 else with_levels
            if spec.framing == "crop":
                source = fill_tile(bound_image(source, spec.size), spec.size)
            whole = [np.s_[:, :]] if spec.as_whole else []
            for window in chain(whole, pieces.windows[number]):
                pieces.pixels[places[spec]] = to_tensor(resize_image(source[window], spec.size))
                places[spec] += 1
    return {spec: replace(pieces, pixels=pieces.pixels.to(device)) for spec, pieces in found.items()}


@torch.inference_mode()
def predict_views(network: Network, images: Tensor, tta: TTA) -> Tensor:
    """A network's mean probabilities (N, S, S), float32, over the views of images (N, C, S, S)."""
    probs = [view.undo(probabilities(network(view.apply(images)).float())[:, 0]) for view in VIEWS[tta]]
    return torch.stack(probs).mean(dim=0)


def at_a_time(size: int, device: torch.device) -> int:
    """How many pieces of a side in pixels are in the networks at a time, by all workers together."""
    return max(1, int(BATCH_SIZE.get(device.type, BATCH_SIZE["cuda"]) * (256 / size) ** 3))


def worker_count(size: int, device: torch.device) -> int:
    """How many threads predict batches at once, with pieces of a side in pixels, each with a share of torch's threads.

    On CPUs two with a thread each do more than one with two (docs/LOG.md), and of many cores some should cut and blend
    while others run networks. On a GPU one worker cuts and blends while the other's pieces are in the networks.
    """
    if device.type != "cpu":
        return 2
    threads = torch.get_num_threads()
    return min(MOST_WORKERS, threads, max(at_a_time(size, device), threads // 4))


def predict_pieces(
    network: PieceNetwork, pieces: Pieces, tta: TTA = "none", batch_size: int | None = None
) -> np.ndarray:
    """A network's probabilities for pieces.

    Args:
        network: On the device where the pieces are.
        pieces: Those that `extract_pieces` made for its spec.
        tta: Views of each piece, which are averaged.
        batch_size: Pieces at a time; by default `at_a_time`.

    Returns:
        float32 (N, S, S), for `Pieces.maps`.
    """
    size, pixels = network.spec.size, pieces.pixels
    batch_size = batch_size or at_a_time(size, pixels.device)
    probs = np.empty((len(pixels), size, size), np.float32)
    for start in range(0, len(pixels), batch_size):
        batch = slice(start, start + batch_size)
        probs[batch] = predict_views(network.logits, pixels[batch], tta).cpu().numpy()
    return probs


def is_large(height: int, width: int, size: int) -> bool:
    """Whether an image of height × width pixels is tiled too for a network whose input has the side `size`."""
    return max(height, width) >= LARGE * size


def _windows(height: int, width: int, spec: InputSpec) -> list[Window]:
    """The tiles of an image, none where only the whole image is used."""
    longer, size, tile_share = max(height, width), spec.size, spec.tile_share
    if spec.framing == "crop":
        return square_windows(*bounded_shape((height, width), size), size)
    if tile_share is not None:
        return tile_windows(height, width, max(MIN_TILE, round(tile_share * longer)))
    if is_large(height, width, size):
        return tile_windows(height, width, max(size, ceil(longer / TILES_ALONG)))
    return []


def _scaled(window: slice, scale: float) -> slice:
    return slice(round(scale * window.start), round(scale * window.stop))

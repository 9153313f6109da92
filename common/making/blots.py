"""Blots with known reuse: lanes, runs of lanes and strips that are shown twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from common.forensics.lanes import find_lanes

BlotReuse = Literal["lane", "run", "strip"]
"""What is shown twice: one lane, two to four neighbours, or the whole strip as another panel below."""
BLOT_REUSES: tuple[BlotReuse, ...] = get_args(BlotReuse)
_HEIGHTS = (48, 200)  # pixels of a strip in a figure
_BESIDE = 12  # pixels on either side of a seam whose mean levels are made equal
_FEATHER = 2.0  # pixels: sigma of a pasted lane's border
_DRIFT = 0.03  # of the height: how far a pasted lane is moved up or down
_STRETCH = 1.06  # largest factor on one axis
_WHITE, _MARGIN = 255, 12  # gray level and pixels of the paper around strips


@dataclass(frozen=True, kw_only=True)
class ReusedBlot:
    """A figure of strips of blots, and what is known of it."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB."""
    mask: np.ndarray
    """uint8 (H, W), 1 where something is shown twice."""
    kind: str
    """Of `BLOT_REUSES`, or `none`."""
    transform: str
    """Of `mirrored`, `turned` (by 180°), `stretched`, `exposure` (gain and gamma); `shifted` alone else."""


def compose_blots(strips: Sequence[np.ndarray], rng: np.random.Generator, kind: BlotReuse | None) -> ReusedBlot:
    """Lay out strips of different blots below one another on white, one of them with reuse.

    Args:
        strips: At least two, uint8 (h, w), lanes running downwards; the first holds what is reused.
        rng: Draws sizes, places and changes.
        kind: What is shown twice; None for nothing.

    Raises:
        ValueError: The first strip has too few lanes for it, or what was drawn has no room beside its source.
    """
    pictures = [scaled_strip(strip, rng) for strip in strips]
    masks = [np.zeros(picture.shape, np.uint8) for picture in pictures]
    transform = ""
    if kind == "strip":
        again, transform = _changed(pictures[0], rng)
        pictures.append(again)
        masks[0][:] = 1
        masks.append(np.ones(again.shape, np.uint8))
    elif kind is not None:
        pictures[0], masks[0], transform = _with_reuse(pictures[0], rng, kind)
    order = rng.permutation(len(pictures))
    width = max(picture.shape[1] for picture in pictures) + 2 * _MARGIN
    height = sum(picture.shape[0] + _MARGIN for picture in pictures) + _MARGIN
    page, marked, y = np.full((height, width), _WHITE, np.uint8), np.zeros((height, width), np.uint8), _MARGIN
    for place in order:
        high, wide = pictures[place].shape
        page[y : y + high, _MARGIN : _MARGIN + wide] = pictures[place]
        marked[y : y + high, _MARGIN : _MARGIN + wide] = masks[place]
        y += high + _MARGIN
    return ReusedBlot(
        image=np.repeat(page[..., None], 3, axis=2), mask=marked, kind=kind or "none", transform=transform
    )


def scaled_strip(strip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A strip, uint8 (h, w), at the size of one in a figure, 48 to 200 pixels high; sources are often enlarged."""
    factor = min(1.0, float(rng.uniform(*_HEIGHTS)) / strip.shape[0])
    return cv2.resize(strip, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def joined_strip(strip: np.ndarray, other: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """A strip put together from two pieces, without a gap: a vertical seam at a drawn place.

    Args:
        strip: uint8 (h, w), lanes running downwards.
        other: What goes on behind the seam, uint8, resized to the strip's height and brought to the mean gray level
            beside the seam; None cuts a piece out of the strip instead, of a tenth to three tenths of its length.
        rng: Draws the places.

    Returns:
        uint8 (h, w'), w' < w where a piece was cut out.
    """
    height, width = strip.shape
    place = round(width * rng.uniform(0.3, 0.6))
    if other is None:
        return np.concatenate([strip[:, :place], strip[:, place + round(width * rng.uniform(0.1, 0.3)) :]], axis=1)
    scaled = cv2.resize(other, (max(round(other.shape[1] * height / len(other)), 1), height))
    behind = scaled[:, : width - place].astype(np.float32)
    level = strip[:, max(place - _BESIDE, 0) : place].mean() - behind[:, :_BESIDE].mean()
    return np.concatenate([strip[:, :place], np.rint(behind + level).clip(0, 255).astype(np.uint8)], axis=1)


def _with_reuse(picture: np.ndarray, rng: np.random.Generator, kind: BlotReuse) -> tuple[np.ndarray, np.ndarray, str]:
    """The strip with one of its lanes, or a run of them, pasted over others; its mask and the transform."""
    lanes = find_lanes(picture)
    count = 1 if kind == "lane" else int(rng.integers(2, 5))
    count = min(count, len(lanes) // 2)
    if count < (1 if kind == "lane" else 2):
        raise ValueError("too few lanes")
    places = np.arange(len(lanes) - count + 1)
    source = int(rng.choice(places))
    apart = places[np.abs(places - source) >= count]
    if not len(apart):
        raise ValueError("no room")
    start, stop = lanes[source][0], lanes[source + count - 1][1]
    again, transform = _changed(picture[:, start:stop], rng)
    left = lanes[int(rng.choice(apart))][0]
    left = min(left, picture.shape[1] - again.shape[1])
    if left < stop and start < left + again.shape[1]:
        raise ValueError("no room")
    drift = round(rng.uniform(-_DRIFT, _DRIFT) * len(picture))
    pasted = np.zeros(picture.shape, np.float32)
    pasted[:, left : left + again.shape[1]] = 1
    soft = cv2.GaussianBlur(pasted, (0, 0), _FEATHER)
    moved = np.array([(1, 0, left), (0, 1, drift)], np.float32)
    layer = cv2.warpAffine(again, moved, picture.shape[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    mixed = np.rint(soft * layer + (1 - soft) * picture).clip(0, 255).astype(np.uint8)
    mask = (pasted > 0).astype(np.uint8)
    mask[:, start:stop] = 1
    return mixed, mask, transform


def _changed(picture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A reused part as it is shown again, of the same height: mirrored, turned, stretched, at another exposure."""
    names, height = [], picture.shape[0]
    if rng.random() < 0.35:
        picture, name = (picture[:, ::-1], "mirrored") if rng.random() < 0.6 else (picture[::-1, ::-1], "turned")
        names.append(name)
    if rng.random() < 0.35:
        across, down = np.exp(rng.uniform(-np.log(_STRETCH), np.log(_STRETCH), 2))
        size = max(round(picture.shape[1] * across), 1), max(round(height * down), 1)
        grown = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_CUBIC)
        picture = cv2.copyMakeBorder(grown, 0, max(height - len(grown), 0), 0, 0, cv2.BORDER_REPLICATE)[:height]
        names.append("stretched")
    if rng.random() < 0.5:
        level = (picture.astype(np.float32) / 255) ** rng.uniform(0.75, 1.35)
        picture = np.rint(255 * (0.5 + (level - 0.5) * rng.uniform(0.8, 1.2))).clip(0, 255).astype(np.uint8)
        names.append("exposure")
    return np.ascontiguousarray(picture), ", ".join(names) or "shifted"

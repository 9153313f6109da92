"""Panels of a compound figure: solid pictures (micrographs, blots, photographs) and what is drawn (plots, text)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

WORKING_SIDE = 1000
"""Longer side in pixels at which panels are found."""
LEAST_SIDE = 0.04
"""Least side of a panel, as a share of the figure's longer side."""
SOLID = 0.8
"""Share of its box that a picture fills; plots and words leave more ground free."""
_GROUND = 14  # gray levels: what differs less from the ground is ground
_LEAST_GROUND = 0.02  # share of a figure that is ground
_THIN = 0.006  # of the longer side: lines, letters and gaps of half of it do not join pictures
_FLAT_SHARE = 0.85  # of a box without any detail: a drawing
_SEAM, _CROSSED = 18.0, 0.6  # gray levels of a step, and share of a side that it crosses, where two pictures touch
_OUTSTANDING = 2.5  # how many times a step exceeds the usual one between neighbouring pixels


Box = tuple[int, int, int, int]
"""x, y, width and height in pixels."""
Kind = Literal["picture", "drawing"]


@dataclass(frozen=True)
class Panel:
    """A part of a figure."""

    x: int
    y: int
    width: int
    height: int
    """In pixels of the figure, from its upper left corner."""
    kind: Kind

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def shares(panels: Sequence[Panel], mask: np.ndarray) -> np.ndarray:
    """Share of a mask, bool (H, W), that lies in each panel, float64 (n,); 0 for an empty mask."""
    count = max(np.count_nonzero(mask), 1)
    return np.array([np.count_nonzero(mask[panel.window]) for panel in panels]) / count


def find_panels(image: np.ndarray) -> list[Panel]:
    """Find the panels of a figure.

    A picture is a solid rectangle on the ground between panels, split where a straight step crosses it. What is left is
    joined to drawings. A figure without ground is one picture.

    Args:
        image: uint8 (H, W, 3) RGB.

    Returns:
        The pictures, and after them the drawings, each from top to bottom and left to right. At least one.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(image, small, interpolation=cv2.INTER_AREA) if scale < 1 else image
    ground = _ground(picture)
    if ground is None:
        return [Panel(0, 0, width, height, "picture")]
    content = (np.abs(picture.astype(np.int16) - ground).max(axis=2) > _GROUND).astype(np.uint8)
    least = max(8, round(LEAST_SIDE * max(small)))
    pictures = _pictures(picture, content, least)
    for x, y, wide, high in pictures:
        content[y : y + high, x : x + wide] = 0
    found = [(box, _kind(picture, box)) for box in pictures]
    found += [(box, "drawing") for box in _drawings(content, least)]
    panels = [_at_size(box, kind, scale, (width, height)) for box, kind in found]
    panels.sort(key=lambda panel: (panel.kind == "drawing", panel.y, panel.x))
    return panels or [Panel(0, 0, width, height, "picture")]


def _ground(picture: np.ndarray) -> np.ndarray | None:
    """Colour between the panels, int16 (3,), white or black; None if there is no ground."""
    rim = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])
    rim = np.concatenate([rim, picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3)])
    for level in (255, 0):
        near = np.abs(picture.astype(np.int16) - level).max(axis=2) <= _GROUND
        full = max(near.mean(axis=0).max(), near.mean(axis=1).max())  # a whole row or column between panels
        if near.mean() >= _LEAST_GROUND and (full > 0.97 or (np.abs(rim.astype(int) - level) <= _GROUND).mean() > 0.5):
            return np.full(3, level, np.int16)
    return None


def _pictures(picture: np.ndarray, content: np.ndarray, least: int) -> list[Box]:
    """Boxes x, y, width, height of solid pictures."""
    thin = max(3, round(_THIN * max(content.shape)) | 1)
    # Holes of ground colour inside a picture belong to it; lines and letters beside it do not.
    filled = cv2.morphologyEx(content, cv2.MORPH_CLOSE, np.ones((thin, thin), np.uint8))
    contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    solid = cv2.drawContours(np.zeros_like(content), contours, -1, 1, -1)
    solid &= _dense(content, least)
    solid = cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((2 * thin + 1, 2 * thin + 1), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    boxes = []
    for x, y, wide, high, area in stats[1:count]:
        if min(wide, high) >= least and area >= SOLID * wide * high:
            boxes += _split(picture, (int(x), int(y), int(wide), int(high)), least)
    return boxes


def _dense(content: np.ndarray, least: int) -> np.ndarray:
    """Where most of the surroundings are no ground, uint8 (h, w)."""
    side = max(5, least // 2 | 1)
    return (cv2.blur(content.astype(np.float32), (side, side), borderType=cv2.BORDER_REPLICATE) > 0.45).astype(np.uint8)


def _split(picture: np.ndarray, box: Box, least: int) -> list[Box]:
    """The box, or its parts where straight steps cross it: panels that touch, or are parted by a thin line."""
    x, y, wide, high = box
    part = picture[y : y + high, x : x + wide].astype(np.float32)
    for axis, length in ((1, wide), (0, high)):
        if length < 2 * least:
            continue
        step = np.abs(np.diff(part, axis=axis)).max(axis=2)
        usual = np.median(step.mean(axis=1 - axis))
        crossed = (step > max(_SEAM, _OUTSTANDING * usual)).mean(axis=1 - axis)
        crossed[: least - 1], crossed[1 - least :] = 0, 0
        place = int(crossed.argmax()) + 1
        if crossed[place - 1] >= _CROSSED:
            if axis == 1:
                parts = [(x, y, place, high), (x + place, y, wide - place, high)]
            else:
                parts = [(x, y, wide, place), (x, y + place, wide, high - place)]
            return [found for half in parts for found in _split(picture, half, least)]
    return [box]


def _kind(picture: np.ndarray, box: Box) -> Kind:
    x, y, wide, high = box
    part = cv2.cvtColor(picture[y : y + high, x : x + wide], cv2.COLOR_RGB2GRAY)
    flat = cv2.morphologyEx(part, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) < 3
    levels = np.count_nonzero(np.bincount(part.ravel(), minlength=256) > 1e-4 * part.size)
    return "drawing" if flat.mean() > _FLAT_SHARE and levels < 64 else "picture"


def _drawings(content: np.ndarray, least: int) -> list[Box]:
    """Boxes of what is drawn or written, joined where it is near."""
    near = 2 * (least // 3) + 1
    joined = cv2.morphologyEx(content, cv2.MORPH_CLOSE, np.ones((near, near), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    boxes = [tuple(map(int, row[:4])) for row in stats[1:count]]
    return [(x, y, wide, high) for x, y, wide, high in boxes if min(wide, high) >= least]


def _at_size(box: Box, kind: Kind, scale: float, size: tuple[int, int]) -> Panel:
    x, y, wide, high = box
    left, top = (min(round(value / scale), limit - 1) for value, limit in zip((x, y), size, strict=True))
    right, low = (min(round(value / scale), limit) for value, limit in zip((x + wide, y + high), size, strict=True))
    return Panel(left, top, max(1, right - left), max(1, low - top), kind)

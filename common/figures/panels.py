"""Panels of a compound figure: pictures (micrographs, blots, photographs) and what is drawn (plots, schematics)."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.figures.boxes import Box, overlap, painted, part_of
from common.figures.drawings import find_drawings
from common.figures.kinds import DRAWN, Kind, softness
from common.figures.pictures import CROSSED_ALL, SAME, find_framed, find_pictures, split

WORKING_SIDE = 1000
"""Longer side in pixels at which panels are found."""
_IN_PANEL = 0.6  # share of a region that lies in its panel
_GROUND = 10  # gray levels: what differs less from the ground is ground
_LEAST_GROUND = 0.02  # share of a figure that is ground
_WHOLE, _RIM = 0.97, 0.5  # share of a row or column, and of the figure's rim, that is ground
_EVEN = 0.75  # share of the ground that has its commonest level, within 3: paper is even, a background is not
_IN_PLOT, _SHADED = 0.9, 0.6  # share of an area in a plot, and share of it that is shaded, as in pictures
_SQUARE, _COVERED = 0.7, 0.4  # share of their boxes that pictures on black ground fill, and of the figure


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
    def box(self) -> Box:
        """x, y, width and height."""
        return self.x, self.y, self.width, self.height

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @property
    def drawn(self) -> bool:
        """Whether it is a plot or a drawing, and no picture."""
        return self.kind in DRAWN


def shares(panels: Sequence[Panel], mask: np.ndarray) -> np.ndarray:
    """Share of a mask, bool (H, W), that lies in each panel, float64 (n,); 0 for an empty mask."""
    count = max(np.count_nonzero(mask), 1)
    return np.array([np.count_nonzero(mask[panel.window]) for panel in panels]) / count


def panel_of(mask: np.ndarray, panels: Sequence[Panel]) -> int | None:
    """Position of the panel that holds most of a region, bool (H, W); None if none holds 60 % of it."""
    held = shares(panels, mask)
    best = int(held.argmax())
    return best if held[best] >= _IN_PANEL else None


def find_panels(image: np.ndarray) -> list[Panel]:
    """Find the panels of a figure.

    A picture is a solid rectangle on the ground between panels, split where a straight step crosses it. What is left is
    joined to plots and drawings, by axes and nearness. A figure without ground is one picture, split in the same way.

    Args:
        image: uint8 (H, W, 3) RGB.

    Returns:
        The pictures, and after them what is drawn, each from top to bottom and left to right. At least one.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(image, small, interpolation=cv2.INTER_AREA) if scale < 1 else image
    ground = _ground(picture)
    found: list[tuple[Box, Kind]] = []
    if ground is not None:
        content = (np.abs(picture.astype(np.int16) - ground).max(axis=2) > _GROUND).astype(np.uint8)
        solid = find_pictures(picture, content)
        boxes = [box for box, _ in solid]
        if ground == 255 or _are_square(content, boxes):
            framed = find_framed(picture, content, boxes)
            found = [(box, kind) for box, kind in solid if all(overlap(box, other) < SAME for other in framed)]
            found += [(box, "blot") for box in framed]
            drawn = find_drawings(picture, content, [box for box, _ in found])
            plots = [box for box, kind in drawn if kind == "plot"]
            found = [(box, kind) for box, kind in found if box in framed or not _is_drawn(picture, box, plots)] + drawn
    whole = (0, 0, *small)
    found = found or split(picture, whole, max(small), CROSSED_ALL) or [(whole, "micrograph")]
    panels = [_at_size(box, kind, scale, (width, height)) for box, kind in found]
    return sorted(panels, key=lambda panel: (panel.drawn, panel.y, panel.x))


def _ground(picture: np.ndarray) -> int | None:
    """Level between the panels, 255 or 0; None if there is no ground."""
    rim = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])
    rim = np.concatenate([rim, picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3)])
    for level in (255, 0):
        near = np.abs(picture.astype(np.int16) - level).max(axis=2) <= _GROUND
        if near.mean() < _LEAST_GROUND:
            continue
        full = max(near.mean(axis=0).max(), near.mean(axis=1).max())  # a whole row or column between panels
        if full <= _WHOLE and (np.abs(rim.astype(int) - level) <= _GROUND).mean() <= _RIM:
            continue
        gray = picture[near].min(axis=1)
        commonest = int(np.bincount(gray).argmax())
        if (np.abs(gray.astype(int) - commonest) <= 3).mean() >= _EVEN:
            return level
    return None


def _are_square(content: np.ndarray, boxes: Sequence[Box]) -> bool:
    """Whether pictures on black ground fill their boxes and make up most of the figure: cells do not."""
    kept = painted(boxes, content.shape)
    inside = np.count_nonzero(content & kept)
    return bool(kept.mean() > _COVERED and inside > _SQUARE * np.count_nonzero(kept))


def _is_drawn(picture: np.ndarray, box: Box, plots: Sequence[Box]) -> bool:
    """Whether what was taken for a picture is an area of a plot: cells of a heat map, a bar of colours."""
    if softness(part_of(picture, box)) >= _SHADED:
        return False
    return any(overlap(box, plot) >= _IN_PLOT and box[2] * box[3] < plot[2] * plot[3] for plot in plots)


def _at_size(box: Box, kind: Kind, scale: float, size: tuple[int, int]) -> Panel:
    x, y, wide, high = box
    left, top = (min(round(value / scale), limit - 1) for value, limit in zip((x, y), size, strict=True))
    right, low = (min(round(value / scale), limit) for value, limit in zip((x + wide, y + high), size, strict=True))
    return Panel(left, top, max(1, right - left), max(1, low - top), kind)

"""Solid pictures on the ground of a figure: micrographs, photographs, blots."""

from collections.abc import Sequence

import cv2
import numpy as np

from common.figures.appearance import picture_kind
from common.figures.boxes import LEAST_LENGTH, LEAST_SIDE, Box, is_large, overlap, part_of
from common.figures.kinds import Kind, drawn_kind, holds_bands, softness

SOLID = 0.8
"""Share of its box that a picture fills; plots and words leave more ground free."""
CROSSED, CROSSED_ALL = 0.6, 0.9
"""Share of a side that a step crosses where two pictures touch; the same in an image that may be one picture."""
SAME = 0.5
"""Overlap of two boxes that are one picture."""
_THIN = 0.005  # of the longer side: lines, letters and gaps of half of it do not join pictures
_DENSE = 0.45  # share of a place's surroundings that is no ground
_GUTTER = 0.12  # of the longer side: shortest gutter
_SEAM, _OUTSTANDING = 18.0, 2.5  # gray levels of a step at a seam, and factor on the usual step between two pixels
_RARE = 1.5  # factor on the 90 % quantile of what the steps cross: a pattern has many that cross as much
_WHOLE, _NEAR, _RUN, _SPARSE = 0.95, 0.7, 4, 1.5
"""A step that crosses nearly all is a seam too if few cross a like share: runs of steps within so many pixels, one for
so many least sides of a panel."""
_BAND = 0.6  # share of a frame from which a picture in it fills it
_LINE = 3  # pixels of a frame
_LARGEST_FRAME = 0.5  # share of the figure
_FRAME, _SOFT = 0.9, 0.4  # share of its box that a frame encloses; share of what is shaded, not paper or ink, in it


def find_pictures(picture: np.ndarray, content: np.ndarray) -> list[tuple[Box, Kind]]:
    """Boxes and kinds of solid pictures, split where they touch.

    Args:
        picture: uint8 (h, w, 3) RGB.
        content: uint8 (h, w), 1 where it is no ground.
    """
    longest = max(content.shape)
    thin = max(3, round(_THIN * longest) | 1)
    # Holes of ground colour inside a picture belong to it; lines and letters beside it do not.
    filled = cv2.morphologyEx(content, cv2.MORPH_CLOSE, np.ones((thin, thin), np.uint8))
    contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    solid = cv2.drawContours(np.zeros_like(content), contours, -1, 1, -1)
    solid = cv2.subtract(cv2.bitwise_and(solid, _dense(content)), _gutters(content))
    solid = cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((2 * thin + 1, 2 * thin + 1), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    found = []
    for x, y, wide, high, area in stats[1:count]:
        if is_large((wide, high), longest) and area >= SOLID * wide * high:
            found += split(picture, _trimmed(content, (int(x), int(y), int(wide), int(high))), longest)
    return found


def _gutters(content: np.ndarray) -> np.ndarray:
    """Long straight lines of ground, uint8 (h, w): they part pictures, be they as thin as a pixel."""
    length = max(5, round(_GUTTER * max(content.shape)))
    across, down = (
        cv2.morphologyEx(1 - content, cv2.MORPH_OPEN, np.ones(kernel, np.uint8))
        for kernel in ((1, length), (length, 1))
    )
    return cv2.bitwise_or(across, down)


def _trimmed(content: np.ndarray, box: Box) -> Box:
    """The box without margins of ground."""
    x, y, wide, high = box
    part = content[y : y + high, x : x + wide]
    rows, columns = (np.flatnonzero(part.mean(axis=axis) >= 0.5) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return box
    return x + int(columns[0]), y + int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def _dense(content: np.ndarray) -> np.ndarray:
    """Where most of the surroundings are no ground, uint8 (h, w)."""
    side = max(5, round(LEAST_SIDE * max(content.shape)) | 1)
    return (cv2.blur(content.astype(np.float32), (side, side), borderType=cv2.BORDER_REPLICATE) > _DENSE).astype(
        np.uint8
    )


def split(picture: np.ndarray, box: Box, longest: int, crossing: float = CROSSED) -> list[tuple[Box, Kind]]:
    """The box, or its parts where straight steps cross it: panels that touch, or are parted by a thin line.

    Args:
        picture: uint8 (h, w, 3) RGB.
        box: Of a solid picture.
        longest: Longer side of the figure in pixels.
        crossing: Share of a side that a step crosses at least.

    Returns:
        The parts with their kinds; none for what is drawn.
    """
    part = part_of(picture, box)
    if drawn_kind(part, longest):
        return []
    halves = _halves(part, box, longest, crossing)
    if not halves:
        return [(box, picture_kind(part))]
    return [found for half in halves for found in split(picture, half, longest, crossing)]


def _halves(part: np.ndarray, box: Box, longest: int, crossing: float) -> list[Box]:
    """The box of a part, uint8 (h, w, 3), cut at its strongest seam; nothing without one."""
    (strength, place), axis = max((_seam(part, axis, longest, crossing), axis) for axis in (0, 1))
    if not strength:
        return []
    x, y, wide, high = box
    if axis == 1:
        return [(x, y, place, high), (x + place, y, wide - place, high)]
    return [(x, y, wide, place), (x, y + place, wide, high - place)]


def _seam(part: np.ndarray, axis: int, longest: int, crossing: float) -> tuple[float, int]:
    """Share of a picture's side that its strongest seam crosses, 0 without one, and where along an axis it lies."""
    length, across = part.shape[axis], part.shape[1 - axis]
    least = max(8, round(LEAST_SIDE * longest))
    if length < 2 * least or across < LEAST_LENGTH * longest:
        return 0.0, 0
    step = np.abs(np.diff(part.astype(np.float32), axis=axis)).max(axis=2)
    usual = np.median(step.mean(axis=1 - axis))
    crossed = (step > max(_SEAM, _OUTSTANDING * usual)).mean(axis=1 - axis)
    crossed[: least - 1], crossed[1 - least :] = 0, 0
    place = int(crossed.argmax()) + 1
    strongest = crossed[place - 1]
    near = np.flatnonzero(crossed >= _NEAR * strongest)
    runs = 1 + np.count_nonzero(np.diff(near) > _RUN)
    few = runs <= 1 + length // (_SPARSE * least)
    stands_out = strongest >= _RARE * np.quantile(crossed[least - 1 : 1 - least], 0.9) or (few and strongest >= _WHOLE)
    return (float(strongest), place) if strongest >= crossing and stands_out else (0.0, 0)


def find_framed(picture: np.ndarray, content: np.ndarray, solid: Sequence[Box]) -> list[Box]:
    """Boxes of pictures with a ground as white as the paper, as blots have, in frames of thin lines.

    A frame around a solid picture is that picture's, unless it is much larger: then the picture is a band.
    """
    longest = max(content.shape)
    length = max(5, round(LEAST_SIDE * longest))
    thick = cv2.morphologyEx(content, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    thin = cv2.subtract(content, thick)
    lines = np.zeros_like(content)
    for kernel, bridge in (((1, length), (1, 3 * length)), ((length, 1), (3 * length, 1))):
        line = cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ones(kernel, np.uint8))
        # Where bands touch the frame it is not thin: bridged, and prolonged as far as the corner.
        lines |= cv2.dilate(
            cv2.morphologyEx(line, cv2.MORPH_CLOSE, np.ones(bridge, np.uint8)), np.ones(bridge, np.uint8)
        )
    lines = cv2.dilate(cv2.morphologyEx(lines, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)), np.ones((3, 3), np.uint8))
    contours, tree = cv2.findContours(1 - lines, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    boxes = []
    for contour, (_, _, _, around) in zip(contours, tree[0] if tree is not None else (), strict=True):
        if around >= 0:  # the inner border of what lies around a frame
            continue
        x, y, wide, high = cv2.boundingRect(contour)
        box = (x, y, wide, high)
        if wide * high > _LARGEST_FRAME * content.size:  # the page
            continue
        if is_large(box[2:], longest) and cv2.contourArea(contour) >= _FRAME * (wide - 1) * (high - 1):
            part = part_of(picture, box)
            known = any(overlap(box, other) >= SAME and other[2] * other[3] > _BAND * wide * high for other in solid)
            if not known and softness(part) >= _SOFT and holds_bands(part, content[y : y + high, x : x + wide]):
                boxes += [_with_frame(part, content.shape) for part in _parted(picture, box, longest)]
    return boxes


def _parted(picture: np.ndarray, box: Box, longest: int) -> list[Box]:
    """What a frame holds: one picture, or those that lines from side to side part."""
    halves = _halves(part_of(picture, box), box, longest, CROSSED_ALL)
    return [part for half in halves for part in _parted(picture, half, longest)] or [box]


def _with_frame(box: Box, shape: tuple[int, int]) -> Box:
    """The box with the line around it."""
    x, y, wide, high = box
    left, top = max(x - _LINE, 0), max(y - _LINE, 0)
    return left, top, min(x + wide + _LINE, shape[1]) - left, min(y + high + _LINE, shape[0]) - top

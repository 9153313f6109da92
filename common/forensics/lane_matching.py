"""Matching of the lanes of blots, each with all places of all of them, by the edges of its bands and by its grain.

Bands are smooth: key points find little on them. And lanes of one blot are alike by nature: a lane that is shown again
agrees better with its copy than with any other place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.forensics.gray import local_strength
from common.forensics.lanes import find_lanes
from common.forensics.matches import Matches

MOST_LANES = 64
"""Lanes that are compared in one figure, the first ones of each picture: bounds the time."""
_HEIGHT = 128  # pixels: higher pictures are scaled down to it
_FINE, _COARSE, _AROUND = 0.8, 5.0, 8.0  # pixels: sigmas of the band of detail, and of the window of its strength
_FAINT = 1.0  # gray levels: weaker detail is rounding
_CROPPED = 0.06, 0.08  # of a lane's height and width: rim that a copy may have lost, or have been moved by
_LEAST = 8  # pixels of a lane's sides
_ALIKE, _OUTSTANDING = 0.5, 0.02  # least correlation of a copy, and its lead over the second place
_EQUAL = 0.97  # correlation that needs no lead: lanes in a row are shown twice, and have two places
_APART = 0.8  # of a lane's width: nearer places of the same picture are the lane itself
_GRID = (0.1, 0.5, 0.9)  # of a lane's height and width: where points are taken
_VIEWS = ((1, 1), (-1, 1), (-1, -1), (1, -1))
"""Signs of x and y: as it is, mirrored, turned by 180°, mirrored upside down."""


@dataclass(frozen=True)
class _Place:
    """Where a lane correlates, in a picture at working scale."""

    correlation: float
    picture: int
    view: tuple[int, int]
    corner: tuple[int, int]
    """x and y of its upper left pixel."""


def match_lanes(gray: np.ndarray, windows: Sequence[tuple[slice, slice]]) -> Matches:
    """Match the lanes of an image's blots with all places of all of them.

    Args:
        gray: uint8 (H, W).
        windows: Rows and columns of each blot, its lanes running downwards.

    Returns:
        Nine pairs of points of each lane that agrees with one place better than with any other; none without lanes.
    """
    scale = [min(1.0, _HEIGHT / max(rows.stop - rows.start, 1)) for rows, _ in windows]
    pictures = [
        cv2.resize(gray[window], None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        if factor < 1
        else gray[window]
        for window, factor in zip(windows, scale, strict=True)
    ]
    details = [_detail(picture) for picture in pictures]
    lanes = [(number, *lane) for number, picture in enumerate(pictures) for lane in find_lanes(picture)]
    found = []
    for number, start, stop in lanes[:MOST_LANES]:
        high, wide = pictures[number].shape[0], stop - start
        box = (round(_CROPPED[0] * high), round(_CROPPED[1] * wide))
        rows, columns = slice(box[0], high - box[0]), slice(start + box[1], stop - box[1])
        lane = details[number][rows, columns]
        if min(lane.shape) < _LEAST:
            continue
        place = _copy_of(lane, number, columns.start, details)
        if place is not None:
            found.append(_matches((columns.start, rows.start), lane.shape, number, place, windows, scale))
    return Matches.concatenated(found) if found else Matches.none()


def _detail(picture: np.ndarray) -> np.ndarray:
    """Detail between two scales at an even strength, float32 (h, w)."""
    levels = picture.astype(np.float32)
    detail = cv2.GaussianBlur(levels, (0, 0), _FINE) - cv2.GaussianBlur(levels, (0, 0), _COARSE)
    return detail / (local_strength(detail, _AROUND) + _FAINT)


def _copy_of(lane: np.ndarray, number: int, start: int, details: Sequence[np.ndarray]) -> _Place | None:
    """The place that a lane agrees with, if it stands out from the second best one."""
    places = []
    high, wide = lane.shape
    for view in _VIEWS:
        seen = np.ascontiguousarray(lane[:: view[1], :: view[0]])
        for other, detail in enumerate(details):
            if high > detail.shape[0] or wide > detail.shape[1]:
                continue
            agreement = cv2.matchTemplate(detail, seen, cv2.TM_CCOEFF_NORMED)
            if other == number:
                reach = round(_APART * wide)
                agreement[:, max(start - reach, 0) : start + reach + 1] = -1
            for _ in range(2):
                y, x = (int(value) for value in np.unravel_index(agreement.argmax(), agreement.shape))
                places.append(_Place(float(agreement[y, x]), other, view, (x, y)))
                agreement[:, max(x - wide // 2, 0) : x + wide // 2 + 1] = -1
    places.sort(key=lambda place: -place.correlation)
    if len(places) < 2 or places[0].correlation < _ALIKE:
        return None
    lead = places[0].correlation - places[1].correlation
    return places[0] if lead >= _OUTSTANDING or places[0].correlation >= _EQUAL else None


def _matches(
    corner: tuple[int, int],
    shape: tuple[int, ...],
    number: int,
    place: _Place,
    windows: Sequence[tuple[slice, slice]],
    scale: Sequence[float],
) -> Matches:
    """Points of a lane, `corner` and `shape` in its picture at working scale, and of its copy, in the image."""
    high, wide = shape
    offsets = np.array([(x * (wide - 1), y * (high - 1)) for y in _GRID for x in _GRID], np.float32)
    view = np.array(place.view, np.float32)
    there = np.where(view < 0, np.array([wide - 1, high - 1], np.float32) - offsets, offsets)
    ends = []
    for points, picture in ((offsets + np.array(corner), number), (there + np.array(place.corner), place.picture)):
        rows, columns = windows[picture]
        # Corners lie on corners: (0, 0) is the centre of a pixel.
        shift = (1 / scale[picture] - 1) / 2
        ends.append((points / scale[picture] + shift + np.array([columns.start, rows.start])).astype(np.float32))
    linear = np.diag(view * scale[number] / scale[place.picture]).astype(np.float32)
    return Matches(ends[0], ends[1], np.broadcast_to(linear, (len(offsets), 2, 2)).copy())

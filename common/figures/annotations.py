"""Print on pictures: letters, scale bars, arrows and their boxes, which repeat because they are set and not copied."""

from typing import NamedTuple

import cv2
import numpy as np

_INKS = (235, 25, 150), (200, 50, 150)
"""Ink is lighter than the first in all channels, darker than the second in all, or its channels differ by the third.
The second row is for small letters, which have hardly a pixel of full ink: it counts beside print of the first."""
_OUTSTANDING = 80  # gray levels beyond all but 2 % of the picture
_WORD = 0.6  # of a letter's height: how far beside print the next letter may begin
_SMALLEST, _LARGEST = 4, 0.25  # pixels, and share of the picture's shorter side: height of a letter
_LONGEST = 0.7  # share of the picture's width: a bar, a line of print
_LINE = 2.0  # pixels: width of a line that runs along the picture
_STROKE = 0.3  # of its smaller side: radius of a stroke; blobs have half
_FULL = 0.9  # share of its box that a bar or a box of a label fills
_RULE = 0.5  # share of all ink of one colour that is print: else strokes of it are the exception, as in photographs
_STEP, _SHARP = 45, 0.8  # gray levels between ink and what is two pixels beside it, and share of the rim that has it
_FULL_WHITE, _STEP_OF_WHITE = 245, 35  # gray levels: print on a pale ground stands out less
_RIM = 2  # pixels: from ink to beside it, across the anti-aliased edge
_MARGIN = 3  # pixels around print that it changes, by anti-aliasing and JPEG
_MOST = 0.12  # share of a picture that print covers at most: what covers more is the picture
_BAR, _SAME_LEVEL, _EVEN = 0.2, 10, 0.35  # share of the height; gray levels and share of a row that are its ground
_MOST_ROWS = 0.65  # of a bar, that show its ground
_BAR_STEP, _CROSSED = 15, 0.55  # gray levels between a bar and the picture, and share of the width that has them
_DIM, _PALE = 150, 105  # gray levels: print on a dim picture is lighter than the first, on a pale one darker


class _Stroke(NamedTuple):
    """A component of ink."""

    box: tuple[int, int, int, int]
    """x, y, width and height in pixels."""
    window: tuple[slice, slice]
    """Rows and columns around it."""
    own: np.ndarray
    """Its pixels there, uint8 (h, w)."""


def find_print(picture: np.ndarray) -> np.ndarray:
    """Find letters, scale bars, arrows, boxes of labels and information bars on a picture.

    Ink is of one colour, white, black or vivid, with edges as sharp as no lens draws them, in strokes, bars or boxes.
    An information bar, as electron microscopes print it, is an even strip along the upper or lower edge.

    Args:
        picture: uint8 (H, W, 3) RGB.

    Returns:
        bool (H, W): print with a margin of three pixels.
    """
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    dark, bright = np.percentile(gray, (2, 98))
    # Print on a dim picture stands out though it is no full white, and on a pale one though it is no full black.
    white, black, vivid = _INKS[0]
    white = min(white, max(bright + _OUTSTANDING, _DIM))
    black = max(black, min(dark - _OUTSTANDING, _PALE))
    added, waiting = _strokes(picture, white, black, vivid), _strokes(picture, *_INKS[1])
    found = np.zeros(picture.shape[:2], np.uint8)
    while added:
        for stroke in added:
            found[stroke.window] |= stroke.own
        beside = [_is_beside(found, stroke.box) for stroke in waiting]
        added = [stroke for stroke, near in zip(waiting, beside, strict=True) if near]
        waiting = [stroke for stroke, near in zip(waiting, beside, strict=True) if not near]
    found = cv2.dilate(found, np.ones((2 * _MARGIN + 1, 2 * _MARGIN + 1), np.uint8))
    if found.mean() > _MOST:
        return np.zeros(found.shape, bool)
    found[len(gray) - _information_bar(gray) :] = 1
    found[: _information_bar(gray[::-1])] = 1
    return found > 0


def _is_beside(found: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether a stroke stands where a word goes on."""
    x, y, wide, high = box
    reach = max(3, round(_WORD * high))
    return bool(found[y : y + high, max(x - reach, 0) : x + wide + reach].any())


def _information_bar(gray: np.ndarray) -> int:
    """Height in pixels of an information bar along the lower edge of a picture, uint8 (H, W); 0 without one."""
    height = len(gray)
    most = round(_BAR * height)
    if most < _SMALLEST:
        return 0
    below = gray[height - most - 1 :].astype(np.int16)
    crossed = (np.abs(np.diff(below, axis=0)) >= _BAR_STEP).mean(axis=1) >= _CROSSED
    bar = below[int(crossed.argmax()) + 1 :]
    if not crossed.any() or len(bar) < _SMALLEST:
        return 0
    ground = int(np.bincount(bar.ravel(), minlength=256).argmax())
    # Frames, and lines between a bar's rows, are a few rows without ground.
    rows = (np.abs(bar - ground) <= _SAME_LEVEL).mean(axis=1) >= _EVEN
    return len(bar) if rows.mean() >= _MOST_ROWS else 0


def without_print(gray: np.ndarray, printed: np.ndarray) -> np.ndarray:
    """The gray picture, uint8 (H, W), with print, bool (H, W), filled from its surroundings (Telea 2004)."""
    return cv2.inpaint(gray, printed.astype(np.uint8), 3, cv2.INPAINT_TELEA) if printed.any() else gray


def _strokes(picture: np.ndarray, white: float, black: float, vivid: float) -> list[_Stroke]:
    """Components of ink that are strokes, bars or boxes with sharp edges."""
    height, width = picture.shape[:2]
    red, green, blue = cv2.split(picture)  # many times faster than NumPy's along the last axis
    darkest, lightest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    most, found = max(_LARGEST * min(height, width), 12), []
    for ink in (darkest >= white, lightest <= black, cv2.subtract(lightest, darkest) >= vivid):
        if ink.mean() > 0.5:  # the picture's own ground
            continue
        count, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
        strokes, total = [], np.count_nonzero(ink)
        for number in range(1, count):
            x, y, wide, high, area = (int(value) for value in stats[number])
            if max(wide, high) > _LONGEST * max(height, width):
                # A line or a frame from side to side, as the page beside a picture that was cut out widely, is no ink.
                total -= area if area <= _LINE * (wide + high) else 0
                continue
            if max(wide, high) < _SMALLEST or min(wide, high) > most:
                continue
            pad = _RIM + 1
            rows, columns = slice(max(y - pad, 0), y + high + pad), slice(max(x - pad, 0), x + wide + pad)
            own = (labels[rows, columns] == number).astype(np.uint8)
            if _is_set(own, (wide, high), area) and _is_sharp(picture[rows, columns], own):
                strokes.append(_Stroke((x, y, wide, high), (rows, columns), own))
        if sum(int(stroke.own.sum()) for stroke in strokes) >= _RULE * total:
            found += strokes
    return found


def _is_set(own: np.ndarray, size: tuple[int, int], area: int) -> bool:
    """Whether a component, uint8 (h, w), is a stroke, a bar or a box."""
    inside = cv2.distanceTransform(own, cv2.DIST_L2, 3).max()
    if inside <= max(2.5, _STROKE * min(size)):
        return True
    return area >= _FULL * size[0] * size[1] or _filled_share(own) >= _FULL


def _filled_share(own: np.ndarray) -> float:
    """Share of its box that a component fills with its holes: the box of a label."""
    contours, _ = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    _, _, wide, high = cv2.boundingRect(contours[0])
    return cv2.contourArea(contours[0]) / max((wide - 1) * (high - 1), 1)


def _is_sharp(part: np.ndarray, own: np.ndarray) -> bool:
    """Whether a component ends from one pixel to the next."""
    kernel = np.ones((3, 3), np.uint8)
    rim = cv2.dilate(own, kernel, iterations=_RIM) - cv2.dilate(own, kernel, iterations=_RIM - 1)
    level = np.median(part[own > 0], axis=0)
    beside = part[rim > 0].astype(np.float32)
    if not len(beside):
        return False
    step = _STEP_OF_WHITE if level.min() >= _FULL_WHITE else _STEP
    return bool((np.abs(beside - level).max(axis=1) >= step).mean() >= _SHARP)

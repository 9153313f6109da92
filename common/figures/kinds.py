"""Kinds of panels, and what tells drawn ones from pictures: plain measures of their pixels."""

from typing import Literal, get_args

import cv2
import numpy as np

Kind = Literal["micrograph", "blot", "photograph", "plot", "drawing"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DRAWN: tuple[Kind, ...] = ("plot", "drawing")

_FLAT = 3  # gray levels: a smaller range among 3 × 3 pixels is no detail
_THICK, _GRAY, _WIDE = 0.5, 12, 0.9  # of bands: share of the ink, colour in gray levels, width by height
_FILLS = 12  # even colours that a drawing is filled with
_EDGE = 30  # gray levels: a larger range is an edge
_EDGES, _FAINT = 0.003, 0.05  # least share of sharp edges in a drawing, and of shades in a picture without any
_PAPER = 245  # gray levels: ground of print
_PALE = 150  # gray levels: no ground of a dim picture is as light
_LEVEL, _MARKED, _SHARP = 10, 0.5, 0.65  # of print: gray levels of its ground, and shares of marks and of sharp marks
_BLACK = 40  # gray levels: ground of an information bar
_LETTER = 0.035  # of the figure's longer side: what is higher is no letter
_AXIS = 0.04  # of the figure's longer side: shortest axis
_LINE = 0.35  # of a side: a straight line as long is an axis


def drawn_kind(part: np.ndarray, longest: int) -> Literal["plot", "drawing"] | None:
    """Kind of a solid area that is drawn: words, legends, cells of a heat map; None for a picture.

    Args:
        part: uint8 (h, w, 3) RGB.
        longest: Longer side of the figure in pixels: legends and words are small.
    """
    gray = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
    spread = _spread(gray)
    even = (spread < _FLAT) & ((gray >= np.percentile(gray, 1) + 12) | (gray >= _PALE))  # not the ground of a dim one
    fills = np.sort(np.bincount(gray[even], minlength=256))[::-1]
    filled = fills[:_FILLS].sum() / gray.size
    paper = (part.min(axis=2) >= _PAPER).mean()
    coloured = float(np.ptp(part.astype(np.int16), axis=2).mean())
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1.5)
    dx, dy = (np.abs(cv2.Sobel(smooth, cv2.CV_32F, *order)) for order in ((1, 0), (0, 1)))
    edges = spread > _EDGE
    straight = np.count_nonzero(((dx < 0.15 * dy) | (dy < 0.15 * dx)) & edges) / max(np.count_nonzero(edges), 1)
    bands = float(dy.mean() / max(dx.mean(), 1e-6))
    small = min(part.shape[:2]) < 0.065 * longest
    soft = _shaded(spread)
    if coloured < 14 and soft >= 0.4 and part.shape[1] >= 2.5 * part.shape[0] and paper < 0.5 and bands > 1.3:
        return None  # a strip of a blot
    if paper > 0.15 and soft < 0.28 and coloured < 14 and straight > 0.4:
        return "drawing"  # words and lines
    # What is drawn has edges; a faint blot is as even, and has none.
    drawn = (spread >= 2 * _EDGE).mean() >= _EDGES or soft < _FAINT
    if (
        paper > 0.6
        or (filled > 0.55 and drawn)
        or (small and ((paper > 0.11 and coloured > 6) or soft < 0.16 or coloured > 60))
    ):
        return "drawing"
    if drawn and _is_print(gray, spread, dark=small):
        return "drawing"  # words on an even ground: legends, information bars, boxes of a schematic
    rows, columns = (np.count_nonzero(edges.mean(axis=axis) > 0.45) for axis in (1, 0))
    if filled > 0.06 and coloured > 12 and straight > 0.45 and min(rows, columns) >= 3:
        return "plot"  # cells of a heat map, parted by straight steps
    return None


def _is_print(gray: np.ndarray, spread: np.ndarray, *, dark: bool) -> bool:
    """Whether a picture, uint8 (h, w), is an even ground with sharp marks.

    Args:
        gray: Its gray levels.
        spread: From `_spread`.
        dark: Whether its ground may be black, which that of a fluorescence micrograph is too.
    """
    levels = np.convolve(np.bincount(gray.ravel(), minlength=256), np.ones(2 * _LEVEL + 1), "same")
    ground = int(levels.argmax())
    if not _PALE <= ground < _PAPER - _LEVEL and not (dark and ground <= _BLACK):
        return False
    marks = np.abs(gray.astype(np.int16) - ground) > _LEVEL
    if marks.mean() > _MARKED:
        return False
    sharp = cv2.dilate((spread >= 2 * _EDGE).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return bool(sharp[marks].mean() >= _SHARP) if marks.any() else True


def softness(part: np.ndarray) -> float:
    """Share of a picture, uint8 (h, w, 3), that is shaded: neither even nor an edge."""
    return _shaded(_spread(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)))


def _spread(gray: np.ndarray) -> np.ndarray:
    """Range of the gray levels in 3 × 3 pixels, uint8 (h, w)."""
    return cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))


def _shaded(spread: np.ndarray) -> float:
    return float(((spread >= _FLAT) & (spread < _EDGE)).mean())


def holds_bands(part: np.ndarray, ink: np.ndarray) -> bool:
    """Whether what a white picture shows is gray, thick and wider than high, as bands are.

    Args:
        part: uint8 (h, w, 3) RGB.
        ink: uint8 (h, w), 1 where it is no paper.
    """
    thick = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((3, 7), np.uint8))
    if not thick.any() or np.count_nonzero(thick) < _THICK * np.count_nonzero(ink):
        return False
    if np.ptp(part[thick > 0].astype(np.int16), axis=1).mean() > _GRAY:
        return False
    count, _, stats, _ = cv2.connectedComponentsWithStats(thick, connectivity=8)
    return float(np.median(stats[1:count, 2] / stats[1:count, 3])) >= _WIDE


def has_axes(labels: np.ndarray, number: int, box: tuple[int, int, int, int], longest: int) -> bool:
    """Whether a component of ink holds two long straight lines at right angles.

    Args:
        labels: int32 (H, W), the components' numbers.
        number: Of the component.
        box: Its x, y, width and height in pixels.
        longest: Longer side of the figure in pixels.
    """
    x, y, wide, high = box
    if min(wide, high) < _AXIS * longest:
        return False
    ink = (labels[y : y + high, x : x + wide] == number).astype(np.uint8)
    across = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((1, max(5, int(_LINE * wide))), np.uint8))
    down = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((max(5, int(_LINE * high)), 1), np.uint8))
    return bool(across.any() and down.any())


def is_word(stats: np.ndarray, longest: int) -> bool:
    """Whether a component of ink may be a letter, a word or a mark.

    Args:
        stats: x, y, width, height and area in pixels.
        longest: Longer side of the figure in pixels.
    """
    wide, high, area = (int(value) for value in stats[2:5])
    if max(wide, high) <= _LETTER * longest:
        return True
    low = min(wide, high)
    return 4 <= low <= _LETTER * longest and area < 0.7 * wide * high and max(wide, high) < 8 * low

"""Plots and drawings of a figure: what is no picture, joined where it belongs together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np

from common.figures.appearance import picture_kind
from common.figures.boxes import Box, gap, overlap, painted, part_of, union
from common.figures.kinds import Kind, drawn_kind, has_axes, is_word
from common.figures.pictures import SOLID

_FRINGE = 5  # pixels around a picture that are its frame, or shared with the ground
_BODY = 0.045  # of the longer side: what is shorter is a letter, an arrow or a mark
_TOUCH = 0.05  # share of the smaller of two boxes by which panels may overlap
_DRAWING = 0.06  # of the longer side: least side of a drawing without axes
_NEAR, _WORDS = 0.02, 0.016  # of the longer side: how far strokes of one drawing lie apart, and words from it
_LEGEND = 0.12  # of the longer side: shorter side of a legend
_MUCH_SMALLER = 0.2  # area of a legend whose lines may be taken for axes, by the plot's
_SHARED = 0.25  # share of the smaller of two boxes from which they are one
_FEW, _GLYPH, _LETTER_HIGH = 12, 5, 1.25
"""Least number of words whose usual height is known, pixels of a glyph, and height of a panel's letter by the usual."""
_COVERED = 0.5  # share of its box that pictures cover: arrows and brackets beside them


def find_drawings(picture: np.ndarray, content: np.ndarray, pictures: Sequence[Box]) -> list[tuple[Box, Kind]]:
    """Boxes and kinds of what is no picture: large strokes, joined where they meet, with the words beside them."""
    longest = max(content.shape)
    # Pictures go with their frames, and the pixels that they share with the ground.
    ink = cv2.subtract(content, painted(pictures, content.shape, _FRINGE))
    covered = painted(pictures, content.shape)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    boxes = [(int(x), int(y), int(wide), int(high)) for x, y, wide, high, _ in stats[:count]]
    words, groups = [], []
    for number, box in enumerate(boxes[1:], 1):
        if is_word(stats[number], longest):
            words.append(box)
        else:
            axes = has_axes(labels, number, box, longest)
            groups.append(_Group(box, axes, max(box[2:]) > _BODY * longest))
    groups = [group for group in _joined(groups, longest) if group.body]
    groups = _with_words(groups, _without_letters(words), _WORDS * longest)
    groups = _with_legends(groups, longest)
    found: list[tuple[Box, Kind]] = []
    for group in groups:
        x, y, wide, high = group.box
        beside = covered[y : y + high, x : x + wide].mean() > _COVERED
        if min(wide, high) >= (_BODY if group.axes else _DRAWING) * longest and not beside:
            kind: Kind = "plot" if group.axes else "drawing"
            if ink[y : y + high, x : x + wide].mean() > SOLID:
                part = part_of(picture, group.box)
                kind = drawn_kind(part, longest) or picture_kind(part)
            found.append((group.box, kind))
    return found


@dataclass(frozen=True)
class _Group:
    """Strokes that belong together."""

    box: Box
    axes: bool
    body: bool
    """Whether it holds a stroke that is too long for a letter or an arrow."""


def _joined(groups: list[_Group], longest: int) -> list[_Group]:
    """Join groups that overlap, or lie near each other unless both have axes."""
    done = False
    while not done:
        done = True
        for i, j in combinations(range(len(groups)), 2):
            one, other = groups[i], groups[j]
            rest = [group for n, group in enumerate(groups) if n not in (i, j)]
            if overlap(one.box, other.box) > _SHARED or _belong(one, other, rest, longest):
                joined = _Group(union(one.box, other.box), one.axes or other.axes, one.body or other.body)
                groups, done = [*rest, joined], False
                break
    return groups


def _belong(one: _Group, other: _Group, rest: Sequence[_Group], longest: int) -> bool:
    """Whether two groups that do not overlap are one, of which at most one has axes."""
    if one.axes and other.axes:
        return False
    return gap(one.box, other.box) <= _NEAR * longest and _is_free(
        union(one.box, other.box), (one.box, other.box), rest
    )


def _is_free(joined: Box, parts: Sequence[Box], rest: Sequence[_Group]) -> bool:
    """Whether a union of boxes reaches into no other group with axes that its parts do not reach into."""
    return all(
        overlap(joined, group.box) <= max(_TOUCH, *(overlap(part, group.box) for part in parts))
        for group in rest
        if group.axes
    )


def _without_letters(words: Sequence[Box]) -> list[Box]:
    """The words without the letters of panels, which belong to no plot: single, and higher than most words."""
    if len(words) < _FEW:
        return list(words)
    places = np.array(words)
    heights = places[:, 3][places[:, 3] >= _GLYPH]
    if not len(heights):
        return list(words)
    usual = float(np.median(heights))
    return [word for number, word in enumerate(words) if not _is_letter(number, places, usual)]


def _is_letter(number: int, places: np.ndarray, usual: float) -> bool:
    """Whether a word, one of places, int (n, 4), is higher than usual, as wide as a letter, and has none beside it."""
    x, y, wide, high = (int(value) for value in places[number])
    if not (_LETTER_HIGH * usual <= high <= 4 * usual and 0.2 * high <= wide <= 1.3 * high):
        return False
    reach = high // 2
    beside = (_gaps((x - reach, y, wide + 2 * reach, high), places) == 0) & (places[:, 3] >= 0.4 * high)
    return np.count_nonzero(beside) == 1  # itself


def _with_words(groups: Sequence[_Group], words: Sequence[Box], reach: float) -> list[_Group]:
    """The groups with the words that lie near them: the nearest pair first, so that a title goes to its own plot.

    What has joined brings its neighbours nearer: tick labels the titles of axes, and a line of words the next one.
    """
    if not groups or not words:
        return list(groups)
    boxes, places = [group.box for group in groups], np.array(words)
    far = np.stack([_gaps(box, places) for box in boxes])
    taken = np.zeros(len(words), bool)
    while far.min() <= reach:
        number, word = (int(place) for place in np.unravel_index(far.argmin(), far.shape))
        grown = union(boxes[number], words[word])
        rest = [group for n, group in enumerate(groups) if n != number]
        if _is_free(grown, (boxes[number], words[word]), rest):
            boxes[number] = grown
            taken[word] = True
            far[number] = np.where(taken, np.inf, _gaps(grown, places))
            far[:, word] = np.inf
        else:
            far[number, word] = np.inf
    return [replace(group, box=box) for group, box in zip(groups, boxes, strict=True)]


def _with_legends(groups: Sequence[_Group], longest: int) -> list[_Group]:
    """The groups, small ones joined to the plot beside them, if they have no axes or are much smaller than it."""
    kept = list(groups)
    for group in groups:
        size = group.box[2] * group.box[3]
        plots = [
            other
            for other in kept
            if other.axes
            and other is not group
            and (not group.axes or size <= _MUCH_SMALLER * other.box[2] * other.box[3])
        ]
        if not plots or min(group.box[2:]) > _LEGEND * longest:
            continue
        nearest = min(plots, key=lambda other: gap(group.box, other.box))
        joined = union(group.box, nearest.box)
        rest = [other for other in kept if other not in (group, nearest)]
        if gap(group.box, nearest.box) <= 2 * _NEAR * longest and _is_free(joined, (group.box, nearest.box), rest):
            kept = [replace(other, box=joined) if other is nearest else other for other in kept if other is not group]
    return kept


def _gaps(box: Box, others: np.ndarray) -> np.ndarray:
    """Distances of a box from others, int (n, 4), in pixels, float64 (n,); see `gap`."""
    x, y, wide, high = others.T
    across = np.maximum(x, box[0]) - np.minimum(x + wide, box[0] + box[2])
    down = np.maximum(y, box[1]) - np.minimum(y + high, box[1] + box[3])
    return np.maximum(np.maximum(across, down), 0).astype(np.float64)

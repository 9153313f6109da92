"""Plots and drawings of a figure: what is no picture, joined where it belongs together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np

from common.figures.boxes import Box, gap, overlap, painted, part_of, union
from common.figures.kinds import Kind, has_axes, is_word, picture_kind
from common.figures.pictures import SOLID

_FRINGE = 5  # pixels around a picture that are its frame, or shared with the ground
_BODY = 0.045  # of the longer side: what is shorter is a letter, an arrow or a mark
_TOUCH = 0.05  # share of the smaller of two boxes by which panels may overlap
_DRAWING = 0.06  # of the longer side: least side of a drawing without axes
_NEAR, _BESIDE = 0.02, 0.013  # of the longer side: how far strokes of one drawing lie apart, and words from their plot
_SHARED = 0.25  # share of the smaller of two boxes from which they are one
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
    groups = _joined(groups, longest)
    groups = [_with_words(group, groups, words, _BESIDE * longest) for group in groups if group.body]
    found: list[tuple[Box, Kind]] = []
    for group in groups:
        x, y, wide, high = group.box
        beside = covered[y : y + high, x : x + wide].mean() > _COVERED
        if min(wide, high) >= (_BODY if group.axes else _DRAWING) * longest and not beside:
            kind: Kind = "plot" if group.axes else "drawing"
            if ink[y : y + high, x : x + wide].mean() > SOLID:
                kind = picture_kind(part_of(picture, group.box), longest)
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
    near = _BESIDE if one.axes or other.axes else _NEAR
    return gap(one.box, other.box) <= near * longest and _is_free(union(one.box, other.box), (one.box, other.box), rest)


def _is_free(joined: Box, parts: Sequence[Box], rest: Sequence[_Group]) -> bool:
    """Whether a union of boxes reaches into no other group with axes that its parts do not reach into."""
    return all(
        overlap(joined, group.box) <= max(_TOUCH, *(overlap(part, group.box) for part in parts))
        for group in rest
        if group.axes
    )


def _with_words(group: _Group, groups: Sequence[_Group], words: Sequence[Box], reach: float) -> _Group:
    """The group with the words that lie near it, and nearer to no other one."""
    box, rest = group.box, [other for other in groups if other is not group]
    for _ in range(3):  # tick labels, titles of axes, and what is written in two lines
        for word in words:
            far = gap(box, word)
            if far <= reach and all(far <= gap(other.box, word) for other in rest):
                grown = union(box, word)
                box = grown if _is_free(grown, (box, word), rest) else box
    return replace(group, box=box)

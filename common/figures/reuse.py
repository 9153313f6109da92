"""Reuse in a figure: what is shown in it twice, by the panels where it lies, apart from what is natural."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from common.figures.panels import Panel, find_panels, shares
from common.forensics.alignment import warp_back
from common.forensics.copy_move import MATCHERS, Copy, Group, find_copies
from common.forensics.matches import Matches

Relation = Literal["reuse", "same field", "enlargement"]
"""`same field`: two panels that show one field at the same place, in other channels, contrasts or with marks.
`enlargement`: a panel that shows a part of another one larger, as insets do. Both are natural."""

_IN_PANEL = 0.6  # share of a region that lies in its panel
_PART = 0.15  # share of a region that lies in one of several panels
_ALIGNED = 0.06  # of the shorter side: how far the corners of two panels of one field may lie apart
_ENLARGED = 1.3  # smallest factor on lengths of an enlargement
_INSIDE = 0.08  # of its sides: how far an enlargement may reach beyond the panel that it shows a part of
_SAME_PICTURE = 0.95  # smallest correlation of two panels that are one picture
_SAME_DETAIL = 0.6  # smallest ratio of their detail: a denoised picture has less
_MARK, _MARKED = (
    60.0,
    0.003,
)  # difference of a pixel's colour, without brightness, and share of pixels, of coloured marks
_SAME_COLOUR = 25.0  # largest difference of their mean colours, without brightness


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """Regions of a figure that show the same."""

    group: Group
    """Its masks keep to the pictures where they lie."""
    relation: Relation
    panels: tuple[int | None, int | None]
    """Position, in the figure's panels, of those that hold the best copy's source and target; None for neither."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FigureFindings:
    """What was found in a figure."""

    panels: list[Panel]
    findings: list[Finding]
    """By descending score, natural ones among them."""

    @property
    def reuse(self) -> list[Group]:
        """The groups that are not natural, by descending score."""
        return [finding.group for finding in self.findings if finding.relation == "reuse"]


def find_reuse(image: np.ndarray, matchers: Sequence[Callable[[np.ndarray], Matches]] = MATCHERS) -> FigureFindings:
    """Find what a figure shows twice, and tell reuse from what is natural.

    Args:
        image: uint8 (H, W, 3) RGB of any size; one picture without panels too.
        matchers: As for `find_copies`.
    """
    panels = find_panels(image)
    findings = []
    for group in find_copies(image, matchers):
        by_relation: dict[Relation, list[Copy]] = {}
        for copy in _within_panels(group, panels).copies:
            by_relation.setdefault(_relation(image, panels, copy), []).append(copy)
        for relation, copies in by_relation.items():
            places = _panel_of(copies[0].source, panels), _panel_of(copies[0].target, panels)
            findings.append(Finding(group=Group(copies=tuple(copies)), relation=relation, panels=places))
    return FigureFindings(panels=panels, findings=sorted(findings, key=lambda finding: -finding.group.score))


def _panel_of(mask: np.ndarray, panels: Sequence[Panel]) -> int | None:
    """Position of the panel that holds a region, bool (H, W)."""
    held = shares(panels, mask)
    best = int(held.argmax())
    return best if held[best] >= _IN_PANEL else None


def _within_panels(group: Group, panels: Sequence[Panel]) -> Group:
    """The group, with each region cut to the picture that holds it."""

    def cut(mask: np.ndarray) -> np.ndarray:
        place = _panel_of(mask, panels)
        if place is None or panels[place].kind == "drawing":
            return mask
        kept = np.zeros_like(mask)
        kept[panels[place].window] = mask[panels[place].window]
        return kept

    return Group(copies=tuple(replace(copy, source=cut(copy.source), target=cut(copy.target)) for copy in group.copies))


def _relation(image: np.ndarray, panels: Sequence[Panel], copy: Copy) -> Relation:
    """Of a copy; natural only if it is so in all pairs of panels that it joins."""
    pairs = _pairs(panels, copy)
    found = {_relation_of_panels(image, panels[first], panels[second], copy) for first, second in pairs}
    return found.pop() if len(found) == 1 and all(first != second for first, second in pairs) else "reuse"


def _pairs(panels: Sequence[Panel], copy: Copy) -> list[tuple[int, int]]:
    """Panels that hold a good part of the copy's source, each with the panel that holds the same part of the target."""
    pairs = []
    for number in np.flatnonzero(shares(panels, copy.source) >= _PART).tolist():
        part = np.zeros(copy.source.shape, np.uint8)
        part[panels[number].window] = copy.source[panels[number].window]
        there = cv2.warpAffine(part, copy.matrix, part.shape[::-1], flags=cv2.INTER_NEAREST) > 0
        other = _panel_of(there, panels)
        if other is not None:
            pairs.append((number, other))
    return pairs


def _relation_of_panels(image: np.ndarray, source: Panel, target: Panel, copy: Copy) -> Relation:
    if _is_aligned(source, target, copy) and not _is_one_picture(image, source, copy):
        return "same field"
    back = cv2.invertAffineTransform(copy.matrix)
    if copy.scale >= _ENLARGED and _lies_inside(target, back, source):
        return "enlargement"
    if copy.scale <= 1 / _ENLARGED and _lies_inside(source, copy.matrix, target):
        return "enlargement"
    return "reuse"


def _corners(panel: Panel) -> np.ndarray:
    """float64 (4, 2), x, y."""
    x, y, right, low = panel.x, panel.y, panel.x + panel.width, panel.y + panel.height
    return np.array([(x, y), (right, y), (right, low), (x, low)], np.float64)


def _is_aligned(source: Panel, target: Panel, copy: Copy) -> bool:
    """Whether the copy's transform takes one panel onto the other, unturned."""
    moved = _corners(source) @ copy.matrix[:, :2].T + copy.matrix[:, 2]
    apart = np.linalg.norm(moved - _corners(target), axis=1).max()
    return bool(apart <= _ALIGNED * min(source.width, source.height, target.width, target.height))


def _lies_inside(panel: Panel, matrix: np.ndarray, other: Panel) -> bool:
    """Whether a panel, mapped by a matrix (2, 3), lies in another one."""
    moved = _corners(panel) @ matrix[:, :2].T + matrix[:, 2]
    reach = _INSIDE * np.ptp(moved, axis=0)
    low, high = _corners(other)[0] - reach, _corners(other)[2] + reach
    return bool((moved >= low).all() and (moved <= high).all())


def _is_one_picture(image: np.ndarray, source: Panel, copy: Copy) -> bool:
    """Whether a panel and what the copy's transform maps it to are one picture, but for brightness, contrast and print.

    Letters and scale bars are left out as the tenth of the pixels that differ most; coloured marks are not.
    """
    here, there = image[source.window], warp_back(image, copy.matrix, source.window)
    tint, tint_there = (picture - picture.mean(axis=2, keepdims=True, dtype=np.float32) for picture in (here, there))
    if np.abs((tint - tint_there).mean(axis=(0, 1))).max() > _SAME_COLOUR:
        return False
    if (np.abs(tint - tint_there).max(axis=2) > _MARK).mean() > _MARKED:
        return False
    gray, gray_there = (picture.mean(axis=2, dtype=np.float32) for picture in (here, there))
    alike = np.ones(gray.shape, bool)
    for _ in range(2):
        one, other = gray[alike], gray_there[alike]
        if not one.std() or not other.std():
            return False
        gain = ((one - one.mean()) * (other - other.mean())).mean() / one.var()
        residual = np.abs(gray_there - other.mean() - gain * (gray - one.mean()))
        alike = residual <= np.quantile(residual, 0.9)
    correlation = np.corrcoef(gray[alike], gray_there[alike])[0, 1]
    details = [float((p - cv2.GaussianBlur(p, (0, 0), 1.2))[alike].std() / p[alike].std()) for p in (gray, gray_there)]
    return bool(correlation >= _SAME_PICTURE and min(details) >= _SAME_DETAIL * max(details))

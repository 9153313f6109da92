"""Reuse in a figure: what is shown in it twice, by the panels where it lies, apart from what is natural."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from common.components import connected
from common.figures.matching import PictureSearch, picture_search, search_pictures
from common.figures.outlines import shared_field
from common.figures.panels import Panel, find_panels, panel_of
from common.figures.relations import Relation, is_part_of, relation_of
from common.forensics.blocks import match_blocks
from common.forensics.copy_move import Copy, Group, share_a_place
from common.forensics.lane_copies import find_lane_copies

COMPLETED = 0.5
"""Score from which the outline of a copy between panels is completed."""

_GRAY = 6.0  # gray levels between the channels of a picture without colour
_STRIP = 0.95  # height by width of a picture that may be a strip of a blot
_NEW = 0.1  # share of a copy's regions that no better copy of its group holds


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


def find_reuse(image: np.ndarray) -> FigureFindings:
    """Find what a figure shows twice, and tell reuse from what is natural.

    Args:
        image: uint8 (H, W, 3) RGB of any size; one picture without panels too.
    """
    return find_reuse_in(image, find_panels(image))


def find_reuse_in(image: np.ndarray, panels: Sequence[Panel], *, between: bool = False) -> FigureFindings:
    """Find what a figure of known panels shows twice; see `find_reuse`.

    Args:
        image: uint8 (H, W, 3) RGB.
        panels: Of it, at least one.
        between: Whether to match the pictures with one another alone, not with themselves.
    """
    compared = picture_search(image, panels, between=between)
    by_relation: dict[Relation, list[list[Copy]]] = {}
    searched = search_pictures(compared, () if between else (match_blocks,))
    related = [[_related(image, panels, compared, copy) for copy in group.copies] for group in searched]
    lanes = find_lane_copies(compared.gray, lane_windows(panels), between=between)
    related += [[_related_lanes(image, panels, compared, copy)] for copy in lanes]
    fields = [
        found
        for copies in related
        for found, relation in copies
        if relation == "same field" and found.score >= COMPLETED
    ]
    for copies in related:
        parts: dict[Relation, list[Copy]] = {}
        for found, relation in copies:
            part_of_field = relation == "reuse" and any(is_part_of(panels, field, found) for field in fields)
            parts.setdefault("same field" if part_of_field else relation, []).append(found)
        for relation, found in parts.items():
            by_relation.setdefault(relation, []).append(found)
    findings = []
    for relation, parts_of_relation in by_relation.items():
        for copies in _joined(parts_of_relation):
            places = panel_of(copies[0].source, panels), panel_of(copies[0].target, panels)
            findings.append(Finding(group=Group(copies=tuple(copies)), relation=relation, panels=places))
    return FigureFindings(panels=[*panels], findings=sorted(findings, key=lambda finding: -finding.group.score))


def lane_windows(panels: Sequence[Panel]) -> list[tuple[slice, slice]]:
    """Rows and columns of the pictures that may be blots, their lanes running downwards: their kind is not certain."""
    return [panel.window for panel in panels if not panel.drawn and panel.height <= _STRIP * panel.width]


def _related_lanes(
    image: np.ndarray, panels: Sequence[Panel], compared: PictureSearch, copy: Copy
) -> tuple[Copy, Relation]:
    """As `_related`, of lanes: those of one blot stand side by side, and are no row of pictures of one field.

    Nor are two gray pictures, at whatever exposure, two channels of one field, as they agree in their grain.
    """
    found, relation = _related(image, panels, compared, copy)
    if relation == "same field":
        numbers = {panel_of(region, panels) for region in (copy.source, copy.target)}
        if len(numbers) < 2 or all(_is_gray(image[panels[number].window]) for number in numbers if number is not None):
            relation = "reuse"
    return found, relation


def _is_gray(picture: np.ndarray) -> bool:
    """Whether a picture, uint8 (h, w, 3), has no colour beside that of JPEG."""
    return float((picture.max(axis=2) - picture.min(axis=2)).mean()) <= _GRAY


def _related(image: np.ndarray, panels: Sequence[Panel], compared: PictureSearch, copy: Copy) -> tuple[Copy, Relation]:
    """A copy with its regions cut to their pictures, completed between two panels, and its relation."""
    source, target = panel_of(copy.source, panels), panel_of(copy.target, panels)
    found = replace(copy, source=_cut(copy.source, panels, source), target=_cut(copy.target, panels, target))
    if source is not None and target is not None and source != target and found.score >= COMPLETED:
        found = shared_field(compared.gray, compared.valid, found, panels[source], panels[target])
    return found, relation_of(image, panels, found)


def _joined(parts: list[list[Copy]]) -> list[list[Copy]]:
    """Groups of copies, those joined whose regions share a place now that they are complete."""
    pairs = [
        (i, j)
        for i, j in combinations(range(len(parts)), 2)
        if min(parts[i][0].score, parts[j][0].score) >= COMPLETED and share_a_place(parts[i][0], parts[j][0])
    ]
    labels = connected(np.array(pairs), len(parts))
    groups = [
        [copy for part, label in zip(parts, labels, strict=True) if label == n for copy in part] for n in set(labels)
    ]
    return [_distinct(sorted(group, key=lambda copy: -copy.score)) for group in groups]


def _distinct(copies: list[Copy]) -> list[Copy]:
    """The copies without those that show what a better one shows, as parts of one field do once they are complete."""
    kept: list[Copy] = []
    for copy in copies:
        both = copy.source | copy.target
        if all(np.count_nonzero(both & ~(one.source | one.target)) > _NEW * np.count_nonzero(both) for one in kept):
            kept.append(copy)
    return kept


def _cut(mask: np.ndarray, panels: Sequence[Panel], place: int | None) -> np.ndarray:
    """A region, bool (H, W), cut to the picture at a position; as it is in none, or in what is drawn."""
    if place is None or panels[place].drawn:
        return mask
    kept = np.zeros_like(mask)
    kept[panels[place].window] = mask[panels[place].window]
    return kept

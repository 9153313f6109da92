"""Comparison of two panels of different figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.figures.panels import Panel
from common.figures.reuse import Finding, find_reuse_in
from common.papers.shots import Shot

_GAP = 24  # pixels between two panels that are shown side by side
_COPIED = 0.5  # score from which reuse comes before what is natural
_STRIP = 0.7  # height by width of a panel that may be a strip of a blot


@dataclass(frozen=True, kw_only=True, eq=False)
class Across:
    """Two panels that show the same."""

    one: Shot
    other: Shot
    finding: Finding
    """In pixels of `image`."""
    image: np.ndarray
    """Both panels side by side on white, uint8 (H, W, 3) RGB."""
    panels: list[Panel]
    """The two, in pixels of `image`."""

    def geometry(self) -> dict[str, int | float]:
        """The best copy in pixels of the two figures.

        Returns:
            `x`, `y` of the middle of its region in the figure of `one`, `x_copy`, `y_copy` in that of `other`, and
            `rotation` and `scale` from `one` to `other`.
        """
        copy = self.finding.group.copies[0]
        forward = self.finding.panels == (0, 1)
        regions = (copy.source, copy.target) if forward else (copy.target, copy.source)
        sizes = [shot.box[2] / panel.width for panel, shot in zip(self.panels, (self.one, self.other), strict=True)]
        # The inverse of a mirrored transform is turned by the same angle.
        places: dict[str, int | float] = {
            "rotation": round(copy.rotation if forward or copy.mirrored else -copy.rotation, 1),
            "scale": round((copy.scale if forward else 1 / copy.scale) * sizes[1] / sizes[0], 3),
        }
        shots = (self.one, self.other)
        for end, region, panel, shot, size in zip(("", "_copy"), regions, self.panels, shots, sizes, strict=True):
            y, x = np.argwhere(region).mean(axis=0)
            places[f"x{end}"] = round(shot.box[0] + (x - panel.x) * size)
            places[f"y{end}"] = round(shot.box[1] + (y - panel.y) * size)
        return places


def compare(one: Shot, other: Shot) -> Across | None:
    """What two panels share, the best finding, reuse before what is natural; None if there is nothing."""
    pictures = [one.picture(), other.picture()]
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + _GAP
    image = np.full((height, width, 3), 255, np.uint8)
    panels, x = [], 0
    for picture, shot in zip(pictures, (one, other), strict=True):
        high, wide = picture.shape[:2]
        image[:high, x : x + wide] = picture
        panels.append(Panel(x, 0, wide, high, shot.kind))
        x += wide + _GAP
    found = [
        finding for finding in find_reuse_in(image, panels, between=True).findings if set(finding.panels) == {0, 1}
    ]
    if not found:
        return None
    copied = [entry for entry in found if entry.relation == "reuse" and entry.group.score >= _COPIED]
    return Across(one=one, other=other, finding=[*copied, *found][0], image=image, panels=panels)


def strips(shots: Sequence[Shot]) -> list[int]:
    """Positions of panels that may be strips of blots, which have too few key points to vote."""
    return [place for place, shot in enumerate(shots) if shot.kind == "blot" and shot.box[3] <= _STRIP * shot.box[2]]

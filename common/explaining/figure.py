"""What is found in one image: the search, and its result in words, rows of a table and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.ensemble.altered import Altered, altered_regions
from common.explaining.findings_page import Part, evidence, place_of
from common.explaining.pictures import NamedBox, NamedRegion, describe, draw_explanation
from common.explaining.words import score_in_words, sentence
from common.figures.letters import find_letters
from common.figures.panels import Panel
from common.figures.reuse import Finding, find_reuse
from common.forensics.copy_move import Group
from common.tables import markdown_table

Row = dict[str, str | int | float]
"""A finding for findings.csv, and what report.html says besides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """All that was found in an image, whatever its score."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB."""
    panels: list[Panel]
    names: list[str]
    """The printed letter of each panel, or its number from 1 where none is read."""
    findings: list[Finding]
    """By descending score, natural ones among them."""
    altered: list[Altered]
    """By descending score."""

    def shown(self, min_score: float) -> list[Finding]:
        """The findings from a score on."""
        return [finding for finding in self.findings if finding.group.score >= min_score]

    def rows(self, min_score: float) -> list[Row]:
        """A row for each finding from a score on, natural ones among them, then one for each altered region.

        `mark` is the number of the finding in the picture, if it has one.
        """
        rows, reused = [], 0
        for finding in self.shown(min_score):
            mark = ""
            if finding.relation == "reuse":
                reused += 1
                mark = f"number {reused}"
            rows.append(finding_row(finding, self.panels, self.names) | {"mark": mark})
        altered = [_altered_row(region, self.panels, self.names) for region in self.altered]
        return rows + [row | {"mark": f"altered {n}"} for n, row in enumerate(altered, 1)]

    def verdict(self, min_score: float) -> str:
        """One line: how many copies and altered regions were found, and how many groups are left out."""
        found = [finding.group for finding in self.findings if finding.relation == "reuse"]
        verdict = _verdict(found, [group for group in found if group.score >= min_score], min_score)
        if self.altered:
            several = f"{len(self.altered)} regions look" if len(self.altered) > 1 else "1 region looks"
            verdict += f"; {several} pasted, filled or redrawn"
        return verdict

    def text(self, min_score: float) -> str:
        """The verdict, each finding in a sentence, and tables of the numbers."""
        several = len(self.panels) > 1
        shown = self.shown(min_score)
        reused = [finding for finding in shown if finding.relation == "reuse"]
        places = [_places(finding, self.names) for finding in reused] if several else []
        tables = [describe([finding.group for finding in reused], places)] if reused else []
        altered = [_altered_row(region, self.panels, self.names) for region in self.altered]
        if altered:
            head = ["altered", "panel", "score", "x, y", "area"]
            cells = [
                [
                    str(n),
                    row["panels"],
                    f"{row['score']:.2f}",
                    f"{row['x']}, {row['y']}",
                    f"{row['area_percent']:.2g} %",
                ]
                for n, row in enumerate(altered, 1)
            ]
            tables.append(markdown_table(head, cells))
        said, natural = [], []
        for finding in shown:
            row = finding_row(finding, self.panels, self.names)
            score = score_in_words(finding.group.score)
            if finding.relation == "reuse":
                said.append(f"{len(said) + 1}. {sentence(row)} Probability of a copy: {score}.")
            else:
                natural.append(f"natural, and not counted ({finding.relation}, {score}): {sentence(row)}")
        said += [f"altered {n}. {sentence(row)}" for n, row in enumerate(altered, 1)]
        parts = [self.verdict(min_score), "\n".join(said), *tables, "\n".join(natural)]
        return "\n\n".join(part for part in parts if part)

    def picture(self, title: str, min_score: float) -> Figure:
        """The image with its panels and what was found from a score on; see `draw_explanation`."""
        shown = self.shown(min_score)
        groups = [finding.group for finding in shown if finding.relation == "reuse"]
        natural = [
            NamedRegion(mask, finding.relation)
            for finding in shown
            if finding.relation != "reuse"
            for mask in (finding.group.copies[0].source, finding.group.copies[0].target)
        ]
        boxes = [
            NamedBox(panel.x, panel.y, panel.width, panel.height, f"{name} · {panel.kind}")
            for panel, name in zip(self.panels, self.names, strict=True)
        ]
        regions = [
            NamedRegion(region.mask, f"altered {n} · {region.score:.2f}") for n, region in enumerate(self.altered, 1)
        ]
        boxes = boxes if len(self.panels) > 1 else []
        return draw_explanation(self.image, groups, f"{title}: {self.verdict(min_score)}", boxes, regions, natural)


def search_figure(image: np.ndarray, models_dir: Path | None = None) -> Searched:
    """Look for what an image shows twice, and for what looks altered in it.

    Args:
        image: uint8 (H, W, 3) RGB.
        models_dir: Folder of the networks that look for altered regions; None to leave these out.
    """
    found = find_reuse(image)
    return Searched(
        image=image,
        panels=found.panels,
        names=panel_names(image, found.panels),
        findings=found.findings,
        altered=[] if models_dir is None else altered_regions(image, found.panels, models_dir),
    )


def _altered_row(region: Altered, panels: Sequence[Panel], names: Sequence[str]) -> Row:
    """An altered region for findings.csv, and what report.html says besides."""
    x, y = np.argwhere(region.mask).mean(axis=0)[::-1].round().astype(int)
    return {
        "relation": "altered",
        "score": round(region.score, 4),
        "panels": "" if region.panel is None else names[region.panel],
        "kinds": "" if region.panel is None else panels[region.panel].kind,
        "x": int(x),
        "y": int(y),
        "area_percent": round(100 * float(region.mask.mean()), 3),
    } | place_of(region.mask, _part(region.panel, panels, names, region.mask))


def _part(place: int | None, panels: Sequence[Panel], names: Sequence[str], mask: np.ndarray) -> Part:
    """The panel at a position, or the image of a mask, bool (H, W), if it is its only panel or none holds the mask."""
    if place is not None and len(panels) > 1:
        return Part(name=f"panel {names[place]}", box=panels[place].box)
    return Part(name="the figure" if len(panels) > 1 else "the image", box=(0, 0, *mask.shape[::-1]))


def finding_row(finding: Finding, panels: Sequence[Panel], names: Sequence[str]) -> Row:
    """A finding for findings.csv, and what report.html says besides."""
    best = finding.group.copies[0]
    (x, y), (x_copy, y_copy) = (
        (np.argwhere(mask).mean(axis=0)[::-1]).round().astype(int) for mask in (best.source, best.target)
    )
    kinds = dict.fromkeys(panels[place].kind for place in finding.panels if place is not None)
    parts = [_part(place, panels, names, best.source) for place in finding.panels]
    return evidence(finding.group, parts) | {
        "relation": finding.relation,
        "score": round(finding.group.score, 4),
        "panels": _places(finding, names) if len(panels) > 1 else "",
        "kinds": " and ".join(kinds),
        "x": int(x),
        "y": int(y),
        "x_copy": int(x_copy),
        "y_copy": int(y_copy),
        "rotation": round(best.rotation, 1),
        "scale": round(best.scale, 3),
        "mirrored": int(best.mirrored),
        "area_percent": round(100 * float(finding.group.mask.mean()), 3),
    }


def _places(finding: Finding, names: Sequence[str]) -> str:
    """The panels that a finding joins."""
    known = [names[place] for place in finding.panels if place is not None]
    if len(known) < 2:
        return "several"
    return known[0] if known[0] == known[1] else " and ".join(sorted(known))


def panel_names(image: np.ndarray, panels: Sequence[Panel]) -> list[str]:
    """The printed letter of each panel, or its number from 1 where none is read."""
    letters = find_letters(image, panels) if len(panels) > 1 else [None] * len(panels)
    return [letter or str(number) for number, letter in enumerate(letters, 1)]


def _verdict(found: list[Group], groups: list[Group], min_score: float) -> str:
    """One line: how many copies were found, and how many groups are left out."""
    if not found:
        return "no copy-move found"
    n_copies = sum(len(group.copies) for group in groups)
    verdict = f"{n_copies or 'no'} {'copy' if n_copies == 1 else 'copies'} found"
    hidden = [group.score for group in found if group not in groups]
    left_out = f"; {len(hidden)} below {min_score:g} not shown, the best {max(hidden):.2f}" if hidden else ""
    return verdict + left_out

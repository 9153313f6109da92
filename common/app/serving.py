"""What the page asks the server for: figures, verdicts, comparisons, corrections and downloads, as plain values."""

import csv
import io
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from common.app import drawing
from common.app.cases import Case, Cases, Scored, Shared
from common.app.corrections import append_line, correction, keep, shared_correction
from common.app.examining import (
    REASONS,
    VERDICTS,
    Decided,
    Examined,
    Mark,
    checked_mode,
    checked_threshold,
    decide,
)
from common.app.models import Models
from common.app.reporting import report
from common.app.words import evidence_in_words, figure_values, reason, sentence, title, verdict_in_words
from common.app.working import called_there
from common.ensemble.altered import Altered
from common.errors import UserError, described
from common.explaining.figure import Row
from common.explaining.many import across_row
from common.explaining.pictures import copy_strip, some_points
from common.figures.reuse import Finding
from common.forensics.copy_move import Copy
from common.generated import explain
from common.page import COLOURS
from common.submission.config import SUBMISSION_COLUMNS

Values = dict[str, Any]
STRIP_SIDE = 520
"""Longest side in pixels of the pictures of one finding."""
MAP_SIDE = 700
"""Longest side in pixels of the map of one network."""
_GENERATED_VIEW, _EACH_NETWORK = "generated", "each network"


@dataclass(frozen=True, kw_only=True, eq=False)
class Server:
    """Answers of the page's server functions; each takes and gives plain values, with `error` for what is wrong."""

    models: Models
    cases: Cases
    corrections: Path
    """File of the corrections."""
    kept: Path | None = None
    """Folder of reviewed figures (`common.app.corrections.keep`)."""

    def functions(self) -> list[Callable[[Values], Values]]:
        """By their names: `figure`, `decision`, `compare`, `view`, `mark` and `download`."""

        def wrapped(answer: Callable[[Case, Values], Values]) -> Callable[[Values], Values]:
            def function(asked: Values) -> Values:
                start = perf_counter()
                try:
                    case = self.cases.of(asked.get("token"))
                    with case.lock:
                        values = answer(case, asked)
                except UserError as error:
                    return {"error": described(error)}
                return values | {"milliseconds": round(1000 * (perf_counter() - start), 1)}

            function.__name__ = answer.__name__
            return function

        return [
            wrapped(answer)
            for answer in (self.figure, self.decision, self.compare, self.view, self.mark, self.download)
        ]

    def figure(self, case: Case, asked: Values) -> Values:
        """A figure with its panels and findings."""
        place = asked.get("figure")
        examined = case.figure(place)
        searched = examined.searched
        height, width = searched.image.shape[:2]
        views = ["error level", "noise"]
        views += ["networks' map"] * (examined.network_map is not None)
        views += [_EACH_NETWORK] * (self.models.networks is not None and len(self.models.networks.networks) > 1)
        views += [_GENERATED_VIEW] * (examined.generated is not None)
        numbers = iter(range(len(examined.entries) + len(case.shared)))
        findings = [_finding(examined, key, examined.rows[key], next(numbers)) for key in examined.entries] + [
            _shared_finding(case, key, shared, int(place), next(numbers))  # pyrefly: ignore[bad-argument-type]
            for key, shared in case.shared.items()
            if place in shared.figures
        ]
        # The most serious first: reuse and what looks altered, then what is natural; each by its score.
        findings.sort(key=lambda one: (one["natural"], one["relation"] == "altered", -one["score"]))
        generated = examined.generated
        return {
            "name": examined.name,
            "note": _note(examined),
            "width": width,
            "height": height,
            "picture": drawing.shown_uri(searched.image),
            "panels": [
                {"name": name, "kind": panel.kind, "box": panel.box}
                for panel, name in zip(searched.panels, searched.names, strict=True)
            ]
            if len(searched.panels) > 1
            else [],
            "findings": findings,
            "views": views,
            "generated": None
            if generated is None
            else {"probability": round(generated.probability, 4), "verdict": generated.verdict},
        }

    def decision(self, case: Case, asked: Values) -> Values:
        """The verdict for a mode and a threshold, the mask, and which findings count."""
        _, decided = self._decided(case, asked)
        marks = case.marks_at(asked["figure"])
        return {
            "forged": decided.forged,
            "probability": round(decided.probability, 4),
            "text": verdict_in_words(decided),
            "regions": int(decided.labels.max()),
            "pixels": int(np.count_nonzero(decided.labels)),
            "mask": drawing.mask_uri(decided.labels) if decided.labels.any() else "",
            "counted": sorted(decided.counted),
            "marks": {key: {"verdict": mark.verdict, "reason": mark.reason} for key, mark in marks.items()},
        }

    def compare(self, case: Case, asked: Values) -> Values:
        """The two places of a finding: one, the other laid over it, and their difference."""
        examined, key, number = case.figure(asked.get("figure")), str(asked.get("finding")), asked.get("copy", 0)
        if key in case.shared:
            shared = case.shared[key]
            return _strip(shared.across.image, shared.across.finding.group.copies[0])
        entry = examined.entries.get(key)
        if isinstance(entry, Altered):
            return _altered_strip(examined, entry)
        if not isinstance(entry, Finding) or not isinstance(number, int) or not 0 <= number < len(entry.group.copies):
            raise UserError(f"there is no finding {key!r}.")
        return _strip(examined.searched.image, entry.group.copies[number])

    def view(self, case: Case, asked: Values) -> Values:
        """Another view: error level, noise, the networks' map and that of each, or the attention of script 7."""
        examined, name = case.figure(asked.get("figure")), asked.get("view")
        image = examined.searched.image
        size = drawing.shown_size(image)
        if name == "error level":
            return {"picture": drawing.shown_uri(drawing.error_levels(image))}
        if name == "noise":
            return {"picture": drawing.shown_uri(drawing.noise_residual(image))}
        if name == "networks' map" and examined.network_map is not None:
            return {
                "picture": drawing.png_uri(drawing.coloured_map(examined.network_map, size)),
                "text": self.models.said,
            }
        if name == _EACH_NETWORK and (networks := self.models.networks) is not None:
            maps = called_there(lambda: networks.fold_mean(image))
            small = drawing.shown_size(image, MAP_SIDE)
            members = zip(networks.networks, maps, strict=True)
            pictures = [(member.name, drawing.png_uri(drawing.coloured_map(prob, small))) for member, prob in members]
            return {"pictures": [{"name": name, "picture": picture} for name, picture in pictures]}
        if name == _GENERATED_VIEW and (detector := self.models.decider.detector) is not None:
            text, figure = called_there(lambda: explain(detector, image, examined.name))
            return {"sheet": drawing.figure_uri(figure), "text": text}
        raise UserError(f"there is no view {name!r} of this figure.")

    def mark(self, case: Case, asked: Values) -> Values:
        """Note what the reviewer says of a finding; the verdict that follows."""
        examined, key, place = case.figure(asked.get("figure")), str(asked.get("finding")), asked["figure"]
        shared = case.shared.get(key)
        if key not in examined.entries and (shared is None or place not in shared.figures):
            raise UserError(f"there is no finding {key!r} of this figure.")
        said = _checked_mark(asked.get("verdict"), asked.get("reason"))
        if shared is None:
            line, marks = correction(examined, key, said), case.marks.setdefault(place, {})
        else:
            line, marks = shared_correction(shared, case.figures, key, said), case.shared_marks
        append_line(self.corrections, line)
        marks.pop(key, None)
        if said is not None:
            marks[key] = said
        values = self.decision(case, asked)
        if self.kept is not None and shared is None:
            unmarked = decide(examined, self.models, checked_mode(asked["mode"]), checked_threshold(asked["threshold"]))
            keep(self.kept, examined, marks, unmarked.counted)
        return values

    def download(self, case: Case, asked: Values) -> Values:
        """A file: its `name`, and its `data` in base64."""
        kind = asked.get("kind")
        examined, decided = self._decided(case, asked)
        name = examined.case_id
        if kind == "mask":
            data = drawing.png_bytes((decided.labels > 0).astype(np.uint8) * 255)
            return _file(f"{name}_mask.png", data)
        if kind == "row":
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerows([SUBMISSION_COLUMNS, decided.row(examined)])
            return _file(f"{name}_row.csv", text.getvalue().encode())
        if kind == "json":
            mode, threshold = checked_mode(asked.get("mode")), checked_threshold(asked.get("threshold"))
            values = case_values(case, self.models, mode, threshold)
            return _file(f"{name}_findings.json", json.dumps(values, indent=1).encode())
        if kind == "report":
            page = report(case, self.models, checked_threshold(asked.get("threshold")))
            return _file(f"{name}_report.html", page)
        raise UserError(f"there is no download {kind!r}.")

    def _decided(self, case: Case, asked: Values) -> tuple[Examined, Decided]:
        examined = case.figure(asked.get("figure"))
        mode, threshold = checked_mode(asked.get("mode")), checked_threshold(asked.get("threshold"))
        return examined, decide(examined, self.models, mode, threshold, case.marks.get(asked["figure"]))


def summary(case: Case, models: Models, step: str = "") -> Values:
    """What the page needs to begin: the names of the figures, clips, and what can't be read.

    Args:
        case: The case.
        models: Those that it is examined by.
        step: What is done at the moment; empty where all is done.
    """
    return {
        "token": case.token,
        "done": not step,
        "step": step,
        "figures": [
            {"name": one.name, "thumbnail": drawing.thumbnail_uri(one.searched.image), "counts": _counts(case, place)}
            for place, one in enumerate(case.figures)
        ],
        "clips": [_clip(clip) for clip in case.clips],
        "unread": [{"name": one.file, "text": one.text} for one in case.unread],
        "networks": models.said,
        "colours": drawing.colour_tables(),
        "reasons": REASONS,
    }


def case_values(case: Case, models: Models, mode: Any, threshold: float) -> Values:
    """All of a case as plain values for JSON: the answer of the API."""
    figures = [
        figure_values(
            one, decide(one, models, mode, threshold, case.marks.get(place)), threshold, case.marks.get(place)
        )
        for place, one in enumerate(case.figures)
    ]
    shared = []
    for key, one in case.shared.items():
        row, mark = across_row(one.across), case.shared_marks.get(key)
        if float(row["score"]) >= threshold or mark is not None:
            shared.append(
                {
                    "id": key,
                    "relation": row["relation"],
                    "score": row["score"],
                    "figures": list(one.figures),
                    "sentence": _sentence(case, one, row),
                    "verdict": None if mark is None else mark.verdict,
                    "reason": None if mark is None else mark.reason or None,
                }
            )
    return {
        "figures": figures,
        "between_figures": shared,
        "clips": [{"file": clip.file} | _plain(clip) for clip in case.clips],
        "unread": [{"file": one.file, "reason": one.text} for one in case.unread],
    }


def _counts(case: Case, place: int) -> list[float]:
    """Scores of the reuse in a figure, and between it and others: the page counts those above its threshold."""
    figure = case.figures[place]
    within = [figure.score(key) for key, row in figure.rows.items() if row["relation"] in ("reuse", "altered")]
    groups = [one.across.finding for one in case.shared.values() if place in one.figures]
    return within + [finding.group.score for finding in groups if finding.relation == "reuse"]


def _note(examined: Examined) -> str:
    notes = [examined.note]
    if examined.orientation != 1:
        notes.append(
            f"shown upright, by its EXIF orientation {examined.orientation}; the row refers to the pixels as stored"
        )
    return "; ".join(filter(None, notes))


def _finding(examined: Examined, key: str, row: Row, number: int) -> Values:
    """A finding for the list, and its outlines for the figure."""
    entry = examined.entries[key]
    if isinstance(entry, Altered):
        copies, lines = [[drawing.outline(entry.mask)]], []
    else:
        copies = [[drawing.outline(mask) for mask in (copy.source, copy.target)] for copy in entry.group.copies]
        # From the middle of a pixel to that of another, as the outlines.
        lines = [np.round(some_points(copy) + 0.5, 1).reshape(-1, 4).tolist() for copy in entry.group.copies]
    return {
        "id": key,
        "relation": row["relation"],
        "title": title(row),
        "natural": reason(row),
        "score": examined.score(key),
        "sentence": sentence(row),
        "evidence": evidence_in_words(row),
        "colour": COLOURS[number % len(COLOURS)],
        "copies": copies,
        "lines": lines,
        "scores": [round(copy.score, 4) for copy in entry.group.copies] if isinstance(entry, Finding) else [],
        "between": False,
    }


def _sentence(case: Case, shared: Shared, row: Row) -> str:
    one, other = (f" of {case.figures[place].name}" for place in shared.figures)
    return sentence(row, one, other)


def _shared_finding(case: Case, key: str, shared: Shared, place: int, number: int) -> Values:
    """A finding between two figures, with its outline in one of them."""
    row, across = across_row(shared.across), shared.across
    side = shared.figures.index(place)
    x, y, _, _ = (across.one, across.other)[side].box
    path = drawing.outline(shared.inside(side), (x, y), shared.enlarged(side))
    return {
        "id": key,
        "relation": row["relation"],
        "title": f"{title(row)} in another figure",
        "natural": reason(row),
        "score": across.finding.group.score,
        "sentence": _sentence(case, shared, row),
        "evidence": evidence_in_words(row),
        "colour": COLOURS[number % len(COLOURS)],
        "copies": [[path]],
        "lines": [],
        "scores": [],
        "between": True,
    }


def _strip(image: np.ndarray, copy: Copy) -> Values:
    source, laid, difference, mask = copy_strip(image, copy, STRIP_SIDE, STRIP_SIDE)
    names = ("one place", "the other, laid over it", "difference × 2: black where equal")
    pictures = (source, laid, difference)
    return {
        "pictures": [
            {"name": name, "picture": drawing.png_uri(picture)} for name, picture in zip(names, pictures, strict=True)
        ],
        "flicker": True,
        "width": mask.shape[1],
        "height": mask.shape[0],
        "outline": drawing.outline(mask.astype(bool)),
        "score": round(copy.score, 4),
    }


def _altered_strip(examined: Examined, region: Altered) -> Values:
    """Four views of a region that looks altered, and its surroundings."""
    image = examined.searched.image
    rows, columns = (np.flatnonzero(region.mask.any(axis=axis))[[0, -1]] for axis in (1, 0))
    margin = 12 + round(0.3 * max(np.ptp(rows), np.ptp(columns)))
    window = np.s_[
        max(rows[0] - margin, 0) : rows[1] + margin + 1, max(columns[0] - margin, 0) : columns[1] + margin + 1
    ]
    mask = np.ascontiguousarray(region.mask[window])
    scale = min(STRIP_SIDE / max(mask.shape), 8.0)
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    views = {"the place": image[window], "error level": drawing.error_levels(image)[window]}
    views["noise"] = drawing.noise_residual(image)[window]
    if examined.network_map is not None:
        views["networks' map"] = drawing.coloured_map(examined.network_map, image.shape[1::-1])[window]
    return {
        "pictures": [
            {"name": name, "picture": drawing.png_uri(drawing.resized(np.ascontiguousarray(picture), size))}
            for name, picture in views.items()
        ],
        "flicker": False,
        "width": size[0],
        "height": size[1],
        "outline": drawing.outline(drawing.resized_mask(mask, size).astype(bool)),
        "score": round(region.score, 4),
    }


def _checked_mark(verdict: object, why: object) -> Mark | None:
    """A mark; None where one is taken back.

    Raises:
        UserError: There is no such verdict or reason.
    """
    if verdict is None:
        return None
    for known in VERDICTS:
        if verdict == known:
            if known != "natural":
                return Mark(known)
            if why in REASONS:
                return Mark(known, str(why))
            raise UserError(f"natural for the reason {why!r}; it is one of {', '.join(REASONS)}.")
    raise UserError(f"there is no verdict {verdict!r}; it is one of {', '.join(VERDICTS)}.")


def _plain(clip: Scored) -> Values:
    names = ("verdict", "probability", "threshold", "coverage", "duration_s", "warnings")
    return {name: clip.results[name] for name in names}


def _clip(clip: Scored) -> Values:
    """A clip for the page: verdict, timeline and faces."""
    pictures = {name: clip.pictures[name] for name in ("timeline", "contact_sheet") if name in clip.pictures}
    return (
        {"name": clip.file}
        | _plain(clip)
        | {name: f"data:image/png;base64,{b64encode(data).decode()}" for name, data in pictures.items()}
    )


def _file(name: str, data: bytes) -> Values:
    return {"name": name, "data": b64encode(data).decode()}

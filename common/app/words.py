"""Findings of a figure in words and plain values: what the list says, and what JSON holds."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from common.app.examining import Decided, Examined, Mark
from common.ensemble.altered import Altered
from common.ensemble.choices import MODE_THRESHOLDS
from common.explaining.figure import Row
from common.explaining.findings_page import NATURAL, TITLES
from common.explaining.words import score_in_words, sentence
from common.figures.boxes import Box
from common.figures.reuse import Finding
from common.metrics.rle import encode


def title(row: Row) -> str:
    """What a finding is called in the list."""
    return TITLES[str(row["relation"])]


def reason(row: Row) -> str:
    """Why a finding does not count by the program's rules; empty if it does."""
    return NATURAL.get(str(row["relation"]), "")


def evidence_in_words(row: Row) -> str:
    """The numbers that a finding rests on."""
    if row["relation"] == "altered":
        return f"{row['pixels']:,} pixels, {row['share']:.3g} % of {row['part']}; no calibrated probability"
    points = f"{row['points']:,} {'point matches' if row['points'] == 1 else 'points match'}"
    points = points if row["points"] else "lanes, compared as wholes"
    more = f"; the best of {row['copies']} pairs" if int(row["copies"]) > 1 else ""
    return f"{points}; likeness of the pixels {row['agreement']:.2f}; {row['share']:.3g} % of {row['part']}{more}"


def verdict_in_words(decided: Decided) -> str:
    """The verdict of a submission in a sentence."""
    least = MODE_THRESHOLDS[decided.mode]
    called = "forged" if decided.forged else "authentic"
    taken_out = " A reviewer has taken out all regions." if decided.probability >= least and not decided.forged else ""
    return (
        f"Called {called}: the probability of a forgery is {score_in_words(decided.probability)}, and in the mode "
        f"{decided.mode} a figure is called forged from {least:.2f} on.{taken_out}"
    )


def box_of(mask: np.ndarray) -> Box:
    """The smallest box that holds a region, bool (H, W)."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x, y, width, height


def finding_values(examined: Examined, key: str, mark: Mark | None, decided: Decided) -> dict[str, Any]:
    """A finding as plain values for JSON; regions are run lengths of the upright picture."""
    row = examined.rows[key]
    values: dict[str, Any] = {
        "id": key,
        "relation": row["relation"],
        "score": round(float(row["score"]), 4),
        "sentence": sentence(row),
        "panels": row["panels"],
        "counted": key in decided.counted,
        "verdict": None if mark is None else mark.verdict,
        "reason": None if mark is None else mark.reason or None,
    }
    return values | regions_of(examined.entries[key])


def regions_of(entry: Finding | Altered) -> dict[str, Any]:
    """Boxes and run lengths of a finding's regions; of each copy its source, then its target."""
    if isinstance(entry, Altered):
        return {"boxes": [box_of(entry.mask)], "regions": [encode(entry.mask)]}
    masks = [mask for copy in entry.group.copies for mask in (copy.source, copy.target)]
    return {
        "boxes": [box_of(mask) for mask in masks],
        "regions": [encode(mask) for mask in masks],
        "transforms": [np.round(copy.matrix, 4).tolist() for copy in entry.group.copies],
    }


def figure_values(
    examined: Examined, decided: Decided, threshold: float, marks: Mapping[str, Mark] | None = None
) -> dict[str, Any]:
    """A figure and its findings from a score on as plain values for JSON."""
    marks = marks or {}
    height, width = examined.searched.image.shape[:2]
    case_id, annotation = decided.row(examined)
    panels = zip(examined.searched.panels, examined.searched.names, strict=True)
    generated = examined.generated
    return {
        "file": examined.file,
        "sha256": examined.digest,
        "figure": examined.figure,
        "width": width,
        "height": height,
        "orientation": examined.orientation,
        "verdict": "forged" if decided.forged else "authentic",
        "forged_probability": round(decided.probability, 6),
        "mode": decided.mode,
        "threshold": threshold,
        "generated_probability": None if generated is None else round(generated.probability, 6),
        "generated_verdict": None if generated is None else generated.verdict,
        "case_id": case_id,
        "annotation": annotation,
        "panels": [{"name": name, "kind": panel.kind, "box": panel.box} for panel, name in panels],
        "findings": [
            finding_values(examined, key, marks.get(key), decided)
            for key in examined.entries
            if examined.score(key) >= threshold or key in marks
        ],
    }

"""The page of a run of `explain.py` over many images: what was found, in plain words, in one HTML file with pictures.

It needs no script and no other file, asks nothing of the network, and prints. Whatever a file is called, its name is
text on it, and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from common.data.images import read_image
from common.explaining.words import Value, changes
from common.files import written_whole
from common.forensics.copy_move import Group
from common.html import filled, picture_uri

MOST_WIDE = 1400
"""Pixels: wider pictures are scaled down."""
MOST_BYTES = 350_000
"""Of a picture, as JPEG. On the page it takes a third more."""
MOST_PICTURES = 50
"""Pictures on the page, which has less than 25 MB with them: of further findings it names the picture's file."""
TITLES = {
    "reuse": "Shown again",
    "altered": "Looks altered",
    "same field": "Same field",
    "enlargement": "Enlargement",
    "plot": "Plots set alike",
}
"""Relation of a finding → what it is called; other relations are no findings."""
NATURAL = {
    "same field": "one field at the same place of two panels, in another channel or contrast, with marks, or at "
    "another time (same field)",
    "enlargement": "a panel or an inset that shows a part of another one larger (enlargement)",
    "plot": "plots whose axes, words and bars are set alike (plot)",
}
"""Relation that is natural → what it says."""

_OPTIONAL = ("other_image", "mark", "note", "kinds", "said")  # of a row
_COVERS = {0.98: "all of", 0.9: "nearly all of", 0.6: "most of"}  # least share of a part → what a region is of it
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of an image that a region lies in: a panel, or all of it."""

    name: str
    """Such as `panel C` or `the image`."""
    box: tuple[int, int, int, int]
    """x, y, width and height in pixels of the region's mask."""
    enlarged: float = 1.0
    """Pixels of the image for one of the mask, on lengths."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What a run examined, and how."""

    sources: Sequence[str]
    """Files and folders, as the user named them."""
    files: Mapping[str, str]
    """Name of every file → its SHA-256, empty where it could not be read."""
    panels: Mapping[str, int]
    """Name of every image, or figure of a paper → how many panels it has; 0 without pixels."""
    tool: str
    """Name and version of the program."""
    flags: str
    """Those that were given."""
    min_score: float
    """Findings of a lower score are left out."""
    page: int = 1
    """Of files that have several."""
    networks: str = ""
    """What is to be said of those that look for altered regions; empty if none were asked for."""
    looked: bool = False
    """Whether they did."""
    library: str = ""
    """What the panels were compared with besides; empty for nothing."""
    generated: Mapping[str, str] = field(default_factory=dict)
    """Name of an image → whether a computer generated it as a whole, in words; empty if nothing looked for that."""


def evidence(group: Group, parts: Sequence[Part], *, turned: bool = False) -> dict[str, Value]:
    """What the page says of a finding besides its row of findings.csv.

    Args:
        group: What was found. Its best copy is described.
        parts: Where the copy's source and target lie, in this order.
        turned: Whether its target is to be named first, in the first of the parts.
    """
    best = group.copies[0]
    regions = (best.target, best.source) if turned else (best.source, best.target)
    found: dict[str, Value] = {
        "copies": len(group.copies),
        "points": len(best.points),
        "agreement": round(best.correlation, 2),
    }
    for end, region, part in zip(("", "_copy"), regions, parts, strict=True):
        found |= {f"{name}{end}": value for name, value in place_of(region, part).items()}
    return found


def place_of(region: np.ndarray, part: Part) -> dict[str, Value]:
    """Where a region, bool (H, W), lies in a part of its image, in words and numbers."""
    x, y, width, height = part.box
    count = int(np.count_nonzero(region))
    share = np.count_nonzero(region[y : y + height, x : x + width]) / max(width * height, 1)
    place = next((words for least, words in _COVERS.items() if share >= least), "")
    if not place and not count:
        place = "a place in"
    elif not place:
        down, across = np.argwhere(region).mean(axis=0)
        row, column = _ROWS[_third((down - y) / height)], _COLUMNS[_third((across - x) / width)]
        place = f"the {' '.join(dict.fromkeys((row, column)))} of"
    return {
        "place": place,
        "part": part.name,
        "pixels": round(count * part.enlarged**2),
        "share": round(100 * share, 2),
    }


def _third(share: float) -> int:
    return min(max(int(3 * share), 0), 2)


def write_page(path: Path, rows: Iterable[Mapping[str, Value]], examined: Examined) -> None:
    """Write the page.

    Args:
        path: The page. The pictures that the rows name lie beside it.
        rows: Those of findings.csv, in its order; of findings with what `evidence` gives, of altered regions with what
            `place_of` gives, with `mark`, the number in the picture, if it has one, and with `said`, what a reviewer
            says of it, if anything.
        examined: By the run.

    Raises:
        UserError: The page can't be written, or a picture can't be read.
    """
    rows = list(rows)
    found = [row for row in rows if row["relation"] in TITLES]
    shown: dict[str, int] = {}  # picture → number of the finding that it stands with
    for number, row in enumerate(found, 1):
        if len(shown) < MOST_PICTURES:
            shown.setdefault(str(row["picture"]), number)
    findings = [_finding(number, row, examined, shown, path.parent) for number, row in enumerate(found, 1)]
    text = filled(
        Path(__file__).with_name("findings.html"),
        findings=findings,
        counted=sum(not finding["natural"] for finding in findings),
        quiet=[row for row in rows if row["relation"] == "none"],
        unreadable=[row for row in rows if row["relation"] == "unreadable"],
        figures=sum(count > 0 for count in examined.panels.values()),
        panels=sum(examined.panels.values()),
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M (UTC%z)}",
        examined=examined,
        natural=NATURAL,
    )
    with written_whole(path) as file:
        file.write(text)


def _finding(
    number: int, row: Mapping[str, Value], examined: Examined, shown: Mapping[str, int], folder: Path
) -> dict[str, Any]:
    """What the template says of a finding."""
    picture, relation = str(row["picture"]), str(row["relation"])
    first = shown.get(picture, 0)
    # Between two images, one that is a single picture needs no name of a panel; of a library's that is not known.
    across = "other_image" in row
    parts = {
        part: "" if across and examined.panels.get(str(row.get(image))) == 1 else row.get(part, "")
        for image, part in (("image", "part"), ("other_image", "part_copy"))
    }
    return {
        "number": number,
        "row": dict.fromkeys(_OPTIONAL, "") | dict(row),
        "title": TITLES[relation],
        "natural": relation in NATURAL,
        **parts,
        "changes": changes(row),
        "earlier": first,
        "uri": _embedded(folder / picture) if first == number else "",
    }


def _embedded(path: Path) -> str:
    return picture_uri(read_image(path), most_wide=MOST_WIDE, most_bytes=MOST_BYTES)

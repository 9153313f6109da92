"""What reviewers say of findings: a line of JSON each, and the figures themselves, as training data."""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from common.app.cases import Shared
from common.app.drawing import png_bytes
from common.app.examining import Examined, Mark
from common.app.words import box_of, regions_of
from common.ensemble.altered import Altered
from common.ensemble.evidence import passing
from common.errors import UserError
from common.explaining.figure import Row
from common.explaining.many import across_row
from common.files import written_whole
from common.metrics.rle import encode

try:
    from fcntl import LOCK_EX, flock
except ImportError:  # Windows: files are not locked
    flock = None

_WRITING = threading.Lock()


def correction(examined: Examined, key: str, mark: Mark | None) -> dict[str, Any]:
    """A correction as it is written; docs/APP.md describes its fields.

    Args:
        examined: The figure.
        key: Id of one of its findings.
        mark: What is said of it; None takes back what was said before.
    """
    said = _said(key, examined.rows[key], mark)
    return {"time": _now()} | _source(examined) | said | regions_of(examined.entries[key])


def shared_correction(shared: Shared, figures: Sequence[Examined], key: str, mark: Mark | None) -> dict[str, Any]:
    """A correction of a finding between two figures as it is written; docs/APP.md describes its fields.

    Args:
        shared: The finding.
        figures: Of its case.
        key: Id of the finding.
        mark: As `correction`.
    """
    one, other = (figures[place] for place in shared.figures)
    masks = [shared.region(side, end.searched.image.shape[:2]) for side, end in enumerate((one, other))]
    sources = _source(one) | {f"other_{name}": value for name, value in _source(other).items()}
    regions = {"boxes": [box_of(mask) for mask in masks], "regions": [encode(mask) for mask in masks]}
    return {"time": _now()} | sources | _said(key, across_row(shared.across), mark) | regions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _source(examined: Examined) -> dict[str, Any]:
    """Which figure it is."""
    height, width = examined.searched.image.shape[:2]
    names = {"file": examined.file, "sha256": examined.digest, "figure": examined.figure}
    return names | {"width": width, "height": height}


def _said(key: str, row: Row, mark: Mark | None) -> dict[str, Any]:
    """Which finding it is, and what is said of it."""
    verdict, reason = (None, None) if mark is None else (mark.verdict, mark.reason or None)
    found = {name: row[name] for name in ("relation", "score", "panels")}
    return {"finding": key} | found | {"verdict": verdict, "reason": reason}


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append a line of JSON, whole: other programs that write the file at once wait.

    A line that a killed program left unfinished is ended first, so that only that one is broken.

    Args:
        path: Its folder exists.
        values: What the line says.

    Raises:
        UserError: The file can't be written.
    """
    line = json.dumps(values, ensure_ascii=True, allow_nan=False).encode() + b"\n"
    try:
        with _WRITING, path.open("a+b") as file:
            if flock is not None:
                flock(file, LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}). Make room, or choose another place.") from error


def keep(folder: Path, examined: Examined, marks: Mapping[str, Mark], counted: frozenset[str]) -> None:
    """Keep a reviewed figure in the layout that `prepare_data.py import` reads, or remove what is not so any more.

    A figure with findings that are marked right is kept in images/, with their regions in masks/; one of which all that
    counted are marked wrong or natural in authentic/.

    Args:
        folder: With these three.
        examined: The figure, which is kept upright.
        marks: By the ids of its findings.
        counted: Ids of findings that are in the verdict.

    Raises:
        UserError: A file can't be written.
    """
    right = [examined.entries[key] for key, mark in marks.items() if mark.verdict == "right"]
    # The digest tells files of one name apart, and is a name that every file system takes.
    page = "".join(letter if letter.isalnum() else "_" for letter in examined.figure)
    name = f"{examined.digest[:16]}{f'_{page}' if page else ''}.png"
    mask = None
    if right:
        regions = [one.mask if isinstance(one, Altered) else passing(one.group, 0.0) for one in right]
        mask = np.any(regions, axis=0).astype(np.uint8) * 255
    wanted = {
        "images": examined.searched.image if right else None,
        "masks": mask,
        "authentic": examined.searched.image if marks and not right and not counted - set(marks) else None,
    }
    for place, picture in wanted.items():
        path = folder / place / name
        if picture is None:
            path.unlink(missing_ok=True)
            continue
        with written_whole(path, "wb") as file:
            file.write(png_bytes(picture))

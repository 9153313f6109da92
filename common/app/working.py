"""The work on dropped files: each figure examined, clips scored, then the figures compared with one another."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from common.app.cases import Case, Scored, Shared
from common.app.examining import examine
from common.app.models import Models
from common.app.reading import Clip, Dropped, Read, Unread, read_all, without_path
from common.errors import UserError, described, readable
from common.files import entries
from common.papers.screening import shared_panels
from common.papers.shots import Shot, take_shots
from common.video import predict_folder

LEAST_SHARED = 0.3
"""Score from which what two figures share is kept: lower scores are of no use across figures."""

T = TypeVar("T")
_WORKER = ThreadPoolExecutor(1, "examining")


def work(files: Sequence[Dropped], models: Models, case: Case) -> Iterator[str]:
    """Examine files into a case. What can't be read, or fails, is in the case too: it raises nothing for a file.

    Yields:
        What is done next, in words, before each step.
    """
    shots: list[Shot] = []
    yield "reading the files"
    for found in read_all(list(files)):
        if isinstance(found, Unread):
            case.unread.append(found)
            continue
        yield f"examining {found.file}{f', {found.figure}' if isinstance(found, Read) and found.figure else ''}"
        try:
            if isinstance(found, Clip):
                case.clips.append(_score(found, models))
            else:
                shots += _examine(found, models, case)
        except Exception as error:  # one figure of many may raise anything: the others go on
            text = described(error)
            if isinstance(found, Clip):
                text = without_path(text, found.path, found.file)
            case.unread.append(Unread(found.file, text))
    if len(case.figures) > 1:
        yield f"comparing {len(case.figures)} figures with one another"
        _compare(shots, case)


def in_one_thread(steps: Iterator[str]) -> Iterator[str]:
    """The same steps, all taken in one thread of the process.

    Memory that a thread has freed is used by that thread again, but hardly by others: by forty threads, as Gradio has
    them, the program would keep many times as much.
    """
    while (step := _WORKER.submit(next, steps, None).result()) is not None:
        yield step


def called_there(call: Callable[[], T]) -> T:
    """The result of a call that runs networks, made in the thread of `in_one_thread`."""
    return _WORKER.submit(call).result()


def _examine(read: Read, models: Models, case: Case) -> list[Shot]:
    """Examine a figure; its pictures, to be compared with those of others."""
    source = {"file": read.file, "digest": read.digest, "figure": read.figure}
    examined = examine(read.image, models, **source, orientation=read.orientation, note=read.note)
    case.figures.append(examined)
    searched = examined.searched
    return take_shots(read.image, searched.panels, searched.names, str(len(case.figures) - 1))


def _compare(shots: Sequence[Shot], case: Case) -> None:
    try:
        found = sorted(shared_panels(shots, least=LEAST_SHARED), key=lambda across: -across.finding.group.score)
    except UserError as error:
        case.unread.append(Unread("the comparison of the figures", described(error)))
        return
    for number, across in enumerate(found, 1):
        places = int(across.one.source), int(across.other.source)
        case.shared[f"x{number}"] = Shared(across=across, figures=places)


def _score(clip: Clip, models: Models) -> Scored:
    """Score a clip.

    Raises:
        UserError: There is no network for it, or it can't be scored.
    """
    if models.videos is None:
        raise UserError(models.no_videos)
    with TemporaryDirectory() as name:
        folder = Path(name)
        if predict_folder(models.videos, clip.path, folder):
            raise UserError(_failure(folder / "results.csv"))
        place = folder / readable(clip.path.name)  # as predict_folder names it
        pictures = {path.stem: path.read_bytes() for path in sorted(entries(place)) if path.suffix == ".png"}
        return Scored(file=clip.file, results=json.loads((place / "result.json").read_bytes()), pictures=pictures)


def _failure(table: Path) -> str:
    """Why the only clip of a table of results was not scored."""
    with table.open(encoding="utf-8", newline="") as file:
        return next(csv.DictReader(file))["error"]

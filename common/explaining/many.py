"""The search of many images and papers, each by itself and with one another; a table, pictures and a page."""

import csv
import hashlib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

import cv2
import joblib
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from common.data.images import read_picture, scan_images
from common.ensemble.altered import networks_for
from common.ensemble.evidence import collected
from common.errors import UserError, described, readable, shortened
from common.explaining.figure import Row, finding_row, search_figure
from common.explaining.findings_page import Examined, Part, evidence, write_page
from common.explaining.pictures import NamedBox, draw_explanation
from common.files import check_regular, check_writable, file_hash, files_below, written_whole
from common.forensics.copy_move import VERSION
from common.locks import hold, release
from common.process import watched
from common.suffixes import PDF
from common.tables import spreadsheet_cell

if TYPE_CHECKING:
    from common.papers.across import Across
    from common.papers.library import Library
    from common.papers.shots import Shot

RANKS = ("reuse", "altered", "same field", "enlargement", "plot", "unreadable", "none")
"""Order of the rows of findings.csv: what to look at comes first."""
COLUMNS = (
    *("image", "other_image", "relation", "score", "panels", "kinds", "x", "y", "x_copy", "y_copy"),
    *("rotation", "scale", "mirrored", "area_percent", "picture", "note"),
)
TABLE = "findings.csv"
PAGE = "report.html"
EXPLAINED = "_explained.png"
"""End of the name of a picture that is drawn."""
EMPTY = "no figures with pixels"
"""Note on a paper of which nothing can be compared."""
MOST_BYTES = 200
"""Length of an image's name above which that of its picture is shortened."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is examined, and where the results are written."""

    sources: Sequence[Path]
    """Images, PDFs and folders of these, as the user named them."""
    output: Path
    """Folder of the results."""
    models_dir: Path | None = None
    """Folder of the networks that look for altered regions; None to leave these out."""
    min_score: float = 0.5
    """Findings of a lower score are left out."""
    page: int = 1
    """Of images that have several."""
    library: Path | None = None
    """Folder of the panels screened before, which these are compared with and added to."""
    flags: str = ""
    """Those that the user gave, for the head of the page."""


def images_of(sources: Sequence[Path], output: Path) -> dict[str, Path]:
    """Name → file of the images and PDFs of several files and folders, each once.

    A name is the path below its folder; where two would be equal, all are paths below the folder that they share. It is
    `readable`. The pictures that an earlier run drew into a folder are none of its images.

    Raises:
        UserError: Two files have names that differ only in what is not readable.
    """
    named: dict[Path, tuple[str, Path]] = {}
    for source in sources:
        paths, folder = [source], source.parent
        if source.is_dir():
            images, doubles = scan_images(source)
            papers = [path for path in files_below(source) if path.suffix.lower() == PDF]
            paths, folder = [*images.values(), *chain.from_iterable(doubles), *papers], source
            paths = [path for path in paths if not _is_drawn(path, output)]
        for path in paths:
            named.setdefault(path.resolve(), (readable(path.relative_to(folder).as_posix()), path))
    if len({name for name, _ in named.values()}) == len(named):
        return dict(named.values())
    shared = os.path.commonpath([path.parent for path in named])
    kept: dict[str, Path] = {}
    for place, (_, path) in named.items():
        if (first := kept.setdefault(readable(place.relative_to(shared).as_posix()), path)) != path:
            raise UserError(f"{str(first)!r} and {str(path)!r} would have one name in the table. Rename one of them.")
    return kept


def _is_drawn(path: Path, output: Path) -> bool:
    return path.name.endswith(EXPLAINED) and path.resolve().is_relative_to(output.resolve())


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found."""

    rows: list[Row]
    """Those of findings.csv, in its order, with what the page says besides."""
    panels: Mapping[str, int]
    """Name of every image, or figure of a paper → how many panels it has; 0 without pixels."""
    library: "Library | None"
    """What was screened before, and now."""


def explain_many(run: Run) -> Result:
    """Search all images of several files, folders and papers, by several processes, and rank what was found.

    An image that can't be read has a row that says why. Writes findings.csv, the page and the pictures.

    Raises:
        UserError: There is no image, another program writes the results, a process was killed, or the library can't be
            used.
    """
    check_writable(run.output / TABLE)
    hold(run.output / TABLE)
    try:
        return _explain_many(run)
    finally:
        release(run.output / TABLE)


def _explain_many(run: Run) -> Result:
    # Imported here: one image needs neither an index nor a reader of PDFs.
    from common.papers.across import strips
    from common.papers.library import Library
    from common.papers.screening import MOST_STRIPS, shared_panels

    images = images_of(run.sources, run.output)
    if not images:
        raise UserError(f"{run.sources[0]} holds no images but those that were drawn here. Name another folder.")
    library = None if run.library is None else Library(run.library)
    rows: list[Row] = []
    shots: dict[str, list[Shot]] = {name: [] for name in images}
    with TemporaryDirectory(dir=run.output) as spool:
        jobs = (joblib.delayed(_explain_one)(task, run, Path(spool)) for task in _tasks(images))
        workers = os.cpu_count() or 1
        pool = joblib.Parallel(workers, return_as="generator_unordered", max_nbytes=None, **watched())
        results = collected(pool(jobs), "Explain fewer images at a time.")
        for file, found, taken in tqdm(results, "images", unit="image", disable=None):
            rows += found
            shots[file] += taken
        if all(row["note"] == EMPTY for row in rows):
            raise UserError(f"{run.sources[0]} has no figures with pixels; what lines and words draw is not compared.")
        _write(rows, run.output)  # what is known already, should the rest be interrupted
        explained = {str(row["image"]): int(row["n_panels"]) for row in rows}
        panels = sorted(chain.from_iterable(shots.values()), key=lambda shot: (shot.source, shot.box))
        if len(strips(panels)) > MOST_STRIPS:
            print(f"note: of {len(strips(panels))} strips of blots, the first {MOST_STRIPS} are compared across images")
        # Of a paper with a broken page the others count.
        read = {row["file"] for row in rows if row["relation"] != "unreadable"}
        digests = {name: _digest(path, run.page) for name, path in images.items() if name in read}
        across = shared_panels(panels, library, frozenset(digests.values()), least=run.min_score)
        across = collected(across, "Explain fewer images at a time.")
        drawn = [_write_across(found, number, run.output) for number, found in enumerate(across, 1)]
        rows = with_shared(rows, drawn)
        _write(rows, run.output)
        files = {name: digests.get(name, "") for name in sorted(images)}
        write_page(run.output / PAGE, rows, _examined(run, files, explained, library))
        if library is not None:
            library.add([(name, digest, shots[name]) for name, digest in digests.items()])
    return Result(rows=rows, panels=explained, library=library)


@dataclass(frozen=True, eq=False)
class Task:
    """An image, or a figure of a paper, to explain."""

    name: str
    file: str
    """Name of the file that it is, or is from."""
    content: Path | np.ndarray | UserError | None
    """The file, the pixels, why it can't be read, or None for a paper without figures."""


def _tasks(images: Mapping[str, Path]) -> Iterator[Task]:
    """All images, and the figures of all papers."""
    from common.papers.pdf import read_figures

    for name, path in images.items():
        if path.suffix.lower() != PDF:
            yield Task(name, name, path)
            continue
        empty = True
        try:
            for figure in read_figures(path):
                empty = False
                if isinstance(figure, UserError):
                    yield Task(name, name, figure)
                else:
                    yield Task(f"{name}, {figure.name}", name, figure.image)
        except UserError as error:
            yield Task(name, name, error)
        else:
            if empty:
                yield Task(name, name, None)


def _digest(path: Path, page: int) -> str:
    """What tells a file from others: SHA-256, and the page of an image."""
    check_regular(path)
    digest = file_hash(path)
    return digest if page == 1 or path.suffix.lower() == PDF else f"{digest} page {page}"


def with_shared(rows: list[Row], shared: list[Row]) -> list[Row]:
    """The rows of images, and those of what two share: in these two images it is not true that nothing was found."""
    images = {row[name] for row in shared for name in ("image", "other_image")}
    return [row for row in rows if row["relation"] != "none" or row["image"] not in images] + shared


def rank(rows: list[Row]) -> None:
    """Sort rows of findings.csv: those to look at first on top."""
    rows.sort(key=lambda row: (RANKS.index(str(row["relation"])), -float(row["score"] or 0), str(row["image"])))


def _write(rows: list[Row], folder: Path) -> None:
    """Sort the rows (`rank`), and write findings.csv."""
    rank(rows)
    with written_whole(folder / TABLE) as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)


def _examined(run: Run, files: Mapping[str, str], panels: Mapping[str, int], library: "Library | None") -> Examined:
    """What the head of the page says.

    Args:
        run: The run.
        files: Name of every file → its digest, empty where it was not read.
        panels: Name of every image → how many panels it has.
        library: What they were compared with.
    """
    models_dir = run.models_dir
    ensemble, networks = (None, "") if models_dir is None else networks_for(models_dir)
    known = "" if library is None else f"library {run.library}, {len(library)} panels of {len(library.sources)} files"
    return Examined(
        sources=[str(source) for source in run.sources],
        files=files,
        panels=panels,
        tool=tool_name(),
        flags=run.flags,
        min_score=run.min_score,
        page=run.page,
        networks=networks,
        looked=ensemble is not None,
        library=known,
    )


def tool_name() -> str:
    """Name and version of the program, for the head of the page."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['name']} {project['version']}, copy detector version {VERSION}"


def _explain_one(task: Task, run: Run, spool: Path) -> "tuple[str, list[Row], list[Shot]]":
    """Draw the picture of an image if anything is found in it; its file, its rows of findings.csv and its pictures."""
    from common.papers.shots import take_shots

    cv2.setNumThreads(1)
    blank: Row = {"image": task.name, "file": task.file, "score": "", "note": "", "n_panels": 0}
    if task.content is None:
        return task.file, [blank | {"relation": "none", "note": EMPTY}], []
    if isinstance(task.content, UserError):
        return task.file, [blank | {"relation": "unreadable", "note": described(task.content)}], []
    note = ""
    if isinstance(task.content, np.ndarray):
        image = task.content
    else:
        try:
            picture = read_picture(task.content, run.page - 1)
        except UserError as error:
            return task.file, [blank | {"relation": "unreadable", "note": described(error)}], []
        image = picture.upright
        note = f"page {run.page} of {picture.pages}" if picture.pages > 1 else ""
    searched = search_figure(image, run.models_dir)
    rows = searched.rows(run.min_score)
    blank["n_panels"] = len(searched.panels)
    shots = [
        shot.saved(spool / f"{uuid4().hex}.npz")
        for shot in take_shots(image, searched.panels, searched.names, task.name)
    ]
    if not rows:
        return task.file, [blank | {"relation": "none", "note": note}], shots
    name = _picture_of(task.name)
    (run.output / name).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(run.output / name, "wb") as file:
        searched.picture(shortened(Path(task.name).name), run.min_score).savefig(file, format="png")
    return task.file, [blank | {"note": note, "picture": name} | row for row in rows], shots


def _picture_of(name: str) -> str:
    """The picture of an image, below the output folder; file systems take names of 255 bytes."""
    folder, _, last = name.rpartition("/")
    if len(last.encode()) > MOST_BYTES:
        last = f"{last[:40]}…{hashlib.sha256(last.encode()).hexdigest()[:12]}"
    return f"{folder}/{last}{EXPLAINED}".removeprefix("/")


def _write_across(across: "Across", number: int, folder: Path) -> Row:
    """Draw two panels of different images that show the same; the row of findings.csv."""
    one, other = across.one, across.other
    name = f"across_{number}{EXPLAINED}"
    with written_whole(folder / name, "wb") as file:
        draw_across(across, (one.source, other.source)).savefig(file, format="png")
    return {"image": one.source, "other_image": other.source, "picture": name, "note": ""} | across_row(across)


def draw_across(across: "Across", names: tuple[str, str]) -> Figure:
    """Two panels of different images that show the same; see `draw_explanation`.

    Args:
        across: The finding.
        names: Of the two images.
    """
    boxes = [
        NamedBox(panel.x, panel.y, panel.width, panel.height, f"{shortened(name)} · {shot.panel}")
        for panel, name, shot in zip(across.panels, names, (across.one, across.other), strict=True)
    ]
    title = f"{' and '.join(map(shortened, names))}: {across.finding.relation}"
    return draw_explanation(across.image, [across.finding.group], title, boxes)


def across_row(across: "Across") -> Row:
    """A finding between two images for findings.csv, and what report.html says besides, without their names."""
    one, other = across.one, across.other
    row = finding_row(across.finding, across.panels, [one.panel, other.panel])
    row["panels"] = f"{one.panel} and {other.panel}"
    del row["area_percent"]  # of two panels, which are no image
    parts = [
        Part(name=f"panel {shot.panel}", box=panel.box, enlarged=shot.box[2] / panel.width)
        for panel, shot in zip(across.panels, (one, other), strict=True)
    ]
    row |= evidence(across.finding.group, parts, turned=across.finding.panels != (0, 1))
    return row | across.geometry()

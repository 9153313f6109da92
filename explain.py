"""Find what an image shows twice, and what looks pasted; or explain verdicts on generated images, or faces in videos.

    python explain.py figure.png                                            # what is shown twice in one image
    python explain.py paper.pdf                                             # in a paper: within and across its figures
    python explain.py paper/ more/figure7.png                               # in many: a ranked table, and pictures
    python explain.py paper.pdf --library screened/                         # and in all papers screened before
    python explain.py figure.png --output found.png --min-score 0.8
    python explain.py blot.png --altered                                    # and what looks pasted or redrawn in it
    python explain.py portrait.jpg --spai models/spai_fusion_best.pth       # is the whole image generated?
    python explain.py clip.mp4                                              # is the face fake? Also a folder of clips

Reuse. Prints a row per copy and draws a picture, by default outputs/<folder>/<image>_explained.png:

- The image with its panels, their printed letters and kinds; beside it in grey, each group of equal regions in its own
  colour.
- Below, for the best groups: the source, the copy warped onto it, and their difference. A region is a copy if the
  difference is black inside the outline and bright around it.
- Panels that show one field in other channels or contrasts or at another time, enlargements, and plots that are set
  alike, are natural: named, not counted.
- The score is the probability of a copy, as opposed to natural repetition. Which of two regions was first can't be
  seen: `source` and `copy` are only names.

Of several images, a folder or a PDF, by default below outputs/<folder>: a picture for each image in which something
was found, one for each two panels of different images that show the same, and findings.csv, a row per finding, those to
look at first on top; each of the other images has a row too. report.html says the same in plain words, with the
pictures in it: one file that asks nothing of the network, to read, print and hand on. Figures of a PDF come at their
own resolution; a page that is one image, as scanners make it, is one figure. --library keeps the panels in a folder:
what is screened later is compared with them. Panels of that folder are named after it. A name that a spreadsheet would
take for a formula has an apostrophe before it in findings.csv.

Repetition is found without a network. Images are shown upright, as their EXIF orientation asks for, and positions are
those of the picture that is shown.

Altered regions. With --altered, the networks of --models-dir, or where none is trained those that come with the project
mark what looks pasted, filled or redrawn: dashed. What is printed on a picture, plots and schematics are left out. The
score is no calibrated probability: insets, stacked pictures and blurred grounds are marked too (docs/RESULTS.md). An
image without any finding may still be forged.

Generated images. With --spai, a checkpoint of script 7, it prints the calibrated probability that the whole image is
generated and the verdict, and draws by default outputs/<folder>/<image>_generated.png:

- Patch attention: the weight of each patch in the verdict. 1 is an equal share; hatched parts were not used.
- Semantic attention, of networks with fusion: the parts of the image that the patches take their context from. The
  table has the other sources too: the whole image, the patch itself, prompts.
- Attention is no mask of a forgery, and the network is not meant for locally edited images.

Videos. Scores faces with models/deepfake_video*_best.pth (script 8), or --video. Writes results.csv below --output, by
default outputs/videos, and a folder per clip with result.json, contact sheet, timeline, heatmaps and annotated video. A
subfolder that holds nothing but images is a clip of frames; with --video, a single image is one of one frame. The exit
status is 1 if the named file can't be scored, or an image of several can't be read.
"""

from common.process import prepare

prepare()  # before torch is imported

import csv
import hashlib
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import cv2
import joblib
import numpy as np
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from common.data.images import read_picture, scan_images
from common.ensemble.altered import Altered, altered_regions, networks_for
from common.ensemble.evidence import collected
from common.errors import UserError, described, readable
from common.explaining.findings_page import Examined, Part, evidence, place_of, write_page
from common.explaining.pictures import NamedBox, NamedRegion, describe, draw_explanation
from common.figures.letters import find_letters
from common.figures.panels import Panel
from common.figures.reuse import Finding, find_reuse
from common.files import check_regular, check_writable, entries, files_below, written_whole
from common.forensics.blocks import match_blocks
from common.forensics.copy_move import VERSION, Group, Matcher
from common.forensics.learned import learned_matcher
from common.process import watched
from common.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from common.tables import markdown_table, spreadsheet_cell

if TYPE_CHECKING:
    from common.papers.across import Across
    from common.papers.library import Library
    from common.papers.shots import Shot

FLAGS = {
    "copy-moves": ("min_score", "lightglue", "library", "altered", "models_dir"),
    "generated images": ("target_fpr",),
    "videos": ("faces", "face_model", "boxes", "threshold"),
}
"""What can be explained → the flags that belong to it alone."""
RANKS = ("reuse", "altered", "same field", "enlargement", "plot", "unreadable", "none")
"""Order of the rows of findings.csv: what to look at comes first."""
COLUMNS = (
    *("image", "other_image", "relation", "score", "panels", "kinds", "x", "y", "x_copy", "y_copy"),
    *("rotation", "scale", "mirrored", "area_percent", "picture", "note"),
)
EXPLAINED = "_explained.png"
"""End of the name of a picture that is drawn."""
PDF = ".pdf"
PAGE = "report.html"
EMPTY = "no figures with pixels"
"""Note on a paper of which nothing can be compared."""
MOST_BYTES = 200
"""Length of an image's name above which that of its picture is shortened."""
Row = dict[str, str | int | float]
MOST_ROWS = 30
"""Rows of findings that are printed; findings.csv has all."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """What to explain, and where to write."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Images of any size, PDFs, or folders of these; or one video, or folder of videos or of folders of frames."""
    output: Path | None = None
    """The picture, a PNG file; for several images, or videos, the folder of the results; see above for the defaults."""
    page: int = 1
    """Images: page or frame to explain, from 1, of a file that has several; of a PDF all pages are read."""
    min_score: float = 0.5
    """Copy-moves: probability below which groups are left out, from 0 to 1."""
    lightglue: Path | None = None
    """Copy-moves: weights of LightGlue for SIFT (sift_lightglue.pth), a learned matcher that proposes more candidates;
    needs kornia."""
    library: Path | None = None
    """Copy-moves: folder of the panels screened before, which these are compared with and added to."""
    altered: bool = False
    """Copy-moves: look for regions that look pasted, filled or redrawn too, by networks."""
    models_dir: Path = Path("models")
    """Copy-moves: folder of the networks for --altered; where none is trained, those of its folder release."""
    spai: Path | None = None
    """Generated images: a checkpoint of script 7, for its verdict and attention instead of copy-moves."""
    target_fpr: float | None = None
    """Generated images: false-positive rate of the verdict, between 0 and 1; by default that of its training."""
    video: Path | None = None
    """Videos: a checkpoint of script 8; by default models/deepfake_video*_best.pth."""
    faces: Literal["auto", "mtcnn", "yunet", "boxes", "crops", "centre"] = "auto"
    """Videos: face detector, mtcnn (facenet-pytorch), yunet (OpenCV), boxes (of --boxes), crops (the frames are faces),
    centre (none); by default mtcnn if it is installed, else centre."""
    face_model: Path | None = None
    """Videos: ONNX file of YuNet, for --faces yunet."""
    boxes: Path | None = None
    """Videos: table of face boxes for --faces boxes, CSV with columns file,frame,left,top,right,bottom, in pixels."""
    threshold: float | None = None
    """Videos: probability from which a clip is called fake, from 0 to 1; by default the checkpoint's."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: With the flag or file, and what it must be.
        """
        for flag, value in (("--min-score", self.min_score), ("--threshold", self.threshold)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{flag} is {value}; it must be from 0 to 1.")
        if self.target_fpr is not None and not 0 < self.target_fpr < 1:
            raise UserError(f"--target-fpr is {self.target_fpr}; it must be above 0 and below 1.")
        if self.models_dir != Path("models") and not self.models_dir.is_dir():
            raise UserError(f"--models-dir {self.models_dir} is no folder. Name the folder of the networks.")
        if self.page < 1:
            raise UserError(f"--page is {self.page}; it must be 1 or more.")
        if self.page > 1 and self.subject == "videos":
            raise UserError("--page is for images, not for videos. Leave it out.")
        if self.spai is not None and self.video is not None:
            raise UserError("--spai is for images, --video for clips. Leave one of the two out.")
        if not self.sources:
            raise UserError("name an image, a folder or a video.")
        for source in self.sources:
            if not source.exists():
                raise UserError(f"there is no file {source}. Name an image or a video.")
            check_regular(source)
        if len(self.sources) > 1 and self.subject != "copy-moves":
            raise UserError(f"{self.subject} are explained one at a time; {len(self.sources)} files are named.")
        if self.subject == "generated images" and (not self._is_image or self.source.suffix.lower() == PDF):
            raise UserError(f"--spai explains single images; {self.source} is none. Name an image.")
        given = {entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default}
        for subject, names in FLAGS.items():
            if subject != self.subject and (wrong := given & set(names)):
                raise UserError(
                    f"--{min(wrong).replace('_', '-')} is for {subject}, not for {self.subject}. Leave it out."
                )
        if self.subject == "videos" or self.many:
            if self.output_path.is_file():
                raise UserError(f"--output {self.output_path} is a file. Name a folder.")
        elif self.output_path.is_dir():
            raise UserError(f"--output {self.output_path} is a folder. Name a file in it.")
        elif self.output_path.suffix.lower() != ".png":
            raise UserError(f"--output {self.output_path} must end in .png.")
        elif self.output_path.exists() and self.output_path.samefile(self.source):
            raise UserError(f"--output {self.output_path} is the image itself. Name another file.")

    @property
    def source(self) -> Path:
        """The first of the files."""
        return self.sources[0]

    @property
    def many(self) -> bool:
        """Whether several images are explained, in one table."""
        alone = len(self.sources) == 1 and self.source.is_file() and self.source.suffix.lower() != PDF
        return self.subject == "copy-moves" and (self.library is not None or not alone)

    @property
    def _is_image(self) -> bool:
        return self.source.is_file() and self.source.suffix.lower() not in VIDEO_SUFFIXES

    @property
    def subject(self) -> str:
        """What is explained, a key of `FLAGS`."""
        if self.spai is not None:
            return "generated images"
        return "copy-moves" if self.video is None and all(map(_holds_images, self.sources)) else "videos"

    @property
    def output_path(self) -> Path:
        """The picture, or for several images and videos the folder."""
        if self.output is not None:
            return self.output
        if self.subject == "videos":
            return Path("outputs", "videos")
        if self.many:
            place = self.source.resolve()
            if len(self.sources) > 1:
                return Path("outputs", "figures")
            return Path("outputs", place.name) if place.is_dir() else Path("outputs", place.parent.name, place.name)
        end = EXPLAINED if self.spai is None else "_generated.png"
        page = f"_page_{self.page}" if self.page > 1 else ""
        # With the folder and the whole name: authentic/10.png, forged/10.png and forged/10.jpg are three pictures.
        return Path("outputs", self.source.parent.name, f"{self.source.name}{page}{end}")


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
    paths: dict[str, Path] = {}
    for place, (_, path) in named.items():
        if (first := paths.setdefault(readable(place.relative_to(shared).as_posix()), path)) != path:
            raise UserError(f"{str(first)!r} and {str(path)!r} would have one name in the table. Rename one of them.")
    return paths


def _is_drawn(path: Path, output: Path) -> bool:
    return path.name.endswith(EXPLAINED) and path.resolve().is_relative_to(output.resolve())


def _holds_images(path: Path) -> bool:
    """Whether a path is an image, or a folder with images in it; a folder of frames lies in a folder of clips."""
    if path.is_file():
        return path.suffix.lower() not in VIDEO_SUFFIXES
    suffixes = {entry.suffix.lower() for entry in entries(path) if entry.is_file()}
    return bool(suffixes & {*IMAGE_SUFFIXES, PDF}) and not suffixes & VIDEO_SUFFIXES


def shortened(name: str) -> str:
    """A name for a title."""
    name = readable(name)
    return name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"


def main(config: ExplainConfig) -> None:
    """Explain, print and draw."""
    if config.subject == "videos":
        explain_videos(config)
        return
    if config.many:
        explain_many(config)
        return
    check_writable(config.output_path)
    picture = read_picture(config.source, config.page - 1)
    image = picture.upright
    if picture.pages > 1:
        print(f"note: page {config.page} of {picture.pages}; another one: --page N")
    if picture.orientation != 1:
        print(
            f"note: shown upright, by its EXIF orientation {picture.orientation}; masks refer to the pixels as stored"
        )
    if config.spai is None:
        explained = explain_figure(image, shortened(config.source.name), config)
        text, figure = explained.text, explained.figure
    else:
        # Imported here because torch takes seconds.
        from common.devices import process_state
        from common.generated import explain, load_detector

        detector = load_detector(config.spai, process_state().device)  # pyrefly: ignore[bad-argument-type] # never None
        detector.adjust(target_fpr=config.target_fpr)
        text, figure = explain(detector, image, shortened(config.source.name))
    with written_whole(config.output_path, "wb") as file:
        figure.savefig(file, format="png")
    if config.spai is None and config.altered:
        text += f"\n\n{networks_for(config.models_dir)[1]}"
    print(text)  # last: a reader like head may close the pipe
    print(f"\n{readable(f'picture: {config.output_path}')}")


def _matchers(lightglue: Path | None) -> tuple[Matcher, ...]:
    return (match_blocks,) if lightglue is None else (match_blocks, learned_matcher(lightglue))


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What is said of an image."""

    text: str
    figure: Figure
    rows: list[Row]
    """For findings.csv: those of natural relations too."""
    panels: list[Panel]
    names: list[str]
    """Of the panels."""


def explain_figure(image: np.ndarray, title: str, config: ExplainConfig) -> Explained:
    """What an image, uint8 (H, W, 3) RGB, shows twice, and what looks altered in it."""
    min_score, findings = config.min_score, find_reuse(image, _matchers(config.lightglue))
    panels, names = findings.panels, panel_names(image, findings.panels)
    shown = [finding for finding in findings.findings if finding.group.score >= min_score]
    reused = [finding for finding in shown if finding.relation == "reuse"]
    groups = [finding.group for finding in reused]
    altered = altered_regions(image, panels, config.models_dir) if config.altered else []
    verdict = _verdict(findings.reuse, groups, min_score)
    if altered:
        several = f"{len(altered)} regions look" if len(altered) > 1 else "1 region looks"
        verdict += f"; {several} pasted, filled or redrawn"
    several = len(panels) > 1
    natural = [
        f"natural, and not counted: {finding.relation}, probability of a copy {finding.group.score:.2f}, "
        f"{_places(finding, names)}"
        for finding in shown
        if finding.relation != "reuse"
    ]
    places = [_places(finding, names) for finding in reused] if several else []
    rows = [_altered_row(region, panels, names) for region in altered]
    tables = [describe(groups, places)] if groups else []
    if altered:
        head = ["altered", "panel", "score", "x, y", "area"]
        cells = [
            [str(n), row["panels"], f"{row['score']:.2f}", f"{row['x']}, {row['y']}", f"{row['area_percent']:.2g} %"]
            for n, row in enumerate(rows, 1)
        ]
        tables.append(markdown_table(head, cells))
    text = "\n\n".join([verdict, *tables, *natural])
    boxes = [
        NamedBox(panel.x, panel.y, panel.width, panel.height, f"{name} · {panel.kind}")
        for panel, name in zip(panels, names, strict=True)
    ]
    regions = [NamedRegion(region.mask, f"altered {n} · {region.score:.2f}") for n, region in enumerate(altered, 1)]
    figure = draw_explanation(image, groups, f"{title}: {verdict}", boxes if several else (), regions)
    marks = {id(finding): f"number {n}" for n, finding in enumerate(reused, 1)}
    rows = [_row(finding, panels, names) | {"mark": marks.get(id(finding), "")} for finding in shown] + [
        row | {"mark": f"altered {n}"} for n, row in enumerate(rows, 1)
    ]
    return Explained(text=text, figure=figure, rows=rows, panels=panels, names=names)


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


def _row(finding: Finding, panels: Sequence[Panel], names: Sequence[str]) -> Row:
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


def explain_many(config: ExplainConfig) -> None:
    """Explain all images of several files, folders and papers, by several processes, and rank what was found.

    Raises:
        UserError: There is no image, a process was killed, or the library can't be used.
        SystemExit: An image can't be read; the others are explained.
    """
    # Imported here: one image needs neither an index nor a reader of PDFs.
    from common.papers.across import strips
    from common.papers.library import Library
    from common.papers.screening import MOST_STRIPS, shared_panels

    images = images_of(config.sources, config.output_path)
    if not images:
        raise UserError(f"{config.source} holds no images but those that were drawn here. Name another folder.")
    check_writable(config.output_path / "findings.csv")
    library = None if config.library is None else Library(config.library)
    rows: list[Row] = []
    shots: dict[str, list[Shot]] = {name: [] for name in images}
    with TemporaryDirectory(dir=config.output_path) as spool:
        jobs = (joblib.delayed(_explain_one)(task, config, Path(spool)) for task in _tasks(images))
        workers = os.cpu_count() or 1
        pool = joblib.Parallel(workers, return_as="generator_unordered", max_nbytes=None, **watched())
        results = collected(pool(jobs), "Explain fewer images at a time.")
        for file, found, taken in tqdm(results, "images", unit="image", disable=None):
            rows += found
            shots[file] += taken
        if all(row["note"] == EMPTY for row in rows):
            raise UserError(f"{config.source} has no figures with pixels; what lines and words draw is not compared.")
        _write(rows, config)  # what is known already, should the rest be interrupted
        explained = {str(row["image"]): int(row["n_panels"]) for row in rows}
        panels = sorted(chain.from_iterable(shots.values()), key=lambda shot: (shot.source, shot.box))
        if len(strips(panels)) > MOST_STRIPS:
            print(f"note: of {len(strips(panels))} strips of blots, the first {MOST_STRIPS} are compared across images")
        unread = {row["file"] for row in rows if row["relation"] == "unreadable"}
        digests = {name: _digest(path, config.page) for name, path in images.items() if name not in unread}
        across = shared_panels(panels, library, frozenset(digests.values()), least=config.min_score)
        across = collected(across, "Explain fewer images at a time.")
        drawn = [_draw_across(found, number, config.output_path) for number, found in enumerate(across, 1)]
        joined = {row[name] for row in drawn for name in ("image", "other_image")} & explained.keys()
        rows = [row for row in rows if row["relation"] != "none" or row["image"] not in joined] + drawn
        _write(rows, config)
        files = {name: digests.get(name, "") for name in sorted(images)}
        write_page(config.output_path / PAGE, rows, _examined(config, files, explained, library))
        if library is not None:
            library.add([(name, digest, shots[name]) for name, digest in digests.items()])
    _report(rows, explained.keys(), config)
    if config.altered:
        print(networks_for(config.models_dir)[1])
    if library is not None:
        print(readable(f"library: {config.library}, {len(library)} panels of {len(library.sources)} files"))
    if any(row["relation"] == "unreadable" for row in rows):
        raise SystemExit(1)


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
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest if page == 1 or path.suffix.lower() == PDF else f"{digest} page {page}"


def _write(rows: list[Row], config: ExplainConfig) -> None:
    """Sort the rows, those to look at first on top, and write findings.csv."""
    rows.sort(key=lambda row: (RANKS.index(str(row["relation"])), -float(row["score"] or 0), row["image"]))
    with written_whole(config.output_path / "findings.csv") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)


def _examined(
    config: ExplainConfig, files: Mapping[str, str], panels: Mapping[str, int], library: "Library | None"
) -> Examined:
    """What the head of the page says.

    Args:
        config: Of the run.
        files: Name of every file → its digest, empty where it was not read.
        panels: Name of every image → how many panels it has.
        library: What they were compared with.
    """
    project = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]
    flags = [
        f"--{entry.name.replace('_', '-')}{'' if value is True else f' {value}'}"
        for entry in fields(config)
        if entry.name != "sources" and (value := getattr(config, entry.name)) != entry.default
    ]
    ensemble, networks = networks_for(config.models_dir) if config.altered else (None, "")
    known = (
        "" if library is None else f"library {config.library}, {len(library)} panels of {len(library.sources)} files"
    )
    return Examined(
        sources=[str(source) for source in config.sources],
        files=files,
        panels=panels,
        tool=f"{project['name']} {project['version']}, copy detector version {VERSION}",
        flags=" ".join(flags),
        min_score=config.min_score,
        page=config.page,
        networks=networks,
        looked=ensemble is not None,
        library=known,
    )


def _report(rows: list[Row], explained: Set[str], config: ExplainConfig) -> None:
    """Print the first rows, the counts, and what can't be read."""
    shown = [row for row in rows if row["score"] != ""]
    if shown:
        head = ["image", "other_image", "relation", "score", "panels"]
        print(markdown_table(head, [[row.get(name, "") for name in head] for row in shown[:MOST_ROWS]]))
    pairs = [row for row in rows if row["relation"] == "reuse" and "other_image" in row]
    images = {kind: {row["image"] for row in rows if row["relation"] == kind} for kind in RANKS}
    reused = (images["reuse"] | {row["other_image"] for row in pairs}) & explained
    across = f"; {len(pairs)} {'finding' if len(pairs) == 1 else 'findings'} across images" if pairs else ""
    altered = f"altered regions in {len(images['altered'])}, " if images["altered"] else ""
    print(
        f"\n{len(explained)} {'image' if len(explained) == 1 else 'images'}: reuse in {len(reused)}, {altered}"
        f"nothing in {len(images['none'])}, {len(images['unreadable'])} unreadable{across}"
    )
    print(readable(f"findings: {config.output_path / 'findings.csv'}; pictures: {config.output_path}"))
    print(readable(f"to read or print: {config.output_path / PAGE}"))
    for row in rows:
        if row["relation"] == "unreadable":
            print(f"unreadable: {row['image']}: {row['note']}", file=sys.stderr)


def _explain_one(task: Task, config: ExplainConfig, spool: Path) -> "tuple[str, list[Row], list[Shot]]":
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
            picture = read_picture(task.content, config.page - 1)
        except UserError as error:
            return task.file, [blank | {"relation": "unreadable", "note": described(error)}], []
        image = picture.upright
        note = f"page {config.page} of {picture.pages}" if picture.pages > 1 else ""
    explained = explain_figure(image, shortened(Path(task.name).name), config)
    blank["n_panels"] = len(explained.panels)
    shots = [
        shot.saved(spool / f"{uuid4().hex}.npz")
        for shot in take_shots(image, explained.panels, explained.names, task.name)
    ]
    if not explained.rows:
        return task.file, [blank | {"relation": "none", "note": note}], shots
    name = _picture_of(task.name)
    (config.output_path / name).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(config.output_path / name, "wb") as file:
        explained.figure.savefig(file, format="png")
    return task.file, [blank | {"note": note, "picture": name} | row for row in explained.rows], shots


def _picture_of(name: str) -> str:
    """The picture of an image, below the output folder; file systems take names of 255 bytes."""
    folder, _, last = name.rpartition("/")
    if len(last.encode()) > MOST_BYTES:
        last = f"{last[:40]}…{hashlib.sha256(last.encode()).hexdigest()[:12]}"
    return f"{folder}/{last}{EXPLAINED}".removeprefix("/")


def _draw_across(across: "Across", number: int, folder: Path) -> Row:
    """Draw two panels of different images that show the same; the row of findings.csv."""
    one, other = across.one, across.other
    name = f"across_{number}{EXPLAINED}"
    boxes = [
        NamedBox(panel.x, panel.y, panel.width, panel.height, f"{shortened(shot.source)} · {shot.panel}")
        for panel, shot in zip(across.panels, (one, other), strict=True)
    ]
    title = f"{shortened(one.source)} and {shortened(other.source)}: {across.finding.relation}"
    figure = draw_explanation(across.image, [across.finding.group], title, boxes)
    with written_whole(folder / name, "wb") as file:
        figure.savefig(file, format="png")
    row = _row(across.finding, across.panels, [one.panel, other.panel])
    row["panels"] = f"{one.panel} and {other.panel}"
    del row["area_percent"]  # of two panels, which are no image
    parts = [
        Part(name=f"panel {shot.panel}", box=panel.box, enlarged=shot.box[2] / panel.width)
        for panel, shot in zip(across.panels, (one, other), strict=True)
    ]
    row |= evidence(across.finding.group, parts, turned=across.finding.panels != (0, 1))
    return {"image": one.source, "other_image": other.source, "picture": name, "note": ""} | row | across.geometry()


def _verdict(found: list[Group], groups: list[Group], min_score: float) -> str:
    """One line: how many copies were found, and how many groups are left out."""
    if not found:
        return "no copy-move found"
    n_copies = sum(len(group.copies) for group in groups)
    verdict = f"{n_copies or 'no'} {'copy' if n_copies == 1 else 'copies'} found"
    hidden = [group.score for group in found if group not in groups]
    left_out = f"; {len(hidden)} left out below {min_score:g}, the best at {max(hidden):.2f}" if hidden else ""
    return verdict + left_out


def explain_videos(config: ExplainConfig) -> None:
    """Score a clip, or all clips of a folder.

    Raises:
        UserError: There is no checkpoint, or as `load_video_detector` and `predict_folder`.
    """
    from common.devices import process_state
    from common.video import find_video_detector, load_video_detector, predict_folder

    checkpoint = config.video or find_video_detector(Path("models"))
    if checkpoint is None:
        raise UserError(
            "models/ has no deepfake_video*_best.pth. Train one with script_8_deepfake_video.py, or name one: --video."
        )
    detector = load_video_detector(
        checkpoint,
        process_state().device,  # pyrefly: ignore[bad-argument-type] # never None
        faces=config.faces,
        face_model=config.face_model,
        boxes=config.boxes,
        threshold=config.threshold,
    )
    failures = predict_folder(detector, config.source, config.output_path)
    lost = f"; {failures} could not be scored" * bool(failures)
    print(readable(f"results: {config.output_path / 'results.csv'}{lost}"))
    if failures and config.source.is_file():
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(ExplainConfig, description=__doc__))

"""Files that are dropped on the page: what they are, and what is examined of them."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.images import read_picture
from common.errors import UserError, described, readable
from common.files import entries, file_hash
from common.papers.pdf import read_figures
from common.suffixes import IMAGE_SUFFIXES, PDF, VIDEO_SUFFIXES

MOST_FILES = 50
"""Files that are dropped at once."""
MOST_FIGURES = 100
"""Figures of all files that are dropped at once; the rest is named, not examined."""
MOST_LETTERS = 200
"""Of a name that is shown."""
KINDS = "It reads images (PNG, JPEG, TIFF, WebP, ...), PDFs and clips (MP4, MOV, ...)."


@dataclass(frozen=True)
class Dropped:
    """A file as it was uploaded."""

    path: Path
    """Where it lies for the moment."""
    name: str
    """As the user calls it; it may hold anything."""

    @property
    def shown(self) -> str:
        """The name on one line, without control characters; without a folder."""
        name = readable(self.name.replace("\\", "/").rpartition("/")[2])
        return name if len(name) <= MOST_LETTERS else f"{name[:120]}…{name[-40:]}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """A figure that is to be examined."""

    file: str
    digest: str
    figure: str = ""
    image: np.ndarray
    """uint8 (H, W, 3) RGB, upright."""
    orientation: int = 1
    note: str = ""


@dataclass(frozen=True)
class Clip:
    """A clip that is to be scored."""

    file: str
    path: Path


@dataclass(frozen=True)
class Unread:
    """What can't be read, and why."""

    file: str
    text: str


def read_all(files: list[Dropped]) -> Iterator[Read | Clip | Unread]:
    """The figures and clips of some files in their order, and what can't be read of them; never an error."""
    left = MOST_FIGURES
    for number, file in enumerate(files):
        if number == MOST_FILES:
            yield Unread(f"{len(files) - number} more files", f"at most {MOST_FILES} files are examined at once.")
            return
        for found in _read(file):
            if isinstance(found, Read):
                left -= 1
            if left < 0:
                yield Unread(file.shown, f"at most {MOST_FIGURES} figures are examined at once; the rest is left out.")
                return
            yield found


def _read(file: Dropped) -> Iterator[Read | Clip | Unread]:
    suffix = Path(file.shown).suffix.lower()
    try:
        if not file.path.stat().st_size:
            raise UserError("the file is empty.")
        if suffix in VIDEO_SUFFIXES:
            yield Clip(file.shown, file.path)
        elif suffix == PDF:
            yield from _figures(file)
        elif suffix in IMAGE_SUFFIXES:
            picture = read_picture(file.path)
            note = f"page 1 of {picture.pages}; the others are not examined" if picture.pages > 1 else ""
            yield Read(
                file=file.shown,
                digest=file_hash(file.path),
                image=picture.upright,
                orientation=picture.orientation,
                note=note,
            )
        else:
            raise UserError(f"{suffix or 'a file without a suffix'} is not read here. {KINDS}")
    except Exception as error:  # one file of many may raise anything: the others go on
        yield Unread(file.shown, without_path(described(error), file.path, file.shown))


def _figures(file: Dropped) -> Iterator[Read | Unread]:
    count, sha256 = 0, file_hash(file.path)
    for found in read_figures(file.path):
        count += 1
        if isinstance(found, UserError):
            yield Unread(file.shown, without_path(described(found), file.path, file.shown))
        else:
            yield Read(file=file.shown, digest=sha256, figure=found.name, image=found.image)
    if not count:
        yield Unread(file.shown, "the PDF has no figures with pixels; what lines and words draw is not compared.")


def without_path(text: str, path: Path, shown: str) -> str:
    """What is said of an uploaded file, with its name where the text names its place on the server."""
    for place in (path, path.resolve()):
        text = text.replace(readable(str(place)), shown)
    return text


def remove(files: list[Dropped]) -> None:
    """Remove uploaded files, and their folders if they hold no others; only below the folder of temporary files."""
    root = Path(tempfile.gettempdir()).resolve()
    for file in files:
        place = file.path.resolve()
        if root in place.parents:
            file.path.unlink(missing_ok=True)
            if place.parent != root and place.parent.is_dir() and not entries(place.parent):
                place.parent.rmdir()

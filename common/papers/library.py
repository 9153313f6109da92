"""A library of the panels that were screened, kept in a folder: each new paper is compared with all earlier ones.

    DIR/library.json      version, and name, digest and number of panels of each source
    DIR/points.npz        place, angle, size and panel of each key point
    DIR/index.faiss       their descriptors, searchable
    DIR/panels/012/012345.npz   a panel: its pixels, key points and names

Panels are numbered through, source after source. Several runs may read a library; they add to it one after another.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import faiss
import numpy as np
from filelock import FileLock

from common.errors import UserError, first_line
from common.files import check_writable, entries, written_whole
from common.papers.index import Candidate, PanelIndex, Points, as_floats, build, is_outgrown
from common.papers.shots import Shot, load_shot

VERSION = 1
FIELDS = ("panel", "place", "angle", "size")
"""What the library keeps of key points beside the index."""
_OWN = frozenset({"library.json", "points.npz", "index.faiss", "panels", ".lock"})
_BROKEN = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, BadZipFile, zlib.error)


@dataclass(frozen=True)
class Source:
    """A file that was screened."""

    name: str
    digest: str
    """SHA-256 of the file, and the page of an image that has several."""
    panels: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.digest, str):
            raise TypeError("a source without a name")
        if type(self.panels) is not int or not 0 <= self.panels < 2**31:
            raise ValueError("a source with a wrong number of panels")


class Library:
    """The panels of earlier sources."""

    def __init__(self, folder: Path) -> None:
        """Open a library, or begin one.

        Raises:
            UserError: The folder can't be written, holds something else, or a library that can't be read.
        """
        self.folder = folder
        if folder.is_file():
            raise UserError(f"{folder} is a file. Name the folder of a library.")
        if folder.is_dir() and any(
            entry.name not in _OWN and not entry.name.endswith(".partial") for entry in entries(folder)
        ):
            raise UserError(f"{folder} holds other files, and is no library. Name a new folder.")
        check_writable(folder / "library.json")
        self.sources: list[Source] = []
        self.points = Points.of([])
        self.index = build(self.points.descriptor)
        self._load()

    def __len__(self) -> int:
        """The number of panels."""
        return sum(source.panels for source in self.sources)

    def __contains__(self, digest: str) -> bool:
        return any(source.digest == digest for source in self.sources)

    def candidates(self, shots: Sequence[Shot], leave_out: frozenset[str] = frozenset()) -> list[Candidate]:
        """Pairs of a panel and one of the library that may share something.

        Args:
            shots: Panels that ask.
            leave_out: Digests of sources that are not looked at: those that the panels are from.
        """
        counts = [source.panels for source in self.sources]
        left_out = [source.digest in leave_out for source in self.sources]
        figures = np.repeat(left_out, counts).astype(int)
        return PanelIndex(self.points, self.index).candidates(Points.of(shots), figures, np.ones(len(shots), int))

    def shot(self, position: int) -> Shot:
        """A panel of the library.

        Raises:
            UserError: Its file is missing or broken.
        """
        return load_shot(self._path(position))

    def add(self, sources: Sequence[tuple[str, str, Sequence[Shot]]]) -> None:
        """Add sources with their names, digests and panels, and save. One that is there by its digest is left out.

        Raises:
            UserError: The library can't be written, or another run has broken it.
        """
        with FileLock(self.folder / ".lock"):  # waits for another run, which may have added something meanwhile
            if self._table() != self.sources:
                self._load()
            known = len(self.sources)
            for name, digest, shots in sources:
                if digest not in self:
                    self._append(name, digest, shots)
            if len(self.sources) == known:  # the tables of a large library are gigabytes
                return
            if is_outgrown(self.index):
                self.index = build(np.concatenate([self.shot(position).descriptor for position in range(len(self))]))
            self._save()

    def _append(self, name: str, digest: str, shots: Sequence[Shot]) -> None:
        first = len(self)
        for position, shot in enumerate(shots, first):
            path = self._path(position)
            path.parent.mkdir(parents=True, exist_ok=True)
            shot.saved(path)
        added = Points.of(shots, first)
        if shots:
            self.points = Points.concatenated([self.points, replace(added, descriptor=added.descriptor[:0])])
            self.index.add(as_floats(added.descriptor))
        self.sources.append(Source(name, digest, len(shots)))

    def _table(self) -> list[Source]:
        """The sources, as they are saved."""
        table = self.folder / "library.json"
        if not table.exists():
            return []
        try:
            content = json.loads(table.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise UserError(
                    f"{self.folder} is of version {content['version']!r:.20}, not {VERSION}. Begin a new library."
                )
            return [Source(**source) for source in content["sources"]]
        except _BROKEN as error:
            raise UserError(
                f"{table} is broken ({first_line(error)}). Begin a new library in another folder."
            ) from error

    def _load(self) -> None:
        self.sources = self._table()
        if not self.sources:
            return
        try:
            with np.load(self.folder / "points.npz") as points:
                self.points = Points(
                    points["panel"],
                    *(points[name].astype(np.float32) for name in ("place", "angle", "size")),
                    descriptor=np.empty((0, 128), np.uint8),  # in the index
                )
            self.index = faiss.read_index(str(self.folder / "index.faiss"))
            whole = self.index.ntotal == len(self.points.panel) and self.points.panel.max(initial=-1) < len(self)
        except _BROKEN:
            whole = False
        if not whole:  # an earlier run was stopped while it saved them: the panels have all
            shots = [self.shot(position) for position in range(len(self))]
            points = Points.of(shots)
            self.index = build(points.descriptor)
            self.points = replace(points, descriptor=points.descriptor[:0])

    def _path(self, position: int) -> Path:
        return self.folder / "panels" / f"{position // 1000:03d}" / f"{position:06d}.npz"

    def _save(self) -> None:
        """Write the tables; the list of sources last: what it does not name does not count."""
        with written_whole(self.folder / "index.faiss", "wb") as file:
            file.write(faiss.serialize_index(self.index).data)
        points = {name: getattr(self.points, name) for name in FIELDS}
        with written_whole(self.folder / "points.npz", "wb") as file:
            np.savez(file, **{k: v if k == "panel" else v.astype(np.float16) for k, v in points.items()})
        with written_whole(self.folder / "library.json") as file:
            json.dump({"version": VERSION, "sources": [asdict(source) for source in self.sources]}, file)

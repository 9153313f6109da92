"""A library of the panels that were screened, kept in a folder: each new paper is compared with all earlier ones.

DIR/library.json      version, and name, digest and first panel of each source
DIR/points.npz        place, angle, size and panel of each key point
DIR/index.faiss       their descriptors, searchable
DIR/panels/012/012345.npz   a panel: its pixels, key points and names
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import faiss
import numpy as np

from common.errors import UserError, first_line
from common.files import written_whole
from common.papers.index import Candidate, PanelIndex, Points, as_floats, build, is_outgrown
from common.papers.shots import Shot, load_shot

VERSION = 1


@dataclass(frozen=True)
class Source:
    """A file that was screened."""

    name: str
    digest: str
    """SHA-256 of the file."""
    panels: int


class Library:
    """The panels of earlier sources."""

    def __init__(self, folder: Path) -> None:
        """Open a library, or begin one.

        Raises:
            UserError: The folder holds something else, or a broken library.
        """
        self.folder = folder
        self.sources: list[Source] = []
        self.points = Points.of([])
        self.index = build(self.points.descriptor)
        table = folder / "library.json"
        if not table.exists():
            if folder.exists() and any(folder.iterdir()):
                raise UserError(f"{folder} is not empty, and no library. Name a new folder.")
            return
        try:
            content = json.loads(table.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise UserError(
                    f"{folder} is a library of version {content['version']}, not {VERSION}. Begin a new one."
                )
            self.sources = [Source(**source) for source in content["sources"]]
            with np.load(folder / "points.npz") as points:
                self.points = Points(
                    points["panel"],
                    points["place"].astype(np.float32),
                    points["angle"].astype(np.float32),
                    points["size"].astype(np.float32),
                    np.empty((0, 128), np.uint8),  # in the index
                )
            self.index = faiss.read_index(str(folder / "index.faiss"))
            if self.index.ntotal != len(self.points.panel) or self.points.panel.max(initial=-1) >= len(self):
                self._recover()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{folder} is no library, or a broken one ({first_line(error)}).") from error

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
        index = PanelIndex(self.points, self.index)
        return index.candidates(Points.of(shots), figures, np.ones(len(shots), int))

    def shot(self, position: int) -> Shot:
        """A panel of the library.

        Raises:
            UserError: Its file is missing or broken.
        """
        return load_shot(self._path(position))

    def add(self, shots: Sequence[Shot], name: str, digest: str) -> None:
        """Add the panels of a source, and save. What is there already by its digest is not added again."""
        if digest in self:
            return
        first = len(self)
        for position, shot in enumerate(shots, first):
            path = self._path(position)
            path.parent.mkdir(parents=True, exist_ok=True)
            shot.saved(path)
        added = Points.of(shots, first)
        self.points = Points.concatenated([self.points, replace(added, descriptor=added.descriptor[:0])])
        self.sources.append(Source(name, digest, len(shots)))
        self.index.add(as_floats(added.descriptor))
        if is_outgrown(self.index):
            self.index = build(np.concatenate([self.shot(position).descriptor for position in range(len(self))]))
        self._save()

    def _recover(self) -> None:
        """Build index and points from the panels: an earlier run was stopped while it saved them."""
        shots = [self.shot(position) for position in range(len(self))]
        points = Points.of(shots)
        self.index = build(points.descriptor)
        self.points = replace(points, descriptor=points.descriptor[:0])

    def _path(self, position: int) -> Path:
        return self.folder / "panels" / f"{position // 1000:03d}" / f"{position:06d}.npz"

    def _save(self) -> None:
        """Write the tables; the list of sources last: what it does not name does not count."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self.folder / "index.faiss", "wb") as file:
            file.write(faiss.serialize_index(self.index).tobytes())
        points = {name: getattr(self.points, name) for name in FIELDS}
        with written_whole(self.folder / "points.npz", "wb") as file:
            np.savez(file, **{k: v if k == "panel" else v.astype(np.float16) for k, v in points.items()})
        with written_whole(self.folder / "library.json") as file:
            json.dump({"version": VERSION, "sources": [asdict(source) for source in self.sources]}, file)


FIELDS = ("panel", "place", "angle", "size")
"""What the library keeps of key points beside the index."""

"""Panels of figures as they are compared across figures and kept in a library: pixels, place and key points."""

import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from zipfile import BadZipFile

import cv2
import numpy as np

from common.errors import UserError, first_line
from common.figures.boxes import Box
from common.figures.kinds import Kind
from common.figures.matching import gray_without_print
from common.figures.panels import Panel
from common.files import written_whole
from common.forensics.keypoints import find_keypoints

MOST_KEYPOINTS = 250
"""Of a panel, spread over it: enough that a few lie in what two panels share."""
_MOST_PIXELS = 1_200_000  # of a panel that is kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """A picture panel of a figure."""

    source: str
    """The figure: file, and page and number in a paper."""
    panel: str
    """Its letter or number in the figure."""
    box: Box
    """In pixels of the figure."""
    kind: Kind
    png: bytes
    """The panel at its own size, or scaled down to 1.2 megapixels; empty where `file` has it."""
    file: Path | None = None
    """Where the panel was saved."""
    place: np.ndarray
    """float32 (n, 2): key points, x and y in pixels of the PNG."""
    size: np.ndarray
    """float32 (n,)"""
    angle: np.ndarray
    """float32 (n,), radians."""
    descriptor: np.ndarray
    """uint8 (n, 128): Root-SIFT times 255."""

    def picture(self) -> np.ndarray:
        """uint8 (h, w, 3) RGB.

        Raises:
            UserError: Its file is missing or broken.
        """
        picture = cv2.imdecode(np.frombuffer(self._encoded(), np.uint8), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise UserError(f"{self.file} is a broken panel of a library. Delete the library.")
        return picture

    def saved(self, path: Path) -> "Shot":
        """Write the panel to a file (.npz); the panel without its pixels, which the file has.

        Raises:
            UserError: The file can't be written.
        """
        png = self._encoded()
        with written_whole(path, "wb") as file:
            np.savez(
                file,
                text=np.array([self.source, self.panel, self.kind]),
                box=np.array(self.box),
                png=np.frombuffer(png, np.uint8),
                place=self.place.astype(np.float16),
                size=self.size.astype(np.float16),
                angle=self.angle.astype(np.float16),
                descriptor=self.descriptor,
            )
        return replace(self, png=b"", file=path)

    def _encoded(self) -> bytes:
        if self.file is None:
            return self.png
        with _opened(self.file) as table:
            return table["png"].tobytes()


def take_shots(image: np.ndarray, panels: Sequence[Panel], names: Sequence[str], source: str) -> list[Shot]:
    """The pictures among a figure's panels.

    Args:
        image: The figure, uint8 (H, W, 3) RGB.
        panels: Of it.
        names: Of the panels.
        source: What the figure is called.
    """
    shots = []
    for panel, name in zip(panels, names, strict=True):
        if panel.drawn:
            continue
        picture = image[panel.window]
        scale = min(1.0, (_MOST_PIXELS / (panel.width * panel.height)) ** 0.5)
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        gray, free = gray_without_print(picture, rim=True)
        points = find_keypoints(gray, 2 * MOST_KEYPOINTS)
        x, y = points.place.round().astype(int).T
        points = points[np.flatnonzero(free[y.clip(0, len(free) - 1), x.clip(0, free.shape[1] - 1)])]
        kept = np.linspace(0, len(points) - 1, min(len(points), MOST_KEYPOINTS)).round().astype(int)
        points = points[kept]
        shots.append(
            Shot(
                source=source,
                panel=name,
                box=panel.box,
                kind=panel.kind,
                png=cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes(),
                place=points.place,
                size=points.size,
                angle=points.angle,
                descriptor=np.rint(points.descriptor * 255).astype(np.uint8),
            )
        )
    return shots


def load_shot(path: Path) -> Shot:
    """Read a panel from a file, without its pixels.

    Raises:
        UserError: It is missing or broken.
    """
    with _opened(path) as table:
        source, panel, kind = (str(text) for text in table["text"])
        x, y, wide, high = (int(value) for value in table["box"])
        return Shot(
            source=source,
            panel=panel,
            kind=cast("Kind", kind),
            box=(x, y, wide, high),
            png=b"",
            file=path,
            place=table["place"].astype(np.float32),
            size=table["size"].astype(np.float32),
            angle=table["angle"].astype(np.float32),
            descriptor=table["descriptor"],
        )


@contextmanager
def _opened(path: Path) -> Generator[Mapping[str, np.ndarray]]:
    """The tables of a panel's file."""
    try:
        with np.load(path) as table:
            yield table
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no panel of a library ({first_line(error)}). Delete it, or the library.") from error

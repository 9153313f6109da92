"""Figures of a PDF, at their own resolution.

A figure is what the images of a page make up that lie beside each other: journals cut figures into strips, and authors
place panels one by one. A single image comes as it is stored; several are rendered together, at the finest of their
resolutions, with what is printed over them. A page that is one image, as scanners make it, is one figure. Figures that
are drawn by lines and words alone have no pixels that could be copied, and are left out.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
from pypdfium2 import raw

from common.components import connected
from common.errors import UserError, first_line

LEAST_PIXELS = 80
"""Pixels of a figure's shorter side: what is smaller is a logo or a mark."""
_NEAR = 0.025  # of the page's longer side: how far the images of one figure lie apart
_MOST_PIXELS = 24_000_000  # of a figure that is rendered
_FINEST = 600 / 72  # pixels a point: no figure is rendered finer
_SAME = 6.0  # gray levels: mean difference from which an image is not drawn as it is stored: it has a mask
_UPRIGHT = 1e-3  # share of its size by which an upright image may be skewed


@dataclass(frozen=True, kw_only=True, eq=False)
class PaperFigure:
    """A figure of a paper."""

    page: int
    """From 1."""
    number: int
    """On its page, from 1, from top to bottom."""
    image: np.ndarray
    """uint8 (H, W, 3) RGB."""

    @property
    def name(self) -> str:
        """Such as `page 3, figure 1`."""
        return f"page {self.page}, figure {self.number}"


@dataclass(frozen=True)
class _Placed:
    """An image on its page."""

    found: pypdfium2.PdfImage
    box: tuple[float, float, float, float]
    """Left, lower, right and upper side in points."""
    resolution: float
    """Pixels a point."""


def read_figures(path: Path) -> Iterator[PaperFigure]:
    """Read the figures of a PDF, one page after another.

    Raises:
        UserError: The file is no PDF, is broken, or asks for a password.
    """
    try:
        document = pypdfium2.PdfDocument(path)
    except (pypdfium2.PdfiumError, OSError) as error:
        reason = first_line(error)
        if "password" in reason.lower():
            raise UserError(f"{path} is encrypted. Save it without a password, and name that file.") from error
        raise UserError(f"{path} can't be read as a PDF ({reason}).") from error
    with closing(document):
        for number in range(len(document)):
            try:
                with closing(document[number]) as page:
                    yield from _figures_of(page, number + 1)
            except pypdfium2.PdfiumError as error:
                raise UserError(f"{path}, page {number + 1} can't be read ({first_line(error)}).") from error


def _figures_of(page: pypdfium2.PdfPage, number: int) -> Iterator[PaperFigure]:
    turns = page.get_rotation() // 90
    page.set_rotation(0)  # places are those of the page as it is stored
    width, height = page.get_size()
    found = (entry for entry in page.get_objects([raw.FPDF_PAGEOBJ_IMAGE]) if isinstance(entry, pypdfium2.PdfImage))
    images = [placed for placed in map(_placed, found) if placed is not None]
    near = _NEAR * max(width, height)
    pairs = [(i, j) for i in range(len(images)) for j in range(i) if _gap(images[i].box, images[j].box) <= near]
    labels = connected(np.array(pairs, int).reshape(-1, 2), len(images))
    figures = [[image for image, label in zip(images, labels, strict=True) if label == n] for n in set(labels)]
    figures.sort(key=lambda parts: (-max(part.box[3] for part in parts), min(part.box[0] for part in parts)))
    count = 0
    for parts in figures:
        picture = _stored(parts[0]) if len(parts) == 1 else None
        if picture is None:
            picture = _rendered(page, parts)
        if picture is not None and min(picture.shape[:2]) >= LEAST_PIXELS:
            count += 1
            yield PaperFigure(page=number, number=count, image=np.ascontiguousarray(np.rot90(picture, -turns)))


def _placed(found: pypdfium2.PdfImage) -> _Placed | None:
    """Where an image lies; None if it takes no room."""
    left, low, right, high = found.get_bounds()
    corners = [(left, low), (right, low), (right, high), (left, high)]
    around = found.container
    while around is not None:  # bounds are those in the form that holds the image
        matrix = around.get_matrix()
        corners = [matrix.on_point(*corner) for corner in corners]
        around = around.container
    xs, ys = zip(*corners, strict=True)
    box = (min(xs), min(ys), max(xs), max(ys))
    wide, high = box[2] - box[0], box[3] - box[1]
    if min(wide, high) <= 0:
        return None
    pixels = found.get_px_size()
    return _Placed(found, box, max(pixels[0] / wide, pixels[1] / high))


def _gap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Distance of two boxes in points."""
    return max(max(one[0], other[0]) - min(one[2], other[2]), max(one[1], other[1]) - min(one[3], other[3]), 0)


def _stored(placed: _Placed) -> np.ndarray | None:
    """An image as it is stored; None if it is drawn turned, or through a mask."""
    matrix = placed.found.get_matrix()
    skew = max(abs(matrix.b), abs(matrix.c))
    if placed.found.container is not None or min(matrix.a, matrix.d) <= skew / _UPRIGHT:
        return None
    picture = _pixels(placed.found.get_bitmap(render=False))
    drawn = _pixels(placed.found.get_bitmap(render=True))
    drawn = cv2.resize(drawn, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    return picture if np.abs(picture.astype(np.int16) - drawn).mean() <= _SAME else None


def _pixels(bitmap: pypdfium2.PdfBitmap) -> np.ndarray:
    """uint8 (H, W, 3) RGB, on white."""
    picture = bitmap.to_pil()
    if picture.mode == "RGBA":
        values = np.asarray(picture).astype(np.float32)
        opaque = values[..., 3:] / 255
        return np.rint(values[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)
    return np.asarray(picture.convert("RGB"))


def _rendered(page: pypdfium2.PdfPage, parts: list[_Placed]) -> np.ndarray | None:
    """The part of a page that images cover, at the finest of their resolutions."""
    x, y, x_end, y_end = page.get_cropbox() or (0, 0, *page.get_size())
    boxes = np.array([part.box for part in parts])
    left, low = np.maximum(boxes[:, :2].min(axis=0), (x, y))
    right, high = np.minimum(boxes[:, 2:].max(axis=0), (x_end, y_end))
    if right <= left or high <= low:
        return None
    scale = min(
        max(part.resolution for part in parts), _FINEST, (_MOST_PIXELS / ((right - left) * (high - low))) ** 0.5
    )
    bitmap = page.render(scale=scale, crop=(left - x, low - y, x_end - right, y_end - high), rev_byteorder=True)
    return _pixels(bitmap)

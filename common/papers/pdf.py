"""Figures of a PDF, at their own resolution.

A figure is what the images of a page make up that lie beside each other: journals cut figures into strips, and authors
place panels one by one. A single image that the page shows as it is stored comes so; several, and one that is turned,
cut, masked or part of a form, are rendered at the finest of their resolutions, with what is printed over them. A page
that is one image, as scanners make it, is one figure. Figures that are drawn by lines and words alone have no pixels
that could be copied, and are left out; so are small images that recur at one place on several pages, as logos do.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
from pypdfium2 import raw

from common.components import connected
from common.errors import UserError, first_line
from common.files import check_regular

LEAST_PIXELS = 80
"""Pixels of a figure's shorter side: what is smaller is a logo or a mark."""
_NEAR = 0.025  # of the page's longer side: how far the images of one figure lie apart
_MOST_PIXELS = 24_000_000  # of a figure
_FINEST = 600 / 72  # pixels a point: no figure is rendered finer
_LEAST_SIDE = 0.05  # points: what is thinner shows nothing
_VISIBLE = 0.99  # share of an image that lies on the page, of those that are taken as they are stored
_COMPARED, _SAME, _OTHER = 256, 24, 0.2  # pixels of a side; gray levels, and share of pixels that may differ by more
_UPRIGHT = 1e-3  # share of its size by which an upright image may be skewed
_RECURS, _LOGO = 3, 0.15  # pages on which an image recurs that is a logo; share of a page that it covers at most
_ORDER = {  # of figures, from top to bottom and left to right, by quarter turns of the page
    0: lambda box: (-box[3], box[0]),
    1: lambda box: (box[0], box[1]),
    2: lambda box: (box[1], -box[2]),
    3: lambda box: (-box[2], -box[3]),
}

_Sides = tuple[float, float, float, float]
"""Left, lower, right and upper side in points."""


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
    box: _Sides
    pixels: tuple[int, int]
    """Width and height."""

    @property
    def resolution(self) -> float:
        """Pixels a point."""
        left, low, right, high = self.box
        return max(self.pixels[0] / (right - left), self.pixels[1] / (high - low))

    @property
    def size_and_place(self) -> tuple[int, ...]:
        """Pixels and box, equal for the same image at the same place of another page."""
        return (*self.pixels, *(round(side) for side in self.box))


def read_figures(path: Path) -> Iterator[PaperFigure | UserError]:
    """Read the figures of a PDF, one page after another.

    Yields:
        The figures, and an error for each page that can't be read.

    Raises:
        UserError: The file is no PDF, is broken, or asks for a password.
    """
    check_regular(path)
    try:
        document = pypdfium2.PdfDocument(path)
    except (pypdfium2.PdfiumError, OSError) as error:
        reason = first_line(error)
        if "password" in reason.lower():
            raise UserError(f"{path} is encrypted. Save it without a password, and name that file.") from error
        raise UserError(f"{path} can't be read as a PDF ({reason}).") from error
    with closing(document):
        logos = _logos(document)
        for number in range(len(document)):
            try:
                with closing(document[number]) as page:
                    yield from _figures_of(page, number + 1, logos)
            except (pypdfium2.PdfiumError, ValueError) as error:
                yield UserError(f"{path}, page {number + 1} can't be read ({first_line(error)}).")


def _logos(document: pypdfium2.PdfDocument) -> frozenset[tuple[int, ...]]:
    """Sizes and places of the small images that several pages show at one place."""
    counts: Counter[tuple[int, ...]] = Counter()
    for number in range(len(document)):
        try:
            with closing(document[number]) as page:
                width, height = page.get_size()
                most = _LOGO * width * height
                counts.update({image.size_and_place for image in _images(page) if _area(image.box) <= most})
        except pypdfium2.PdfiumError:
            continue  # reported when its figures are read
    return frozenset(logo for logo, count in counts.items() if count >= _RECURS)


def _figures_of(
    page: pypdfium2.PdfPage, number: int, logos: frozenset[tuple[int, ...]]
) -> Iterator[PaperFigure | UserError]:
    turns = page.get_rotation() // 90
    page.set_rotation(0)  # places are those of the page as it is stored
    around = _shown(page)
    images = [
        image for image in _images(page) if image.size_and_place not in logos and _area(_cut(image.box, around)) > 0
    ]
    boxes = np.array([image.box for image in images]).reshape(-1, 4)
    left, low, right, high = page.get_mediabox() or around
    near = _NEAR * max(right - left, high - low)
    pairs = [(i, int(j)) for i in range(len(boxes)) for j in np.flatnonzero(_gaps(boxes[i], boxes[:i]) <= near)]
    labels = connected(pairs, len(images))
    figures = [[image for image, label in zip(images, labels, strict=True) if label == n] for n in set(labels)]
    figures.sort(key=lambda parts: _ORDER[turns](_around([part.box for part in parts])))
    count = 0
    for parts in figures:
        box = _cut(_around([part.box for part in parts]), around)
        try:
            picture = _stored(page, parts[0], around) if len(parts) == 1 else None
            if picture is None:
                picture = _rendered(page, box, around, max(part.resolution for part in parts))
        except pypdfium2.PdfiumError as error:
            yield UserError(f"page {number}: an image can't be read ({first_line(error)})")
            continue
        if min(picture.shape[:2]) >= LEAST_PIXELS:
            count += 1
            yield PaperFigure(page=number, number=count, image=np.ascontiguousarray(np.rot90(picture, -turns)))


def _shown(page: pypdfium2.PdfPage) -> _Sides:
    """The part of a page that is shown."""
    media = page.get_mediabox() or (0, 0, *page.get_size())
    cut = _cut(page.get_cropbox() or media, media)
    return cut if _area(cut) > 0 else media


def _images(page: pypdfium2.PdfPage) -> list[_Placed]:
    """The images of a page that take room, those in forms too."""
    placed = []
    for found in page.get_objects([raw.FPDF_PAGEOBJ_IMAGE]):
        if not isinstance(found, pypdfium2.PdfImage):
            continue
        try:
            left, low, right, high = found.get_bounds()
            pixels = found.get_px_size()
        except pypdfium2.PdfiumError:  # an image without data
            continue
        corners = [(left, low), (right, low), (right, high), (left, high)]
        around = found.container
        while around is not None:  # bounds are those in the form that holds the image
            matrix = around.get_matrix()
            corners = [matrix.on_point(*corner) for corner in corners]
            around = around.container
        xs, ys = zip(*corners, strict=True)
        box = (min(xs), min(ys), max(xs), max(ys))
        if min(box[2] - box[0], box[3] - box[1]) >= _LEAST_SIDE and min(pixels) > 0:
            placed.append(_Placed(found, box, pixels))
    return placed


def _area(box: _Sides) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _cut(box: _Sides, around: _Sides) -> _Sides:
    """The part of a box that lies in another one."""
    left, low, right, high = around
    return max(box[0], left), max(box[1], low), min(box[2], right), min(box[3], high)


def _around(boxes: Sequence[_Sides]) -> _Sides:
    """The smallest box that holds all."""
    left, low, right, high = zip(*boxes, strict=True)
    return min(left), min(low), max(right), max(high)


def _gaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances of a box (4,) from others (n, 4) in points."""
    across = np.maximum(box[0], others[:, 0]) - np.minimum(box[2], others[:, 2])
    down = np.maximum(box[1], others[:, 1]) - np.minimum(box[3], others[:, 3])
    return np.maximum(np.maximum(across, down), 0)


def _stored(page: pypdfium2.PdfPage, placed: _Placed, around: _Sides) -> np.ndarray | None:
    """An image as it is stored; None if the page shows it otherwise: turned, cut, through a mask, or in a form."""
    matrix = placed.found.get_matrix()
    skew = max(abs(matrix.b), abs(matrix.c))
    if placed.found.container is not None or min(matrix.a, matrix.d) <= skew / _UPRIGHT:
        return None
    if _area(_cut(placed.box, around)) < _VISIBLE * _area(placed.box) or np.prod(placed.pixels) > _MOST_PIXELS:
        return None
    picture = _pixels(placed.found.get_bitmap(render=False))
    shown = _rendered(page, placed.box, around, placed.resolution * min(1.0, _COMPARED / max(placed.pixels)))
    small = cv2.resize(picture, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
    other = np.abs(small.astype(np.int16) - shown).max(axis=2) > _SAME
    return picture if other.mean() <= _OTHER else None  # words and arrows over it may differ


def _pixels(bitmap: pypdfium2.PdfBitmap) -> np.ndarray:
    """uint8 (H, W, 3) RGB, on white."""
    picture = bitmap.to_pil()
    if picture.mode == "RGBA":
        values = np.asarray(picture).astype(np.float32)
        opaque = values[..., 3:] / 255
        return np.rint(values[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)
    return np.asarray(picture.convert("RGB"))


def _rendered(page: pypdfium2.PdfPage, box: _Sides, around: _Sides, resolution: float) -> np.ndarray:
    """A part of a page.

    Args:
        page: Not turned.
        box: The part.
        around: The part of the page that is shown.
        resolution: Pixels a point, at most.
    """
    left, low, right, high = _cut(box, around)
    scale = min(resolution, _FINEST, (_MOST_PIXELS / ((right - left) * (high - low))) ** 0.5)
    crop = left - around[0], low - around[1], around[2] - right, around[3] - high
    return _pixels(page.render(scale=scale, crop=tuple(max(side, 0) for side in crop), rev_byteorder=True))

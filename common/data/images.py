"""Listing of image files, and reading of them as 8-bit RGB.

Every image becomes 3-channel RGB here: in the competition's data only authentic images have an alpha channel, which
would reveal the label.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.decoding import decoded, turned
from common.data.tones import AT_A_TIME, to_eight_bits
from common.errors import UserError, listing
from common.files import walk
from common.suffixes import IMAGE_SUFFIXES


def find_images(folder: Path) -> dict[str, Path]:
    """Case id → image file for all images below a folder, sorted by id; hidden files and folders are left out.

    The case id is the path below the folder without its suffix, so that for a flat folder it is the file's stem.

    Raises:
        UserError: As `scan_images`; or files share a case id (`7.png` beside `7.jpg`).
    """
    images, duplicates = scan_images(folder)
    if duplicates:
        rows = (" and ".join(map(str, paths)) for paths in duplicates)
        raise UserError(listing("Files that share a case id; rename or remove one of each:", rows, len(duplicates)))
    return images


def scan_images(folder: Path) -> tuple[dict[str, Path], list[list[Path]]]:
    """As `find_images`, with the files that share a case id, which the dictionary leaves out, in a list beside it.

    Raises:
        UserError: The folder does not exist, or it or one below can't be listed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the images.")
    files: list[tuple[tuple[str, ...], str, str]] = []
    # On strings: for 100,000 files, `rglob` and operations on paths take seconds.
    for parent, folders, names in walk(folder):
        parts = Path(parent).relative_to(folder).parts
        for name in (*folders, *names):
            stem, _, suffix = name.rpartition(".")
            if stem and f".{suffix.lower()}" in IMAGE_SUFFIXES and not name.startswith("."):
                files.append(((*parts, name), "/".join((*parts, stem)), f"{parent}{os.sep}{name}"))
    found: dict[str, list[Path]] = {}
    for _, case_id, path in sorted(files):
        found.setdefault(case_id, []).append(Path(path))
    images = {case_id: paths[0] for case_id, paths in found.items() if len(paths) == 1}
    return images, [paths for paths in found.values() if len(paths) > 1]


@dataclass(frozen=True)
class Picture:
    """An image file as 8-bit RGB, with what the file says of it."""

    pixels: np.ndarray
    """uint8 (H, W, 3), RGB, as stored: masks refer to these pixels."""
    orientation: int
    """EXIF orientation, 1 to 8: how the stored pixels are to be shown."""
    pages: int
    """Number of pages or frames of the file, of which this is one."""
    channels: int
    """Number of channels that the file stores; of a palette, one."""
    has_alpha: bool
    """Whether the file stores transparency, be it opaque everywhere."""
    transparent: bool
    """Whether some pixel is not opaque."""

    @property
    def upright(self) -> np.ndarray:
        """The pixels as viewers show them, uint8 (H, W, 3), RGB."""
        return turned(self.pixels, self.orientation)


def read_picture(path: Path, page: int = 0) -> Picture:
    """Read a page of an image file, as data/README.md says in the table of what is read how.

    Gray is repeated, a palette resolved, transparency laid on white. Values of more than 8 bits are scaled by the
    robust range of the content (see `common.data.tones`). Opaque 8-bit pictures are those of Pillow's `convert("RGB")`.

    Raises:
        UserError: As `decode`.
    """
    with decoded(path, page) as found:
        values, alpha = found.values, found.alpha
        if values.dtype == bool:
            values = values.view(np.uint8) * np.uint8(255)
        elif values.dtype != np.uint8:
            values = to_eight_bits(values, None if alpha is None else alpha > 0)
        if found.inverted:
            values = 255 - values
        pixels = np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else np.ascontiguousarray(values)
        if alpha is not None:
            pixels = _on_white(pixels, alpha)
        return Picture(pixels, found.orientation, found.pages, found.channels, found.has_alpha, alpha is not None)


def _on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3), laid on white by its opacity, (H, W) in [0, 1]."""
    laid = np.empty_like(pixels)
    rows = max(1, AT_A_TIME // max(1, pixels.shape[1]))
    for start in range(0, len(pixels), rows):  # the fractions of a large picture would take six times its memory
        part = np.s_[start : start + rows]
        laid[part] = np.rint(255 + (pixels[part] - np.float32(255)) * alpha[part, ..., None])
    return laid


def read_image(path: Path, *, upright: bool = False) -> np.ndarray:
    """The first page of an image file as `read_picture` reads it.

    Args:
        path: The file.
        upright: Whether to turn it as its EXIF orientation asks for. Masks refer to the pixels as stored.

    Returns:
        uint8 array (H, W, 3), RGB.

    Raises:
        UserError: As `decode`.
    """
    picture = read_picture(path)
    return picture.upright if upright else picture.pixels

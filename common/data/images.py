"""Reading of image and mask files into arrays.

Every image becomes 3-channel RGB here: in the competition's data only authentic images have an alpha channel, which
would reveal the label.
"""

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import UserError, listing
from common.suffixes import IMAGE_SUFFIXES


def find_images(folder: Path) -> dict[str, Path]:
    """Case id → image file for all images below a folder, sorted by id.

    The case id is the path below the folder without its suffix, so that for a flat folder it is the file's stem.

    Raises:
        UserError: The folder does not exist, or files share a case id (`7.png` beside `7.jpg`).
    """
    images, duplicates = scan_images(folder)
    if duplicates:
        rows = (" and ".join(map(str, paths)) for paths in duplicates)
        raise UserError(listing("Files that share a case id; rename or remove one of each:", rows, len(duplicates)))
    return images


def scan_images(folder: Path) -> tuple[dict[str, Path], list[list[Path]]]:
    """As `find_images`, with the files that share a case id, which the dictionary leaves out, in a list beside it.

    Raises:
        UserError: The folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the images.")
    files: list[tuple[tuple[str, ...], str, str]] = []
    # On strings: for 100,000 files, `rglob` and operations on paths take seconds.
    for parent, folders, names in os.walk(folder):
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


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB.

    Alpha is dropped, gray is repeated, a palette is resolved. Integers and floats of more than 8 bits are scaled
    by their own maximum, because scientific TIFF files rarely use their whole range. EXIF orientation is ignored:
    masks refer to the pixels as stored. Of a file with several pages the first is read.

    Returns:
        uint8 array (H, W, 3), RGB.

    Raises:
        UserError: The file is missing, truncated, or no image.
    """
    try:
        with Image.open(path) as image:
            tiles = list(image.tile)  # emptied by decoding
            if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "1"):
                image = image.convert("RGB")
            pixels = np.asarray(image)
            # Pillow keeps the upper 8 bits of 16-bit colours: a 12-bit micrograph would be almost black.
            deep = pixels.ndim == 3 and any(";16" in str(tile[3]) for tile in tiles)
        if deep:
            pixels = _read_with_opencv(path)
    except UnidentifiedImageError:
        pixels = _read_with_opencv(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}). Replace or remove the file.") from error
    return _to_rgb(pixels)


def has_alpha(path: Path) -> bool:
    """Whether an image file that `read_image` can read stores transparency."""
    try:
        with Image.open(path) as image:
            return "A" in image.getbands() or "transparency" in image.info
    except UnidentifiedImageError:
        return stored_channels(path) == 4


def stored_channels(path: Path) -> int:
    """Number of channels that an image file which `read_image` can read stores; of a palette, one."""
    try:
        with Image.open(path) as image:
            return len(image.getbands())
    except UnidentifiedImageError:
        return np.atleast_3d(_decode_with_opencv(path)).shape[2]


def _read_with_opencv(path: Path) -> np.ndarray:
    """Read what Pillow reads not at all or not fully: files with 16 or 32 bits per colour channel above all."""
    pixels = _decode_with_opencv(path)
    return pixels if pixels.ndim == 2 else pixels[..., 2::-1]


def _decode_with_opencv(path: Path) -> np.ndarray:
    """(H, W) or (H, W, C), BGR first, as stored."""
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # an empty file
        pixels = None
    if pixels is None:
        raise UserError(f"{path} is no image that can be read. Replace or remove the file.")
    return pixels


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # gray and alpha
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8:
        pixels = np.nan_to_num(pixels.astype(np.float32)).clip(min=0)
        pixels = np.rint(pixels * (255 / max(float(pixels.max()), 1e-12))).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def read_mask(path: Path) -> np.ndarray:
    """Read the mask of a forged image.

    `.npy` files hold (N, H, W) or (H, W), one channel per forged group; image files hold one channel. Anything
    above half of 255 counts as forged in an 8-bit image mask, anything above 0 in one that holds only 0 and 1 and
    in `.npy` files.

    Returns:
        uint8 array (N, H, W) of 0 and 1.

    Raises:
        UserError: The file is missing, broken, or has another shape.
    """
    if path.suffix.lower() != ".npy":
        pixels = read_image(path).max(axis=2)
        return (pixels > (127 if pixels.max() > 1 else 0)).astype(np.uint8)[None]
    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a mask ({error}). Replace or remove the file.") from error
    if mask.ndim not in (2, 3) or (not np.issubdtype(mask.dtype, np.number) and mask.dtype != bool):
        raise UserError(
            f"{path} has shape {mask.shape} and type {mask.dtype}; a mask is (N, H, W) or (H, W) of 0 and 1."
        )
    return (mask > 0).astype(np.uint8).reshape(-1, *mask.shape[-2:])

"""Reading images and masks: the one place where files become arrays.

Every image becomes 3-channel RGB here, before anything looks at it: in the competition's data the alpha channel
exists only in authentic images and would tell the label.
"""

from pathlib import Path

from common.errors import UserError

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})

# Pillow's own limit (a quarter of a gigapixel, after which it suspects a decompression bomb) only warns; twice
# that raises. Large figures and slide scans lie below it.
Image.MAX_IMAGE_PIXELS = 250_000_000


def find_images(folder: Path) -> dict[str, Path]:
    """Case id → image file for all images below a folder, sorted by id.

    The case id is the path below the folder without its suffix, so that for a flat folder it is the file's stem.

    Raises:
        UserError: The folder does not exist, or two files share one case id (`7.png` beside `7.jpg`).
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the images.")
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        case_id = path.relative_to(folder).with_suffix("").as_posix()
        if case_id in images:
            raise UserError(f"{images[case_id]} and {path} share the case id {case_id!r}. Rename one of them.")
        images[case_id] = path
    return images


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
            if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "1"):
                image = image.convert("RGB")
            pixels = np.asarray(image)
    except UnidentifiedImageError:
        pixels = _read_with_opencv(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}). Replace or remove the file.") from error
    return _to_rgb(pixels)


def _read_with_opencv(path: Path) -> np.ndarray:
    """Read what Pillow does not know, above all TIFF files with 16 or 32 bits per colour channel."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if pixels is None:
        raise UserError(f"{path} is no image that can be read. Replace or remove the file.")
    return pixels if pixels.ndim == 2 else pixels[..., 2::-1]


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

"""Decoding of image files into arrays of their own type: by Pillow, deep TIFF by tifffile, deep PNG by imagecodecs.

A file has one decoder, chosen by what it stores. None steps in where another one fails: a decoder that guesses shows
black or noise.
"""

from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from common.errors import UserError
from common.files import check_regular

# No format that starts other programs (EPS) or follows references.
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "WEBP", "GIF", "JPEG2000", "AVIF", "HEIF")
PAGED = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "HEIF")
"""Formats whose further pages are pictures of their own; those of a phone's MPO are previews and gain maps."""
ORIENTATION = 0x0112
"""EXIF tag; the values are 1 (as stored) to 8."""
SUGGESTIONS = {
    ".heic": "Install pillow-heif (pip install pillow-heif), or save it as PNG",
    ".heif": "Install pillow-heif (pip install pillow-heif), or save it as PNG",
}
"""What to do about files that need another package."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_XL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_PILLOW_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34677, 50000}
"""Those that Pillow's libtiff decodes, of pages with 8 bits or fewer."""
_PILLOW_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
"""Photometric interpretation → number of its channels."""
_UNDONE = {6: 8, 8: 6}
"""The orientation that undoes another one, where it is another."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One page of an image file."""

    values: np.ndarray
    """(H, W) gray or (H, W, 3) RGB as stored, in the file's own type. The indices of a palette are resolved."""
    alpha: np.ndarray | None = None
    """float32 (H, W), opacity in [0, 1]; None without transparency."""
    inverted: bool = False
    """Whether the largest value is black (deep TIFF, WhiteIsZero)."""
    channels: int
    """Number of channels that the file stores; of a palette, one."""
    has_alpha: bool = False
    """Whether the file stores transparency, be it opaque everywhere."""
    orientation: int = 1
    """EXIF orientation, 1 to 8: how the stored pixels are to be shown."""
    pages: int = 1
    """Number of pages or frames of the file."""
    lossy: bool = False
    """Whether it is a JPEG, in which flat areas are not flat."""


def decode(path: Path, page: int = 0) -> Decoded:
    """Decode one page of an image file.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP, GIF, AVIF, JPEG 2000 or JPEG XL; HEIC with pillow-heif.
        page: From 0.

    Raises:
        UserError: The file is missing, truncated, no regular file, no image, of more than twice
            `PIL.Image.MAX_IMAGE_PIXELS`, or stored in a way that no decoder here knows; the reason is named.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(12)
        if start[:4] in _TIFF_STARTS:
            decoded = _decode_tiff(path, page)
        elif start.startswith(_JPEG_XL_STARTS):
            decoded = _decode_jpeg_xl(path, page)
        else:
            decoded = _decode_with_pillow(path, page)
    except UserError:
        raise
    except Exception as error:  # broken files raise anything
        reason = "it is no image of a known format" if isinstance(error, Image.UnidentifiedImageError) else error
        remedy = SUGGESTIONS.get(path.suffix.lower(), "Replace or remove the file")
        text = str(reason) or type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({text}). {remedy}.") from error
    if not decoded.values.size:
        raise UserError(f"{path} cannot be read as an image (it has no pixels). Replace or remove the file.")
    return decoded


def pixel_count(file: Path | BinaryIO) -> int:
    """Number of pixels of an image by its header; 0 if it has none that can be read.

    Of JPEG XL, whose header is not read here, as many as are refused.
    """
    try:
        if isinstance(file, Path):
            check_regular(file)
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened:
            start = opened.read(12)
            opened.seek(0)
            if start[:4] in _TIFF_STARTS:
                with tifffile.TiffFile(opened) as tiff:
                    first = tiff.pages[0].aspage()
                    return first.imagewidth * first.imagelength
            if start.startswith(_JPEG_XL_STARTS):
                return 2 * (Image.MAX_IMAGE_PIXELS or 0)
            with Image.open(opened, formats=_formats()) as image:
                return image.width * image.height
    except Exception:  # `decode` says what is wrong
        return 0


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as stored, (H, W) or (H, W, C), turned and mirrored as an EXIF orientation (1 to 8) asks for."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `turned`: upright pixels as the file stores them."""
    return turned(pixels, _UNDONE.get(orientation, orientation))


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this installation reads."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _decode_with_pillow(path: Path, page: int) -> Decoded:
    with Image.open(path, formats=_formats()) as image:
        pages = getattr(image, "n_frames", 1) if image.format in PAGED else 1
        _seek(image, page, path)
        # Pillow keeps the upper 8 bits of 16-bit colours: a 12-bit micrograph would be almost black.
        deep = any(";16" in str(tile[3]) for tile in image.tile) and not image.mode.startswith("I")
        image.load()
        facts: dict[str, Any] = {
            "channels": len(image.getbands()),
            "orientation": _valid(image.getexif().get(ORIENTATION)),
            "pages": pages,
            "lossy": image.format in ("JPEG", "MPO"),
        }
        if image.format == "PNG" and deep:
            return _split(imagecodecs.png_decode(path.read_bytes()), facts)
        if image.format == "JPEG2000" and image.mode in ("RGB", "RGBA", "LA"):
            full = imagecodecs.jpeg2k_decode(path.read_bytes())
            if full.dtype.itemsize > 1:
                return _split(full, facts)
        return _converted(image, facts)


def _decode_jpeg_xl(path: Path, page: int) -> Decoded:
    pixels = imagecodecs.jpegxl_decode(path.read_bytes())  # upright
    frames = pixels if pixels.ndim == 4 else pixels[None]
    if page >= len(frames):
        raise _no_page(path, page)
    return _split(frames[page], {"channels": np.atleast_3d(frames[page]).shape[2], "pages": len(frames)})


def _seek(image: Image.Image, page: int, path: Path) -> None:
    if not page:
        return
    try:
        image.seek(page)
    except EOFError as error:
        raise _no_page(path, page) from error


def _no_page(path: Path, page: int) -> UserError:
    return UserError(f"{path} has no page {page + 1}. Name another one.")


def _converted(image: Image.Image, facts: dict[str, Any]) -> Decoded:
    """A loaded image of at most 8 bits per colour, or a deep gray one."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Decoded(values=np.asarray(image), **facts)
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return Decoded(values=pixels[..., :3], alpha=_opacity(pixels[..., 3]), has_alpha=True, **facts)
    return Decoded(values=np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")), **facts)


def _opacity(alpha: np.ndarray) -> np.ndarray | None:
    """float32 in [0, 1]; None where all is opaque."""
    most = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    return None if (alpha == most).all() else (alpha / np.float32(most)).astype(np.float32).clip(0, 1)


def _split(pixels: np.ndarray, facts: dict[str, Any]) -> Decoded:
    """Values and alpha of (H, W), (H, W, 1), or 2 to 4 channels."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    n_colours = 3 if pixels.shape[2] >= 3 else 1
    has_alpha = pixels.shape[2] > n_colours
    alpha = _opacity(pixels[..., n_colours]) if has_alpha else None
    values = pixels[..., 0] if n_colours == 1 else pixels[..., :3]
    return Decoded(values=values, alpha=alpha, has_alpha=has_alpha, **facts)


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _decode_tiff(path: Path, page: int) -> Decoded:
    with tifffile.TiffFile(path) as tiff:
        every = [entry.aspage() for entry in tiff.pages]
        full = [number for number, entry in enumerate(every) if not (entry.is_reduced or entry.is_mask)]
        full = full or [*range(len(every))]
        if page >= len(full):
            raise _no_page(path, page)
        entry = every[full[page]]
        if entry.imagewidth * entry.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
            raise UserError(f"{path} has {entry.imagewidth} × {entry.imagelength} pixels. Cut it into smaller images.")
        tag = entry.tags.get(ORIENTATION)
        facts = {"channels": entry.samplesperpixel, "orientation": _valid(tag and tag.value), "pages": len(full)}
        if not _is_simple(entry):
            return _decode_deep(entry, facts)
    # As an open file: of a path, Pillow maps the pixels of some files into memory, and then turns them wrongly.
    with path.open("rb") as file, Image.open(file, formats=["TIFF"]) as image:
        image.seek(full[page])
        image.load()  # which turns the image upright
        decoded = _converted(image, facts | {"lossy": int(entry.compression) in (6, 7)})
    alpha = None if decoded.alpha is None else stored(decoded.alpha, decoded.orientation)
    return replace(decoded, values=stored(decoded.values, decoded.orientation), alpha=alpha)


def _is_simple(page: tifffile.TiffPage) -> bool:
    """Whether Pillow reads a page as it is meant: 8 bits or fewer, known colours, one extra channel at most."""
    if page.dtype not in (np.uint8, bool) or int(page.compression) not in _PILLOW_COMPRESSIONS or page.imagedepth > 1:
        return False
    colours = _PILLOW_COLOURS.get(int(page.photometric), 0)
    extra = page.samplesperpixel - colours
    return extra == 0 or (extra == 1 and (colours == 3 or all(int(kind) in (1, 2) for kind in page.extrasamples)))


def _decode_deep(page: tifffile.TiffPage, facts: dict[str, Any]) -> Decoded:
    """A page of more than 8 bits, or of a compression or channels that Pillow does not know."""
    name = getattr(page.compression, "name", page.compression)
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise ValueError(f"pixels of the type {page.dtype} are not shown; save real numbers")
    if not all(page.databytecounts):
        raise ValueError("parts of it are missing")
    try:
        values = page.asarray()
    except (ValueError, tifffile.TiffFileError) as error:
        raise ValueError(f"compression {name}: {error}") from error
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise ValueError(f"its axes are {page.axes}; save it as single pictures")
    photometric = page.photometric
    colours, extra = {0: 1, 1: 1, 2: 3, 5: 4}.get(photometric), page.samplesperpixel
    if photometric == 6 and page.dtype == np.uint8:  # the codecs of compressed pictures return RGB
        colours = 3
    if colours is None or extra < colours:
        raise ValueError(f"its colours are {getattr(photometric, 'name', photometric)}; save it as RGB or gray")
    if colours == 1 and extra == 3 and not any(int(kind) in (1, 2) for kind in page.extrasamples):
        colours = 3  # three channels of one sample
    alphas = [number for number, kind in enumerate(page.extrasamples, colours) if int(kind) in (1, 2)]
    if extra - colours > len(page.extrasamples) or (extra > colours and not alphas):
        raise ValueError(f"it has {extra} channels; save it as RGB, or each channel as a page")
    values = values if values.ndim == 3 else values[..., None]
    alpha = _opacity(values[..., alphas[0]]) if alphas else None
    facts = facts | {"has_alpha": bool(alphas)}
    if colours == 4:
        eight = values[..., :4] if page.dtype == np.uint8 else (values[..., :4] >> 8).astype(np.uint8)
        return Decoded(values=np.asarray(Image.fromarray(eight, "CMYK").convert("RGB")), alpha=alpha, **facts)
    if alpha is not None and int(page.extrasamples[alphas[0] - colours]) == 1:  # the colours are multiplied by it
        values = _unmultiplied(values, alpha)
    values = values[..., 0] if colours == 1 else values[..., :3]
    return Decoded(values=values, alpha=alpha, inverted=photometric == 0, **facts)


def _unmultiplied(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (values / np.maximum(alpha, 1e-6)[..., None]).clip(0, values.max()).astype(values.dtype)

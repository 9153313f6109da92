"""Decoding of image files into arrays of their own type: by Pillow, deep TIFF by tifffile, deep PNG by imagecodecs.

A file has one decoder, chosen by what it stores. None steps in where another one fails: a decoder that guesses shows
black or noise. What the header claims is held against `common.data.limits` before a decoder allocates anything.
"""

import re
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from common.data import headers
from common.data.limits import PIXELS, ROOM, TooLarge, check_bytes, check_pixels, limit, too_many
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

MOST_PAGES = 100_000
"""Pages of a TIFF: in one of 18 MB there can be a million, and each one takes time and memory."""
MOST_SCANS = 500
"""Scans of a JPEG, of which cameras and programs write some ten. Each goes over all pixels, be it progressive or not:
without a limit a file of a megabyte takes minutes."""
_DENSEST = 1032
"""Most bytes that one byte of a PNG can be unpacked to: Deflate codes a repetition of 258 bytes in two bits."""
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PILLOW_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34677, 50000}
"""Those that Pillow's libtiff decodes, of pages with 8 bits or fewer."""
_PILLOW_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
"""Photometric interpretation → number of its channels."""
_UNDONE = {6: 8, 8: 6}
"""The orientation that undoes another one, where it is another."""
_IN_DECODER = {"JPEG2000": lambda channels: 4 * channels, "WEBP": lambda _: 12}
"""Bytes of a pixel in decoders that take more than the picture: integers of 32 bits; two canvases besides it."""
_SHOWN = 3
"""Bytes of a pixel as it is shown."""
_BEGINNING = 1 << 16
"""Bytes at the beginning of a part of a TIFF within which its header lies."""
_JPEGS = {6, 7, 34892}
"""Compressions of TIFF whose parts are cut out of a JPEG, and may lack a header."""
_LERC = 34887
"""Compression of TIFF whose parts may be packed once more."""
_CODED = {*_JPEGS, _LERC, 22610, 33003, 33004, 33005, 33007, 34712, 34933, 34934, 50001, 50002, 52546}
"""Compressions of TIFF whose parts are pictures with headers: JPEG 2000, LERC, PNG, JPEG XR, WebP, JPEG XL.
The decoders of all others stop at the size that the page says."""
_Take = Callable[[int, float], None]
"""Takes room for so many pixels of so many bytes each, or raises `TooLarge`; to be called once, before decoding."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One page of an image file."""

    values: np.ndarray
    """(H, W) gray or (H, W, 3) RGB as stored, in the file's own type. The indices of a palette are resolved."""
    indices: np.ndarray | None = None
    """uint8 (H, W), the indices themselves; None without a palette."""
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
        UserError: The file is missing, truncated, no regular file, no image, larger than `common.data.limits` allow, or
            stored in a way that no decoder here knows; the reason is named.
    """
    with decoded(path, page) as found:
        return found


@contextmanager
def decoded(path: Path, page: int = 0) -> Generator[Decoded]:
    """A page of an image file as `decode` returns it, for those who convert it: its memory counts until the block ends.

    Raises:
        UserError: As `decode`, and for whatever goes wrong in the block.
    """
    check_regular(path)
    with ExitStack() as stack:

        def take(pixels: int, bytes_per_pixel: float) -> None:
            stack.enter_context(ROOM.taken(check_bytes(round(pixels * bytes_per_pixel)) + _SHOWN * pixels))

        try:
            found = _decode(path, page, take)
            if not found.values.size:
                raise ValueError("it has no pixels")
            yield found
        except UserError:
            raise
        except (TooLarge, Image.DecompressionBombError) as error:
            count = re.search(r"\((\d+) pixels", str(error))  # Pillow's, which counts before we can
            reason = too_many(f"{int(count[1]):,}", int(count[1])) if count else error
            raise UserError(f"{path} {reason}") from error
        except Exception as error:  # broken files raise anything
            reason = "it is no image of a known format" if isinstance(error, Image.UnidentifiedImageError) else error
            if isinstance(error, MemoryError):
                reason = "there is not enough memory for it"
            remedy = SUGGESTIONS.get(path.suffix.lower(), "Replace or remove the file")
            text = str(reason) or type(error).__name__
            raise UserError(f"{path} cannot be read as an image ({text}). {remedy}.") from error


def _decode(path: Path, page: int, take: _Take) -> Decoded:
    with path.open("rb") as file:
        start = file.read(32)
    if start[:4] in _TIFF_STARTS:
        return _decode_tiff(path, page, take)
    # All others are read as a whole by some decoder.
    check_bytes(path.stat().st_size)
    if start.startswith(headers.JPEG_XL_STARTS):
        return _decode_jpeg_xl(path, page, take)
    return _decode_with_pillow(path, page, take)


def pixel_count(file: Path | BinaryIO) -> int:
    """Number of pixels of an image by its header; 0 if it has none that can be read, or claims too many."""
    try:
        if isinstance(file, Path):
            check_regular(file)
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened:
            start = opened.read(32)
            opened.seek(0)
            if start[:4] in _TIFF_STARTS:
                with tifffile.TiffFile(opened) as tiff:
                    first = tiff.pages[0].aspage()
                    return check_pixels(first.imagewidth, first.imagelength)
            if start.startswith(headers.JPEG_XL_STARTS):
                return check_pixels(*headers.jpeg_xl(opened.read(_BEGINNING))[:2])
            with _opened(opened) as image:
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


def _opened(file: BinaryIO, formats: list[str] | None = None) -> Image.Image:
    """A file as Pillow opens it, without decoding; `TooLarge` if it claims too many pixels."""
    # Pillow's own limit holds for the whole process, and in ours it must not be below the user's. None is no limit.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit(PIXELS))
    if size := headers.webp(file.read(30)):  # its decoder takes memory when it is opened
        check_pixels(*size)
    file.seek(0)
    image = Image.open(file, formats=formats or _formats())
    try:
        check_pixels(*image.size)
    except TooLarge:
        image.close()
        raise
    return image


def _decode_with_pillow(path: Path, page: int, take: _Take) -> Decoded:
    loaded = _loaded(path, page, take)
    if isinstance(loaded, Decoded):
        return loaded
    codec, facts = loaded  # Pillow's picture is gone, so that the memory does not hold both
    return _split(codec(path.read_bytes()), facts)


def _loaded(path: Path, page: int, take: _Take) -> Decoded | tuple[Callable[[bytes], np.ndarray], dict[str, Any]]:
    """What Pillow decodes; or the codec for what it would cut to 8 bits, and what the file says of itself."""
    # As an open file: of a path, Pillow maps the pixels of some files, and dies with one that shrinks meanwhile.
    with path.open("rb") as file, _opened(file) as image:
        pages = getattr(image, "n_frames", 1) if image.format in PAGED else 1
        _seek(image, page, path)
        # Pillow keeps the upper 8 bits of 16-bit colours: a 12-bit micrograph would be almost black.
        deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) and not image.mode.startswith("I")
        channels = len(image.getbands())
        own = channels * (4 if image.mode in ("I", "F") else 1 + deep)
        if image.format in ("JPEG", "MPO"):
            _check_scans(path)
        if image.format == "PNG" and headers.png_bytes(_beginning(file)) > _DENSEST * path.stat().st_size:
            raise ValueError("it is truncated: so few bytes can't hold its pixels")
        if image.format == "JPEG2000" and headers.part_of_tiff(_beginning(file)) not in (None, image.size):
            raise ValueError("its headers contradict each other")
        take(check_pixels(*image.size), max(4, _IN_DECODER.get(image.format or "", lambda _: own)(channels)))
        image.load()
        facts: dict[str, Any] = {
            "channels": channels,
            "orientation": _valid(image.getexif().get(ORIENTATION)),
            "pages": pages,
            "lossy": image.format in ("JPEG", "MPO"),
        }
        if image.format == "PNG" and deep:
            if page:
                raise ValueError("its further pages have more than 8 bits; save them as single pictures")
            return imagecodecs.png_decode, facts
        coloured = image.format == "JPEG2000" and image.mode in ("RGB", "RGBA", "LA")
        if coloured and (headers.jpeg_2000_depth(_beginning(file)) or 16) > 8:
            return imagecodecs.jpeg2k_decode, facts
        return _converted(image, facts)


def _beginning(file: BinaryIO) -> bytes:
    """The first bytes of a file, whose position stays."""
    place = file.tell()
    file.seek(0)
    found = file.read(_BEGINNING)
    file.seek(place)
    return found


def _check_scans(path: Path) -> None:
    content = path.read_bytes()
    # The bytes of the marker may occur in what is appended, too. To walk from marker to marker takes almost as long as
    # decoding, so that it is done only where they occur often.
    if content.count(b"\xff\xda") > MOST_SCANS and (count := headers.jpeg_scans(content)) > MOST_SCANS:
        raise ValueError(f"it has {count:,} scans, and a JPEG needs no more than {MOST_SCANS}")


def _decode_jpeg_xl(path: Path, page: int, take: _Take) -> Decoded:
    data = path.read_bytes()
    header = headers.jpeg_xl(data)
    take(check_pixels(header.width, header.height), 4 * header.value_bytes)
    pages = _frames(data, header) if header.animated else 1
    if page >= pages:
        raise _no_page(path, page)
    pixels = imagecodecs.jpegxl_decode(data, index=page)  # upright
    if pixels.shape[:2] not in ((header.height, header.width), (header.width, header.height)):
        raise ValueError(f"it has {pixels.shape[0]} channels; save it as RGB or gray")
    return _split(pixels, {"channels": np.atleast_3d(pixels).shape[2], "pages": pages})


def _frames(data: bytes, header: headers.JpegXl) -> int:
    """Number of frames of a JPEG XL with animation, none of which is decoded."""
    try:
        imagecodecs.jpegxl_decode(data, out=np.empty(0, np.uint8))
    except (
        ValueError
    ) as error:  # it names the shape that the array must have: with frames in front, if there are several
        numbers = re.search(r" shape=\(([\d, ]+)\)", str(error))
        shape = tuple(int(number) for number in re.findall(r"\d+", numbers[1])) if numbers else ()
        for sides in ((header.height, header.width), (header.width, header.height)):
            if shape[:2] == sides:
                return 1
            if shape[1:3] == sides:
                return shape[0]
        if not numbers:
            raise
    raise ValueError("its frames can't be counted; save them as single pictures")


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
    if image.mode in ("P", "PA"):
        facts = facts | {"indices": np.asarray(image.getchannel("P"))}
    if image.mode == "F" or image.mode.startswith("I"):
        return Decoded(values=np.asarray(image), **facts)
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return Decoded(values=pixels[..., :3], alpha=_opacity(pixels[..., 3]), has_alpha=True, **facts)
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return Decoded(values=np.asarray(image), **facts)


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


def _decode_tiff(path: Path, page: int, take: _Take) -> Decoded:
    with tifffile.TiffFile(path) as tiff:
        full = _pages(tiff)
        if page >= len(full):
            raise _no_page(path, page)
        entry = tiff.pages[full[page]].aspage()
        pixels = check_pixels(entry.imagewidth, entry.imagelength)
        take(pixels, max(4, entry.nbytes / max(pixels, 1)))
        _check_parts(entry)
        tag = entry.tags.get(ORIENTATION)
        facts = {"channels": entry.samplesperpixel, "orientation": _valid(tag and tag.value), "pages": len(full)}
        if not _is_simple(entry):
            return _decode_deep(entry, facts)
    # As an open file: of a path, Pillow maps the pixels of some files into memory, and then turns them wrongly.
    with path.open("rb") as file, _opened(file, ["TIFF"]) as image:
        image.seek(full[page])
        if image.width * image.height != pixels:  # tags that are there twice; Pillow shows the sides upright
            raise ValueError("its tags contradict each other")
        image.load()  # which turns the image upright
        decoded = _converted(image, facts | {"lossy": int(entry.compression) in (6, 7)})
    indices, alpha = (
        None if plane is None else stored(plane, decoded.orientation) for plane in (decoded.indices, decoded.alpha)
    )
    return replace(decoded, values=stored(decoded.values, decoded.orientation), indices=indices, alpha=alpha)


def _pages(tiff: tifffile.TiffFile) -> list[int]:
    """The pages of a TIFF that are neither thumbnails nor masks; all if there are no others."""
    places, full = set(), []
    for number, page in enumerate(tiff.pages):
        if page.offset in places:
            raise ValueError("its pages go round in a circle")
        if number == MOST_PAGES:
            raise ValueError(f"it has more than {MOST_PAGES:,} pages; split it")
        places.add(page.offset)
        entry = page.aspage()
        if not (entry.is_reduced or entry.is_mask):
            full.append(number)
    return full or [*range(len(places))]


def _check_parts(page: tifffile.TiffPage) -> None:
    """Check what the strips or tiles of a page claim, each of which is decoded as a whole.

    Raises:
        TooLarge: They are too large.
        ValueError: One that is a coded picture is larger than the page says, of unknown size, or packed in a way that
            it can't be unpacked within a bound.
    """
    check_bytes(page.nbytes)
    sides = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    most = check_pixels(max(1, sides[0]), max(1, sides[1] if page.is_tiled else min(sides[1], page.imagelength)))
    each = page.nbytes / max(page.imagewidth * page.imagelength, 1)
    check_bytes(round(most * each))
    if int(page.compression) not in _CODED or _is_simple(page):
        return
    file, is_lerc = page.parent.filehandle, int(page.compression) == _LERC
    # Of LERC, any number of pictures may follow one another in a part, so that it is read as a whole.
    longest = file.size if is_lerc else _BEGINNING
    for place, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        file.seek(place)
        part = file.read(min(length, longest))
        if is_lerc and headers.is_packed(part):
            part = headers.unpacked(part, 2 * round(most * each) + _BEGINNING)
        if is_lerc and (layers := headers.lerc_layers(part)) > page.samplesperpixel * page.imagedepth:
            raise ValueError(f"a part of it has {layers} values of each pixel, more than the page says")
        size = headers.part_of_tiff(part)
        if size is None and int(page.compression) not in _JPEGS and length:
            raise ValueError(f"compression {getattr(page.compression, 'name', page.compression)}: a part has no header")
        if size is not None and size[0] * size[1] > 2 * most + _BEGINNING:
            raise ValueError(f"a part of it has {size[0]} × {size[1]} pixels, more than the page says")


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

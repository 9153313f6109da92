"""Sizes in the headers of coded pictures, read before a decoder allocates memory for them."""

import re
import struct
import zlib
from typing import NamedTuple

import imagecodecs

JPEG_XL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_JPEG_2000 = b"\xff\x4f\xff\x51"
"""Start of a codestream of JPEG 2000, and of the header that follows at once."""
_BOX = 8
"""Bytes of the header of a box: its length, itself included, and its kind."""
_ENOUGH = 64
"""Bytes at the beginning of a JPEG XL codestream that hold what is read of its header here."""
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width to height of JPEG XL, where the width is not stored."""
_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))
"""Least value and further bits of the four ways to store a side."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type of PNG → number of its channels."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG that begin a frame."""
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""A marker of JPEG that has a length, or is the end; those of restarts and of the start have neither."""
_SCAN, _END = 0xDA, 0xD9
"""Markers of JPEG that begin a scan, and end the picture."""
_LERC_1, _LERC_2 = b"CntZImage ", b"Lerc2 "
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


class JpegXl(NamedTuple):
    """What the header of a JPEG XL says."""

    width: int
    height: int
    animated: bool
    """Whether it may have more frames than one."""
    value_bytes: int
    """Bytes of a decoded value, at most."""


def jpeg_xl(data: bytes) -> JpegXl:
    """The header of a JPEG XL, a codestream or a container (ISO/IEC 18181-1, 18181-2).

    Raises:
        ValueError: It breaks off, or is none.
    """
    try:
        return _jpeg_xl(data)
    except (IndexError, struct.error) as error:
        raise ValueError("its header breaks off") from error


def _jpeg_xl(data: bytes) -> JpegXl:
    bits = _Bits(data[2 : 2 + _ENOUGH] if data.startswith(JPEG_XL_STARTS[0]) else _codestream(data)[2:])
    width, height = _sides(bits)
    if bits.take(1):  # all as usual
        return JpegXl(width, height, animated=False, value_bytes=1)
    if bits.take(1):  # further fields
        bits.take(3)  # orientation
        if bits.take(1):  # the size that it is meant to be shown at
            _sides(bits)
        if bits.take(1):  # a preview
            eighths = bits.take(1)
            ways = ((16, 0), (32, 0), (1, 5), (33, 9)) if eighths else ((1, 6), (65, 8), (321, 10), (1345, 12))
            bits.choose(ways)
            if not bits.take(3):
                bits.choose(ways)
        if bits.take(1):
            return JpegXl(width, height, animated=True, value_bytes=4)
    fractions = bits.take(1)
    depth = bits.choose(((32, 0), (16, 0), (24, 0), (1, 6)) if fractions else ((8, 0), (10, 0), (12, 0), (1, 6)))
    return JpegXl(width, height, animated=False, value_bytes=1 if depth <= 8 else 2 if depth <= 16 else 4)


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream in a container, which may be in pieces."""
    place, found = 0, b""
    while len(found) < _ENOUGH and place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        start = place + _BOX
        if length == 1:  # it follows, in eight bytes
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = place + length if length else len(data)  # 0: to the end
        if end < start:
            raise ValueError("its boxes are broken")
        if kind in (b"jxlc", b"jxlp"):
            found += data[start + 4 * (kind == b"jxlp") : min(end, start + 4 + _ENOUGH)]
        if kind == b"jxlc":
            break
        place = end
    if not found.startswith(JPEG_XL_STARTS[0]):
        raise ValueError("it holds no picture")
    return found


class _Bits:
    """Bits of bytes, the lowest first."""

    def __init__(self, data: bytes):
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise IndexError(count)
        taken = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        return taken

    def choose(self, ways: tuple[tuple[int, int], ...]) -> int:
        least, count = ways[self.take(2)]
        return least + self.take(count)


def _sides(bits: _Bits) -> tuple[int, int]:
    """Width and height."""
    eighths = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if eighths else bits.choose(_SIDES)

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    across, down = _RATIOS[ratio]
    return height * across // down, height


def webp(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP by its first 30 bytes; None if it is none."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        sides = int.from_bytes(data[21:25], "little")
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def png_bytes(data: bytes) -> int:
    """Bytes of the pixels of a PNG before they were packed, by its first 26 bytes; 0 if it is none."""
    if len(data) < 26 or data[12:16] != b"IHDR":
        return 0
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    return height * (width * depth * _CHANNELS.get(colour, 1) + 7) // 8


def jpeg_2000_depth(data: bytes) -> int | None:
    """Bits of the first channel of a JPEG 2000 by the header of its codestream; None if that can't be found."""
    start = data.find(_JPEG_2000)
    return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else None


def part_of_tiff(data: bytes) -> tuple[int, int] | None:
    """Width and height of a strip or tile that is coded as a picture of its own; None if its header can't be read.

    Args:
        data: Its beginning: JPEG, JPEG 2000, JPEG XL, JPEG XR, WebP, PNG or LERC.
    """
    try:
        if data.startswith(b"\x89PNG") and data[12:16] == b"IHDR":
            return struct.unpack_from(">II", data, 16)
        if data.startswith(JPEG_XL_STARTS):
            return jpeg_xl(data)[:2]
        if data.startswith(_LERC_2):
            (version,) = struct.unpack_from("<i", data, 6)
            height, width = struct.unpack_from("<II", data, 14 if version >= 3 else 10)
            return width, height
        if data.startswith(_LERC_1):
            height, width = struct.unpack_from("<ii", data, 18)
            return max(width, 0), max(height, 0)
        if data.startswith(b"II\xbc"):
            return _jpeg_xr(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if (start := data.find(_JPEG_2000)) >= 0:
            right, below, left, above = struct.unpack_from(">4I", data, start + 8)
            return max(right - left, 0), max(below - above, 0)
    except (ValueError, IndexError, struct.error):
        return None
    return webp(data)


def _jpeg_xr(data: bytes) -> tuple[int, int] | None:
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    sides = {}
    for number in range(count):
        tag, kind, _, value = struct.unpack_from("<HHII", data, place + 2 + 12 * number)
        sides[tag] = value & (0xFFFF if kind == 3 else 0xFF if kind == 1 else 0xFFFFFFFF)
    return (sides[0xBC80], sides[0xBC81]) if {0xBC80, 0xBC81} <= sides.keys() else None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    place = 2
    while True:
        mark, kind, length = struct.unpack_from(">BBH", data, place)
        if mark != 0xFF:
            return None
        if kind == 0xFF or 0xD0 <= kind <= 0xD8 or kind == 1:  # a filling byte; marks without content
            place += 1 if kind == 0xFF else 2
        elif kind in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        else:
            place += 2 + length


def jpeg_scans(data: bytes) -> int:
    """Number of scans of a JPEG, up to the end of its picture: what is appended there may hold any bytes."""
    place = count = 0
    while found := _MARKER.search(data, place):
        kind, place = data[found.start(1)], found.end()
        if kind == _END:
            break
        count += kind == _SCAN
        place += int.from_bytes(data[place : place + 2])
    return count


def lerc_layers(data: bytes) -> int:
    """Values of each pixel of a part of a TIFF with LERC: of all pictures that follow one another in it."""
    layers = data.count(_LERC_1)
    for found in re.finditer(_LERC_2, data):
        start = found.start()
        version, layer = int.from_bytes(data[start + 6 : start + 10], "little"), data[start + 22 : start + 26]
        layers += int.from_bytes(layer, "little") if version >= 4 else 1
    return layers


def is_packed(data: bytes) -> bool:
    """Whether a part of a TIFF with LERC was packed once more, by Zstandard or zlib, as LercParameters (50674) say."""
    return data.startswith(_ZSTANDARD) or (
        len(data) >= 2 and data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
    )


def unpacked(data: bytes, most: int) -> bytes:
    """What was packed by Zstandard or zlib.

    Raises:
        ValueError: It is broken, or more than `most` bytes.
    """
    try:
        if data.startswith(_ZSTANDARD):
            return bytes(imagecodecs.zstd_decode(data, out=most))
        found = zlib.decompressobj().decompress(data, most + 1)
        if len(found) > most:
            raise ValueError("there are more")
    except (imagecodecs.ZstdError, zlib.error, ValueError) as error:
        raise ValueError(f"a part of it can't be unpacked into {most:,} bytes ({error})") from error
    return found

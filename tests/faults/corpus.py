"""Malformed files of all kinds that the programs read: truncated, changed, mislabelled, contradictory, or endless.

The same bytes each time. `python -m tests.faults.corpus DIR` writes them.
"""

import io
import json
import pickle
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import av
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 40, 56


def make_corpus(folder: Path) -> list[Path]:
    """Write the files, a folder for each kind; returns them in order."""
    made = []
    for kind, makers in KINDS.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        names: set[str] = set()
        for maker in makers:
            for name, content in maker():
                assert name not in names, name
                names.add(name)
                (folder / kind / name).write_bytes(content)
                made.append(folder / kind / name)
    return made


def damaged(name: str, content: bytes, seeds: int = 3) -> Iterator[tuple[str, bytes]]:
    """A sound file: truncated, with flipped bits, with zeros inside, without its beginning, and with bytes appended."""
    stem, _, suffix = name.rpartition(".")
    for share in (0.1, 0.5, 0.9):
        yield f"{stem}_cut_{share}.{suffix}", content[: int(share * len(content))]
    yield f"{stem}_cut_1_byte.{suffix}", content[:-1]
    for seed in range(seeds):
        rng = np.random.default_rng([seed, len(content)])
        changed = bytearray(content)
        reach = len(changed) if seed else min(len(changed), 200)  # the first one in the header
        for place in rng.integers(4, reach, 6):
            changed[place] ^= 1 << int(rng.integers(8))
        yield f"{stem}_bits_{seed}.{suffix}", bytes(changed)
    third = len(content) // 3
    yield f"{stem}_hole.{suffix}", content[:third] + bytes(third) + content[2 * third :]
    yield f"{stem}_headless.{suffix}", content[8:]
    yield f"{stem}_tail.{suffix}", content + b"\xff\x00rubbish" * 9


def nothing_of(suffix: str) -> Iterator[tuple[str, bytes]]:
    """Files whose content is of another kind than their suffix says."""
    yield f"empty{suffix}", b""
    yield f"zeros{suffix}", bytes(3000)
    yield f"text{suffix}", b"This is no file of that kind.\n" * 20
    yield f"zip{suffix}", _zip({"a.txt": b"text"})
    yield f"pickle{suffix}", pickle.dumps({"a": [1, 2, 3]})
    yield f"noise{suffix}", np.random.default_rng(0).bytes(4000)


# --- pictures


def picture(kind: type[np.unsignedinteger] = np.uint8) -> np.ndarray:
    """A smooth gradient of colours with noise, (H, W, 3)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(1).integers(0, 60, (HEIGHT, WIDTH, 3))
    eight = (np.stack([4 * x, 5 * y, 2 * (x + y)], axis=2) % 190 + noise).astype(np.uint8)
    return eight if kind == np.uint8 else eight.astype(kind) * 200


def _saved(pixels: np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def _tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


@cache
def sound_pictures() -> dict[str, bytes]:
    """A sound file of each format and way to store it."""
    eight, deep = picture(), picture(np.uint16)
    frames = [Image.fromarray(np.roll(eight, shift, axis=0)) for shift in (3, 9)]
    many = {"save_all": True, "append_images": frames}
    return {
        "rgb.png": _saved(eight, "PNG"),
        "palette.png": _saved(np.asarray(Image.fromarray(eight).convert("P")), "PNG"),
        "deep.png": bytes(imagecodecs.png_encode(deep)),
        "frames.png": _saved(eight, "PNG", **many),
        "plain.jpg": _saved(eight, "JPEG"),
        "progressive.jpg": _saved(eight, "JPEG", progressive=True, exif=_exif()),
        "plain.tif": _saved(eight, "TIFF"),
        "lzw.tif": _saved(eight, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": _saved(eight, "TIFF", compression="jpeg"),
        "deep.tif": _tiff(deep, photometric="rgb", compression="deflate", rowsperstrip=16),
        "tiles.tif": _tiff(deep, photometric="rgb", tile=(16, 16), compression="zstd"),
        "float.tif": _tiff(deep[..., 0].astype(np.float32), compression="lzw", predictor=True),
        "jpeg2000.tif": _tiff(deep, photometric="rgb", compression="jpeg2000"),
        "jpegxl.tif": _tiff(deep, photometric="rgb", compression="jpegxl"),
        "pages.tif": _tiff(np.stack([deep[..., 0]] * 3), photometric="minisblack"),
        "big.tif": _tiff(eight, photometric="rgb", bigtiff=True, byteorder=">"),
        "plain.bmp": _saved(eight, "BMP"),
        "frames.gif": _saved(eight, "GIF", **many),
        "plain.webp": _saved(eight, "WEBP"),
        "frames.webp": _saved(eight, "WEBP", **many),
        "plain.jp2": _saved(eight, "JPEG2000"),
        "deep.jp2": bytes(imagecodecs.jpeg2k_encode(deep, codecformat="jp2")),
        "plain.avif": _saved(eight, "AVIF"),
        "plain.jxl": bytes(imagecodecs.jpegxl_encode(eight)),
        "frames.jxl": bytes(imagecodecs.jpegxl_encode(np.stack([eight] * 3))),
    }


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def damaged_pictures() -> Iterator[tuple[str, bytes]]:
    """Each format, damaged in each way."""
    for name, content in sound_pictures().items():
        yield from damaged(name, content, seeds=2)


def mislabelled_pictures() -> Iterator[tuple[str, bytes]]:
    """Files of one kind that are named like another one, and files that are no pictures at all."""
    for suffix in (".png", ".jpg", ".tif", ".jp2", ".jxl", ".webp", ".avif", ".gif", ".heic", ".bmp"):
        yield from nothing_of(suffix)
    yield "postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    yield "svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "html.jpg", b"<!DOCTYPE html><html><body>404 not found</body></html>"
    yield "playlist.gif", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """A chunk of a PNG; the length that it claims may be another one."""
    claimed = len(data) if length is None else length
    return struct.pack(">I", claimed) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    """A PNG of chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def header(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """The header of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def wrong_png() -> Iterator[tuple[str, bytes]]:
    """PNG whose chunks contradict their content."""
    pixels, end = chunk(b"IDAT", zlib.compress(bytes(13 * 4))), chunk(b"IEND", b"")
    for name, sides in {
        "huge": (60_000, 60_000),
        "wide": (2**31 - 1, 1),
        "tall": (1, 2**31 - 1),
        "most": (2**31 - 1,) * 2,
    }.items():
        yield f"claims_{name}.png", png(header(*sides), pixels, end)
    yield "claims_deep.png", png(header(22_000, 22_000, 16, 6), pixels, end)
    yield "no_width.png", png(header(0, 4), pixels, end)
    yield "no_pixels.png", png(header(4, 4), end)
    yield "no_end.png", png(header(4, 4), pixels)
    yield "depth_3.png", png(header(4, 4, 3), pixels, end)
    yield "colour_9.png", png(header(4, 4, 8, 9), pixels, end)
    yield "two_headers.png", png(header(4, 4), header(60_000, 60_000), pixels, end)
    yield "chunk_4GB.png", png(header(4, 4), chunk(b"IDAT", b"", 2**32 - 1), pixels, end)
    yield "chunk_2GB_first.png", png(chunk(b"tEXt", b"a", 2**31 - 1), header(4, 4), pixels, end)
    yield "text_bomb.png", png(header(4, 4), chunk(b"zTXt", b"a\0\0" + _deflated(64 << 20)), pixels, end)
    yield "profile_bomb.png", png(header(4, 4), chunk(b"iCCP", b"a\0\0" + _deflated(64 << 20)), pixels, end)
    yield "pixels_bomb.png", png(header(4, 4), chunk(b"IDAT", _deflated(256 << 20)), end)
    yield "no_palette.png", png(header(4, 4, 8, 3), pixels, end)
    yield "short_palette.png", png(header(4, 4, 8, 3), chunk(b"PLTE", b"\1\2\3\4"), pixels, end)
    yield "frames_4G.png", png(header(4, 4), chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0)), pixels, end)
    yield "wrong_checksum.png", png(header(4, 4), pixels[:-4] + b"\0\0\0\0", end)


@cache
def _deflated(size: int) -> bytes:
    packer = zlib.compressobj(1)
    block = bytes(1 << 20)
    return b"".join([packer.compress(block) for _ in range(size >> 20)] + [packer.flush()])


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes = b"", following: int = 0) -> bytes:
    """A TIFF of one page: tag → type (3 or 4) and values; offsets of 0 become that of the data."""
    width = {3: "H", 4: "I"}
    place = 8 + 2 + 12 * len(tags) + 4
    extra = b"".join(struct.pack(f"<{len(v)}{width[k]}", *v) for k, v in tags.values() if len(v) * (k * 2 - 4) > 4)
    start, extra = place + len(extra), b""
    content = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, (kind, values) in sorted(tags.items()):
        values = [start if tag in (273, 324) and not value else value for value in values]
        raw = struct.pack(f"<{len(values)}{width[kind]}", *values)
        if len(raw) <= 4:
            field = raw.ljust(4, b"\0")
        else:
            field = struct.pack("<I", place + len(extra))
            extra += raw
        content += struct.pack("<HHI", tag, kind, len(values)) + field
    return content + struct.pack("<I", following) + extra + data


def page(width: int, height: int, bits: int = 8, compression: int = 1, size: int = 0, **more: int) -> dict:
    """The tags of a gray page in one strip of so many bytes."""
    tags = {256: width, 257: height, 259: compression, 262: 1, 273: 0, 277: 1, 278: height, 279: size}
    tags |= {int(name[1:]): value for name, value in more.items()}
    return {258: (3, [bits])} | {tag: (4, [value]) for tag, value in tags.items()}


def wrong_tiff() -> Iterator[tuple[str, bytes]]:
    """TIFF whose tags contradict their content."""
    small = zlib.compress(bytes(2000))
    for bits in (8, 16):
        yield f"claims_huge_{bits}.tif", tiff(page(60_000, 60_000, bits, 8, len(small)), small)
        yield f"claims_lzw_{bits}.tif", tiff(page(60_000, 60_000, bits, 5, 99), imagecodecs.lzw_encode(bytes(9999)))
        tile = page(64, 64, bits, 8, len(small)) | {322: (4, [59_984]), 323: (4, [59_984])}
        tile |= {324: tile.pop(273), 325: tile.pop(279)}
        yield f"huge_tile_{bits}.tif", tiff(tile, small)
        bomb = _deflated(256 << 20)
        yield f"strip_bomb_{bits}.tif", tiff(page(64, 64, bits, 8, len(bomb)), bomb)
        yield f"no_width_{bits}.tif", tiff(page(0, 64, bits), bytes(4096))
        yield f"beyond_the_end_{bits}.tif", tiff(page(64, 64, bits, 1, 2**31) | {273: (4, [2**32 - 9])}, bytes(99))
        yield f"depth_2G_{bits}.tif", tiff(page(64, 64, bits, 8, len(small), t32997=2**31), small)
        yield f"rows_0_{bits}.tif", tiff(page(64, 64, bits, 1, 4096, t278=0), bytes(8192))
        yield f"samples_60000_{bits}.tif", tiff(page(64, 64, bits, 1, 4096) | {277: (3, [60_000])}, bytes(8192))
    parts = {
        "jpeg2000": (34712, imagecodecs.jpeg2k_encode(np.zeros((3000, 3000), np.uint16), codecformat="j2k")),
        "jpegxl": (50002, imagecodecs.jpegxl_encode(np.zeros((3000, 3000), np.uint16), effort=1)),
        "png": (34933, imagecodecs.png_encode(np.zeros((3000, 3000), np.uint16))),
        "jpegxr": (34934, imagecodecs.jpegxr_encode(np.zeros((3000, 3000), np.uint16))),
        "lerc": (34887, imagecodecs.lerc_encode(np.zeros((3000, 3000), np.uint16))),
    }
    for name, (compression, data) in parts.items():
        yield f"part_{name}.tif", tiff(page(64, 64, 16, compression, len(data)), bytes(data))
        yield f"part_text_{name}.tif", tiff(page(64, 64, 16, compression, 400), b"text" * 100)
    layers = bytes(imagecodecs.lerc_encode(np.zeros((64, 64, 20_000), np.uint16), planar=False))
    yield "layers_lerc.tif", tiff(page(64, 64, 16, 34887, len(layers)), layers)
    bomb = _deflated(256 << 20)
    yield "bomb_lerc.tif", tiff(page(64, 64, 16, 34887, len(bomb)), bomb)
    yield "compression_9999.tif", tiff(page(64, 64, 16, 9999, 400), bytes(400))
    yield "photometric_777.tif", tiff(page(64, 64, 8, 1, 4096, t262=777), bytes(4096))
    yield "bits_77.tif", tiff(page(64, 64, 77, 1, 4096), bytes(4096))
    yield (
        "tag_of_4G_values.tif",
        tiff(page(64, 64, 16, 1, 8192), bytes(8192)).replace(
            struct.pack("<HHI", 258, 3, 1), struct.pack("<HHI", 258, 3, 2**32 - 1)
        ),
    )
    yield "own_next.tif", tiff(page(64, 64, 16, 1, 8192), bytes(8192), following=8)
    yield "next_nowhere.tif", tiff(page(64, 64, 16, 1, 8192), bytes(8192), following=2**31)
    yield "no_pages.tif", b"II*\0" + bytes(8)
    yield "no_tags.tif", b"II*\0" + struct.pack("<IHI", 8, 0, 0)
    yield "circle.tif", _pages([*range(1, 300), 150])
    yield "pages_5000.tif", _pages([*range(1, 5000), 0])
    yield "subifd_loop.tif", tiff(page(64, 64, 8, 1, 4096, t330=8), bytes(4096))


def _pages(following: list[int]) -> bytes:
    pages = (struct.pack("<HHHIII", 1, 256, 4, 1, 64, 8 + 18 * number if number else 0) for number in following)
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def wrong_others() -> Iterator[tuple[str, bytes]]:
    """Files of other formats whose headers contradict their content."""
    sound = sound_pictures()
    webp = bytearray(sound["frames.webp"])
    place = webp.find(b"VP8X")
    for name, side in (("huge", 60_000), ("most", 2**24)):
        webp[place + 12 : place + 18] = (side - 1).to_bytes(3, "little") * 2
        yield f"claims_{name}.webp", bytes(webp)
    for name in ("plain.jp2", "deep.jp2"):
        both = bytearray(sound[name])
        box, stream = both.find(b"ihdr"), both.find(b"\xff\x4f\xff\x51")
        both[box + 4 : box + 12] = struct.pack(">II", 60_000, 60_000)
        yield f"claims_box_{name}", bytes(both)
        both[stream + 8 : stream + 16] = both[stream + 24 : stream + 32] = struct.pack(">II", 60_000, 60_000)
        yield f"claims_both_{name}", bytes(both)
        both[box + 4 : box + 12] = struct.pack(">II", HEIGHT, WIDTH)
        yield f"claims_stream_{name}", bytes(both)
        tiny = bytearray(sound[name])
        tiny[stream + 24 : stream + 32] = struct.pack(">II", 1, 1)
        yield f"tiny_tiles_{name}", bytes(tiny)
    jpeg = bytearray(sound["plain.jpg"])
    frame = jpeg.find(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    yield "claims_huge.jpg", bytes(jpeg)
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 0, 0)
    yield "no_sides.jpg", bytes(jpeg)
    layers = sound["progressive.jpg"]
    scan = layers[layers.rfind(b"\xff\xda") : -2]
    plain = sound["plain.jpg"]
    start = plain.rfind(b"\xff\xda")
    head = plain[start : start + 2 + int.from_bytes(plain[start + 2 : start + 4])]
    yield "empty_scans_5000.jpg", plain[:-2] + 5000 * head + plain[-2:]
    yield "scans_5000.jpg", layers[:-2] + 5000 * scan + layers[-2:]
    yield "claims_huge.gif", b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + sound["frames.gif"][13:]
    frame = b"\x21\xf9\x04\0\0\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x4c\1\0"
    yield "frames_20000.gif", b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0x80, 0, 0) + bytes(6) + 20_000 * frame + b";"
    larger = frame.replace(struct.pack("<HHHH", 0, 0, 1, 1), struct.pack("<HHHH", 65_000, 65_000, 500, 500))
    yield "frame_outside.gif", b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0x80, 0, 0) + bytes(6) + larger + b";"
    bmp = bytearray(sound["plain.bmp"])
    for name, sides in (("huge", (60_000, 60_000)), ("negative", (-5, -5)), ("most", (2**31 - 1, -(2**31)))):
        bmp[18:26] = struct.pack("<ii", *sides)
        yield f"claims_{name}.bmp", bytes(bmp)
    bmp = bytearray(sound["plain.bmp"])
    bmp[10:14] = struct.pack("<I", 2**32 - 1)
    yield "pixels_nowhere.bmp", bytes(bmp)
    bmp[14:18] = struct.pack("<I", 2**31)
    yield "header_2GB.bmp", bytes(bmp)
    avif = bytearray(sound["plain.avif"])
    place = avif.find(b"ispe")
    avif[place + 8 : place + 16] = struct.pack(">II", 60_000, 60_000)
    yield "claims_huge.avif", bytes(avif)
    for name, bits in (("huge", 60_000), ("most", 2**30)):
        yield f"claims_{name}.jxl", _jxl(bits, bits) + sound["plain.jxl"][12:]
    boxes = b"\0\0\0\x0cJXL \r\n\x87\n"
    yield "box_of_0.jxl", boxes + struct.pack(">I4s", 0, b"jxlc")
    yield "box_too_short.jxl", boxes + struct.pack(">I4s", 3, b"jxlc") + bytes(99)
    yield "box_of_16EB.jxl", boxes + struct.pack(">I4sQ", 1, b"jxlc", 2**64 - 1) + bytes(99)
    yield "boxes_without_picture.jxl", boxes + struct.pack(">I4sI", 12, b"Exif", 0) * 50


def _jxl(width: int, height: int) -> bytes:
    bits, count = 0, 0

    def put(value: int, n: int) -> None:
        nonlocal bits, count
        bits |= value << count
        count += n

    put(0, 1)
    for side, ratio in ((height, True), (width, False)):
        put(3, 2)
        put(side - 1, 30)
        if ratio:
            put(0, 3)
    put(1, 1)
    return b"\xff\x0a" + bits.to_bytes((count + 7) // 8, "little")


# --- masks and maps


def npy(array_header: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file with a header that may say anything."""
    text = array_header.encode("latin1")
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + content


def _array(values: np.ndarray, *, objects: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=objects)
    return buffer.getvalue()


def wrong_arrays() -> Iterator[tuple[str, bytes]]:
    """Arrays that are no valid masks or maps."""
    sound = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    sound[:, 5:20, 7:30] = 1
    yield from damaged("mask.npy", _array(sound))
    yield from nothing_of(".npy")
    zipped = io.BytesIO()
    np.savez(zipped, sound)
    yield "npz.npy", zipped.getvalue()
    shapes = [
        "(1, 1000000, 1000000)",
        "(1099511627776,)",
        "(-1, 40, 56)",
        "(0, 40, 56)",
        "(1, 0, 56)",
        "()",
        "(40.5, 56)",
    ]
    shapes += ["(2, 3, 4, 5)", "(True, 40)", "'all'", "(9223372036854775808, 9223372036854775808)", "[40, 56]"]
    for number, shape in enumerate(shapes):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        yield f"shape_{number}.npy", npy(text, bytes(4480))
    kinds = ["|O", "<U5", "<c16", "|V8", "<M8[s]", "[('a', '<i4')]", "<f99", "('|u1', (1000, 1000, 1000, 100))", ""]
    for number, kind in enumerate(kinds):
        shown = kind if kind.startswith(("[", "(")) else repr(kind)
        text = f"{{'descr': {shown}, 'fortran_order': False, 'shape': (4, 4), }}"
        yield f"type_{number}.npy", npy(text, bytes(4480))
    yield "header_deep.npy", npy("(" * 9000)
    yield "header_code.npy", npy("__import__('os').abort()")
    yield "header_4GB.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{"
    yield "version_9.npy", npy("{}", version=(9, 9))
    yield "objects.npy", _array(np.array([{"a": 1}], dtype=object), objects=True)
    yield "nan.npy", _array(np.full((HEIGHT, WIDTH), np.nan, np.float32))
    yield "infinite.npy", _array(np.full((HEIGHT, WIDTH), np.inf, np.float32))
    yield "negative.npy", _array(np.full((HEIGHT, WIDTH), -3, np.int32))
    yield "fortran.npy", _array(np.asfortranarray(sound))
    yield "swapped.npy", _array(sound.astype(">i4"))


# --- tables, settings, annotations


def wrong_tables() -> Iterator[tuple[str, bytes]]:
    """CSV files that are no tables, or have unexpected columns or quotes."""
    sound = b'case_id,annotation,file\n1,authentic,a.png\n2,"[1, 2]",b.png\n'
    yield from damaged("table.csv", sound)
    yield from nothing_of(".csv")
    yield "open_quote.csv", b'case_id,file\n1,"a.png\n2,b.png\n'
    yield "quote_inside.csv", b'case_id,file\n1,a"b".png\n2,"b"c.png\n'
    yield "latin1.csv", "case_id,file\n1,\xe9.png\n".encode("latin1")
    yield "utf16.csv", "case_id,file\n1,a.png\n".encode("utf-16")
    yield "nul.csv", b"case_id,file\n1,a\0b.png\n"
    yield "returns.csv", b"case_id,file\r1,a.png\r2,b.png\r"
    yield "more_fields.csv", b"case_id,file\n1,a.png,b,c\n"
    yield "same_columns.csv", b"case_id,case_id,file\n1,2,a.png\n"
    yield "empty_columns.csv", b"case_id,file,,\n1,a.png,,\n2,b.png,,c\n"
    yield "head_only.csv", b"case_id,file\n"
    yield "no_head.csv", b"\n\n\n1,a.png\n"
    yield "long_field.csv", b"case_id,file\n1," + b"a" * 300_000 + b"\n"
    yield "many_columns.csv", b"case_id,file" + b",c" * 5_000 + b"\n"


def wrong_json() -> Iterator[tuple[str, bytes]]:
    """JSON files that are no valid settings."""
    yield from damaged(
        "settings.json", json.dumps({"members": {"ela": 0.5}, "pixel_threshold": 0.3}, indent=1).encode()
    )
    yield from nothing_of(".json")
    yield "deep.json", b"[" * 100_000
    yield "deep_dictionary.json", b'{"a":' * 100_000
    yield "number.json", b"5"
    yield "null.json", b"null"
    yield "nan.json", b'{"pixel_threshold": NaN}'
    yield "infinite.json", b'{"pixel_threshold": 1e999}'
    yield "digits.json", b'{"pixel_threshold": ' + b"9" * 10_000 + b"}"
    yield "twice.json", b'{"pixel_threshold": 0.1, "pixel_threshold": 0.9}'
    yield "surrogate.json", b'{"\\ud800": "\\udfff"}'


# --- papers, videos, checkpoints, shards


def wrong_papers() -> Iterator[tuple[str, bytes]]:
    """Malformed PDF files."""
    buffer = io.BytesIO()
    first, second = Image.fromarray(picture()).resize((300, 200)), Image.fromarray(picture()[::-1]).resize((200, 200))
    first.save(buffer, "PDF", save_all=True, append_images=[second], creationDate=0, modDate=0)
    sound = buffer.getvalue()
    yield from damaged("paper.pdf", sound, seeds=6)
    yield from nothing_of(".pdf")
    yield (
        "claims_huge.pdf",
        sound.replace(b"/Width 300", b"/Width 2000000000").replace(b"/Height 200", b"/Height 2000000000"),
    )
    yield "wide.pdf", sound.replace(b"/Width 300", b"/Width 60000").replace(b"/Height 200", b"/Height 60000")
    yield "negative.pdf", sound.replace(b"/Width 300", b"/Width -300")
    yield "page_without_end.pdf", sound.replace(b"/MediaBox", b"/MediaBux")
    yield "box_1e30.pdf", sound.replace(b"/MediaBox [ 0 0 ", b"/MediaBox [ 0 0 1e30 1e30 ")
    yield (
        "own_parent.pdf",
        (
            b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[2 0 R]/Count 9>>endobj\n"
            b"trailer<</Root 1 0 R>>"
        ),
    )
    yield "no_pages.pdf", b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>"
    yield "start_only.pdf", b"%PDF-1.7\n"


def _video(form: str, codec: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.{form}"
        with av.open(path, "w", options={"fflags": "+bitexact"}) as container:  # without a random id
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.thread_count = 1
            for number in range(12):
                pixels = np.ascontiguousarray(np.roll(np.resize(picture(), (48, 64, 3)), 3 * number, axis=1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode())
        return Path(path).read_bytes()


def wrong_videos() -> Iterator[tuple[str, bytes]]:
    """Malformed video files."""
    for form, codec in (("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "mpeg4"), ("mov", "mjpeg")):
        yield from damaged(f"clip.{form}", _video(form, codec), seeds=3)
    for suffix in (".mp4", ".avi", ".webm"):
        yield from nothing_of(suffix)
    yield "playlist.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield "concat.mkv", b"ffconcat version 1.0\nfile /etc/passwd\n"
    sound = _video("mp4", "libx264")
    huge = bytearray(sound)
    place = huge.find(b"avc1") + 28
    huge[place : place + 4] = struct.pack(">HH", 65_535, 65_535)
    yield "claims_huge.mp4", bytes(huge)
    for name in (b"stts", b"stsz", b"stco", b"stsc"):
        claims = bytearray(sound)
        place = claims.find(name) + 8
        claims[place : place + 8] = b"\x7f\xff\xff\xff" * 2
        yield f"claims_{name.decode()}.mp4", bytes(claims)
    yield "box_of_4GB.mp4", sound[:32] + b"\xff\xff\xff\xffmoov" + sound[40:]
    yield "sound_missing.mp4", sound.replace(b"vide", b"soun")


def wrong_checkpoints() -> Iterator[tuple[str, bytes]]:
    """Malformed checkpoints and compact weights."""
    import torch

    buffer = io.BytesIO()
    torch.save({"model_state_dict": {"weight": torch.arange(60.0)}, "config": {"in_channels": 3}, "epoch": 1}, buffer)
    yield from damaged("network.pth", buffer.getvalue())
    yield from nothing_of(".pth")
    yield "number.pth", _torch(5)
    yield "list.pth", _torch([1, 2])
    yield "weights_are_text.pth", _torch(dict.fromkeys(("model_state_dict", "epoch", "config"), "text"))
    yield "weights_have_text.pth", _torch({"model_state_dict": {"a": "text"}, "epoch": 0, "config": {}})
    yield "code.pth", pickle.dumps(_Code())
    yield "sound.zip.pth", _zip({"archive/data.pkl": pickle.dumps(_Code()), "archive/version": b"3"})
    yield "old_format.pth", _torch({"epoch": 0}, _use_new_zipfile_serialization=False)
    packed = _safetensors(checkpoint="{}", crc32="0")
    yield from damaged("compact.safetensors", packed)
    yield from nothing_of(".safetensors")
    yield "header_8EB.safetensors", struct.pack("<Q", 2**63 - 1) + packed[8:]
    yield "offsets.safetensors", packed.replace(b"240]", b"999]")
    yield "shape.safetensors", packed.replace(b'"shape":[60]', b'"shape":[99]')
    yield "deep.safetensors", struct.pack("<Q", 50_000) + b"[" * 50_000
    yield "no_checkpoint.safetensors", _safetensors()
    yield "checkpoint_deep.safetensors", _safetensors(checkpoint="[" * 50_000, crc32="0")
    yield "checkpoint_number.safetensors", _safetensors(checkpoint="5", crc32="0")


def _safetensors(**metadata: str) -> bytes:
    # By hand: the library writes the entries in an order of its own each time.
    text = json.dumps(
        {"__metadata__": metadata, "weight": {"dtype": "F32", "shape": [60], "data_offsets": [0, 240]}},
        separators=(",", ":"),
    ).encode()
    return struct.pack("<Q", len(text)) + text + np.arange(60, dtype=np.float32).tobytes()


class _Code:
    def __reduce__(self):
        return sys.exit, (77,)


def _torch(value: object, **options: bool) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def wrong_shards() -> Iterator[tuple[str, bytes]]:
    """Malformed tar files."""
    sound = _tar({"a.png": sound_pictures()["rgb.png"], "sub/b.jpg": b"no picture", "c.txt": b"text"})
    yield from damaged("shard.tar", sound, seeds=6)
    yield from nothing_of(".tar")
    yield "same_names.tar", _tar({"a.png": b"1"})[:-10240] + _tar({"a.png": b"2"})
    yield "paths.tar", _tar({"../../../outside.png": b"1", "/absolute.png": b"2", "a\nb.png": b"3"})
    for kind, name in ((tarfile.SYMTYPE, "link"), (tarfile.FIFOTYPE, "pipe"), (tarfile.GNUTYPE_SPARSE, "sparse")):
        yield f"{name}.tar", _tar({"a.png": b"1"}, kind)
    for text in (b"77777777777\0", b"-0000000001\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"not a number"):
        claimed = bytearray(_tar({"a.png": bytes(600)}))
        claimed[124:136] = text
        claimed[148:156] = b" " * 8
        claimed[148:156] = b"%06o\0 " % sum(claimed[:512])
        yield f"size_{text[:2].hex()}.tar", bytes(claimed)


def _tar(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = (
                len(content),
                kind,
                "/etc/passwd" if kind == tarfile.SYMTYPE else "",
            )
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


KINDS: dict[str, list[Callable[[], Iterator[tuple[str, bytes]]]]] = {
    "images": [damaged_pictures, mislabelled_pictures, wrong_png, wrong_tiff, wrong_others],
    "masks": [wrong_arrays],
    "tables": [wrong_tables],
    "settings": [wrong_json],
    "papers": [wrong_papers],
    "videos": [wrong_videos],
    "models": [wrong_checkpoints],
    "shards": [wrong_shards],
}
"""Folder → what makes its files."""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.faults.corpus DIR")
    print(f"{len(make_corpus(Path(sys.argv[1])))} files in {sys.argv[1]}")

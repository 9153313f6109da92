"""Sizes by headers, against what was written: all formats, sizes and ways to store them."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.data import headers
from common.data.decoding import decode
from common.data.images import read_image, read_picture
from common.errors import UserError
from tests.faults.corpus import page, tiff

SIDES = st.one_of(st.integers(1, 40), st.sampled_from([64, 256, 512, 513, 1000, 8192, 8704]))


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, st.booleans(), st.sampled_from(["u1", "u2", "f2", "f4"]))
def test_jpeg_xl(height, width, boxed, kind):
    if height * width > 1_000_000:
        height %= 40
        height += 1
    data = imagecodecs.jpegxl_encode(np.zeros((height, width), kind), effort=1, usecontainer=boxed)
    header = headers.jpeg_xl(data)
    assert header == (width, height, False, np.dtype(kind).itemsize)


@pytest.mark.parametrize(("width", "height"), [(8, 8), (48, 40), (32, 24), (24, 16), (64, 36), (40, 32), (16, 8)])
@pytest.mark.parametrize("times", [1, 5, 33])
def test_jpeg_xl_whose_width_follows_from_its_height(width, height, times):
    data = imagecodecs.jpegxl_encode(np.zeros((times * height, times * width), np.uint8), effort=1)
    assert headers.jpeg_xl(data)[:2] == (times * width, times * height)


@pytest.mark.parametrize("shape", [(3, 24, 36), (3, 24, 36, 3), (4, 24, 36, 4)])
def test_frames_of_jpeg_xl_are_counted_and_read_one_by_one(tmp_path, shape):
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if shape[-1] == 4:
        frames[..., 3] = 255
    options = {} if len(shape) == 4 else {"photometric": "gray"}
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(frames, lossless=True, **options))
    assert headers.jpeg_xl((tmp_path / "a.jxl").read_bytes()).animated
    for number, frame in enumerate(frames):
        picture = read_picture(tmp_path / "a.jxl", number)
        assert picture.pages == len(frames)
        np.testing.assert_array_equal(
            picture.pixels, frame[..., :3] if frame.ndim == 3 else frame[..., None].repeat(3, 2)
        )
    with pytest.raises(UserError, match="no page"):
        read_picture(tmp_path / "a.jxl", len(frames))


def test_jpeg_xl_in_pieces():
    data = imagecodecs.jpegxl_encode(np.zeros((300, 777, 3), np.uint8), usecontainer=False)
    boxes = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl " + struct.pack(">I4sQ", 1, b"Exif", 20) + b"exif"
    for number, start in enumerate((0, 3, 7)):
        piece = data[start : {0: 3, 3: 7, 7: None}[start]]
        boxes += struct.pack(">I4sI", 12 + len(piece), b"jxlp", number | (start == 7) << 31) + piece
    assert headers.jpeg_xl(boxes)[:2] == (777, 300)
    assert imagecodecs.jpegxl_decode(boxes).shape == (300, 777, 3)


@given(
    st.binary(max_size=80),
    st.sampled_from([b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\xd8", b"II\xbc\1", b"Lerc2 ", b"CntZImage "]),
)
def test_broken_headers_are_errors_or_unknown(content, start):
    with suppress(ValueError):
        headers.jpeg_xl(start + content)
    headers.part_of_tiff(start + content)
    headers.webp(b"RIFF" + content)
    headers.jpeg_2000_depth(b"\xff\x4f\xff\x51" + content)
    headers.jpeg_scans(start + content)
    headers.lerc_layers(start + content)
    with suppress(ValueError):
        headers.unpacked(content, 100)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}, {"quality": 5}])
def test_webp(options):
    buffer = io.BytesIO()
    Image.new("RGB", (301, 277)).save(buffer, "WEBP", **options)
    assert headers.webp(buffer.getvalue()[:30]) == (301, 277)


@pytest.mark.parametrize(
    "encode",
    [
        imagecodecs.png_encode,
        imagecodecs.jpegxl_encode,
        imagecodecs.jpegxr_encode,
        imagecodecs.lerc_encode,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k"),
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="jp2"),
        lambda pixels: imagecodecs.jpeg_encode(pixels.astype(np.uint8)),
        lambda pixels: imagecodecs.webp_encode(np.dstack([pixels.astype(np.uint8)] * 3)),
    ],
)
def test_parts_of_tiff(encode):
    assert headers.part_of_tiff(bytes(encode(np.zeros((61, 87), np.uint16)))[:1000]) == (87, 61)


def test_depth_of_jpeg_2000():
    for kind in (np.uint8, np.uint16):
        data = imagecodecs.jpeg2k_encode(np.zeros((61, 87, 3), kind), codecformat="jp2")
        assert headers.jpeg_2000_depth(data) == 8 * np.dtype(kind).itemsize


PACKERS = {None: bytes, "deflate": zlib.compress, "zstd": imagecodecs.zstd_encode}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (32, 48)])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_lerc_that_is_packed_once_more(tmp_path, packed, planar, tile, kind):
    values = np.random.default_rng(0).integers(0, 256, (61, 87, 3)).astype(kind)
    options = {"photometric": "rgb", "compression": "lerc", "compressionargs": {"compression": packed}, "tile": tile}
    written = np.moveaxis(values, 2, 0) if planar == "separate" else values
    tifffile.imwrite(tmp_path / "a.tif", written, planarconfig=planar, **options)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif").values, values)


def lerc_1(values: np.ndarray) -> bytes:
    """The first version of LERC: no mask, and one block of float32 as they are."""
    block = b"\0" + values.astype("<f4").tobytes()
    head = b"CntZImage " + struct.pack("<4id", 11, 8, *values.shape, 0)
    return head + struct.pack("<3if", 0, 0, 0, 1) + struct.pack("<3if", 1, 1, len(block), values.max()) + block


def test_the_first_version_of_lerc(tmp_path):
    values = np.random.default_rng(0).random((48, 32), np.float32)
    (tmp_path / "a.tif").write_bytes(lerc_tiff(lerc_1(values)))
    np.testing.assert_array_equal(decode(tmp_path / "a.tif").values, values)
    (tmp_path / "a.tif").write_bytes(lerc_tiff(lerc_1(np.zeros((400, 512), np.float32))))
    with pytest.raises(UserError, match=r"a\.tif.* 512 × 400 pixels, more than the page says"):
        read_image(tmp_path / "a.tif")


def lerc_tiff(part: bytes) -> bytes:
    """A TIFF of float32 (48, 32) in one strip."""
    return tiff(page(32, 48, 32, 34887, len(part)) | {339: (3, [3])}, part)


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("larger", "512 × 400 pixels, more than the page says"),
        ("layers", "1000 values of each pixel, more than the page says"),
        ("often", "50 values of each pixel, more than the page says"),
        ("first version often", "9 values of each pixel, more than the page says"),
        ("endless", "can't be unpacked into|a part has no header"),
        ("broken", "can't be unpacked into|a part has no header"),
    ],
)
def test_lerc_that_claims_too_much_is_not_decoded(tmp_path, monkeypatch, packed, what, message):
    def encoded(*shape: int) -> bytes:
        return bytes(imagecodecs.lerc_encode(np.zeros(shape, np.float32), planar=False))

    part = {
        "larger": lambda: encoded(400, 512),
        "layers": lambda: encoded(48, 32, 1000),
        "often": lambda: 50 * encoded(48, 32),
        "first version often": lambda: 9 * lerc_1(np.zeros((48, 32))),
        "endless": lambda: bytes(50_000_000),
        "broken": lambda: encoded(48, 32),
    }[what]()
    content = bytes(PACKERS[packed](part))
    if what == "broken":
        content = content[:4] + b"\xff" * (len(content) - 4)
    (tmp_path / "a.tif").write_bytes(lerc_tiff(content))
    monkeypatch.setattr(imagecodecs, "lerc_decode", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=rf"a\.tif.*({message})"):
        read_image(tmp_path / "a.tif")


COMPRESSIONS = ["jpeg2000", "jpegxl", "webp", "png", "jpegxr", "lerc"]


def with_larger_part(path: Path, compression: str, sides: tuple[int, int]) -> None:
    """A TIFF of 64 × 64 pixels, whose only strip is a coded picture of other sides."""
    deep = compression != "webp"
    kind, options = np.uint16 if deep else np.uint8, {} if deep else {"compressionargs": {"lossless": True}}
    if compression == "lerc":
        shape, photometric = (), "minisblack"
    else:
        shape, photometric = (3,), "rgb"
    tifffile.imwrite(
        path,
        np.zeros((*sides, *shape), kind),
        photometric=photometric,
        compression=compression,
        rowsperstrip=sides[0],
        **options,
    )
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert len(page.dataoffsets) == 1
        for tag in (256, 257, 278):
            place = page.tags[tag].valueoffset
            size = 2 if page.tags[tag].dtype == 3 else 4
            content[place : place + size] = (64).to_bytes(size, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_part_that_is_larger_than_its_page_is_not_decoded(tmp_path, compression):
    with_larger_part(tmp_path / "a.tif", compression, (64, 64))
    assert read_image(tmp_path / "a.tif").shape == (64, 64, 3)
    with_larger_part(tmp_path / "a.tif", compression, (400, 512))
    with pytest.raises(UserError, match=r"a\.tif.* 512 × 400 pixels, more than the page says"):
        read_image(tmp_path / "a.tif")


def directories(places: list[int]) -> bytes:
    """A TIFF of pages with one tag each, that follow on one another in some order, by their numbers."""
    content = b"II*\0" + struct.pack("<I", 8)
    for following in places:
        after = 8 + 18 * following if following else 0
        content += struct.pack("<HHHIII", 1, 256, 4, 1, 64, after)
    return content


def test_pages_that_go_round_in_a_circle_end(tmp_path):
    """Beyond its hundredth page, where the library that reads them does not look for a circle."""
    (tmp_path / "a.tif").write_bytes(directories([*range(1, 300), 150]))
    with pytest.raises(UserError, match=r"a\.tif.*circle"):
        read_image(tmp_path / "a.tif")


def test_pages_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.decoding.MOST_PAGES", 500)
    (tmp_path / "a.tif").write_bytes(directories([*range(1, 600), 0]))
    with pytest.raises(UserError, match=r"a\.tif.*more than 500 pages"):
        read_image(tmp_path / "a.tif")


def test_a_jpeg_of_endless_scans(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56), np.uint8)).save(
        buffer, "JPEG", progressive=True
    )
    content = buffer.getvalue()
    scan = content[content.rfind(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(content[:-2] + 20 * scan + content[-2:])
    assert read_image(tmp_path / "a.jpg").shape == (40, 56, 3)
    (tmp_path / "a.jpg").write_bytes(content[:-2] + 600 * scan + content[-2:])
    with pytest.raises(UserError, match=r"a\.jpg.* scans"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("progressive", [True, False])
def test_what_is_appended_to_a_jpeg_is_no_scan(tmp_path, progressive):
    """The video of a phone's motion photo."""
    buffer = io.BytesIO()
    Image.new("RGB", (56, 40), "red").save(buffer, "JPEG", progressive=progressive)
    content = buffer.getvalue()
    scans = headers.jpeg_scans(content)
    assert scans == (10 if progressive else 1)
    (tmp_path / "a.jpg").write_bytes(content + 9000 * b"\xff\xda\0\x0c...")
    assert headers.jpeg_scans((tmp_path / "a.jpg").read_bytes()) == scans
    assert read_image(tmp_path / "a.jpg").shape == (40, 56, 3)


def test_scans_in_a_thumbnail_and_a_comment_are_not_counted():
    buffer = io.BytesIO()
    Image.new("L", (56, 40)).save(buffer, "JPEG", comment=600 * b"\xff\xda\xff\xd9", restart_marker_blocks=1)
    assert headers.jpeg_scans(buffer.getvalue()) == 1


def test_a_plain_jpeg_of_endless_scans(tmp_path):
    """Without pixels of their own, they go over all pixels of the picture all the same."""
    buffer = io.BytesIO()
    Image.new("RGB", (56, 40)).save(buffer, "JPEG")
    content = buffer.getvalue()
    start = content.rfind(b"\xff\xda")
    scan = content[start : start + 2 + int.from_bytes(content[start + 2 : start + 4])]
    (tmp_path / "a.jpg").write_bytes(content[:-2] + 600 * scan + content[-2:])
    with pytest.raises(UserError, match=r"a\.jpg.* 601 scans"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_png_of_one_colour_is_as_dense_as_can_be(tmp_path, mode):
    """Whatever is sound passes; a file that can't hold what its header claims is refused at once."""
    Image.new(mode, (3000, 2000)).save(tmp_path / "a.png", compress_level=9)
    assert read_image(tmp_path / "a.png").shape == (2000, 3000, 3)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png.*so few bytes"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("place", ["box", "codestream"])
def test_a_jpeg_2000_whose_headers_differ_is_not_decoded(tmp_path, monkeypatch, place):
    content = bytearray(imagecodecs.jpeg2k_encode(np.zeros((40, 56, 3), np.uint8), codecformat="jp2"))
    (tmp_path / "a.jp2").write_bytes(content)
    assert read_image(tmp_path / "a.jp2").shape == (40, 56, 3)
    start = content.find(b"ihdr") + 4 if place == "box" else content.find(b"\xff\x4f\xff\x51") + 8
    content[start : start + 8] = struct.pack(">II", 15_000, 15_000)
    (tmp_path / "a.jp2").write_bytes(content)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"a\.jp2.*contradict"):
        read_image(tmp_path / "a.jp2")

"""Every form of a file gives the picture that was stored: compared with the arrays that were written, and with Pillow.

Modes × depths × alpha × orientations × compressions × pages: some 250 files.
"""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from common.data.decoding import decode, pixel_count, stored, turned
from common.data.images import read_image, read_picture
from common.data.tones import to_eight_bits
from common.errors import UserError

H, W = 24, 36


@pytest.fixture
def rgb() -> np.ndarray:
    """Smooth, so that lossy formats change it little; no two orientations are alike."""
    y, x = np.mgrid[:H, :W]
    return np.stack([5 * x + y, 9 * y + 10, 200 - 3 * x - 2 * y], axis=2).clip(0, 255).astype(np.uint8)


@pytest.fixture
def deep(rgb) -> np.ndarray:
    """uint16 (H, W, 3), of 12 bits."""
    return (rgb.astype(np.uint16) * 16) + 3


def shown(values: np.ndarray) -> np.ndarray:
    eight = to_eight_bits(values)
    return np.repeat(eight[..., None], 3, axis=2) if eight.ndim == 2 else eight


def on_white(image: Image.Image) -> np.ndarray:
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return np.asarray(ground.convert("RGB"))


# --- 8 bits: what Pillow shows


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"])
def test_tiff_of_8_bits_is_what_pillow_shows(tmp_path, rgb, mode, compression):
    if mode == "YCbCr" and compression not in (None, "tiff_lzw"):
        pytest.skip("one is enough")
    image = Image.fromarray(rgb).convert(mode)
    image.save(tmp_path / "a.tif", compression=compression)
    with Image.open(tmp_path / "a.tif") as again:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(again.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".webp", ".jpg", ".jp2", ".avif", ".tif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_formats_are_what_pillow_shows(tmp_path, rgb, suffix, mode):
    image = Image.fromarray(rgb).convert(mode)
    try:
        image.save(tmp_path / f"a{suffix}")
    except OSError:
        pytest.skip(f"{suffix} has no mode {mode}")
    with Image.open(tmp_path / f"a{suffix}") as again:
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), np.asarray(again.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".gif", ".jp2", ".avif"])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("opaque", [True, False])
def test_transparency_is_laid_on_white(tmp_path, rgb, suffix, mode, opaque):
    alpha = np.full((H, W), 255, np.uint8) if opaque else np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))
    if mode == "P":
        image = Image.fromarray(rgb).quantize(16)
        if not opaque:
            image.info["transparency"] = 3
    else:
        image = Image.fromarray(np.dstack([rgb, alpha])).convert(mode)
    options = {"lossless": True} if suffix == ".webp" else {}
    try:
        image.save(tmp_path / f"a{suffix}", **options)
    except (OSError, ValueError):
        pytest.skip(f"{suffix} has no mode {mode}")
    with Image.open(tmp_path / f"a{suffix}") as again:
        expected = on_white(again)
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}").astype(int), expected, atol=1)


def test_transparency_of_single_colours(tmp_path, rgb):
    for mode, key in (("L", 87), ("RGB", tuple(int(value) for value in rgb[3, 4]))):
        Image.fromarray(rgb).convert(mode).save(tmp_path / "a.png", transparency=key)
        with Image.open(tmp_path / "a.png") as again:
            np.testing.assert_allclose(read_image(tmp_path / "a.png").astype(int), on_white(again), atol=1)
        assert read_picture(tmp_path / "a.png").transparent


# --- Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_pixels_are_as_stored_and_upright_on_request(tmp_path, rgb, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {"quality": 95} if suffix in (".jpg", ".avif") else {}
    Image.fromarray(rgb).save(path, exif=exif, **options)
    picture = read_picture(path)
    with Image.open(path) as image:
        image.load()
        expected = np.asarray(image if suffix == ".tif" else ImageOps.exif_transpose(image))  # Pillow turns TIFF itself
    np.testing.assert_array_equal(picture.upright, expected)
    np.testing.assert_array_equal(read_image(path, upright=True), expected)
    assert picture.orientation == orientation and picture.pixels.shape == (H, W, 3)
    np.testing.assert_allclose(picture.pixels.astype(int), rgb, atol=0 if suffix in (".png", ".tif", ".webp") else 12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_tiff_is_turned_alike(tmp_path, deep, orientation):
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, shown(deep))
    np.testing.assert_array_equal(picture.upright, turned(shown(deep), orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_of_8_bits_that_is_turned(tmp_path, rgb, mode, orientation, compression):
    image = Image.fromarray(rgb).quantize(200) if mode == "P" else Image.fromarray(rgb).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.tif", exif=exif, compression=compression)
    picture = read_picture(tmp_path / "a.tif")
    assert picture.orientation == orientation
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_what_pillow_does_and_can_be_undone(rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as image:
        np.testing.assert_array_equal(turned(rgb, orientation), np.asarray(ImageOps.exif_transpose(image)))
    np.testing.assert_array_equal(stored(turned(rgb, orientation), orientation), rgb)
    np.testing.assert_array_equal(stored(turned(rgb[..., 0], orientation), orientation), rgb[..., 0])


# --- Deep pictures: a stretched image of the values that were written


@pytest.mark.parametrize("dtype", ["u2", "u4", "i2", "i4", "i1", "f2", "f4", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_deep_gray_tiff(tmp_path, deep, dtype, compression, byteorder):
    values = deep[..., 0].astype(np.float64)
    values = (values / 64 - 20 if dtype == "i1" else values - 1000 if dtype[0] in "if" else values).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, byteorder=byteorder)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), shown(values))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_deep_colour_tiff(tmp_path, deep, planar, dtype, compression, tile):
    values = deep.astype(dtype)
    written = values if planar == "contig" else np.moveaxis(values, 2, 0)
    options = {"planarconfig": planar, "photometric": "rgb", "compression": compression, "tile": tile}
    tifffile.imwrite(tmp_path / "a.tif", written, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), shown(values))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_eight_bits_in_planes(tmp_path, rgb, planar):
    written = rgb if planar == "contig" else np.moveaxis(rgb, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", written, planarconfig=planar, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), rgb)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
def test_where_white_is_zero_tones_are_upright(tmp_path, deep, dtype):
    values = (deep[..., 0] // (16 if dtype == "u1" else 1)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    own = values if dtype == "u1" else to_eight_bits(values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], 255 - own)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_deep_transparency(tmp_path, deep, kind):
    alpha = np.tile(np.linspace(0, 65535, W).astype(np.uint16), (H, 1))
    share = (alpha / 65535)[..., None]
    colours = deep if kind == "unassalpha" else np.rint(deep * share).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([colours, alpha]), photometric="rgb", extrasamples=[kind])
    plain = to_eight_bits(deep, alpha > 0)
    expected = 255 + (plain.astype(float) - 255) * share
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").astype(float), expected, atol=3)
    assert read_picture(tmp_path / "a.tif").transparent


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_png(tmp_path, deep, channels):
    alpha = np.tile(np.linspace(0, 65535, W).astype(np.uint16), (H, 1))
    layers = {1: deep[..., 0], 2: np.dstack([deep[..., 0], alpha]), 3: deep, 4: np.dstack([deep, alpha])}[channels]
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(layers)))
    own = deep[..., 0] if channels < 3 else deep
    if channels in (1, 3):
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), shown(own))
        return
    plain = to_eight_bits(own, alpha > 0).reshape(H, W, -1).astype(float)
    expected = 255 + (plain - 255) * (alpha / 65535)[..., None]
    np.testing.assert_allclose(
        read_image(tmp_path / "a.png").astype(float), np.broadcast_to(expected, (H, W, 3)), atol=1
    )


@pytest.mark.parametrize("colour", [False, True])
def test_deep_jpeg_2000(tmp_path, deep, colour):
    values = deep if colour else deep[..., 0]
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(values, codecformat="jp2", reversible=True, level=0))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2"), shown(values))


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_jpeg_xl(tmp_path, rgb, deep, kind):
    values = rgb if kind == "u1" else deep
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(values, lossless=True))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jxl"), values if kind == "u1" else shown(values))


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "webp", "zstd", "lzma", "jpeg", "png"])
def test_compressions_that_pillow_lacks(tmp_path, rgb, compression):
    options = {"compressionargs": {"lossless": True}} if compression in ("webp", "jpegxl") else {}
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", compression=compression, **options)
    lossy = compression in ("jpeg", "jpeg2000")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").astype(int), rgb, atol=12 if lossy else 0)


def test_heic(tmp_path, rgb):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(rgb)).save(tmp_path / "a.heic", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.heic").astype(int), rgb, atol=12)


# --- Pages


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png", ".avif"])
def test_each_page_can_be_read(tmp_path, rgb, suffix):
    pages = [Image.fromarray(rgb), Image.fromarray(255 - rgb), Image.fromarray(rgb[::-1].copy())]
    options = {"lossless": True} if suffix == ".webp" else {"quality": 95} if suffix == ".avif" else {}
    pages[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pages[1:], **options)
    for number, page in enumerate(pages):
        picture = read_picture(tmp_path / f"a{suffix}", number)
        assert picture.pages == 3
        tolerance = 60 if suffix in (".gif", ".avif") else 0  # a palette of 256 colours; lossy
        np.testing.assert_allclose(picture.pixels.astype(int), np.asarray(page), atol=tolerance)
    with pytest.raises(UserError, match="has no page 4"):
        read_picture(tmp_path / f"a{suffix}", 3)


def test_a_deep_stack_without_its_thumbnail(tmp_path, deep):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(deep[..., 0])
        file.write(deep[::2, ::2, 0], subfiletype=1)  # a smaller version of it
        file.write(deep[..., 1])
    assert read_picture(tmp_path / "a.tif").pages == 2
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif", 1).pixels, shown(deep[..., 1]))


def test_previews_in_a_phone_s_jpeg_are_no_pages(tmp_path, rgb):
    preview = Image.fromarray(rgb[::2, ::2])
    Image.fromarray(rgb).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    assert read_picture(tmp_path / "a.jpg").pages == 1


# --- What can't be shown is refused, with the reason


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_image(path)
    assert path.name in str(error.value)
    return str(error.value)


def test_channels_of_unknown_meaning(tmp_path, deep):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([deep, deep]), photometric="minisblack", planarconfig="contig")
    assert "it has 6 channels" in refused(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", deep[..., 0].astype(np.complex64))
    assert "complex64" in refused(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((32, 32, 32), np.uint16), volumetric=True, tile=(16, 16, 16))
    assert "axes" in refused(tmp_path / "c.tif")


def test_channels_of_unknown_meaning_of_8_bits(tmp_path, rgb):
    for layers in (rgb[..., :2], np.dstack([rgb, rgb])):
        tifffile.imwrite(
            tmp_path / "a.tif", np.ascontiguousarray(layers), photometric="minisblack", planarconfig="contig"
        )
        assert f"it has {layers.shape[2]} channels" in refused(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((32, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16))
    assert "axes" in refused(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", rgb, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif"), rgb)


def test_a_file_of_a_thumbnail_alone(tmp_path, rgb):
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), rgb)


def test_a_compression_that_nobody_knows_is_named(tmp_path, rgb):
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        place = tiff.pages[0].tags[259].valueoffset
    content[place : place + 2] = (64999).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(content)
    assert "64999" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jp2", ".jxl"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_deep_file(tmp_path, suffix, share):
    values = np.random.default_rng(0).integers(0, 4000, (80, 80, 3), np.uint16)
    encoders = {".png": imagecodecs.png_encode, ".jxl": imagecodecs.jpegxl_encode}
    encoders[".jp2"] = lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="jp2")
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb", rowsperstrip=8)
    else:
        path.write_bytes(encoders[suffix](values))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path)


def test_no_other_program_is_started_and_no_format_is_guessed(tmp_path):
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", b"P6 2 2 255\n" + bytes(12)):
        (tmp_path / "a.png").write_bytes(content)
        assert "no image of a known format" in refused(tmp_path / "a.png")


def test_pixels_are_counted_without_decoding(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert pixel_count(tmp_path / "a.png") == pixel_count(io.BytesIO(content[:100])) == H * W
    assert pixel_count(tmp_path / "nowhere.png") == pixel_count(io.BytesIO(b"text")) == 0
    tifffile.imwrite(tmp_path / "a.tif", rgb.astype(np.float64), photometric="rgb")
    assert pixel_count(tmp_path / "a.tif") == H * W
    assert pixel_count(io.BytesIO(imagecodecs.jpegxl_encode(rgb))) == H * W


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, deep, monkeypatch):
    monkeypatch.setenv("FORGERY_MAX_PIXELS", str(H * W - 1))
    tifffile.imwrite(tmp_path / "a.tif", deep[..., 0])
    assert "Cut it" in refused(tmp_path / "a.tif")
    Image.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "a.png")
    assert f"FORGERY_MAX_PIXELS={H * W}" in refused(tmp_path / "a.png")
    monkeypatch.setenv("FORGERY_MAX_PIXELS", str(H * W))
    assert read_image(tmp_path / "a.tif").shape == read_image(tmp_path / "a.png").shape == (H, W, 3)


def test_what_is_decoded_keeps_its_type(tmp_path, deep):
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    decoded = decode(tmp_path / "a.tif")
    assert decoded.values.dtype == np.uint16 and decoded.channels == 3
    np.testing.assert_array_equal(decoded.values, deep)

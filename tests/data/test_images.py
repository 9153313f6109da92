"""Files become the same RGB arrays whatever their form, and broken ones are named."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from common.data.images import find_images, read_image, read_picture, scan_images
from common.data.masks import read_mask
from common.errors import UserError


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def test_rgba_and_rgb_are_read_alike(tmp_path, rgb):
    opaque = np.full((40, 32, 1), 255, np.uint8)
    authentic = save(tmp_path / "authentic.png", np.concatenate([rgb, opaque], axis=2))
    forged = save(tmp_path / "forged.png", rgb)
    np.testing.assert_array_equal(read_image(authentic), rgb)
    np.testing.assert_array_equal(read_image(forged), rgb)
    assert read_picture(authentic).channels == 4 and not read_picture(authentic).transparent


def test_what_a_file_stores_of_transparency(tmp_path, rgb):
    """Not the number of channels: CMYK has four without any, a palette one with some."""
    opaque = Image.fromarray(rgb).convert("RGBA")
    palette = Image.fromarray(rgb).quantize(16)
    deep = np.dstack([rgb, np.full((40, 32), 255, np.uint8)]).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    assert read_picture(tmp_path / "deep.tif").has_alpha
    for image, options, stores in (
        (opaque, {}, True),
        (opaque.convert("LA"), {}, True),
        (palette, {"transparency": 3}, True),
        (palette, {}, False),
        (Image.fromarray(rgb), {}, False),
    ):
        assert read_picture(save(tmp_path / "a.png", image, **options)).has_alpha is stores
    assert not read_picture(save(tmp_path / "a.tif", Image.fromarray(rgb).convert("CMYK"))).has_alpha


def test_transparency_is_laid_on_white(tmp_path, rgb):
    alpha = np.random.default_rng(1).integers(0, 256, (40, 32, 1), dtype=np.uint8)
    ground = Image.new("RGBA", (32, 40), "white")
    ground.alpha_composite(Image.fromarray(np.concatenate([rgb, alpha], axis=2)))
    path = save(tmp_path / "a.png", np.concatenate([rgb, alpha], axis=2))
    np.testing.assert_allclose(read_image(path), np.asarray(ground)[..., :3], atol=1)
    assert read_picture(path).transparent


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_keep_every_pixel(tmp_path, rgb, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    np.testing.assert_array_equal(read_image(save(tmp_path / f"a{suffix}", rgb, **options)), rgb)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "PA", "I;16", "F"])
def test_every_mode_becomes_three_channels_of_eight_bits(tmp_path, rgb, mode):
    suffix = ".tif" if mode in ("F", "PA") else ".png"
    image = Image.fromarray(rgb).convert("L" if mode == "I;16" else mode.replace("PA", "P"))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    pixels = read_image(save(tmp_path / f"a{suffix}", image))
    assert pixels.shape == (40, 32, 3) and pixels.dtype == np.uint8
    if mode in ("L", "LA"):
        expected = np.asarray(Image.fromarray(rgb).convert("L"))
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


def test_palette_gives_colours_not_indices(tmp_path):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert read_image(save(tmp_path / "a.png", image))[0, 0].tolist() == [200, 100, 50]


def test_gray_16_bit_uses_its_own_range(tmp_path):
    pixels = np.array([[0, 1000, 2000, 4000]], np.uint16)  # 12 bits of 16
    assert read_image(save(tmp_path / "a.tif", pixels))[0, :, 0].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_colour_16_bit_uses_its_own_range_and_keeps_the_channels_order(tmp_path, suffix):
    rgb = np.zeros((2, 3, 3), np.uint16)
    rgb[..., 0], rgb[..., 2] = 4000, 2000
    cv2.imwrite(str(tmp_path / f"a{suffix}"), rgb[..., ::-1])
    assert read_image(tmp_path / f"a{suffix}")[0, 0].tolist() == [255, 0, 128]


def test_negative_values_are_content_and_what_is_not_finite_is_not(tmp_path):
    pixels = np.array([[np.nan, -3.0, -1.0, 1.0, np.inf, -np.inf]], np.float32)
    assert read_image(save(tmp_path / "a.tif", pixels))[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]


def test_cmyk_jpeg(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
    pixels = read_image(save(tmp_path / "a.jpg", image, quality=95))
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), [200, 30, 30], atol=6)


def test_exif_rotation_is_ignored_so_that_masks_fit(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90°
    assert read_image(save(tmp_path / "a.jpg", rgb, exif=exif)).shape == (40, 32, 3)
    assert read_image(tmp_path / "a.jpg", upright=True).shape == (32, 40, 3)


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("RGB", 3), ("LA", 2), ("L", 1), ("P", 1)])
def test_channels_are_those_of_the_file(tmp_path, rgb, mode, channels):
    image = Image.fromarray(rgb).convert("RGBA").convert(mode)
    assert read_picture(save(tmp_path / "a.png", image)).channels == channels


def test_first_page_of_several(tmp_path, rgb):
    pages = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(path), rgb)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_files_are_named(tmp_path, rgb, name, share):
    path = save(tmp_path / name, rgb)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=name):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"this is a text, not an image\n" * 20, bytes(1000)])
def test_files_that_are_no_images_are_named(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_corrupted_bytes_end_in_an_image_or_a_user_error(tmp_path, rgb):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpeg", "tiff", "webp"):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, suffix)
        for _ in range(40):
            content = bytearray(buffer.getvalue())
            for _ in range(4):
                content[rng.integers(min(len(content), 200))] = rng.integers(256)
            (tmp_path / f"a.{suffix}").write_bytes(content)
            try:
                pixels = read_image(tmp_path / f"a.{suffix}")
            except UserError:
                continue
            assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8


def test_missing_file_and_folder_are_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name in ("nowhere.png", "folder.png"):
        with pytest.raises(UserError, match=name):
            read_image(tmp_path / name)
        with pytest.raises(UserError, match=name):
            read_mask(tmp_path / name)


def test_case_ids_are_paths_below_the_folder(tmp_path, rgb):
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "a.jpg", "sub/c.tif", ".hidden.png"):
        save(tmp_path / name, rgb)
    (tmp_path / "notes.txt").write_text("no image")
    assert list(find_images(tmp_path)) == ["a", "b", "sub/c"]


def test_all_duplicates_are_listed_at_once(tmp_path, rgb):
    for name in ("7.png", "7.jpg", "8.png", "8.tif", "9.png"):
        save(tmp_path / name, rgb)
    with pytest.raises(UserError) as error:
        find_images(tmp_path)
    assert all(name in str(error.value) for name in ("7.png", "7.jpg", "8.png", "8.tif"))
    images, duplicates = scan_images(tmp_path)
    assert list(images) == ["9"] and len(duplicates) == 2


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32, np.int64])
def test_npy_masks_of_both_shapes(tmp_path, dtype):
    channels = np.zeros((2, 5, 4), dtype)
    channels[0, 1, 2], channels[1, 4, 0] = 1, 1
    for mask, expected in ((channels, channels), (channels[0], channels[:1])):
        np.save(tmp_path / "a.npy", mask)
        read = read_mask(tmp_path / "a.npy")
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, expected.astype(np.uint8))


@pytest.mark.parametrize("high", [1, 255])
def test_image_masks_with_1_or_255(tmp_path, high):
    pixels = np.zeros((5, 4), np.uint8)
    pixels[1, 2] = high
    read = read_mask(save(tmp_path / "a.png", pixels))
    assert read.shape == (1, 5, 4) and np.argwhere(read).tolist() == [[0, 1, 2]]


def test_gray_rim_of_a_jpeg_mask_is_cut_at_half(tmp_path):
    pixels = np.array([[0, 90, 127, 128, 255]], np.uint8)
    assert read_mask(save(tmp_path / "a.png", pixels))[0, 0].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "mask", [np.zeros(5, np.uint8), np.zeros((1, 2, 3, 4), np.uint8), np.array([["a"]]), np.array([[None]])]
)
def test_arrays_that_are_no_masks_are_named(tmp_path, mask):
    np.save(tmp_path / "a.npy", mask, allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy"):
        read_mask(tmp_path / "a.npy")


def test_truncated_npy_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((1, 50, 50), np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    for length in (0, 20, 200, len(content) - 1):
        (tmp_path / "a.npy").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"a\.npy"):
            read_mask(tmp_path / "a.npy")

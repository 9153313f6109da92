"""Masks of every form become channels of 0 and 1, one per instance."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.masks import misfit, read_mask
from common.errors import UserError


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def labels() -> np.ndarray:
    """Two instances, 1 and 2."""
    pixels = np.zeros((20, 30), np.uint8)
    pixels[2:8, 3:9], pixels[12:16, 18:28] = 1, 2
    return pixels


@pytest.mark.parametrize("values", [(1, 2), (1, 255), (2, 1)])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_integer_labels_are_instances(tmp_path, labels, values, suffix, dtype):
    pixels = np.zeros_like(labels, dtype)
    for label, value in zip((1, 2), values, strict=True):
        pixels[labels == label] = value
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, pixels)
    elif dtype == np.float32 and suffix == ".png":
        pytest.skip("PNG has no floats")
    else:
        save(path, pixels)
    expected = np.stack([pixels == value for value in sorted(values)])
    np.testing.assert_array_equal(read_mask(path), expected)


def test_the_rim_of_a_mask_is_no_instance(tmp_path, labels):
    """As of a resized mask: many levels."""
    smooth = np.asarray(Image.fromarray(255 * (labels > 0).astype(np.uint8)).resize((90, 60), Image.Resampling.BICUBIC))
    for name, options in (("a.png", {}), ("a.jpg", {"quality": 60})):
        mask = read_mask(save(tmp_path / name, smooth, **options))
        assert mask.shape == (1, 60, 90) and abs(int(mask.sum()) - 9 * 76) < 60


def test_a_jpeg_has_no_labels(tmp_path, labels):
    mask = read_mask(save(tmp_path / "a.jpg", np.where(labels, 255, 1).astype(np.uint8), quality=100))
    np.testing.assert_array_equal(mask[0], labels > 0)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 30)])
def test_a_mask_in_the_alpha_channel(tmp_path, labels, colour):
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, 255 * (labels > 0)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", pixels))[0], labels > 0)
    pixels[..., :3] = np.where(labels[..., None], (255, 255, 255), 0)  # and in the colours
    pixels[..., 3] = 128 + 64 * (labels == 1)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", pixels))[0], labels > 0)


def test_fractions_are_cut_at_one_half(tmp_path, labels):
    for shape in ((20, 30), (1, 20, 30)):
        np.save(tmp_path / "a.npy", np.where(labels, 0.9, 0.05).reshape(shape))
        np.testing.assert_array_equal(read_mask(tmp_path / "a.npy"), (labels > 0)[None])


@pytest.mark.parametrize("values", [(2, 5), (1000, 40000), (300, 300)])
def test_integers_of_an_array_that_are_no_labels_are_forged(tmp_path, labels, values):
    pixels = np.select([labels == 1, labels == 2], values).astype(np.int64)
    np.save(tmp_path / "a.npy", pixels)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy"), (labels > 0)[None])
    np.save(tmp_path / "a.npy", np.arange(200).reshape(10, 20))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy")[0].reshape(-1), np.arange(200) > 0)


def test_a_palette_and_a_bit_deep_mask(tmp_path, labels):
    expected = (labels > 0)[None]
    image = Image.fromarray((labels > 0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 60, 60])
    image.save(tmp_path / "p.png")
    Image.fromarray(labels > 0).save(tmp_path / "bits.png")
    for name in ("p.png", "bits.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), expected)


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128,) * 3]
VOC += [(64, 0, 0), (192, 0, 0)]
"""The first colours of the palette of Pascal VOC, by their index."""


def save_palette(path: Path, indices: np.ndarray, colours: list, **options) -> Path:
    image = Image.fromarray(indices, "P")
    image.putpalette([level for colour in colours for level in colour])
    image.save(path, **options)
    return path


def squares(count: int) -> np.ndarray:
    """Squares of 3 × 3 pixels beside one another, 1 to `count`, on 0."""
    indices = np.zeros((5, 4 * count + 1), np.uint8)
    for number in range(count):
        indices[1:4, 4 * number + 1 : 4 * number + 4] = number + 1
    return indices


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif", ".bmp"])
@pytest.mark.parametrize("count", [2, 7, 9])
def test_indices_of_a_palette_are_instances(tmp_path, suffix, count):
    """By their largest channel the first seven colours are alike, and the eighth is dark."""
    indices = squares(count)
    expected = [indices == number for number in range(1, count + 1)]
    np.testing.assert_array_equal(read_mask(save_palette(tmp_path / f"a{suffix}", indices, VOC)), expected)


def test_indices_of_a_palette_are_turned_and_cut_by_transparency(tmp_path):
    indices = squares(3)
    expected = [indices == number for number in (1, 2, 3)]
    turned = save_palette(tmp_path / "a.tif", indices, VOC, tiffinfo={0x0112: 3})
    np.testing.assert_array_equal(read_mask(turned), expected)
    colours = [(255, 255, 255), *VOC[1:]]
    clear = save_palette(tmp_path / "a.png", indices, colours, transparency=0)
    np.testing.assert_array_equal(read_mask(clear), expected)


SHADES = range(0, 241, 40)


@pytest.mark.parametrize(
    ("colours", "forged"),
    [
        ([(level,) * 3 for level in SHADES], {4, 5, 6}),
        ([(level, round(level * 0.3), round(level * 0.2)) for level in SHADES], {4, 5, 6}),
        ([(255, 255, 255)] + 6 * [(0, 0, 0)], {0}),
        ([(0, 0, 0)] + 6 * [(70, 90, 20)], {1, 2, 3, 4, 5, 6}),
        ([(200, 0, 0), (0, 0, 0), (0, 200, 0), *5 * [(0, 0, 200)]], {0, 2, 3, 4, 5, 6}),
        ([(0, 0, 0), (0, 0, 0), (0, 200, 0), *5 * [(0, 0, 200)]], {2, 3, 4, 5, 6}),
    ],
    ids=["gray rim", "red rim", "white first", "one colour", "sorted", "black twice"],
)
def test_colours_of_a_palette_that_are_no_labels(tmp_path, colours, forged):
    indices = squares(6)
    mask = read_mask(save_palette(tmp_path / "a.png", indices, colours))
    np.testing.assert_array_equal(mask, np.isin(indices, [*forged])[None])


def test_deep_masks(tmp_path, labels):
    for value in (1, 300, 65535):
        path = save(tmp_path / "a.png", (value * (labels > 0)).astype(np.uint16))
        np.testing.assert_array_equal(read_mask(path)[0], labels > 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_upright_picture_is_turned_back(tmp_path, labels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(255 * (labels > 0).astype(np.uint8))
    stored.save(tmp_path / "image.png", exif=exif)
    from PIL import ImageOps

    with Image.open(tmp_path / "image.png") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "mask.png", exif=b"")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", orientation)[0], labels > 0)


def test_a_mask_of_another_size_says_how():
    mask = np.zeros((1, 30, 20), np.uint8)
    assert misfit(mask, (30, 20), 1) is None
    assert misfit(mask, (30, 21), 1) == "is 30×20, its image 30×21"
    assert "transposed" in misfit(mask, (20, 30), 1)
    assert "--masks-are-upright" in misfit(mask, (20, 30), 6)


def test_an_archive_is_no_mask(tmp_path, labels):
    np.savez(tmp_path / "a.npz", labels)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(UserError, match=r"a\.npy is an archive"):
        read_mask(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((0, 5)))
    with pytest.raises(UserError, match=r"b\.npy has shape \(0, 5\)"):
        read_mask(tmp_path / "b.npy")

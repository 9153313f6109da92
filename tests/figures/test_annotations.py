"""Print is found on pictures, and grain is not taken for it."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from common.data.images import read_image
from common.figures.annotations import find_print, without_print
from common.figures.reuse import find_reuse
from common.forensics.jpeg import jpeg

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "STIXGeneral.ttf")


def field(seed: int, mean: float, spread: float, side: int = 300) -> np.ndarray:
    """Blurred noise and grain, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    coarse = cv2.GaussianBlur(rng.normal(0, 1, (side, side)), (0, 0), 6)
    picture = mean + spread * coarse / coarse.std() + rng.normal(0, spread / 6, (side, side))
    return np.repeat(picture.clip(0, 235).astype(np.uint8)[..., None], 3, axis=2)


def printed(picture: np.ndarray, font: str, ink: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """The picture with a letter, a scale bar and its length, and where they are."""
    page, mask = Image.fromarray(picture), Image.new("L", picture.shape[1::-1])
    name = Path(matplotlib.get_data_path(), "fonts", "ttf", font)
    for image, fill in ((page, (ink,) * 3), (mask, 255)):
        draw = ImageDraw.Draw(image)
        draw.text((8, 6), "B", fill=fill, font=ImageFont.truetype(name, size))
        draw.text((200, 240), "20 µm", fill=fill, font=ImageFont.truetype(name, 16))
        draw.rectangle((200, 270, 280, 274), fill=fill)
    return np.asarray(page).copy(), np.asarray(mask) > 127


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize(("mean", "spread", "ink"), [(30, 8, 255), (30, 8, 220), (170, 20, 0), (120, 30, 255)])
def test_letters_and_bars_are_found(font, mean, spread, ink):
    picture, where = printed(field(1, mean, spread), font, ink)
    found = find_print(picture)
    assert found[where].mean() > 0.95
    assert found[~cv2.dilate(where.astype(np.uint8), np.ones((15, 15))).astype(bool)].mean() < 0.01
    filled = without_print(picture[..., 0], found)
    assert abs(filled[where].astype(float).mean() - mean) < 2 * spread


def test_white_print_on_a_pale_picture_is_found():
    picture, where = printed(field(1, 212, 3), FONTS[1], 255)
    assert find_print(picture)[where].mean() > 0.9


def test_print_is_found_in_a_picture_with_a_white_rim():
    """As the page is, where a panel is cut out a pixel too wide."""
    picture, where = printed(field(1, 60, 8), FONTS[1], 245)
    picture[:2], picture[:, -2:] = 255, 255
    assert find_print(picture)[where].mean() > 0.9


@pytest.mark.parametrize("mean", [20, 60, 120, 200])
def test_grain_is_no_print(mean):
    assert find_print(field(3, mean, 25)).mean() < 0.005


def test_real_micrographs_hold_little_print(shared_data):
    shares = []
    for path in sorted((shared_data / "microscopy" / "images").iterdir())[::12]:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        shares.append(find_print(picture).mean())
    assert np.quantile(shares, 0.9) < 0.02


@pytest.mark.parametrize("quality", [None, 85])
def test_the_same_label_on_different_fields_is_no_reuse(quality):
    page = np.full((340, 980, 3), 255, np.uint8)
    for number in range(3):
        x = 20 + 320 * number
        page[20:320, x : x + 300] = printed(field(number + 5, 60, 15), FONTS[0], 255, 40)[0]
    page = page if quality is None else jpeg(page, quality)
    assert not [group for group in find_reuse(page).reuse if group.score >= 0.5]


def test_a_picture_of_print_alone_is_left_as_it_is():
    """More print than picture: then it is the picture."""
    page = np.full((200, 200, 3), 128, np.uint8)
    page[::8] = page[1::8] = page[2::8] = 255
    assert not find_print(page).any()


def test_real_photographs_hold_little_print(shared_data):
    """Branches, roofs and crowds have sharp strokes of black and white, beside blobs and shades of the same ink."""
    paths = sorted((shared_data / "casia1" / "authentic").iterdir())[::25]
    marked = np.array([find_print(read_image(path)).mean() for path in paths])
    assert (marked > 0.02).mean() < 0.2


@pytest.mark.parametrize("ground", [5, 240])
@pytest.mark.parametrize("place", ["below", "above"])
def test_information_bars_are_print(ground, place):
    picture = field(2, 90, 25)
    high = 24
    bar = np.full((high, picture.shape[1], 3), ground, np.uint8)
    cv2.putText(bar, "HV 20 kV  mag 2500 x", (6, 17), 0, 0.45, (255 - ground,) * 3, 1, cv2.LINE_AA)
    rows = slice(-high, None) if place == "below" else slice(high)
    picture[rows] = bar
    found = find_print(picture)
    assert found[rows].all()
    assert found.sum() < 1.2 * found[rows].size


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (8, 8)])
def test_pictures_of_any_size(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert find_print(picture).shape == shape

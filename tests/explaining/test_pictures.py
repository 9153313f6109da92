"""The picture shows what it is said to show, pixel by pixel."""

import cv2
import matplotlib.colors
import numpy as np
import pytest
from matplotlib.text import Text

from common.errors import readable
from common.explaining.pictures import (
    MOST_LINES,
    MOST_STRIPS,
    NATURAL_COLOUR,
    NamedBox,
    NamedRegion,
    describe,
    draw_explanation,
)
from common.forensics.copy_move import Copy, Group
from common.page import COLOURS

SHIFT = np.array([[1.0, 0, 90], [0, 1, 60]])
# x ↦ 170 − x: mirrored, with the source's columns 20 to 50 on 120 to 150
MIRRORED = np.array([[-1.0, 0, 170], [0, 1, 60]])
QUARTER = np.array([[0.0, -1, 170], [1, 0, 60]])


def texture(height, width, seed=0, sigma=1.5):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def forge(image, matrix, gain=1.0, box=(20, 30, 50, 60), score=0.97, **options):
    """The image with the box x0, y0, x1, y1 copied to where `matrix` takes it, and the copy."""
    x0, y0, x1, y1 = box
    source = np.zeros(image.shape[:2], np.uint8)
    source[y0:y1, x0:x1] = 1
    size = image.shape[1::-1]
    target = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_NEAREST) > 0
    moved = np.rint(cv2.warpAffine(image, matrix, size) * gain).astype(np.uint8)
    rng = np.random.default_rng(1)
    points = rng.uniform((x0, y0), (x1 - 1, y1 - 1), (100, 2))
    points = np.stack([points, points @ matrix[:, :2].T + matrix[:, 2]], axis=1).astype(np.float32)
    values = {"points": points, "correlation": 0.98, "score": score} | options
    copy = Copy(source=source > 0, target=target, matrix=matrix, **values)
    return np.where(target[..., None], moved, image), copy


def painted(picture, colour):
    """Where a picture has nearly a colour."""
    rgb = np.round(255 * np.array(matplotlib.colors.to_rgb(colour)))
    return np.abs(picture - rgb).max(axis=2) < 30


def gray_texture(height, width):
    """Random, and without colour: whatever is coloured was drawn."""
    return np.repeat(texture(height, width)[..., :1], 3, axis=2)


def test_the_image_is_shown_as_it_is(pictures):
    image, copy = forge(texture(195, 195), SHIFT)
    (shown, *_), _ = pictures(draw_explanation(image, [Group(copies=(copy,))], "t"))
    np.testing.assert_array_equal(shown, image.repeat(4, axis=0).repeat(4, axis=1))


def test_source_and_copy_are_outlined_in_the_groups_colour_and_the_rest_is_dark(pictures):
    image, copy = forge(gray_texture(195, 195), SHIFT, points=np.zeros((0, 2, 2), np.float32))
    (plain, shown, *_), _ = pictures(draw_explanation(image, [Group(copies=(copy,))], "t"))
    colour = painted(shown, COLOURS[0])
    assert not painted(plain, COLOURS[0]).any()
    for x0, y0 in ((20, 30), (110, 90)):
        x0, y0, side = 4 * x0, 4 * y0, 4 * 30
        for row, column in ((y0, None), (y0 + side - 1, None), (None, x0), (None, x0 + side - 1)):
            rows = slice(y0, y0 + side) if row is None else slice(row - 2, row + 3)
            columns = slice(x0, x0 + side) if column is None else slice(column - 2, column + 3)
            assert colour[rows, columns].any(axis=0 if column is None else 1).mean() > 0.98
        # Within the outline the image itself; of the outline nothing.
        inside = (slice(y0 + 6, y0 + side - 6), slice(x0 + 6, x0 + side - 6))
        np.testing.assert_array_equal(shown[inside], plain[inside])
    region = np.kron(copy.source | copy.target, np.ones((4, 4), bool))
    far = cv2.dilate(region.astype(np.uint8), np.ones((81, 81), np.uint8)) == 0
    np.testing.assert_array_equal(shown[far], plain[far] // 2)


def test_lines_join_matching_points_and_are_few(pictures):
    image, copy = forge(gray_texture(195, 195), SHIFT)
    one = Copy(**vars(copy) | {"points": copy.points[:1]})
    for drawn, n_lines in ((copy, MOST_LINES), (one, 1)):
        axes = draw_explanation(image, [Group(copies=(drawn,))], "t").axes[1]
        (lines,) = axes.collections
        ends = np.array(lines.get_segments())
        assert len(ends) == n_lines
        # On the picture, four times as large, as far apart as in the image.
        np.testing.assert_allclose(ends[:, 1] - ends[:, 0], np.tile((360, 240), (n_lines, 1)), atol=1e-2)
    np.testing.assert_allclose(ends[0, 0], 4 * one.points[0, 0] + 1.5, atol=1e-3)
    _, shown, *_ = pictures(draw_explanation(image, [Group(copies=(one,))], "t"))[0]
    x, y = np.round(ends[0].mean(axis=0)).astype(int)
    around = shown[y - 2 : y + 3, x - 2 : x + 3].astype(int)
    assert (around[..., 0] - around[..., 2]).max() > 80  # orange on grey


@pytest.mark.parametrize(
    ("matrix", "gain"), [(SHIFT, 1.0), (MIRRORED, 0.7), (QUARTER, 1.0)], ids=["shift", "mirrored", "quarter"]
)
def test_the_copy_laid_over_the_source_cancels_it(matrix, gain, pictures):
    image, copy = forge(texture(195, 195), matrix, gain)
    shown, _ = pictures(draw_explanation(image, [Group(copies=(copy,))], "t"))
    source, laid, difference = (crop.astype(int) for crop in shown[2:])
    # The box is the crop's middle, with context above and below: well within it,
    middle = (
        slice(*(source.shape[0] * np.array([0.4, 0.6])).astype(int)),
        slice(*(source.shape[1] * np.array([0.45, 0.55])).astype(int)),
    )
    assert source[middle].std() > 20
    np.testing.assert_allclose(laid[middle], gain * source[middle], atol=3)
    assert difference[middle].max() <= 6
    # and around it the two differ.
    assert difference[:20].mean() > 40


def test_what_is_not_the_same_does_not_cancel(pictures):
    image, copy = forge(texture(195, 195), SHIFT)
    wrong = Copy(**vars(copy) | {"matrix": np.add(SHIFT, [[0, 0, -9], [0, 0, 11]])})
    shown, _ = pictures(draw_explanation(image, [Group(copies=(wrong,))], "t"))
    height, width = shown[4].shape[:2]
    assert shown[4][height // 2 - 20 : height // 2 + 20, width // 2 - 20 : width // 2 + 20].mean() > 30


def test_an_even_region_is_no_division_by_zero(pictures):
    image, copy = forge(np.full((195, 195, 3), 90, np.uint8), SHIFT)
    shown, _ = pictures(draw_explanation(image, [Group(copies=(copy,))], "t"))
    assert shown[4][shown[4].shape[0] // 2, shown[4].shape[1] // 2].max() == 0


def test_natural_regions_are_outlined_with_their_relation(pictures):
    """Also where nothing else is; what lies outside them is dark."""
    image = gray_texture(195, 195)
    mask = np.zeros((195, 195), bool)
    mask[20:80, 30:120] = True
    figure = draw_explanation(image, [], "t", natural=[NamedRegion(mask, "same field")])
    (_, shown), _ = pictures(figure)
    assert [text.get_text() for text in figure.axes[1].texts] == ["same field"]
    lines = [line for line in figure.axes[1].lines if line.get_color() == NATURAL_COLOUR]
    np.testing.assert_allclose(np.ptp(lines[0].get_xydata(), axis=0), (4 * 90, 4 * 60), atol=4)
    assert shown[600:].max() <= 128


def test_every_group_has_its_colour_and_the_first_a_strip(pictures):
    image = gray_texture(200, 200)
    corners = [(5 + 24 * place, 5, 20 + 24 * place, 20) for place in range(8)]
    groups = [Group(copies=(forge(image, SHIFT * [[1, 1, 0], [1, 1, 2]], box=box)[1],)) for box in corners]
    shown, page = pictures(draw_explanation(image, groups, "t"))
    assert len(shown) == 2 + 3 * MOST_STRIPS
    for place, (x0, _, x1, y1) in enumerate(corners):
        factor = shown[1].shape[0] / 200
        below = shown[1][round(factor * y1) - 8 : round(factor * y1) + 4, round(factor * x0) : round(factor * x1)]
        assert painted(below, COLOURS[place % len(COLOURS)]).sum() > 20
    assert len(set(COLOURS)) == len(COLOURS) == 7
    assert page.shape[1] <= 1620


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(3000, 4000, 780 / 4000), (64, 64, 8), (30, 2000, 1580 / 2000), (2000, 30, 780 / 2000), (300, 601, 1580 / 601)],
)
def test_images_of_any_size(height, width, factor, pictures):
    image = np.zeros((height, width, 3), np.uint8)
    image[::2] = 255
    side = min(height, width) // 4
    source, target = np.zeros((2, height, width), bool)
    source[:side, :side] = target[-side:, -side:] = True
    matrix = np.array([[1.0, 0, width - side], [0, 1, height - side]])
    points = np.array([[[1, 1], [1 + width - side, 1 + height - side]]], np.float32)
    copy = Copy(source=source, target=target, matrix=matrix, points=points, correlation=1.0, score=1.0)
    shown, page = pictures(draw_explanation(image, [Group(copies=(copy,))], "t"))
    for picture in shown[:2]:
        assert picture.shape[:2] == (max(1, round(height * factor)), max(1, round(width * factor)))
    assert 820 <= page.shape[1] <= 1620 and page.shape[0] <= 2100
    assert painted(shown[1], COLOURS[0]).any()
    if width > 2 * height:  # one above the other, and as wide as the page
        assert shown[0].shape[1] == 1580
    alone, page = pictures(draw_explanation(image, [], "t"))
    assert len(alone) == 1 and page.shape[1] == 820 and page.shape[0] < 900


def test_a_title_is_no_mathematics(pictures):
    _, page = pictures(draw_explanation(texture(40, 60), [], r"$\alpha{$ and ^_$"))
    assert (page[:40].max(axis=2) < 60).sum() > 50


def test_table_of_the_copies():
    image = texture(195, 195)
    _, copy = forge(image, SHIFT)
    _, mirrored = forge(image, MIRRORED, score=0.8, correlation=0.5)
    _, turned = forge(image, QUARTER, score=0.6, points=np.zeros((7, 2, 2), np.float32))
    lines = describe([Group(copies=(copy, mirrored)), Group(copies=(turned,))]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:4] == ["group", "score", "source x, y", "copy x, y"]
    area = "4.7 %"  # 2 · 30² of 195²
    assert cells[2:] == [
        ["1.1", "0.97", "34, 44", "124, 104", "+0°", "1.00", "no", area, "100", "0.98"],
        ["1.2", "0.80", "34, 44", "136, 104", "+0°", "1.00", "yes", area, "100", "0.50"],
        ["2", "0.60", "34, 44", "126, 94", "+90°", "1.00", "no", area, "7", "0.98"],
    ]


def test_a_long_title_stays_on_the_page(pictures):
    title = "a picture with a name.png: no copies found; 12 below 0.5 not shown, the best 0.31 " + "and more"
    _, page = pictures(draw_explanation(texture(40, 60), [], title))
    assert (page[10:40] < 60).any() and (page[:40, -15:] == 255).all()


@pytest.mark.parametrize("name", [r"$\frac$.png", "$x$", r"\$a$ _^{", "a\nb\r\x1b[31m", "caf\udce9", "\0", "%s {} %"])
def test_names_are_no_formulas_in_pictures(name, pictures):
    """A formula that is none would raise, and one that is one would be typeset."""
    image, mask = np.full((60, 90, 3), 128, np.uint8), np.zeros((60, 90), bool)
    mask[10:30, 10:40] = True
    figure = draw_explanation(image, [], name, [NamedBox(0, 0, 90, 60, name)], [NamedRegion(mask, "altered")])
    pictures(figure)
    shown = [text for text in figure.findobj(Text) if text.get_text() == readable(name)]
    assert len(shown) == 2
    assert not any(text.get_parse_math() for text in shown)

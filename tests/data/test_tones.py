"""The content of a deep picture keeps its contrast, whatever lies beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.tones import contrast_range, to_eight_bits


@pytest.fixture
def content() -> np.ndarray:
    """A picture of 12 bits: levels 100 to 4000, as of a micrograph."""
    rng = np.random.default_rng(0)
    return (100 + 3900 * rng.beta(2, 5, (200, 200))).astype(np.uint16)


def test_the_range_without_outliers_is_the_content_s(content):
    low, high = contrast_range(content)
    assert low == content.min() and high == content.max()


def hot_pixel(pixels):
    pixels[7, 9] = 65535


def several_hot_pixels(pixels):
    pixels[7, 9:14] = 65535, 60000, 50000, 30000, 12000


def scale_bar(pixels):
    pixels[180:190, 20:120] = 65535


def missing_border(pixels):
    pixels[:40] = 65535
    pixels[:, :30] = 65535


def dark_bar_and_bright_bar(pixels):
    pixels[180:190, 20:120] = 65535
    pixels[20:30, 20:120] = 60000


@pytest.mark.parametrize("spoil", [hot_pixel, several_hot_pixels, scale_bar, missing_border, dark_bar_and_bright_bar])
@pytest.mark.parametrize("pedestal", [0, -40000])
def test_what_lies_far_beyond_the_content_is_clipped(content, spoil, pedestal):
    spoilt = content.copy()
    spoil(spoilt)
    inside = spoilt == content
    for values in (spoilt, (spoilt.astype(np.int64) + pedestal).astype(np.int32), -spoilt.astype(np.float32)):
        own = to_eight_bits(content.astype(np.float64) * (-1 if values.dtype == np.float32 else 1))
        difference = np.abs(to_eight_bits(values)[inside].astype(float) - own[inside])
        assert difference.max() <= 85  # two thirds of the contrast are kept


def test_a_pedestal_is_taken_off(content):
    np.testing.assert_array_equal(to_eight_bits(content + np.uint16(40000)), to_eight_bits(content))


def test_few_spots_on_a_dark_ground_are_content():
    rng = np.random.default_rng(0)
    pixels = rng.normal(300, 20, (200, 200))
    pixels[50:60, 50:60] += rng.uniform(500, 3000, (10, 10))
    shown = to_eight_bits(pixels.astype(np.uint16))
    assert (shown[50:60, 50:60] < 255).mean() > 0.9 and shown[50:60, 50:60].max() > 200 > 40 > shown[:40].mean()


@pytest.mark.parametrize("levels", [(0, 65535), (0, 30000, 65535), (0, 1, 2, 3)])
def test_drawings_keep_their_levels(levels):
    pixels = np.repeat(np.array(levels, np.uint16), [9000] + [1000 // (len(levels) - 1)] * (len(levels) - 1))
    shown = to_eight_bits(pixels[None])
    assert len(np.unique(shown)) == len(levels) and (shown.min(), shown.max()) == (0, 255)


def test_what_is_not_finite_is_no_content():
    pixels = np.linspace(0, 1, 1000, dtype=np.float32).reshape(20, 50)
    spoilt = pixels.copy()
    spoilt[3, 3], spoilt[4, 4], spoilt[5, 5] = np.inf, -np.inf, np.nan
    shown, own = to_eight_bits(spoilt), to_eight_bits(pixels)
    assert (shown[3, 3], shown[4, 4], shown[5, 5]) == (255, 0, 0)
    assert np.count_nonzero(shown != own) <= 3


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (np.uint16(65535), 255),
        (np.uint16(0), 0),
        (np.uint32(2**32 - 1), 255),
        (np.float32(0.5), 128),
        (np.float32(7), 255),
        (np.int16(-5), 0),
        (np.float32(np.nan), 0),
    ],
)
def test_a_constant_picture(value, level):
    assert np.unique(to_eight_bits(np.full((4, 5), value))).tolist() == [level]


def test_only_what_is_counted_sets_the_range(content):
    spoilt, counted = content.copy(), np.ones(content.shape, bool)
    spoilt[:90], counted[:90] = np.linspace(0, 60000, 90 * 200).reshape(90, 200), False
    low, high = contrast_range(content[90:])
    expected = np.rint(((spoilt - low) * (255 / (high - low))).clip(0, 255))
    np.testing.assert_allclose(to_eight_bits(spoilt, counted), expected, atol=1)


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=200),
    st.sampled_from([np.float32, np.float64]),
)
def test_order_is_kept(values, kind):
    pixels = np.array(values, kind)[None]
    shown = to_eight_bits(pixels)[0]
    assert (np.diff(shown[np.argsort(pixels[0], kind="stable")].astype(int)) >= 0).all()

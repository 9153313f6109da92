import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.tiles import (
    blend_tiles,
    bound_image,
    bounded_shape,
    fill_tile,
    join_squares,
    square_windows,
    tile_windows,
)


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(8, 60), st.floats(0, 0.75))
def test_windows_cover_and_overlap(height, width, side, overlap):
    windows = tile_windows(height, width, side, overlap)
    covered = np.zeros((height, width), bool)
    for window in windows:
        covered[window] = True
        assert covered[window].shape == (min(side, height), min(side, width))
    assert covered.all()
    assert len(set(map(str, windows))) == len(windows)
    for length, axis in ((height, 0), (width, 1)):
        spans = sorted({(window[axis].start, window[axis].stop) for window in windows})
        assert (spans[0][0], spans[-1][1]) == (0, length)
        steps = np.diff([start for start, _ in spans])
        assert (side - steps >= overlap * side - 1e-9).all()
        assert len(steps) == 0 or np.ptp(steps) <= 1


def test_windows_of_a_known_image():
    assert tile_windows(100, 250, 100) == [np.s_[0:100, 0:100], np.s_[0:100, 75:175], np.s_[0:100, 150:250]]
    assert tile_windows(60, 100, 100) == [np.s_[0:60, 0:100]]


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(16, 60), st.floats(0, 1, width=32))
def test_a_blend_of_equals_is_exact(height, width, side, value):
    windows = tile_windows(height, width, side)
    tiles = [(window, np.full((min(side, height), min(side, width)), value, np.float32)) for window in windows]
    blend = blend_tiles(tiles, height, width)
    assert blend.dtype == np.float32
    assert blend.shape == (height, width)
    assert (blend == np.float32(value)).all()


def test_a_blend_has_no_seam():
    """Tiles that disagree as much as they can: the one passes into the other over the part that they share."""
    windows = [np.s_[0:40, 0:40], np.s_[0:40, 30:70]]
    tiles = [np.zeros((40, 40), np.float32), np.ones((40, 40), np.float32)]
    blend = blend_tiles(zip(windows, tiles, strict=True), 40, 70)
    assert (blend[:, :30] == 0).all()
    assert (blend[:, 40:] == 1).all()
    steps = np.diff(blend, axis=1)
    assert (steps >= 0).all()
    assert steps.max() < 0.2  # the seam of a plain mean: 0.5
    assert blend[:, 34:36].mean() == pytest.approx(0.5)
    reverse = blend_tiles(zip(windows[::-1], tiles[::-1], strict=True), 40, 70)
    assert np.abs(reverse - blend).max() < 1e-6


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(8, 40), st.floats(0, 0.75), st.integers(0, 9))
def test_a_blend_is_the_mean_by_weights_that_fall_off_on_both_axes(height, width, side, overlap, seed):
    rng, total, weights = np.random.default_rng(seed), np.zeros((height, width)), np.zeros((height, width))
    tiles = []
    for window in tile_windows(height, width, side, overlap):
        prob = rng.random((min(side, height), min(side, width)), dtype=np.float32)
        weight = np.outer(*(np.hanning(length + 2)[1:-1] for length in prob.shape))
        total[window] += weight * prob
        weights[window] += weight
        tiles.append((window, prob))
    assert np.allclose(blend_tiles(tiles, height, width), total / weights, rtol=0, atol=1e-5)


def test_only_images_of_more_than_five_tiles_are_shrunk():
    assert bounded_shape((100, 320), 64) == (100, 320)
    assert bounded_shape((100, 640, 3), 64) == (50, 320)
    assert bounded_shape((1, 64_000), 64) == (1, 320)
    image = np.arange(100 * 320, dtype=np.uint8).reshape(100, 320)
    assert bound_image(image, 64) is image
    halves = image.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(bound_image(halves, 64), image)


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 150), st.integers(16, 40))
def test_squares_joined_again_are_the_image(height, width, side):
    image = np.random.default_rng(height).random((height, width), dtype=np.float32)
    image = cv2.resize(image, bounded_shape(image.shape, side)[::-1])
    filled = fill_tile(image, side)
    squares = [filled[window] for window in square_windows(*image.shape, side)]
    assert all(square.shape == (side, side) for square in squares)
    assert np.allclose(join_squares(squares, *image.shape, side), image, atol=1e-6)


def test_a_small_image_is_mirrored_to_a_tile():
    assert fill_tile(np.array([[1, 2, 3]], np.uint8), 5)[0].tolist() == [1, 2, 3, 3, 2]
    assert fill_tile(np.array([[1]], np.uint8), 3).tolist() == [[1] * 3] * 3

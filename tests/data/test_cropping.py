import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.cropping import bound_pair, crop_around, random_square


def marked(height, width, *boxes):
    """An image whose pixels name their place, and a mask of boxes (top, left, height, width)."""
    image = np.dstack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    for top, left, rows, columns in boxes:
        mask[top : top + rows, left : left + columns] = 1
    return image, mask


@given(seed=st.integers(0, 10**6), top=st.integers(0, 380), left=st.integers(0, 580), side=st.integers(1, 20))
def test_a_crop_is_a_square_of_2_to_4_sizes_with_the_forgery_in_it(seed, top, left, side):
    image, mask = marked(400, 600, (top, left, side, side))
    cropped, region = crop_around(image, mask, np.random.default_rng(seed), least=10)
    rows, columns = region.shape
    assert rows == columns
    assert max(10, 2 * side) <= rows <= max(10, 4 * side)
    assert region.sum() == side**2  # all of it
    where = cropped[0, 0]
    assert (cropped == image[where[0] : where[0] + rows, where[1] : where[1] + columns]).all()
    assert (region == mask[where[0] : where[0] + rows, where[1] : where[1] + columns]).all()


def test_the_forgery_lies_anywhere_in_the_crop():
    image, mask = marked(400, 600, (200, 300, 10, 10))
    crops = [crop_around(image, mask, np.random.default_rng(seed), least=100)[0] for seed in range(60)]
    offsets = [200 - crop[0, 0, 0] for crop in crops]
    assert min(offsets) < 15 and max(offsets) > 75


def test_a_small_forgery_gets_128_pixels():
    image, mask = marked(400, 600, (5, 5, 4, 4))
    assert crop_around(image, mask, np.random.default_rng(0))[1].shape == (128, 128)


def test_an_image_smaller_than_the_crop_stays_whole():
    image, mask = marked(90, 200, (5, 5, 4, 4))
    cropped, region = crop_around(image, mask, np.random.default_rng(0))
    assert cropped.shape == (90, 128, 2) and region.shape == (90, 128)


def test_one_of_several_regions_is_drawn():
    image, mask = marked(1000, 1000, (10, 10, 30, 30), (900, 900, 30, 30))
    seen = {
        bool(crop_around(image, mask, np.random.default_rng(seed), least=10)[0][0, 0][0] > 500) for seed in range(20)
    }
    assert seen == {True, False}


@pytest.mark.parametrize("shape", [(300, 400), (5, 7), (1, 1)])
def test_an_authentic_image_is_cropped_too(shape):
    image, mask = marked(*shape)
    cropped, region = crop_around(image, mask, np.random.default_rng(0), least=64)
    side = max(64, region.shape[0])
    assert cropped.shape[:2] == region.shape == (min(shape[0], side), min(shape[1], side))
    assert not region.any()


def places(height, width):
    """An image whose pixels name their place: row in red, column in green, modulo 256."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows % 256, columns % 256, np.zeros_like(rows)]).astype(np.uint8)


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31), st.booleans())
def test_a_random_square_shows_the_images_own_pixels_and_some_of_the_forgery(height, width, seed, forged):
    side, mask = 32, np.zeros((height, width), np.uint8)
    if forged:
        mask[height // 2, width // 3] = 1
    image, cut = random_square(places(height, width), mask, np.random.default_rng(seed), side=side)
    assert image.shape == (side, side, 3)
    assert cut.shape == (side, side)
    assert cut.any() == forged
    rows, columns = image[..., 0].astype(int), image[..., 1].astype(int)
    assert rows.max() < height
    assert columns.max() < width
    # Neighbours are neighbours in the image too, or equal where it is mirrored.
    assert set(np.unique(np.diff(rows, axis=0))) <= {-1, 0, 1}
    assert set(np.unique(np.diff(columns, axis=1))) <= {-1, 0, 1}
    if height >= side and width >= side:
        assert (np.diff(rows, axis=0) == 1).all()
        assert (np.diff(columns, axis=1) == 1).all()
    if forged:
        assert np.array_equal(np.argwhere((rows == height // 2) & (columns == width // 3)), np.argwhere(cut))


def test_random_squares_differ_and_reach_every_corner():
    mask, rng = np.zeros((40, 60), np.uint8), np.random.default_rng(0)
    squares = [random_square(places(40, 60), mask, rng, side=32)[0] for _ in range(2000)]
    corners = {tuple(square[0, 0, :2].tolist()) for square in squares}
    assert {(0, 0), (8, 28)} <= {(min(r, 8), min(c, 28)) for r, c in corners}
    assert {row for row, _ in corners} == set(range(9))
    assert {column for _, column in corners} == set(range(29))


def test_an_image_that_few_squares_do_not_span_is_shrunk_with_its_mask():
    """1,600 pixels are ten squares of 160: shrunk by a half, five squares span it."""
    image, mask = np.zeros((400, 1600, 3), np.uint8), np.zeros((400, 1600), np.uint8)
    image[:, 800:] = 255
    mask[90:110, 790:810] = 1
    bound, forged = bound_pair(image, mask, 160)
    assert bound.shape == (200, 800, 3)
    assert (bound[:, :400] == 0).all() and (bound[:, 400:] == 255).all()
    assert forged.sum() == forged[45:55, 395:405].sum() == 100
    same, kept = bound_pair(image, mask, 320)
    assert same is image and kept is mask

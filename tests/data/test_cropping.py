import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.cropping import crop_around


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

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.data.transforms import (
    augment,
    basic_augmentation,
    resize_image,
    resize_mask,
    strong_augmentation,
    to_channels,
    to_tensor,
)
from common.forensics.ela import error_level


def test_a_mask_follows_the_majority():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :2, :2] = 1  # all of the first quarter
    mask[0, 2, 2] = 1  # a fourth of the last one
    assert resize_mask(mask, 2).tolist() == [[1, 0], [0, 0]]


def test_a_mask_is_the_union_of_its_channels():
    mask = np.zeros((2, 4, 4), np.uint8)
    mask[0, :2, :2] = mask[1, 2:, 2:] = 1
    assert resize_mask(mask, 2).tolist() == [[1, 0], [0, 1]]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**9))
def test_no_forgery_vanishes(height, width, pixel):
    mask = np.zeros((1, height, width), np.uint8)
    mask.flat[pixel % mask.size] = 1
    resized = resize_mask(mask, 32)
    assert resized.any()
    assert set(np.unique(resized)) <= {0, 1}


def test_shrinking_averages():
    image = np.zeros((4, 4, 3), np.uint8)
    image[::2, ::2] = 200
    assert (resize_image(image, 2) == 50).all()


def test_an_image_of_the_right_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (resize_image(image, 32) == image).all()


def test_tensor_is_channels_first_bytes():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = to_tensor(image)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (3, 2, 4)
    assert tensor[:, 1, 2].tolist() == image[1, 2].tolist()


@pytest.mark.parametrize("augmentation", [basic_augmentation(), strong_augmentation()], ids=["basic", "strong"])
def test_augmentation_moves_mask_and_image_together(augmentation):
    image = np.zeros((32, 32, 3), np.uint8)
    image[:8, :16] = 200
    mask = (image[..., 0] > 0).astype(np.uint8)
    seen = set()
    for seed in range(40):
        augmented, augmented_mask = augment(augmentation, seed, image, mask)
        seen.add(augmented_mask.tobytes())
        differs = (augmented[..., 0] > 80) != (augmented_mask > 0)
        assert differs.mean() < 0.05  # blur softens the edge
    assert len(seen) >= 6  # of the eight symmetries of a square


def test_a_seed_decides_the_augmentation():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def augmented(seed):
        return augment(basic_augmentation(), seed, image, image[..., 0])[0].tobytes()

    assert augmented(1) == augmented(1)
    assert len({augmented(seed) for seed in range(10)}) > 5


def test_the_fourth_channel_is_the_error_level():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert to_channels(image, 3) is image
    assert (to_channels(image, 4)[..., :3] == image).all()
    assert (to_channels(image, 4)[..., 3] == error_level(image)).all()


def test_a_fourth_channel_moves_with_the_image_and_keeps_its_values():
    rng = np.random.default_rng(0)
    image = np.dstack([np.full((32, 32, 3), 100, np.uint8), rng.integers(0, 256, (32, 32), dtype=np.uint8)])
    moved = set()
    for seed in range(40):
        augmented, mask = augment(basic_augmentation(), seed, image, image[..., 3])
        assert (augmented[..., 3] == mask).all()
        assert (np.sort(mask.ravel()) == np.sort(image[..., 3].ravel())).all()
        moved.add(mask.tobytes())
    assert len(moved) >= 6

import math

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torchvision.transforms.functional import five_crop

from common.generated.patches import pad_to_patch, patch_positions

SIZES = st.integers(8, 40)


def cut_patches(image, positions, size):
    return torch.stack([image[:, row : row + size, column : column + size] for row, column in positions])


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 3), (2, 9), (1, 1), (8, 8), (12, 3)])
def test_padding_is_that_of_the_published_preprocessing(height, width):
    """albumentations' PadIfNeeded: in the middle, OpenCV's BORDER_REFLECT_101."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    missing = [max(8 - side, 0) for side in (height, width)]
    top, left = missing[0] // 2, missing[1] // 2
    expected = cv2.copyMakeBorder(image, top, missing[0] - top, left, missing[1] - left, cv2.BORDER_REFLECT_101)
    padded = pad_to_patch(torch.from_numpy(image).permute(2, 0, 1), 8)
    np.testing.assert_array_equal(padded.permute(1, 2, 0), expected)


def test_grid_drops_the_remainder_as_published():
    positions = patch_positions(1024, 1024, 224, 224)
    assert len(positions) == 16
    assert positions[:2] == [(0, 0), (0, 224)]
    assert math.isclose(len(positions) * 224**2 / 1024**2, 0.766, abs_tol=1e-3)


@pytest.mark.parametrize("stride", [224, 112, 100])
def test_grid_is_that_of_unfold(stride):
    image = torch.arange(3 * 500 * 700).reshape(3, 500, 700)
    unfolded = image.unfold(1, 224, stride).unfold(2, 224, stride).permute(1, 2, 0, 3, 4).flatten(0, 1)
    patches = cut_patches(image, patch_positions(500, 700, 224, stride, minimum=1), 224)
    assert torch.equal(patches, unfolded)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (15, 20), (9, 23), (12, 15)])
def test_few_patches_become_the_five_crops(height, width):
    image = torch.randint(256, (3, height, width))
    patches = cut_patches(image, patch_positions(height, width, 8, 8), 8)
    assert torch.equal(patches, torch.stack(five_crop(image, [8, 8])))


@given(SIZES, SIZES, st.integers(1, 8))
def test_edges_are_covered_where_asked(height, width, stride):
    seen = np.zeros((height, width), bool)
    for row, column in patch_positions(height, width, 8, stride, minimum=1, cover_edges=True):
        assert 0 <= row <= height - 8 and 0 <= column <= width - 8
        seen[row : row + 8, column : column + 8] = True
    assert seen.all()


def test_covering_the_edges_adds_nothing_where_the_grid_fits():
    grid = patch_positions(64, 96, 16, 16)
    assert patch_positions(64, 96, 16, 16, cover_edges=True) == grid

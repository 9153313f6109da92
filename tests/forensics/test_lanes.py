"""Lanes of blots are found."""

import cv2
import numpy as np
import pytest

from common.forensics.lanes import band_strength, find_lanes

HEIGHT, LANE, LANES = 90, 60, 6


def blot(seed: int, *, inverted: bool = False) -> np.ndarray:
    """Six lanes of one band each on a ground of blurred grain, uint8 (HEIGHT, LANES * LANE)."""
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, LANES * LANE), 200, np.float32)
    for number in range(LANES):
        centre = (number * LANE + LANE // 2, int(rng.integers(35, 55)))
        axes = (int(rng.integers(18, 25)), int(rng.integers(6, 11)))
        cv2.ellipse(picture, centre, axes, float(rng.uniform(-6, 6)), 0, 360, float(rng.uniform(30, 90)), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 2.5)
    picture += 6 * cv2.GaussianBlur(rng.normal(0, 3, picture.shape), (0, 0), 1.2)
    return (255 - picture if inverted else picture).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("inverted", [False, True])
def test_each_band_has_its_lane(inverted):
    lanes = find_lanes(blot(0, inverted=inverted))
    assert len(lanes) == LANES
    assert lanes[0][0] == 0 and lanes[-1][1] == LANES * LANE
    for number, (start, stop) in enumerate(lanes):
        assert abs(start - number * LANE) <= 8 and abs(stop - (number + 1) * LANE) <= 8


def test_bands_stand_out_from_the_ground_in_either_polarity():
    dark, bright = (band_strength(blot(0, inverted=inverted)) for inverted in (False, True))
    np.testing.assert_allclose(dark, bright, atol=1)
    assert dark[45, LANE // 2] > 50 and dark[5].max() < 25


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (300, 5), (60, 60)])
def test_no_bands_no_lanes(shape):
    assert find_lanes(np.full(shape, 128, np.uint8)) == []

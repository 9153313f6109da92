"""Lanes of blots are found, and matched where they are shown again."""

import cv2
import numpy as np
import pytest

from common.forensics.lane_matching import match_lanes
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
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    assert not len(match_lanes(np.full(shape, 128, np.uint8), [whole]))


@pytest.mark.parametrize(
    ("view", "sign"), [("shifted", (1, 1)), ("mirrored", (-1, 1)), ("turned", (-1, -1)), ("upside down", (1, -1))]
)
@pytest.mark.parametrize("gain", [1.0, 0.8])
def test_a_lane_that_is_shown_again_is_matched(view, sign, gain):
    picture = blot(1)
    again = picture[:, LANE : 2 * LANE][:: sign[1], :: sign[0]]
    picture[:, 4 * LANE : 5 * LANE] = np.rint(gain * again + 20)
    matches = match_lanes(picture, [(slice(0, HEIGHT), slice(0, picture.shape[1]))])
    here = (matches.source[:, 0] // LANE == 1) & (matches.target[:, 0] // LANE == 4)
    assert here.sum() == 9
    source, target = matches.source[here], matches.target[here]
    expected = source + np.array([3 * LANE, 0], np.float32)
    if sign[0] < 0:
        expected[:, 0] = (1 + 4 + 1) * LANE - 1 - source[:, 0]
    if sign[1] < 0:
        expected[:, 1] = HEIGHT - 1 - source[:, 1]
    np.testing.assert_allclose(target, expected, atol=1.01)
    np.testing.assert_array_equal(matches.linear[here], np.broadcast_to(np.diag(sign), (9, 2, 2)))


def test_lanes_of_another_picture_at_another_size_are_matched():
    page = np.full((400, 800), 255, np.uint8)
    one = cv2.resize(blot(2), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    page[10 : 10 + HEIGHT * 2, 10 : 10 + one.shape[1]] = one
    page[210 : 210 + HEIGHT * 2, 50 : 50 + one.shape[1]] = one
    windows = [
        (slice(10, 10 + HEIGHT * 2), slice(10, 10 + one.shape[1])),
        (slice(210, 210 + HEIGHT * 2), slice(50, 50 + one.shape[1])),
    ]
    matches = match_lanes(page, windows)
    apart = matches.target - matches.source
    assert (np.abs(np.abs(apart) - (40, 200)) <= 2).all(axis=1).mean() > 0.9

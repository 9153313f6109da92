"""Lanes of blots that are shown again are found; lanes that are alike by nature are not."""

import cv2
import numpy as np
import pytest

from common.forensics.alignment import move
from common.forensics.copy_move import Copy
from common.forensics.lane_copies import find_lane_copies
from common.forensics.lane_fit import fit_pairs
from common.forensics.lane_score import is_print
from common.forensics.lane_search import between_scales, find_pairs, prepare_blots
from tests.forensics.test_lanes import HEIGHT, LANE, LANES, blot

WIDTH = LANES * LANE
WHOLE = (slice(0, HEIGHT), slice(0, WIDTH))


def alike(seed: int) -> np.ndarray:
    """Lanes of one shape, each with a grain of its own, uint8 (HEIGHT, WIDTH)."""
    picture = np.full((HEIGHT, WIDTH), 200, np.float32)
    for number in range(LANES):
        cv2.ellipse(picture, (number * LANE + LANE // 2, 45), (22, 9), 4, 0, 360, 60, -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 2.5)
    noise = np.random.default_rng(seed).normal(0, 3, picture.shape)
    return (picture + 6 * cv2.GaussianBlur(noise, (0, 0), 1.2)).clip(0, 255).astype(np.uint8)


def sure(copies: list[Copy]) -> list[Copy]:
    return [copy for copy in copies if copy.score >= 0.5]


def two_strips(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    """A page with two pictures below each other, and their windows."""
    page = np.full((len(one) + len(other) + 30, max(one.shape[1], other.shape[1]) + 20), 255, np.uint8)
    windows = []
    for picture, y, x in ((one, 10, 0), (other, len(one) + 20, 20)):
        windows.append((slice(y, y + len(picture)), slice(x, x + picture.shape[1])))
        page[windows[-1]] = picture
    return page, windows


def first(copy, axis: int) -> bool:
    """Whether the source lies left of the target (axis 0), or above it (axis 1)."""
    here, there = (np.nonzero(mask)[1 - axis].mean() for mask in (copy.source, copy.target))
    return bool(here < there)


@pytest.mark.parametrize(
    "sign", [(1, 1), (-1, 1), (-1, -1), (1, -1)], ids=["shifted", "mirrored", "turned", "upside down"]
)
@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_a_lane_that_is_shown_again_is_found(sign, gain):
    picture = blot(1)
    picture[:, 4 * LANE : 5 * LANE] = np.rint(gain * picture[:, LANE : 2 * LANE][:: sign[1], :: sign[0]] + 20)
    (copy,) = sure(find_lane_copies(picture, [WHOLE]))
    one, other = LANE * 1.5 - 0.5, LANE * 4.5 - 0.5
    here, there = (one, other) if first(copy, axis=0) else (other, one)
    middle = np.array([[here, HEIGHT / 2 - 0.5]])
    np.testing.assert_allclose(move(middle, copy.matrix), [[there, HEIGHT / 2 - 0.5]], atol=0.5)
    np.testing.assert_allclose(copy.matrix[:, :2], np.diag(sign), atol=0.03)
    shown = np.zeros(picture.shape, bool)
    shown[:, LANE : 2 * LANE] = shown[:, 4 * LANE : 5 * LANE] = True
    found = copy.source | copy.target
    assert (found & shown).sum() > 0.6 * (found | shown).sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [alike, blot])
def test_lanes_of_one_shape_are_no_copies(make, seed):
    assert not sure(find_lane_copies(make(seed), [WHOLE]))


@pytest.mark.parametrize("size", [(1.05, 0.96), (1.8, 1.8)])
def test_a_strip_shown_again_in_another_picture_is_found_with_its_stretch(size):
    one = blot(2)
    other = cv2.resize(one, None, fx=size[0], fy=size[1], interpolation=cv2.INTER_CUBIC)
    page, windows = two_strips(one, other)
    copy, *_ = sure(find_lane_copies(page, windows))
    factors = np.diag(copy.matrix) if first(copy, axis=1) else 1 / np.diag(copy.matrix)
    np.testing.assert_allclose(factors, size, rtol=0.01)


def test_pictures_are_compared_with_one_another_alone():
    one, other = blot(3), blot(4)
    one[:, 4 * LANE : 5 * LANE] = one[:, LANE : 2 * LANE]
    page, windows = two_strips(one, other)
    assert sure(find_lane_copies(page, windows))
    assert not sure(find_lane_copies(page, windows, between=True))


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (300, 5), (60, 60), (60, 300)])
def test_of_nothing_nothing_is_found(shape):
    assert find_lane_copies(np.full(shape, 128, np.uint8), [(slice(0, shape[0]), slice(0, shape[1]))]) == []
    assert find_lane_copies(np.full(shape, 128, np.uint8), []) == []


def test_regions_do_not_overlap_their_copies():
    blots = prepare_blots(blot(6), [WHOLE])
    for fit in fit_pairs(blots, find_pairs(blots), 40):
        ends = np.diag(fit.matrix)[0] * np.array([fit.columns.start, fit.columns.stop - 1]) + fit.matrix[0, 2]
        assert ends.max() < fit.columns.start + 2 or ends.min() > fit.columns.stop - 3


def test_a_matrix_between_pictures_of_other_sizes():
    matrix = np.array([(-1.0, 0, 40), (0, 1.1, 3)])
    # Corners of the pictures lie on corners.
    corner = np.array([[-0.5, -0.5]])
    np.testing.assert_allclose(move(corner, between_scales(matrix, 0.5, 0.5)), move(corner, matrix) * 0.5 - 0.25)
    there = between_scales(between_scales(matrix, 0.5, 2.0), 2.0, 0.5)
    np.testing.assert_allclose(there, matrix)


def test_letters_are_print_and_bands_are_not():
    letters = np.full((60, 200), 230, np.uint8)
    cv2.putText(letters, "Control 10", (4, 42), cv2.FONT_HERSHEY_SIMPLEX, 1.1, 20, 2, cv2.LINE_AA)
    assert is_print(letters.astype(np.float32))
    assert not any(is_print(blot(seed).astype(np.float32)) for seed in range(3))
    assert not is_print(np.full((60, 200), 230, np.float32))

import cv2
import numpy as np
import pytest

from common.forensics import score_model
from common.forensics.alignment import Aligned
from common.forensics.resemblance import describe, log_odds, natural, resemblance

SHIFT = np.array([[1.0, 0, 100], [0, 1, 0]])


def box(x, y, width=60, height=60, shape=(200, 260)):
    mask = np.zeros(shape, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def aligned(x=20, y=60, matrix=SHIFT, count=20, **size):
    source = box(x, y, **size)
    target = cv2.warpAffine(source.astype(np.uint8), matrix, source.shape[::-1], flags=cv2.INTER_NEAREST) > 0
    return Aligned(matrix, np.zeros((count, 2, 2), np.float32), source, target, 0.9)


def textured(seed=0, noise=4.0, shape=(200, 260)):
    """Soft blobs, and a grain."""
    rng = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), 6)
    return 120 + 350 * blobs + rng.normal(0, noise, shape).astype(np.float32)


def copied(gray):
    gray = gray.copy()
    gray[55:125, 115:185] = gray[55:125, 15:85]
    return gray


def regrained(gray, noise=4.0):
    """The same blobs in both places, each with a grain of its own: alike, but no copy."""
    gray = copied(cv2.GaussianBlur(gray, (0, 0), 3))
    return gray + np.random.default_rng(1).normal(0, noise, gray.shape).astype(np.float32)


def test_a_copy_has_the_same_grain():
    (row,) = describe(copied(textured()), [aligned()])
    assert row["grain"] == pytest.approx(np.arctanh(0.98) * np.log(20), rel=1e-3)  # a perfect correlation is cut there
    assert row["faint_grain"] == pytest.approx(np.arctanh(0.98), rel=1e-3)
    assert row["difference"] == pytest.approx(np.log(0.2 / (textured()[60:120, 20:80].std() + 1)), rel=1e-3)


def test_likeness_without_the_grain_is_told_apart():
    copy = describe(copied(textured()), [aligned()])[0]
    alike = describe(regrained(textured()), [aligned()])[0]
    assert alike["grain"] < copy["grain"] / 3
    assert alike["faint_grain"] < 0.3
    scores = [resemblance(gray, [aligned()])[0] for gray in (copied(textured()), regrained(textured()))]
    assert scores[0] > 0.9 and scores[1] < 0.1


def test_distance_stretch_and_mirroring_of_a_known_map():
    matrix = np.array([[-1.2, 0, 230], [0, 1, 0]])  # mirrored about x = 104.5, stretched by 1.2
    (row,) = describe(textured(), [aligned(matrix=matrix)])
    assert row["mirrored"] == 1
    assert row["stretch"] == pytest.approx(np.log(1.2))
    centre = 49.5
    assert row["distance"] == pytest.approx(np.log(abs(230 - 2.2 * centre) / 60 + 0.1))


def test_entropy_of_two_levels_is_one_bit():
    gray = np.zeros((200, 260), np.float32)
    gray[::2] = 200
    assert describe(gray, [aligned()])[0]["entropy"] == pytest.approx(1)


def test_others_of_one_place_are_counted():
    shifts = [np.array([[1.0, 0, dx], [0, 1, dy]]) for dx, dy in ((100, 0), (100, 70), (0, 70))]
    rows = describe(textured(), [aligned(matrix=matrix) for matrix in shifts] + [aligned(x=150, y=0, matrix=SHIFT)])
    assert [round(np.expm1(row["repeated"])) for row in rows] == [2, 2, 2, 0]


def test_many_parallel_candidates_are_periodic_and_turned_ones_are_not():
    shifts = [
        np.array([[1.0, 0, dx], [0, 1, dy]]) for dx, dy in ((70, 0), (140, 0), (0, 70), (70, 70), (140, 70), (0, 65))
    ]
    turns = [np.array([[np.cos(a), -np.sin(a), 100], [np.sin(a), np.cos(a), 40]]) for a in np.arange(6) * 0.5]
    for matrices, expected in ((shifts, True), (turns, False)):
        found = [aligned(matrix=matrix) for matrix in matrices]
        assert natural(describe(textured(), found), found).all() == expected


def test_a_region_that_goes_on_in_its_copy_is_periodic():
    near = aligned(matrix=np.array([[1.0, 0, 30], [0, 1, 0]]))  # covers half of itself
    far = aligned()
    assert natural(describe(textured(), [near, far]), [near, far]).tolist() == [True, False]


def test_drawings_are_no_copies():
    gray = np.full((200, 260), 255, np.float32)
    gray[80:100, 30:70] = 0
    gray = copied(gray)
    assert resemblance(gray, [aligned()]).tolist() == [0]


def test_no_candidates():
    assert resemblance(textured(), []).tolist() == []


def test_every_constant_has_its_feature():
    # Isotropy rules out, and is not weighed.
    assert set(describe(textured(), [aligned()])[0]) == {*score_model.FEATURES, "isotropy"}
    n = len(score_model.FEATURES)
    assert np.shape(score_model.PRODUCTS) == (n, n)
    assert all(len(row) == n for row in (score_model.MEAN, score_model.SCALE, score_model.LINEAR))


def test_log_odds_are_those_of_the_constants():
    """At the mean of all features the intercept; one deviation further, its weight and that of its square."""
    mean = dict(zip(score_model.FEATURES, score_model.MEAN, strict=True))
    np.testing.assert_allclose(log_odds([mean]), [score_model.INTERCEPT])
    for place, name in enumerate(score_model.FEATURES):
        row = mean | {name: mean[name] + score_model.SCALE[place]}
        expected = score_model.INTERCEPT + score_model.LINEAR[place] + score_model.PRODUCTS[place][place]
        np.testing.assert_allclose(log_odds([row]), [expected])
    far = mean | {"matches": 1e6}  # bounded
    np.testing.assert_allclose(log_odds([far]), log_odds([mean | {"matches": 1e9}]))
    assert log_odds([]).shape == (0,)


@pytest.mark.parametrize("size", [{"width": 2, "height": 2}, {"width": 6, "height": 5}])
def test_regions_of_a_few_pixels(size):
    (score,) = resemblance(copied(textured()), [aligned(**size)])
    assert 0 <= score < 1

import cv2
import numpy as np
import pytest

from common.forensics.alignment import (
    Aligned,
    align,
    cluster_matches,
    fit_transforms,
    local_correlation,
    similarity,
    warp_back,
)
from common.forensics.matches import Matches


def turn(degrees, scale=1.0, mirror=False):
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])


def matches_of(linear, shift, centre, rng, count=12, noise=0.3):
    """Matches of a region around a centre under one transform, as a matcher would give them."""
    source = rng.uniform(-25, 25, (count, 2)) + centre
    target = source @ linear.T + shift + rng.normal(0, noise, (count, 2))
    rough = linear @ turn(rng.normal(0, 3), np.exp(rng.normal(0, 0.05)))
    return source, target, np.broadcast_to(rough, (count, 2, 2))


def joined(*parts):
    return Matches(*(np.concatenate(arrays).astype(np.float32) for arrays in zip(*parts, strict=True)))


def textured(size=200, seed=0):
    noise = np.random.default_rng(seed).normal(0, 1, (size, size)).astype(np.float32)
    return 120 + 60 * cv2.GaussianBlur(noise, (0, 0), 1.5)


@pytest.mark.parametrize(("degrees", "scale", "mirror"), [(0, 1, False), (30, 1.2, False), (-100, 0.8, True)])
def test_similarity_of_exact_points(degrees, scale, mirror):
    linear = turn(degrees, scale, mirror)
    source = np.array([[0, 0], [10, 0], [3, 7], [-4, 5]], float)
    matrix = similarity(source, source @ linear.T + (50, -20), mirrored=mirror)
    np.testing.assert_allclose(matrix, np.column_stack([linear, (50, -20)]), atol=1e-9)


def test_similarity_keeps_to_the_side_that_is_asked_for():
    source = np.array([[0, 0], [10, 0], [3, 7]], float)
    assert np.linalg.det(similarity(source, source, mirrored=True)[:, :2]) < 0


def test_two_copies_and_chance_matches_are_told_apart():
    rng = np.random.default_rng(0)
    one = matches_of(np.eye(2), (300, 20), (100, 100), rng)
    two = matches_of(turn(60), (500, 100), (120, 110), rng, count=8)
    chance = rng.uniform(0, 600, (60, 2)), rng.uniform(0, 600, (60, 2)), np.broadcast_to(np.eye(2), (60, 2, 2))
    found = cluster_matches(joined(one, two, chance), 850)
    assert [sorted(cluster) for cluster in found[:2]] == [list(range(12)), list(range(12, 20))]
    assert all(len(cluster) < 5 for cluster in found[2:])


def test_matches_of_one_shift_far_apart_are_two_clusters():
    rng = np.random.default_rng(0)
    near, far = (matches_of(np.eye(2), (200, 0), centre, rng) for centre in ((60, 60), (60, 900)))
    assert len(cluster_matches(joined(near, far), 1300)) == 2


@pytest.mark.parametrize("count", [4, 30])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_transform_is_found_among_outliers(count, mirror):
    rng = np.random.default_rng(1)
    linear = turn(25, 1.1, mirror)
    good = matches_of(linear, (200, 40), (80, 80), rng, count)
    bad = good[0][:1], good[1][:1] + 20, good[2][:1]
    both = joined(good, bad)
    matrix, points = next(fit_transforms(both, np.arange(len(both))))
    centre = np.array([80, 80])
    np.testing.assert_allclose(matrix @ (*centre, 1), linear @ centre + (200, 40), atol=3)
    assert (np.linalg.det(matrix[:, :2]) < 0) == mirror
    assert points.shape[1:] == (2, 2)


def test_two_transforms_in_one_cluster_are_both_found():
    rng = np.random.default_rng(2)
    parts = [matches_of(np.eye(2), shift, (80, 80), rng, 20) for shift in ((200, 0), (0, 200))]
    both = joined(*parts)
    found = sorted(tuple(np.rint(matrix[:, 2] / 100)) for matrix, _ in fit_transforms(both, np.arange(40)))
    assert (0, 2) in found and (2, 0) in found


@pytest.mark.parametrize("linear", [turn(0, 3.5), turn(0, 0.3), np.diag([1.0, 2.0])])
def test_no_copy_is_that_large_small_or_stretched(linear):
    matches = joined(matches_of(linear, (50, 50), (100, 100), np.random.default_rng(0), 20, noise=0))
    found = list(fit_transforms(matches, np.arange(20)))
    assert all(np.linalg.cond(matrix[:, :2]) < 1.36 for matrix, _ in found)
    assert all(len(points) < 15 for _, points in found)


def test_correlation_is_one_on_a_copy_and_low_beside_it():
    gray = textured()
    gray[120:170, 130:180] = gray[20:70, 30:80]
    matrix = np.array([[1.0, 0, 100], [0, 1, 100]])
    correlation = local_correlation(gray, matrix, (slice(0, 200), slice(0, 200)))
    assert correlation[30:60, 40:70].min() > 0.99
    assert np.abs(correlation[5:90, 85:95]).mean() < 0.4
    assert (correlation[101:] == 0).all()  # the other place is outside


def test_correlation_of_flat_places_is_none():
    flat = np.full((80, 80), 200, np.float32)
    correlation = local_correlation(flat, np.array([[1.0, 0, 30], [0, 1, 0]]), (slice(0, 80), slice(0, 80)))
    assert np.abs(correlation).max() < 0.05


def test_a_place_does_not_match_itself():
    gray = textured()
    correlation = local_correlation(gray, np.array([[1.0, 0, 4], [0, 1, 4]]), (slice(0, 200), slice(0, 200)))
    assert (correlation == 0).all()


def test_look_shows_what_lies_at_the_target():
    gray = textured()
    matrix = np.array([[0.0, -1, 150], [1, 0, 20]])  # x, y ↦ 150 − y, 20 + x
    there = warp_back(gray, matrix, (slice(10, 60), slice(30, 80)))
    assert there[5, 7] == pytest.approx(gray[20 + 37, 150 - 15], abs=1e-3)


def test_the_region_is_the_copy_whatever_the_points_cover():
    gray = textured()
    blob = np.zeros((200, 200), np.uint8)
    cv2.circle(blob, (55, 60), 30, 1, -1)
    matrix = np.array([[1.0, 0, 90], [0, 1, 70]])
    moved = cv2.warpAffine(blob, matrix, (200, 200)) > 0
    gray[moved] = np.roll(gray, (70, 90), (0, 1))[moved]
    points = np.array([[x, y] for x in (50, 58) for y in (55, 64)], np.float32)  # a corner of it
    aligned = align(gray, matrix, np.stack([points, points + np.float32([90, 70])], axis=1).astype(np.float32))
    for mask, truth in ((aligned.source, blob > 0), (aligned.target, moved)):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.85
    assert aligned.correlation > 0.9
    assert aligned.explains(aligned.points)
    assert aligned.explains(aligned.points[:, ::-1])
    assert not aligned.explains(aligned.points - np.float32([[[0, 0], [140, 70]]]))


def test_no_region_where_the_pixels_differ():
    points = np.array([[[50, 50], [140, 120]], [[58, 64], [148, 134]], [[50, 64], [140, 134]]], np.float32)
    aligned = align(textured(), np.array([[1.0, 0, 90], [0, 1, 70]]), points)
    assert aligned is None or aligned.source.sum() < 60


def test_what_is_not_valid_neither_correlates_nor_disturbs_what_does():
    """A label on one of two equal regions: beside it the correlation is that of the pixels."""
    gray = textured()
    gray[60:120, 110:170] = gray[60:120, 20:80]
    gray[80:95, 125:145] = 255.0
    valid = np.ones(gray.shape, np.uint8)
    valid[80:95, 125:145] = 0
    window, matrix = (slice(60, 120), slice(20, 80)), np.array([[1.0, 0, 90], [0, 1, 0]])
    plain, masked = (local_correlation(gray, matrix, window, part) for part in (None, valid))
    assert not masked[20:35, 15:35].any()
    around = np.s_[16:39, 11:39]
    kept = np.ones((60, 60), bool)
    kept[20:35, 15:35] = False
    assert masked[around][kept[around]].mean() > 0.95 > plain[around][kept[around]].mean()


@pytest.mark.parametrize(("apart", "halved"), [(60, True), (10, False)])
def test_a_mirrored_copy_has_one_side_and_a_symmetric_object_both(apart, halved):
    """A mirror image maps the copy back to its source: the region holds both."""
    source = np.zeros((80, 200), bool)
    source[20:60, 100 - apart // 2 - 30 : 100 - apart // 2] = True
    source[20:60, 100 + apart // 2 : 100 + apart // 2 + 30] = True
    matrix = np.array([[-1.0, 0, 199], [0, 1, 0]])
    both = Aligned(matrix, np.zeros((3, 2, 2), np.float32), source, source.copy(), 0.9)
    one = both.one_side()
    if not halved:
        assert one is both
        return
    assert np.count_nonzero(one.source) == np.count_nonzero(one.target) == np.count_nonzero(source) / 2
    assert not (one.source & one.target).any()
    np.testing.assert_array_equal(one.source | one.target, source)


def test_a_mirror_image_in_the_next_picture_is_a_copy():
    """However near: the ground between the pictures parts them, which a region may reach over."""
    source = np.zeros((80, 200), bool)
    source[20:60, 20:180] = True
    valid = np.ones(source.shape, np.uint8)
    valid[:, 96:104] = 0
    matrix = np.array([[-1.0, 0, 199], [0, 1, 0]])
    both = Aligned(matrix, np.zeros((3, 2, 2), np.float32), source, source.copy(), 0.9)
    assert both.one_side() is both and both.one_side(np.ones_like(valid)) is both
    one = both.one_side(valid)
    sides = source.copy(), source.copy()
    sides[0][:, 96:] = sides[1][:, :104] = False
    assert any(np.array_equal(one.source, side) and np.array_equal(one.target, side[:, ::-1]) for side in sides)


def test_three_equal_places_in_a_row_are_no_mirror_image():
    """Source and target share the middle one; a shift maps nothing back."""
    source = np.zeros((80, 300), bool)
    source[20:60, 20:60] = source[20:60, 120:160] = True
    target = np.roll(source, 100, axis=1)
    row = Aligned(np.array([[1.0, 0, 100], [0, 1, 0]]), np.zeros((3, 2, 2), np.float32), source, target, 0.9)
    assert row.one_side() is row

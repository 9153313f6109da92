import cv2
import numpy as np
import pytest
from skimage import data

from common.forensics import keypoints
from common.forensics.keypoints import find_keypoints, link, match_keypoints, mirror
from common.making.synthesis import copy_move

SIDE = 310
PATCH = 90
SOURCE = np.array([80.0, 90.0])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def texture(rng, sigma=2.0):
    """Blurred noise around gray 128, of a standard deviation of 40."""
    noise = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), sigma)
    return np.rint(128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def turn(degrees, scale=1.0):
    angle = np.deg2rad(degrees)
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def paste(image, linear, centre):
    """Copy the square around `SOURCE` to `centre`, by `x ↦ linear (x - SOURCE) + centre`."""
    matrix = np.column_stack([linear, centre - linear @ SOURCE])
    mask = np.zeros_like(image)
    x, y = SOURCE.astype(int) - PATCH // 2
    mask[y : y + PATCH, x : x + PATCH] = 1
    moved, there = (
        cv2.warpAffine(layer, matrix, image.shape[::-1], flags=flags)
        for layer, flags in ((image, cv2.INTER_CUBIC), (mask, cv2.INTER_NEAREST))
    )
    return np.where(there > 0, moved, image)


def right(matches, linear, centre):
    """Which matches lead from the source to the copy or back within 2 pixels."""
    there = (matches.source - SOURCE) @ linear.T + centre
    back = (matches.target - SOURCE) @ linear.T + centre
    errors = np.linalg.norm([there - matches.target, back - matches.source], axis=2)
    return (errors < 2).any(axis=0), errors[0] < errors[1]


@pytest.mark.parametrize(
    ("linear", "least"),
    [
        (np.eye(2), 40),
        (turn(40), 40),
        (turn(-115), 40),
        (turn(0, 1.3), 40),
        (turn(25, 0.8), 20),
        (np.diag([-1.0, 1.0]), 40),
        (turn(70) @ np.diag([1.0, -1.0]), 40),
    ],
    ids=["shift", "turn", "turn back", "scale", "shrunk and turned", "mirror", "mirror and turn"],
)
def test_a_copy_is_found_with_its_transform(rng, linear, least):
    centre = np.array([232.0, 226.0])
    matches = match_keypoints(paste(texture(rng), linear, centre))
    found, forth = right(matches, linear, centre)
    assert found.sum() >= least
    assert found.mean() > 0.7
    assert matches.source.dtype == matches.target.dtype == matches.linear.dtype == np.float32
    expected = np.where(forth[found, None, None], linear, np.linalg.inv(linear))
    measured = matches.linear[found]
    assert (np.linalg.det(measured) * np.linalg.det(linear) > 0).mean() > 0.95
    assert np.median(np.abs(measured - expected), axis=0).max() < 0.05


def test_two_copies_of_one_source_are_found_with_each_other(rng):
    centres = np.array([[230.0, 80.0], [110.0, 240.0]])
    image = texture(rng)
    forged = paste(paste(image, np.eye(2), centres[0]), np.eye(2), centres[1])
    matches = match_keypoints(forged)
    assert len(matches) > 120
    for shift in (centres[0] - SOURCE, centres[1] - SOURCE, centres[1] - centres[0]):
        offset = matches.target - matches.source
        assert ((np.abs(offset - shift) < 2).all(axis=1) | (np.abs(offset + shift) < 2).all(axis=1)).sum() > 40


def test_a_pair_of_places_stands_once(rng):
    matches = match_keypoints(paste(texture(rng), np.eye(2), np.array([232.0, 226.0])))
    pairs = {frozenset([tuple(a), tuple(b)]) for a, b in zip(matches.source, matches.target, strict=True)}
    assert len(pairs) == len(matches) > 0
    assert all(len(pair) == 2 for pair in pairs)


def test_weak_contrast_gives_as_many_key_points():
    image = data.immunohistochemistry()[:256, :256, 1]
    weak = np.rint(image * (20 / 255) + 40).astype(np.uint8)
    assert len(find_keypoints(weak)) > 0.7 * len(find_keypoints(image))


def test_key_points_lie_where_they_are_seen_in_small_and_large_images():
    """A spot at a known place; images below 600 pixels are enlarged on the way."""
    y, x = np.mgrid[:700, :700]
    for side, (cx, cy) in ((64, (30.0, 25.0)), (300, (123.4, 200.0)), (700, (400.25, 310.0))):
        spot = 60 + 120 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 4.0**2))
        points = find_keypoints(np.rint(spot).astype(np.uint8)[:side, :side])
        nearest = np.linalg.norm(points.place - (cx, cy), axis=1).argmin()
        assert points.place[nearest] == pytest.approx((cx, cy), abs=0.15)
        assert points.size[nearest] == pytest.approx(2 * 4.0, rel=0.25)


def test_the_mirrored_descriptor_is_that_of_the_mirrored_image(rng):
    # Wide enough that both are described on the same grid of pixels.
    image = texture(rng, sigma=3)
    flipped = np.ascontiguousarray(image[:, ::-1])
    places, there = find_keypoints(image), find_keypoints(flipped)
    seen = there.place * (-1, 1) + (SIDE - 1, 0)
    angle = np.angle(np.exp(1j * (np.pi - there.angle[None] - places.angle[:, None])))
    same = (np.linalg.norm(seen[None] - places.place[:, None], axis=2) < 0.3) & (np.abs(angle) < 0.05)
    first, second = np.nonzero(same)
    assert len(first) > 0.7 * len(places)
    likeness = (mirror(places.descriptor[first]) * there.descriptor[second]).sum(axis=1)
    unchanged = (places.descriptor[first] * there.descriptor[second]).sum(axis=1)
    assert np.median(likeness) > 0.97
    assert np.median(unchanged) < 0.8
    np.testing.assert_array_equal(mirror(mirror(places.descriptor)), places.descriptor)


def test_the_nearest_are_those_of_the_whole_matrix(rng):
    descriptor = rng.random((333, 128), np.float32)
    descriptor /= np.linalg.norm(descriptor, axis=1, keepdims=True)
    plain, mirrored = keypoints._nearest(descriptor, 5)
    for (index, similarity), other in ((plain, descriptor), (mirrored, mirror(descriptor))):
        whole = descriptor @ other.T
        np.testing.assert_allclose(similarity, -np.sort(-whole, axis=1)[:, :5], atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(whole, index, axis=1), similarity, atol=1e-5)


def test_the_bound_keeps_key_points_everywhere(rng):
    image = texture(rng)
    image[:, SIDE // 2 :] = 128 + (image[:, SIDE // 2 :].astype(int) - 128) // 4  # the stronger half must not take all
    points = find_keypoints(image, most=400)
    assert len(points) == pytest.approx(400, abs=20)
    assert 0.35 < (points.place[:, 0] < SIDE / 2).mean() < 0.65


def test_linear_by_hand():
    """A key point twice as large and turned by 90 degrees: x goes to y (downwards), y to -x."""
    points = keypoints.Keypoints(
        place=np.array([[10, 10], [50, 60]], np.float32),
        size=np.array([4, 8], np.float32),
        angle=np.deg2rad(np.array([30, 120], np.float32)),
        descriptor=np.zeros((2, 128), np.float32),
    )
    both = np.array([0, 1]), np.array([1, 0])
    matches = link(points, *both, np.array([False, True]))
    assert len(matches) == 1
    np.testing.assert_allclose(matches.linear[0], [[0, -2], [2, 0]], atol=1e-5)
    mirrored = link(points, *both, np.array([True, False])).linear[0]
    # The axis of the first, (cos 30°, sin 30°), goes to that of the second; what is beside it changes sides.
    axis, beside = np.array([3**0.5, 1]) / 2, np.array([-1, 3**0.5]) / 2
    np.testing.assert_allclose(mirrored @ axis, 2 * np.array([-1, 3**0.5]) / 2, atol=1e-5)
    np.testing.assert_allclose(mirrored @ beside, 2 * np.array([3**0.5, 1]) / 2, atol=1e-5)


def test_unrelated_noise_gives_next_to_nothing(rng):
    image = texture(rng)
    assert len(match_keypoints(image)) < 0.02 * len(find_keypoints(image))


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (3, 500), (400, 300)])
def test_a_flat_image_gives_nothing(shape):
    assert len(match_keypoints(np.full(shape, 77, np.uint8))) == 0


def test_a_tiny_image_is_matched(rng):
    image = texture(rng)[:64, :64].copy()
    image[34:62, 34:62] = image[2:30, 2:30]
    matches = match_keypoints(image)
    assert (np.abs(np.abs(matches.target - matches.source) - 32) < 1).all(axis=1).sum() >= 4


@pytest.mark.parametrize("name", ["camera", "coins"])
def test_forged_photographs_show_source_and_copy(name):
    image = getattr(data, name)()
    image = np.dstack([image] * 3) if image.ndim == 2 else image
    forged, mask = copy_move(image, np.random.default_rng(1), area_share=0.1, plain_probability=0)
    matches = match_keypoints(cv2.cvtColor(forged, cv2.COLOR_RGB2GRAY))
    blob = cv2.connectedComponents(mask)[1]
    ends = [blob[tuple(np.rint(end[:, ::-1]).astype(int).T)] for end in (matches.source, matches.target)]
    assert ((ends[0] != ends[1]) & (np.minimum(*ends) > 0)).sum() >= 6


def test_few_key_points_are_spread_over_the_image(rng):
    """Fewer than there are cells, too."""
    few = find_keypoints(texture(rng), 50)
    assert len(few) == 50
    quarters = (few.place > SIDE / 2) @ [1, 2]
    assert np.bincount(quarters, minlength=4).min() >= 5


def test_more_enlargement_finds_more():
    """A copy of a few pixels' radius has hardly any key points at the picture's own size."""
    image = data.immunohistochemistry()[:256, :256, 1]
    small, large = (find_keypoints(image, 9000, enlarged=side) for side in (600, 900))
    assert len(large) > 1.2 * len(small)
    assert np.ptp(large.place, axis=0).max() < 256

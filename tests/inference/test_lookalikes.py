from common.inference import lookalikes
from common.inference.lookalikes import join_lookalikes

import cv2
import numpy as np
import pytest

SIDE = 40
PLACES = [(10, 10), (10, 90), (10, 170), (100, 10), (100, 90), (100, 170)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def texture(rng, side=SIDE):
    """Blurred noise around gray 128, of a standard deviation of 40."""
    noise = cv2.GaussianBlur(rng.standard_normal((side, side, 3)), (0, 0), 1.2)
    return np.rint(128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def scene(rng, patches, radius=SIDE // 2):
    """A textured image with patches at `PLACES`, and the disks over them as blobs 1 … n."""
    image, labels = texture(rng, 240), np.zeros((240, 240), np.int32)
    for number, (patch, (y, x)) in enumerate(zip(patches, PLACES, strict=False), 1):
        image[y : y + SIDE, x : x + SIDE] = patch
        cv2.circle(labels, (x + SIDE // 2, y + SIDE // 2), radius, number, cv2.FILLED)
    return image, labels


def numbers(image, labels):
    """The new number of each blob."""
    joined = join_lookalikes(image, labels)
    assert joined.dtype == np.int32
    assert ((joined > 0) == (labels > 0)).all()
    return [int(np.unique(joined[labels == number]).item()) for number in range(1, labels.max() + 1)]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_is_joined_under_the_symmetries_of_the_square(rng, turns, mirrored):
    source = texture(rng)
    copy = np.rot90(source[:, ::-1] if mirrored else source, turns)
    assert numbers(*scene(rng, [source, texture(rng), copy])) == [1, 2, 1]


def test_unrelated_textures_stay_apart(rng):
    assert numbers(*scene(rng, [texture(rng) for _ in PLACES])) == [1, 2, 3, 4, 5, 6]


def test_groups_are_numbered_without_gaps_in_the_order_of_their_first_blob(rng):
    a, b, c = (texture(rng) for _ in range(3))
    assert numbers(*scene(rng, [a, b, b, c, a[::-1], a])) == [1, 2, 2, 3, 1, 1]


def test_matches_are_transitive(rng):
    """The third blob shows the contents of the first two side by side."""
    a, b = texture(rng), texture(rng)
    image, labels = scene(rng, [a, b])
    assert numbers(image, labels) == [1, 2]
    image[150:190, 100:180] = np.hstack([a, b])
    labels[150:190, 100:180] = 3
    assert numbers(image, labels) == [1, 1, 1]


def test_flat_blobs_never_match(rng):
    """Not even copies: their noise is below the least contrast."""
    flat = (128 + rng.integers(-2, 3, (SIDE, SIDE, 1)).repeat(3, axis=2)).astype(np.uint8)
    assert numbers(*scene(rng, [flat, flat])) == [1, 2]
    assert numbers(*scene(rng, [np.full_like(flat, 90), np.full_like(flat, 90)])) == [1, 2]


def test_tiny_blobs_never_match(rng):
    source = texture(rng)
    assert numbers(*scene(rng, [source, source], radius=6)) == [1, 2]


def test_spots_of_one_shape_stay_apart(rng):
    """Bands and cells look alike: what tells a copy is their grain."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    spot = 200 * np.exp(-(y**2 + x**2) / (2 * 8**2))[..., None]
    a, b = ((spot + rng.normal(20, 4, (SIDE, SIDE, 1))).clip(0, 255).repeat(3, axis=2) for _ in range(2))
    assert numbers(*scene(rng, [a, b, a])) == [1, 2, 1]


def test_outlines_may_be_too_wide(rng):
    """Only half of the disks was copied."""
    source = texture(rng)
    assert numbers(*scene(rng, [source, source], radius=32)) == [1, 1]


def test_outlines_may_lie_a_quarter_off(rng):
    source = texture(rng)
    image, labels = scene(rng, [source, source])
    labels[:, 80:] = np.roll(labels[:, 80:], 10, axis=1)
    assert numbers(image, labels) == [1, 1]


def test_a_flat_part_hides_no_match(rng):
    """Windows without variance have no correlation."""
    source = texture(rng)
    image, labels = np.full((240, 240, 3), 128, np.uint8), np.zeros((240, 240), np.int32)
    image[10:50, 10:50] = image[100:140, 10:50] = source
    labels[10:50, 10:50], labels[100:140, 10:125] = 1, 2
    assert numbers(image, labels) == [1, 1]
    labels[labels == 2] = 0
    labels[100:140, 80:130] = 2
    assert numbers(image, labels) == [1, 2]


def test_brightness_and_contrast_need_not_agree(rng):
    source = texture(rng)
    assert numbers(*scene(rng, [source, (0.6 * source + 60).astype(np.uint8)])) == [1, 1]


def test_sizes_must_be_compatible(rng):
    source = texture(rng)
    image, labels = scene(rng, [source, source])
    y, x = PLACES[1]
    labels[y - 8 : y + SIDE + 16, x - 8 : x + SIDE + 16] = 2  # more than three times the disk
    assert numbers(image, labels) == [1, 2]


def test_a_long_thin_blob_is_too_large(rng):
    """Of no more than three times the area, but of four times the side."""
    source = texture(rng)
    image, labels = scene(rng, [source, source])
    labels[13:15, 70:240] = 2
    assert numbers(image, labels) == [1, 2]
    labels[13:15, 140:240] = 0
    assert numbers(image, labels) == [1, 1]


def test_narrow_images_are_compared(rng):
    """On the working scale they are less than half a pixel high."""
    labels = np.zeros((2, 1200), np.int32)
    labels[:, :500], labels[:, 600:1100] = 1, 2
    assert numbers(np.resize(texture(rng), (2, 1200, 3)), labels) == [1, 2]


def test_a_blob_is_not_its_neighbours_copy(rng):
    """The larger blob lies around the smaller one like an L, so that this one is in its window."""
    labels = np.zeros((240, 240), np.int32)
    labels[80:120, 60:100] = 1
    labels[80:142, 38:58] = labels[122:142, 38:110] = 2
    assert numbers(texture(rng, 240), labels) == [1, 2]


def test_large_blobs_are_compared_on_a_smaller_scale(rng):
    source = cv2.resize(texture(rng, 60), (240, 240), interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(texture(rng, 200), (800, 800), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((800, 800), np.int32)
    for number, (y, x) in enumerate([(0, 0), (401, 403), (0, 500)], 1):
        if number < 3:
            image[y : y + 240, x : x + 240] = source
        labels[y : y + 240, x : x + 240] = number
    assert numbers(image, labels) == [1, 1, 2]


def test_only_the_largest_are_compared(rng, monkeypatch):
    source = texture(rng)
    image, labels = scene(rng, [source, source, source])
    labels[:, 125:][labels[:, 125:] == 2] = 0  # a few columns of the second
    assert numbers(image, labels) == [1, 1, 1]
    monkeypatch.setattr(lookalikes, "MOST_BLOBS", 2)
    assert numbers(image, labels) == [1, 2, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_blobs_stay_as_they_are(rng, count):
    image, labels = scene(rng, [texture(rng)] * count)
    assert (join_lookalikes(image, labels) == labels).all()

import cv2
import numpy as np
import pytest

from common.forensics.blocks import MOST_MATCHES, match_blocks, zernike_magnitudes

SIDE = 240
CENTRE, PLACE, RADIUS = np.array([60, 70]), np.array([170, 150]), 36
"""x, y of a disk and of its copy, and the radius of both."""


def blobs(seed=0, side=SIDE):
    """Noise, blurred until it has next to no key points, around gray 128."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((side, side)), (0, 0), 4.5)
    return np.rint(128 + 30 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def rotation(degrees, scale=1.0):
    angle = np.deg2rad(degrees)
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def forge(linear):
    """Copies the disk around `CENTRE` to `PLACE` by a linear map."""
    image = blobs()
    moved = cv2.warpAffine(image, np.column_stack([linear, PLACE - linear @ CENTRE]), (SIDE, SIDE))
    disk = np.zeros_like(image)
    cv2.circle(disk, PLACE.tolist(), RADIUS, 1, cv2.FILLED)
    return np.where(disk > 0, moved, image)


@pytest.mark.parametrize(
    "linear",
    [np.eye(2), rotation(30), rotation(90), np.diag([-1.0, 1.0]), rotation(-140) @ np.diag([-1, 1]), rotation(5, 1.1)],
    ids=["shift", "30°", "90°", "mirror", "mirror and 140°", "scale 1.1"],
)
def test_a_smooth_copy_is_matched_by_its_map(linear):
    matches = match_blocks(forge(linear))
    forward, backward = [], []
    for source, target, estimate in zip(matches.source, matches.target, matches.linear, strict=True):
        if np.linalg.norm(target - PLACE - linear @ (source - CENTRE)) < 2:
            forward.append(estimate - linear)
        elif np.linalg.norm(source - PLACE - linear @ (target - CENTRE)) < 2:
            backward.append(estimate - np.linalg.inv(linear))
    right = forward + backward
    assert len(right) >= 40
    assert len(right) >= 0.9 * len(matches)
    assert np.median(np.abs(right)) < 0.05


def test_a_pair_stands_once():
    """A grid of 3 pixels has some 450 places in the disk; both sides would make it twice as many."""
    assert 150 <= len(match_blocks(forge(np.eye(2)))) <= 450


def test_a_retouched_and_compressed_copy_is_matched():
    image = forge(np.eye(2)).astype(float)
    disk = np.zeros(image.shape)
    cv2.circle(disk, PLACE.tolist(), RADIUS, 1, cv2.FILLED)
    image = np.rint(np.where(disk > 0, 1.05 * image - 4, image)).clip(0, 255).astype(np.uint8)
    image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)
    matches = match_blocks(image)
    right = np.linalg.norm(np.abs(matches.target - matches.source) - (PLACE - CENTRE), axis=1) < 2
    assert right.sum() >= 40


def test_large_images_keep_their_coordinates():
    image = cv2.resize(forge(np.eye(2)), (1080, 960), interpolation=cv2.INTER_CUBIC)
    matches = match_blocks(image)
    expected = (PLACE - CENTRE) * (4.5, 4)
    assert 40 <= len(matches) <= MOST_MATCHES
    # (0, 0) is the centre of a pixel: the centre of the disk lies at (60.5, 70.5) · (4.5, 4) - 0.5.
    right = np.linalg.norm(np.abs(matches.target - matches.source) - expected, axis=1) < 4
    assert right.mean() > 0.9
    ends = np.concatenate([matches.source[right], matches.target[right]])
    centres = [(point + 0.5) * (4.5, 4) - 0.5 for point in (CENTRE, PLACE)]
    assert min(np.linalg.norm(ends - centre, axis=1).min() for centre in centres) < 12


def test_untouched_blobs_give_next_to_nothing():
    assert len(match_blocks(blobs(1))) < 30


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_constant_image_gives_nothing(level):
    assert len(match_blocks(np.full((150, 150), level, np.uint8))) == 0


def test_a_ramp_gives_nothing():
    y, x = np.mgrid[:200, :200]
    assert len(match_blocks((x + y // 4).clip(0, 255).astype(np.uint8))) == 0


def test_noise_gives_next_to_nothing():
    noise = np.random.default_rng(0).normal(128, 20, (200, 200))
    assert len(match_blocks(np.rint(noise).clip(0, 255).astype(np.uint8))) < 10


@pytest.mark.parametrize("shape", [(1, 1), (8, 300), (20, 20), (64, 64)])
def test_tiny_images_give_no_error(shape):
    assert len(match_blocks(blobs(2, 300)[: shape[0], : shape[1]])) < 10


def test_one_image_gives_one_answer():
    image = forge(rotation(30))
    first, second = match_blocks(image), match_blocks(image)
    assert (first.source == second.source).all() and (first.target == second.target).all()
    assert first.source.dtype == first.target.dtype == first.linear.dtype == np.float32


@pytest.mark.parametrize("degrees", [37, 90, 200])
def test_magnitudes_stay_under_rotation_and_mirroring(degrees):
    patch = blobs(3, 61)[:, ::-1].astype(np.float32)
    turned = cv2.warpAffine(patch, cv2.getRotationMatrix2D((30, 30), degrees, 1), (61, 61), flags=cv2.INTER_CUBIC)
    here, there, mirrored = (zernike_magnitudes(a, 8)[30, 30] for a in (patch, turned, patch[:, ::-1].copy()))
    assert here.shape == (11,)
    assert np.linalg.norm(here - there) < 0.02 * np.linalg.norm(here)
    np.testing.assert_allclose(here, mirrored, rtol=1e-3, atol=0.05)


def test_magnitudes_tell_contents_apart_but_not_brightness():
    patch = blobs(3, 61).astype(np.float32)
    all_places = zernike_magnitudes(patch, 8)
    np.testing.assert_allclose(zernike_magnitudes(patch + 20, 8), all_places, rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(zernike_magnitudes(2 * patch, 8), 2 * all_places, rtol=1e-3, atol=0.05)
    assert np.linalg.norm(all_places[30, 30] - all_places[40, 20]) > 0.2 * np.linalg.norm(all_places[30, 30])

"""Self-blended crops: what is laid over what, where, and by one draw a clip."""

import cv2
import numpy as np
import pytest

from common.video.blending import face_mask, self_blended
from common.video.faces import FACE_MARGIN

SIDE = 96
SEEDS = range(40)


@pytest.fixture(scope="module")
def crops():
    """Three different frames with structure at all scales."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(3):
        noise = sum(cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE, 3)), (0, 0), s) * s for s in (0.7, 2, 6))
        frames.append(cv2.normalize(noise, None, 30, 220, cv2.NORM_MINMAX).astype(np.uint8))
    return np.stack(frames)


def test_masks_lie_in_the_face_and_have_a_soft_border():
    masks = [face_mask(SIDE, np.random.default_rng(seed)) for seed in SEEDS]
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    beyond = np.maximum(abs(x), abs(y)) > 0.5 / FACE_MARGIN + 0.08  # deformation and border
    for mask in masks:
        assert mask.shape == (SIDE, SIDE) and mask.dtype == np.float32
        assert mask.min() == 0 and mask.max() <= 1 + 1e-6
        assert mask[beyond].max() < 0.15
        assert ((mask > 0.1 * mask.max()) & (mask < 0.9 * mask.max())).any()
    shares = [(mask > 0.5 * mask.max()).mean() for mask in masks]
    # An ellipse that fills the box has π/4 of it.
    assert 0.02 < min(shares) < 0.15 and 0.25 < max(shares) < 1.2 * np.pi / 4 / FACE_MARGIN**2
    greatest = np.array([mask.max() for mask in masks])
    assert all((abs(greatest - opacity) < 0.01).any() for opacity in (0.25, 0.5, 0.75, 1.0))


def test_a_blended_crop_differs_and_its_seed_decides_how(crops):
    found = [self_blended(crops, seed) for seed in SEEDS]
    assert {blended.shape for blended in found} == {crops.shape} and {blended.dtype for blended in found} == {
        crops.dtype
    }
    for seed, blended in zip(SEEDS, found, strict=True):
        assert (blended != crops).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(self_blended(crops, seed), blended)
    assert len({blended.tobytes() for blended in found}) == len(SEEDS)


def test_beyond_the_face_the_crop_is_the_real_one_or_changed_as_a_whole(crops):
    """A corner that is changed in colour or sharpness alone is as good as in place."""
    kept = []
    for seed in SEEDS:
        corner, real = self_blended(crops, seed)[:, :6].astype(float), crops[:, :6].astype(float)
        kept.append(np.abs(corner - real).max() <= 1)
        assert np.corrcoef(corner.ravel(), real.ravel())[0, 1] > 0.7
    assert 0.3 < np.mean(kept) < 0.7


def test_one_draw_serves_all_frames(crops):
    still = np.repeat(crops[:1], 4, axis=0)
    for seed in SEEDS:
        blended = self_blended(still, seed)
        assert (blended == blended[:1]).all()
        np.testing.assert_array_equal(self_blended(crops, seed)[0], blended[0])

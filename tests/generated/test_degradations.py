from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.generated.degradations import (
    DEGRADATIONS,
    blur,
    degrade,
    jpeg,
    noise,
    random_chain,
    resize,
    resize_to,
    webp,
)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth colours with some grain, uint8 (60, 80, 3)."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (0, 0), 4)
    return cv2.add(cv2.normalize(image, None, 20, 230, cv2.NORM_MINMAX), rng.integers(0, 6, image.shape, np.uint8))


@pytest.mark.parametrize("compress", [jpeg, webp])
def test_compression_keeps_what_is_constant_and_loses_more_at_lower_quality(compress, picture):
    gray = np.full((40, 56, 3), 117, np.uint8)
    same = compress(gray, 70)
    assert (same == same[0, 0, 0]).all() and abs(int(same[0, 0, 0]) - 117) <= (compress is webp)  # WebP's narrow range
    red = np.zeros((40, 56, 3), np.uint8)
    red[..., 0] = 200
    assert np.abs(compress(red, 90).astype(int) - red).max() < 6  # channels are not exchanged
    errors = [np.abs(compress(picture, quality).astype(int) - picture).mean() for quality in (20, 60, 95)]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0


def test_webp_has_a_longest_side():
    assert webp(np.zeros((1, 16383, 3), np.uint8), 50).shape == (1, 16383, 3)
    with pytest.raises(UserError, match="1×16384"):
        webp(np.zeros((1, 16384, 3), np.uint8), 50)


def test_resize_stays_at_the_new_size():
    image = np.zeros((4, 6, 3), np.uint8)
    image[::2, ::2] = 200
    halved = resize(image, 0.5)
    assert halved.shape == (2, 3, 3) and (halved == 50).all()
    assert resize(image, 1.5).shape == (6, 9, 3)
    assert resize(image, 0.01).shape == (1, 1, 3)
    assert (resize(image, 1.0) == image).all()
    assert resize_to(image, 2, 12).shape == (2, 12, 3)


def test_blur_is_gaussian():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    spread = blur(image, 1.0)
    assert spread[20, 20, 0] == pytest.approx(255 / (2 * np.pi), abs=1)  # the peak of a Gaussian of σ 1: 1 / 2π
    assert spread[20, 21, 0] == pytest.approx(255 / (2 * np.pi) * np.exp(-0.5), abs=1)
    assert blur(image, 0.0) is image


def test_noise_has_its_deviation_in_every_channel():
    gray = np.full((200, 200, 3), 128, np.uint8)
    noisy = noise(gray, 5.0, np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(noisy.std(axis=(0, 1)), (25 + 1 / 12) ** 0.5, rtol=0.02)  # 1/12: rounding
    np.testing.assert_allclose(noisy.mean(axis=(0, 1)), 128, atol=0.1)
    assert abs(np.corrcoef(noisy.reshape(-1, 3).T) - np.eye(3)).max() < 0.02
    white = noise(np.full((50, 50, 3), 255, np.uint8), 5.0, np.random.default_rng(0))
    assert white.min() > 220  # clipped, not wrapped around


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_fixed_degradation_is_the_same_every_time(name, picture):
    before = picture.copy()
    degraded = degrade(picture, name)
    assert degraded.dtype == np.uint8 and degraded.shape[2] == 3
    assert degraded.shape != picture.shape or (degraded != picture).any()
    assert (degrade(picture, name) == degraded).all()
    assert (picture == before).all()


def test_strengths_of_the_evaluation(picture):
    assert (degrade(picture, "jpeg") == jpeg(picture, 70)).all()
    assert (degrade(picture, "webp") == webp(picture, 70)).all()
    assert degrade(picture, "resize").shape == (30, 40, 3)
    assert (degrade(picture, "blur") == blur(picture, 1)).all()


def test_noise_differs_between_images(picture):
    other = 255 - picture
    patterns = [degrade(image, "noise").astype(int) - image for image in (picture, other)]
    assert (patterns[0] != patterns[1]).mean() > 0.5


def test_unknown_degradations_are_refused(picture):
    with pytest.raises(UserError, match=r"'gamma'; choose from jpeg, webp, resize, blur, noise"):
        degrade(picture, "gamma")


def test_a_seed_decides_the_chain(picture):
    def chain(seed):
        return random_chain(picture, np.random.default_rng(seed), min_side=16).tobytes()

    assert chain(1) == chain(1)
    assert len({chain(seed) for seed in range(10)}) == 10


def test_chains_have_one_to_five_operations_in_any_order(monkeypatch):
    calls = []

    def recorder(name):
        return lambda image, strength, _: calls.append((name, strength)) or image

    for name, degradation in list(DEGRADATIONS.items()):
        monkeypatch.setitem(DEGRADATIONS, name, replace(degradation, apply=recorder(name)))
    image = np.zeros((8, 8, 3), np.uint8)
    rng = np.random.default_rng(0)
    lengths, firsts, strengths = Counter(), Counter(), {name: [] for name in DEGRADATIONS}
    for _ in range(2000):
        calls.clear()
        random_chain(image, rng, min_side=2)
        assert len({name for name, _ in calls}) == len(calls)
        lengths[len(calls)] += 1
        firsts[calls[0][0]] += 1
        for name, strength in calls:
            strengths[name].append(strength)
    assert sorted(lengths) == [1, 2, 3, 4, 5] and all(330 < count < 470 for count in lengths.values())
    assert len(firsts) == 5 and all(330 < count < 470 for count in firsts.values())
    for name, bounds in {
        "jpeg": (50, 100),
        "webp": (50, 100),
        "resize": (0.5, 1.5),
        "blur": (0, 2),
        "noise": (0, 10),
    }.items():
        low, high = bounds
        assert low <= min(strengths[name]) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(strengths[name]) <= high
    assert {int(quality) for quality in strengths["jpeg"]} == set(range(50, 101))


def test_the_longest_chain_is_a_setting(monkeypatch, picture):
    calls = []
    for name, degradation in list(DEGRADATIONS.items()):
        spy = replace(degradation, apply=lambda image, *_, name=name: calls.append(name) or image)
        monkeypatch.setitem(DEGRADATIONS, name, spy)
    rng = np.random.default_rng(0)
    for _ in range(50):
        random_chain(picture, rng, min_side=16, longest=1)
    assert len(calls) == 50 and set(calls) == set(DEGRADATIONS)


def test_no_side_is_shrunk_below_the_minimum(monkeypatch, picture):
    def sides(min_side):
        return [min(random_chain(picture, rng, min_side=min_side).shape[:2]) for _ in range(90)]

    rng = np.random.default_rng(0)
    assert min(sides(50)) == 50
    assert min(sides(100)) == 60  # smaller than the minimum already: never shrunk, nor brought up to it
    assert min(sides(1)) < 40


def test_a_chain_leaves_out_webp_where_it_can_not_be(monkeypatch):
    monkeypatch.setattr("common.generated.degradations.WEBP_SIDE", 50)
    rng = np.random.default_rng(0)
    for _ in range(20):
        random_chain(np.zeros((8, 60, 3), np.uint8), rng, min_side=8)

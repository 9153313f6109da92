"""Forgeries change what their masks say, and nothing else."""

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.making.synthesis import MIN_SIDE, area_share_at, copy_move, draw_area_share, inpaint, redraw, splice
from common.sizes import size_of


def texture(height: int, width: int, seed: int = 0, gray: bool = False) -> np.ndarray:
    """Smooth random colours: every place differs from every other."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 1 if gray else 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(np.repeat(noise, 3, axis=2) if gray else noise, (0, 0), 2)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


DONOR = texture(90, 140, seed=9)
FORGERIES = {
    "copy_move": copy_move,
    "splice": lambda image, rng, **options: splice(image, DONOR, rng, **options),
    "inpaint": inpaint,
    "redraw": redraw,
}
each_forgery = pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)


@each_forgery
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(MIN_SIDE, 300),
    width=st.integers(MIN_SIDE, 300),
    share=st.one_of(st.none(), st.floats(0.001, 0.4)),
    seed=st.integers(0, 10**6),
)
def test_nothing_changes_outside_the_mask(forge, height, width, share, seed):
    image = texture(height, width)
    before = image.copy()
    forged, mask = forge(image, np.random.default_rng(seed), area_share=share)
    assert forged.shape == image.shape and forged.dtype == np.uint8
    assert mask.shape == (height, width) and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(forged[mask == 0], image[mask == 0])
    assert (forged != image)[mask == 1].any()


@each_forgery
def test_the_seed_decides(forge):
    image = texture(200, 180)
    first, again, other = (forge(image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


@each_forgery
@pytest.mark.parametrize("share", [0.004, 0.02, 0.08, 0.25])
def test_area_is_about_what_was_asked_for(forge, share):
    image = texture(256, 320)
    found = [forge(image, np.random.default_rng(seed), area_share=share)[1].mean() for seed in range(10)]
    assert np.median(found) == pytest.approx(share, rel=0.25)


@each_forgery
def test_all_sizes_occur(forge):
    image = texture(256, 256)
    sizes = Counter(size_of(forge(image, np.random.default_rng(seed))[1].mean()) for seed in range(60))
    assert min(sizes[size] for size in ("tiny", "small", "medium", "large", "xlarge")) >= 3


@each_forgery
def test_avoided_ground_stays_free(forge):
    image, avoid = texture(150, 150), np.zeros((150, 150), np.uint8)
    avoid[:, :75] = 1
    for seed in range(8):
        _, mask = forge(image, np.random.default_rng(seed), area_share=0.05, avoid=avoid)
        assert not (mask & avoid).any()
    with pytest.raises(ValueError, match="room"):
        forge(image, np.random.default_rng(0), avoid=np.ones((150, 150), np.uint8))


@each_forgery
def test_gray_stays_gray(forge):
    image = texture(120, 120, gray=True)
    for seed in range(8):
        forged, _ = forge(image, np.random.default_rng(seed), area_share=0.1)
        assert (forged == forged[..., :1]).all()


@each_forgery
def test_images_too_small_to_forge_are_refused(forge):
    with pytest.raises(ValueError, match="too small"):
        forge(texture(MIN_SIDE - 1, 100), np.random.default_rng(0))


def test_a_plain_copy_is_the_source_shifted():
    image = texture(200, 200)
    for seed in range(10):
        forged, mask = copy_move(image, np.random.default_rng(seed), area_share=0.06, plain_probability=1)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        if count != 3:  # source and copy touch, or are thin
            continue
        changed = [(forged != image)[labels == part].any() for part in (1, 2)]
        assert sorted(changed) == [False, True]
        source, copy = (1, 2) if changed[1] else (2, 1)
        size = stats[source, 2:4].tolist()
        dx, dy = stats[copy, :2] - stats[source, :2]
        inner = cv2.erode(np.pad((labels == source).astype(np.uint8), 1), np.ones((9, 9)))[1:-1, 1:-1]
        rows, columns = np.nonzero(inner)
        assert len(rows) > 50
        np.testing.assert_array_equal(forged[rows + dy, columns + dx], image[rows, columns])
        assert stats[copy, 2:4].tolist() == size
        return
    pytest.fail("no copy-move had two separate blobs")


def test_a_copy_under_a_given_transform():
    image = texture(300, 300)
    for seed in range(10):
        forged, mask = copy_move(image, np.random.default_rng(seed), area_share=0.08, transform=-2 * np.eye(2))
        count, labels, stats, centroids = cv2.connectedComponentsWithStats(mask)
        if count == 3:
            break
    small, large = sorted((1, 2), key=lambda part: stats[part, cv2.CC_STAT_AREA])
    assert stats[large, cv2.CC_STAT_AREA] / stats[small, cv2.CC_STAT_AREA] == pytest.approx(4, rel=0.1)
    # Laid back onto the source: a half turn at half the size about the blobs' centres.
    back = np.column_stack([-0.5 * np.eye(2), centroids[small] + 0.5 * centroids[large]])
    laid = cv2.warpAffine(cv2.GaussianBlur(forged, (0, 0), 1), back, (300, 300))
    inner = cv2.erode((labels == small).astype(np.uint8), np.ones((9, 9))) > 0
    here, there = cv2.GaussianBlur(image, (0, 0), 0.5)[inner].astype(float), laid[inner].astype(float)
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.9


def test_copies_are_turned_scaled_and_mirrored():
    """The copy, pulled back by the transform that its outline suggests, has the area ratio of the scale range."""
    image, ratios = texture(300, 300), []
    for seed in range(30):
        forged, mask = copy_move(image, np.random.default_rng(seed), area_share=0.04, plain_probability=0)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        if count == 3:
            changed = [(forged != image)[labels == part].any() for part in (1, 2)]
            source, copy = (1, 2) if changed[1] else (2, 1)
            ratios.append(stats[copy, cv2.CC_STAT_AREA] / stats[source, cv2.CC_STAT_AREA])
    assert min(ratios) < 0.8 and max(ratios) > 1.25
    assert min(ratios) > 0.75**2 * 0.8 and max(ratios) < 1.33**2 * 1.25


def test_a_splice_shows_the_donor():
    host, donor = np.full((200, 200, 3), (30, 30, 60), np.uint8), np.full((100, 100, 3), (220, 40, 40), np.uint8)
    reds = []
    for seed in range(10):
        forged, mask = splice(host, donor, np.random.default_rng(seed), area_share=0.05)
        inside = forged[mask == 1].astype(int)
        reds.append((inside[:, 0] - inside[:, 1]).mean())
    assert min(reds) > 20


def test_donors_smaller_than_the_region_are_scaled_up():
    _, mask = splice(texture(300, 300), texture(30, 40, 1), np.random.default_rng(0), area_share=0.3)
    assert mask.mean() == pytest.approx(0.3, rel=0.2)


def test_inpainting_removes_an_object():
    image = np.full((200, 200, 3), 200, np.uint8)
    cv2.circle(image, (100, 100), 12, (20, 20, 20), -1)
    avoid = np.ones((200, 200), np.uint8)
    avoid[70:131, 70:131] = 0  # the region covers most of the object
    forged, _ = inpaint(image, np.random.default_rng(0), area_share=0.04, avoid=avoid)
    assert (forged < 100).sum() < 0.5 * (image < 100).sum()


@pytest.mark.parametrize("shape", [(60, 80), (24, 40), (20, 33), (4, 7)])
def test_a_donor_as_large_as_the_region_still_lends(shape):
    """Regions that just fit have no place to spare, and rounding took it for one in a hundred."""
    image, donor = texture(120, 160), texture(*shape, seed=3)
    for seed in range(200):
        _, mask = splice(image, donor, np.random.default_rng(seed), area_share=0.35, scale_range=(0.5, 1.5))
        assert mask.any()


def test_a_donor_of_three_pixels_is_refused():
    with pytest.raises(ValueError, match="3×9 pixels is too small"):
        splice(texture(60, 60), texture(3, 9), np.random.default_rng(0))


def test_shares_follow_the_competitions_sizes():
    sizes = Counter(size_of(area_share_at((i + 0.5) / 1000)) for i in range(1000))
    assert [sizes[s] for s in ("tiny", "small", "medium", "large", "xlarge")] == [244, 251, 158, 197, 150]
    assert area_share_at(0) == pytest.approx(0.001) and area_share_at(1 - 1e-12) == pytest.approx(0.35)
    rng = np.random.default_rng(0)
    shares = np.array([draw_area_share(rng) for _ in range(2000)])
    assert (shares < 0.005).mean() == pytest.approx(0.244, abs=0.03)

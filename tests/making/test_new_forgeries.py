import cv2
import numpy as np
import pytest

from common.data.samples import Sample
from common.making.new_forgeries import VARIED_SIDE, NewForgeries, vary_image


def texture(height, width, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture
def donors(tmp_path):
    """One donor, all green: what comes from it is seen."""
    cv2.imwrite(str(tmp_path / "green.png"), np.full((200, 200, 3), (0, 255, 0), np.uint8))
    return [Sample(case_id="green", image=tmp_path / "green.png", mask=None, group="green")]


IMAGE = texture(160, 200, 0)
EMPTY = np.zeros((160, 200), np.uint8)


def outcomes(copy_paste, mask=EMPTY, count=80):
    return [copy_paste(IMAGE, mask, np.random.default_rng(seed)) for seed in range(count)]


def test_three_in_ten_are_forged(donors):
    results = outcomes(NewForgeries(donors), count=400)
    assert sum(mask.any() for _, mask in results) / 400 == pytest.approx(0.3, abs=0.07)
    untouched = [image for image, mask in results if not mask.any()]
    assert all((image == IMAGE).all() for image in untouched)


def test_half_are_splices_and_half_copy_moves_with_source_and_copy_in_the_mask(donors):
    splices = copies = 0
    for image, mask in outcomes(NewForgeries(donors, probability=1)):
        changed = (image != IMAGE).any(axis=2)
        assert not (changed & (mask == 0)).any()
        if not mask.any():
            continue
        if (image[mask > 0][:, 1] > image[mask > 0][:, 0].astype(int) + 60).mean() > 0.5:  # green
            splices += 1
            assert changed.sum() > 0.9 * mask.sum()
        else:
            copies += 1
            assert 0.15 < changed.sum() / mask.sum() < 0.85  # the source is marked and unchanged
            assert cv2.connectedComponents(mask)[0] >= 2
    assert splices > 20 and copies > 20


def test_forgeries_that_are_there_stay_as_they_are(donors):
    mask = EMPTY.copy()
    mask[40:120, 50:150] = 1
    added = 0
    for image, both in outcomes(NewForgeries(donors, probability=1), mask):
        assert (both[mask > 0] == 1).all()
        assert (image[mask > 0] == IMAGE[mask > 0]).all()
        added += int(both.sum() > mask.sum())
    assert added > 40


def test_where_there_is_no_room_nothing_happens(donors):
    full = np.ones_like(EMPTY)
    for image, mask in outcomes(NewForgeries(donors, probability=1), full, count=3):
        assert image is IMAGE and mask is full


def test_the_generator_decides(donors):
    paste = NewForgeries(donors, probability=1)
    first, second = (paste(IMAGE, EMPTY, np.random.default_rng(3)) for _ in "12")
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()


def test_the_kinds_are_those_asked_for(donors):
    """No green is spliced in; what is filled or redrawn is marked, and nothing else."""
    for kind in ("inpaint", "redraw"):
        found = 0
        for image, mask in outcomes(NewForgeries(donors, probability=1, kinds=(kind,)), count=20):
            changed = (image != IMAGE).any(axis=2)
            assert not (changed & (mask == 0)).any()
            assert not (image[..., 1] > image[..., 0].astype(int) + 200).any()
            found += mask.any()
        assert found >= 15


def test_varied_images_differ_in_size_colour_and_compression():
    image, mask = texture(500, 600, 1), np.zeros((500, 600), np.uint8)
    varied = [vary_image(image, mask, np.random.default_rng(seed))[0] for seed in range(60)]
    assert len({v.shape for v in varied}) > 10
    assert max(max(v.shape) for v in varied) <= 1.6 * VARIED_SIDE
    assert 5 < sum((v == v[..., :1]).all() for v in varied) < 35
    assert all(v.dtype == np.uint8 and v.flags.c_contiguous for v in varied)


def test_a_forged_image_is_only_cropped_and_keeps_some_of_its_forgery():
    image, mask = texture(500, 600, 1), np.zeros((500, 600), np.uint8)
    mask[480:490, 10:20] = 1
    for seed in range(20):
        cropped, kept = vary_image(image, mask, np.random.default_rng(seed))
        assert cropped.shape == (VARIED_SIDE, VARIED_SIDE, 3)
        assert kept.any()
        row, column = np.argwhere(kept)[0]
        top, left = 480 - row, 10 - column
        if kept.sum() == 100:
            assert np.array_equal(cropped, image[top : top + VARIED_SIDE, left : left + VARIED_SIDE])


def test_varied_forgeries_keep_image_and_mask_together(donors):
    """The recipe of the released networks: all kinds, on varied images, with print."""
    forge = NewForgeries(donors, probability=0.6, kinds=("splice", "inpaint", "redraw"), vary=True)
    image, forged = texture(300, 350, 1), 0
    marked = np.zeros((300, 350), np.uint8)
    marked[100:140, 200:260] = 1
    for seed in range(40):
        for mask in (np.zeros_like(marked), marked):
            made, region = forge(image, mask, np.random.default_rng(seed))
            assert made.shape == (*region.shape, 3) and made.dtype == region.dtype == np.uint8
            assert set(np.unique(region)) <= {0, 1}
            forged += region.any() and not mask.any()
            assert region.any() or not mask.any()
    assert 15 < forged < 33

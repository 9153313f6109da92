import cv2
import numpy as np
import pytest

from common.data.samples import Sample
from common.making.copy_paste import CopyPaste


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
    results = outcomes(CopyPaste(donors), count=400)
    assert sum(mask.any() for _, mask in results) / 400 == pytest.approx(0.3, abs=0.07)
    untouched = [image for image, mask in results if not mask.any()]
    assert all((image == IMAGE).all() for image in untouched)


def test_half_are_splices_and_half_copy_moves_with_source_and_copy_in_the_mask(donors):
    splices = copies = 0
    for image, mask in outcomes(CopyPaste(donors, probability=1)):
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
    for image, both in outcomes(CopyPaste(donors, probability=1), mask):
        assert (both[mask > 0] == 1).all()
        assert (image[mask > 0] == IMAGE[mask > 0]).all()
        added += int(both.sum() > mask.sum())
    assert added > 40


def test_where_there_is_no_room_nothing_happens(donors):
    full = np.ones_like(EMPTY)
    for image, mask in outcomes(CopyPaste(donors, probability=1), full, count=3):
        assert image is IMAGE and mask is full


def test_the_generator_decides(donors):
    paste = CopyPaste(donors, probability=1)
    first, second = (paste(IMAGE, EMPTY, np.random.default_rng(3)) for _ in "12")
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()

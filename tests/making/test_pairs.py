import csv

import cv2
import numpy as np
import pytest

from common.data.images import find_images, read_image
from common.data.masks import read_mask
from common.errors import UserError
from common.making.layout import new_folder
from common.making.pairs import COMPRESSED, make_pairs


def field(seed, shape=(150, 170)):
    noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), field(number))
    return list(find_images(tmp_path / "images").values())


def made(images, output, **counts):
    counts = {"figures": 0, "drawn": 0, "photographs": 0} | counts
    with new_folder(output) as folder:
        number = make_pairs(images, folder, seed=3, **counts)
    return number


def test_twins_differ_where_the_mask_says_so(images, tmp_path):
    number = made(images, tmp_path / "pairs", figures=6, drawn=3)
    twins = find_images(tmp_path / "pairs/train_images/authentic")
    assert 14 <= number == len(twins) <= 18
    outside, changed = [], 0
    for case, path in twins.items():
        authentic = read_image(path).astype(int)
        forged = read_image(tmp_path / f"pairs/train_images/forged/{case}.png").astype(int)
        mask = read_mask(tmp_path / f"pairs/train_masks/{case}.npy")
        assert mask.shape[1:] == authentic.shape[:2] == forged.shape[:2]
        difference = np.abs(forged - authentic).max(axis=2)
        outside.append(difference[~cv2.dilate(mask.max(axis=0), np.ones((17, 17))).astype(bool)].max(initial=0))
        changed += difference[mask.max(axis=0) > 0].mean() > 1
    assert changed >= 0.9 * number
    assert np.mean(np.array(outside) > 0) < COMPRESSED + 0.3  # only where a JPEG's blocks differ


def test_groups_tie_what_shares_an_image_and_a_figure_to_its_fields(images, tmp_path):
    made(images, tmp_path / "pairs", figures=4, drawn=2)
    with (tmp_path / "pairs/groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    groups = {row["group"] for row in rows}
    assert groups == {"images-0", "drawn-0", "drawn-1"}  # nine images are one group, its figures with it
    assert sum(row["group"] == "images-0" for row in rows) > 9


def test_the_same_seed_makes_the_same_bytes(images, tmp_path):
    for name in ("first", "second"):
        made(images, tmp_path / name, figures=2, drawn=1)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert files
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_figures_of_too_few_images_are_refused(images, tmp_path):
    with pytest.raises(UserError, match="need 4 images or more"):
        made(images[:3], tmp_path / "pairs", figures=1)

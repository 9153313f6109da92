"""Blots are told from other pictures, of sources that the model was not fitted on."""

import time

import cv2
import numpy as np
import pytest

from common.data.images import read_image
from common.figures.appearance import measures, picture_kind
from common.figures.kind_model import BLOT, FEATURES
from common.making.drawing import draw_blot

skimage_data = pytest.importorskip("skimage.data")


def shrunk(picture: np.ndarray, side: int = 250) -> np.ndarray:
    """A picture as it is printed in a figure."""
    scale = side / max(picture.shape[:2])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def test_the_model_knows_every_measure():
    found = measures(np.zeros((20, 30, 3), np.uint8))
    assert tuple(found) == FEATURES
    assert len(BLOT) == len(FEATURES) + 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (8, 8), (3000, 20)])
def test_pictures_of_any_size_have_finite_measures(shape):
    picture = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    for part in (picture, np.full_like(picture, 255), np.zeros_like(picture)):
        assert np.isfinite(list(measures(part).values())).all()


def test_drawn_blots_are_blots():
    """Of other seeds than those that were fitted on."""
    pictures = (draw_blot(120, 400, np.random.default_rng([7, seed])) for seed in range(20))
    colours = (np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture for picture in pictures)
    assert np.mean([picture_kind(shrunk(picture)) == "blot" for picture in colours]) >= 0.9


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry"])
def test_photographs_and_stained_tissue_are_no_blots(name):
    assert picture_kind(shrunk(getattr(skimage_data, name)())) == "micrograph"


def test_a_mirror_image_has_the_same_measures_but_for_edges_of_pixels():
    picture = shrunk(skimage_data.coffee(), 128)
    one, other = measures(picture), measures(picture[:, ::-1].copy())
    assert all(abs(one[name] - other[name]) < 0.05 for name in FEATURES)


@pytest.mark.slow
def test_blots_of_other_laboratories(shared_data):
    blots = [read_image(path) for path in sorted((shared_data / "blots" / "pristine").iterdir())]
    assert np.mean([picture_kind(shrunk(picture)) == "blot" for picture in blots]) >= 0.75


def test_a_panel_takes_a_few_milliseconds():
    picture = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    picture_kind(picture)
    start = time.process_time()
    for _ in range(20):
        picture_kind(picture)
    assert (time.process_time() - start) / 20 < 0.03  # 3 ms on an idle core

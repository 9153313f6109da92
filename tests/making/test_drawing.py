"""Drawn figures have the content that their names promise."""

import cv2
import numpy as np
import pytest

from common.making.drawing import FIGURES, draw_blot, draw_cells, draw_gel


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("shape", [(64, 64), (224, 448), (301, 233)])
def test_shape_type_and_seed(draw, shape):
    figure = draw(*shape, np.random.default_rng(5))
    assert figure.shape == (*shape, 3) and figure.dtype == np.uint8 and figure.flags.c_contiguous
    np.testing.assert_array_equal(figure, draw(*shape, np.random.default_rng(5)))
    assert (figure != draw(*shape, np.random.default_rng(6))).any()


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_there_is_something_to_forge(draw):
    for seed in range(6):
        figure = draw(256, 320, np.random.default_rng(seed))
        assert figure.std() > 8
        # Sensor noise everywhere but in the white between a blot's strips: no flat vector graphic.
        noise = cv2.absdiff(figure, cv2.GaussianBlur(figure, (5, 5), 0)).mean()
        assert 0.3 < noise < 12


def test_blots_are_dark_bands_on_a_light_ground():
    for seed in range(6):
        gray = draw_blot(300, 400, np.random.default_rng(seed))[..., 0]
        assert np.median(gray) > 180 and gray.min() < 90
        bands, _ = cv2.connectedComponents((cv2.GaussianBlur(gray, (0, 0), 2) < 130).astype(np.uint8))
        assert bands > 4


def test_gels_are_gray_and_of_both_polarities():
    figures = [draw_gel(200, 240, np.random.default_rng(seed)) for seed in range(12)]
    assert all((figure == figure[..., :1]).all() for figure in figures)
    assert min(figure.mean() for figure in figures) < 90 < 150 < max(figure.mean() for figure in figures)


def test_cells_are_bright_blobs_on_a_dark_ground():
    for seed in range(6):
        light = draw_cells(300, 300, np.random.default_rng(seed)).max(axis=2)
        assert np.percentile(light, 5) < 60 and np.percentile(light, 99.5) > 90
        _, blobs = cv2.threshold(cv2.GaussianBlur(light, (0, 0), 2), 0, 1, cv2.THRESH_OTSU)
        _, _, stats, _ = cv2.connectedComponentsWithStats(blobs)
        assert (stats[1:, cv2.CC_STAT_AREA] > 40).sum() >= 3

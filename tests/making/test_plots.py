import numpy as np
import pytest

from common.making.plots import cut_to_ink, draw_plot, draw_scheme


@pytest.mark.parametrize("draw", [draw_plot, draw_scheme])
def test_plots_differ_and_fill_their_box(draw):
    drawn = [draw(np.random.default_rng(seed)) for seed in range(12)]
    assert len({image.shape for image in drawn}) > 8
    for image in drawn:
        assert image.dtype == np.uint8 and image.ndim == 3
        assert min(image.shape[:2]) > 20 and max(image.shape[:2]) < 700
        ink = image.min(axis=2) < 245
        assert all(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))
    assert np.array_equal(drawn[0], draw(np.random.default_rng(0)))


def test_white_margins_are_cut():
    image = np.full((20, 30, 3), 255, np.uint8)
    image[5:8, 10:20] = 0
    assert cut_to_ink(image).shape == (3, 10, 3)
    assert cut_to_ink(np.full((4, 4, 3), 255, np.uint8)).shape == (1, 1, 3)

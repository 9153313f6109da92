"""Composed figures are deterministic, and their masks mark what is shown twice."""

import numpy as np
import pytest

from common.making.figures import compose_figure


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    """Noise, so that what is equal is a copy."""
    return [np.random.default_rng(seed).integers(0, 256, (500, 400, 3), np.uint8) for seed in range(8)]


@pytest.mark.parametrize("relation", ["none", "overlap", "whole"])
def test_the_same_seed_gives_the_same_figure(fields, relation):
    one, two = (compose_figure(fields, np.random.default_rng(3), relation) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.panels == two.panels


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("relation", ["none", "overlap", "whole"])
def test_the_mask_marks_two_panels_or_none(fields, seed, relation):
    figure = compose_figure(fields, np.random.default_rng(seed), relation, labels=bool(seed % 2))
    height, width = figure.image.shape[:2]
    assert figure.mask.shape == (1, height, width) and figure.mask.dtype == np.uint8
    marked = [figure.mask[0, y : y + high, x : x + wide].mean() for x, y, wide, high in figure.panels]
    assert np.count_nonzero(marked) == (0 if relation == "none" else 2)
    assert all(x >= 0 and y >= 0 and x + wide <= width and y + high <= height for x, y, wide, high in figure.panels)
    if figure.relation == "whole":
        assert {share for share in marked if share} == {1.0}
    shares = sorted(share for share in marked if share)
    assert not shares or shares[0] == pytest.approx(shares[-1])


def test_what_is_marked_is_equal(fields):
    """Of an overlap that is neither turned nor brightened, without print and compression."""
    equal = 0
    for seed in range(40):
        figure = compose_figure(fields, np.random.default_rng(seed), "overlap", labels=False)
        one, other = (
            figure.image[y : y + high, x : x + wide][figure.mask[0, y : y + high, x : x + wide] > 0]
            for x, y, wide, high in figure.panels
            if figure.mask[0, y : y + high, x : x + wide].any()
        )
        equal += np.array_equal(one, other)
    assert equal >= 5

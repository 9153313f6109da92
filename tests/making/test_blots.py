"""Figures of strips of blots, with lanes that are shown twice."""

import numpy as np
import pytest

from common.making.blots import BLOT_REUSES, BlotReuse, ReusedBlot, compose_blots, joined_strip
from tests.forensics.test_lanes import blot


def strips(seed: int) -> list[np.ndarray]:
    return [blot(seed + number) for number in range(3)]


def composed(kind: BlotReuse, count: int) -> list[ReusedBlot]:
    """Figures of the first seeds whose draw has room."""
    figures: list[ReusedBlot] = []
    for seed in range(10 * count):
        try:
            figures.append(compose_blots(strips(10 * seed), np.random.default_rng(seed), kind))
        except ValueError:
            continue
        if len(figures) == count:
            break
    assert len(figures) == count
    return figures


@pytest.mark.parametrize("kind", BLOT_REUSES)
def test_what_is_shown_twice_is_marked(kind):
    for figure in composed(kind, 6):
        assert figure.image.shape[:2] == figure.mask.shape and figure.image.dtype == np.uint8
        assert figure.kind == kind and figure.transform
        rows = np.flatnonzero(figure.mask.any(axis=1))
        # The paper between strips is not marked.
        assert (figure.image[figure.mask > 0] < 255).mean() > 0.99
        halves = 1 + np.count_nonzero(np.diff(rows) > 1)
        assert halves == (2 if kind == "strip" else 1)


def test_a_shifted_lane_is_equal_to_its_source():
    for seed in range(40):
        figure = compose_blots(strips(1), np.random.default_rng(seed), "strip")
        if figure.transform == "shifted":
            break
    rows = np.flatnonzero(figure.mask.any(axis=1))
    parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    one, other = (figure.image[part][:, figure.mask[part[0]] > 0] for part in parts)
    np.testing.assert_array_equal(one, other)


def test_without_reuse_nothing_is_marked():
    figure = compose_blots(strips(5), np.random.default_rng(0), None)
    assert figure.kind == "none" and not figure.mask.any() and figure.transform == ""


def test_the_same_seed_gives_the_same_figure():
    one, other = (composed("run", 1)[0] for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)


def test_too_few_lanes():
    with pytest.raises(ValueError, match="too few lanes"):
        compose_blots([np.full((80, 200), 200, np.uint8)] * 2, np.random.default_rng(0), "lane")


def test_joined_strips_are_two_pieces_side_by_side():
    strip, other = (blot(seed).astype(np.uint8) for seed in (0, 1))
    for seed in range(20):
        cut = joined_strip(strip, None, np.random.default_rng(seed))
        assert cut.shape[0] == len(strip) and 0.69 < cut.shape[1] / strip.shape[1] < 0.91
        equal = (cut == strip[:, : cut.shape[1]]).all(axis=0)
        place = int(equal.argmin())
        assert 0.29 < place / strip.shape[1] < 0.61 + 0.1
        assert (cut[:, place:] == strip[:, place - cut.shape[1] :]).all()

        joined = joined_strip(strip, other[:, ::2], np.random.default_rng(seed))
        place = int((joined == strip[:, : joined.shape[1]]).all(axis=0).argmin())
        assert len(joined) == len(strip) and joined.shape[1] > place >= round(0.3 * strip.shape[1])
        beside = [joined[:, columns].mean() for columns in (slice(place - 12, place), slice(place, place + 12))]
        assert abs(beside[0] - beside[1]) < 2

"""The field that two panels share is outlined whole, and a pasted part is not."""

import cv2
import numpy as np

from common.figures.outlines import shared_field
from common.figures.panels import Panel
from common.forensics.copy_move import Copy

SIDE = 200
PANELS = Panel(0, 0, SIDE, SIDE, "micrograph"), Panel(220, 0, SIDE, SIDE, "micrograph")


def cells(seed: int) -> np.ndarray:
    """Bright cells on a dark ground, uint8 (SIDE, SIDE)."""
    rng, picture = np.random.default_rng(seed), np.full((SIDE, SIDE), 12, np.float32)
    for _ in range(9):
        centre = tuple(int(value) for value in rng.integers(15, SIDE - 15, 2))
        cv2.ellipse(picture, centre, (12, 9), float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(60, 160)), -1)
    return (cv2.GaussianBlur(picture, (0, 0), 2) + rng.normal(0, 1, picture.shape)).clip(0, 255).astype(np.uint8)


def page(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gray, valid = np.zeros((2, SIDE, 420), np.uint8)
    gray[:, :SIDE], gray[:, 220:] = one, other
    valid[:, :SIDE] = valid[:, 220:] = 1
    return gray, valid


def copy(shift: tuple[float, float], box: tuple[int, int, int, int]) -> Copy:
    """Of a box x, y, width, height, by a shift."""
    x, y, width, height = box
    source = np.zeros((SIDE, 420), np.uint8)
    source[y : y + height, x : x + width] = 1
    matrix = np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]])
    target = cv2.warpAffine(source, matrix, source.shape[::-1], flags=cv2.INTER_NEAREST) > 0
    points = np.zeros((9, 2, 2), np.float32)
    return Copy(source=source > 0, target=target, matrix=matrix, points=points, correlation=0.9, score=0.9)


def test_a_panel_that_is_shown_again_is_outlined_whole():
    picture = cells(0)
    found = shared_field(
        *page(picture, cv2.convertScaleAbs(picture, alpha=1.3)), copy((220, 0), (60, 60, 60, 60)), *PANELS
    )
    assert found.source[:, :SIDE].mean() > 0.99 and found.target[:, 220:].mean() > 0.99
    assert not found.source[:, SIDE:].any()


def test_an_overlap_is_outlined_as_far_as_both_show_it():
    large = np.hstack([cells(0), cells(1)])
    gray = page(large[:, :SIDE], large[:, 80 : 80 + SIDE])
    found = shared_field(*gray, copy((140, 0), (100, 60, 60, 60)), *PANELS)
    columns = np.flatnonzero(found.source.any(axis=0))
    assert (columns[0], columns[-1]) == (80, SIDE - 1)
    assert np.flatnonzero(found.target.any(axis=0))[0] == 220


def test_a_part_that_was_pasted_stays_a_part():
    one, other = cells(0), cells(1)
    other[40:120, 50:130] = one[40:120, 50:130]
    given = copy((220, 0), (55, 45, 70, 70))
    assert shared_field(*page(one, other), given, *PANELS) is given

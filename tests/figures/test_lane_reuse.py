"""Lanes of blots in figures: shown again they are reuse, also where they stand in a row of equal steps."""

import cv2
import numpy as np
import pytest

from common.figures.panels import Panel
from common.figures.reuse import find_reuse, lane_windows
from tests.forensics.test_lanes import HEIGHT, LANE, LANES, blot

WIDTH = LANES * LANE


def page(*strips: np.ndarray) -> np.ndarray:
    """Strips below one another on white, uint8 (H, WIDTH + 40, 3)."""
    image = np.full((20 + len(strips) * (HEIGHT + 20), WIDTH + 40, 3), 255, np.uint8)
    for number, strip in enumerate(strips):
        y = 20 + number * (HEIGHT + 20)
        image[y : y + HEIGHT, 20 : 20 + WIDTH] = strip[..., None]
    return image


def score(image: np.ndarray) -> float:
    return max((group.score for group in find_reuse(image).reuse), default=0.0)


@pytest.mark.parametrize("apart", [2, 3])
def test_a_lane_shown_again_in_its_blot(apart):
    """Also where it was moved by a third or half of the width, as pictures of one field in a row are."""
    strip = blot(13)
    assert score(page(strip, blot(15))) < 0.5
    strip[:, (1 + apart) * LANE : (2 + apart) * LANE] = strip[:, LANE : 2 * LANE]
    image = page(strip, blot(15))
    (group,) = (group for group in find_reuse(image).reuse if group.score >= 0.5)
    shown = np.zeros(image.shape[:2], bool)
    for lane in (1, 1 + apart):
        shown[20 : 20 + HEIGHT, 20 + lane * LANE : 20 + (lane + 1) * LANE] = True
    assert (group.mask & shown).sum() > 0.7 * shown.sum()


def test_a_run_of_lanes_turned_in_another_blot():
    one, other = blot(13), blot(14)
    other[:, 2 * LANE : 5 * LANE] = one[:, : 3 * LANE][::-1, ::-1]
    found = find_reuse(page(one, other))
    finding = found.findings[0]
    assert finding.relation == "reuse" and finding.group.score >= 0.5
    assert sorted(finding.panels) == [0, 1]
    assert abs(abs(finding.group.copies[0].rotation) - 180) < 3


def test_blots_may_be_nearly_square_and_are_no_drawings():
    panels = [
        Panel(0, 0, 100, 90, "blot"),
        Panel(0, 100, 100, 100, "micrograph"),
        Panel(0, 200, 200, 100, "plot"),
        Panel(0, 300, 300, 60, "micrograph"),
    ]
    assert [(rows.start, columns.stop) for rows, columns in lane_windows(panels)] == [(0, 100), (300, 300)]


def test_print_on_lanes_is_no_copy():
    """Letters printed on lanes that are alike: the ground under them is filled in."""
    strip = blot(15)
    for lane in range(LANES):
        cv2.putText(strip, "ab", (lane * LANE + 12, 84), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 0, 2, cv2.LINE_AA)
    assert score(page(strip, blot(16))) < 0.5

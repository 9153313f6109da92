"""Panels of composed figures are found where they were laid."""

import cv2
import numpy as np
import pytest

from common.figures.panels import Panel, find_panels, shares
from common.making.figures import compose_figure


def field(seed: int, side: int = 360, mean: float = 110) -> np.ndarray:
    """A micrograph of a kind: blobs and grain, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.normal(0, 1, (side // 16, side // 16)), (side, side), interpolation=cv2.INTER_CUBIC)
    gray = mean + 30 * coarse + rng.normal(0, 6, (side, side))
    return np.repeat(gray.clip(20, 235).astype(np.uint8)[..., None], 3, axis=2)


def overlap(panel: Panel, box: tuple[int, int, int, int]) -> float:
    """Intersection over union."""
    x, y, width, height = box
    left, top = max(panel.x, x), max(panel.y, y)
    right, low = min(panel.x + panel.width, x + width), min(panel.y + panel.height, y + height)
    shared = max(0, right - left) * max(0, low - top)
    return shared / (panel.width * panel.height + width * height - shared)


def test_panels_of_composed_figures():
    """Of twelve layouts, some without gaps between fields of nearly the same brightness."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        figure = compose_figure([field(10 * seed + number, mean=80 + 8 * number) for number in range(9)], rng)
        pictures = [panel for panel in find_panels(figure.image) if panel.kind == "picture"]
        found += [max(overlap(panel, box) for panel in pictures) > 0.75 for box in figure.panels]
    assert np.mean(found) >= 0.9


def test_one_picture_is_one_panel():
    assert find_panels(field(0)) == [Panel(0, 0, 360, 360, "picture")]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_colour(level):
    (panel,) = find_panels(np.full((90, 120, 3), level, np.uint8))
    assert (panel.x, panel.y, panel.width, panel.height) == (0, 0, 120, 90)


def test_words_are_drawings():
    page = np.full((500, 700, 3), 255, np.uint8)
    for line in range(10):
        cv2.putText(
            page, "Western blots of the cells", (30, 50 + 42 * line), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0, 0, 0), 2
        )
    assert {panel.kind for panel in find_panels(page)} == {"drawing"}


def test_pictures_that_touch_are_parted_where_a_step_crosses_them():
    figure = np.full((440, 800, 3), 255, np.uint8)
    figure[20:380, 20:380], figure[20:380, 380:740] = field(1, mean=60), field(2, mean=160)
    boxes = [(20, 20, 360, 360), (380, 20, 360, 360)]
    pictures = find_panels(figure)
    assert len(pictures) == 2
    assert all(overlap(panel, box) > 0.95 for panel, box in zip(pictures, boxes, strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (900, 3), (20, 20)])
def test_pictures_of_any_size(shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert len(find_panels(image)) == 1


def test_four_hundred_panels_and_twenty_thousand_pixels():
    grid = np.full((1000, 1000, 3), 255, np.uint8)
    for number in range(400):
        y, x = 50 * (number // 20), 50 * (number % 20)
        grid[y + 2 : y + 47, x + 2 : x + 47] = field(number, 48)[:45, :45]
    assert sum(panel.kind == "picture" for panel in find_panels(grid)) >= 360
    wide = np.full((60, 20000, 3), 255, np.uint8)
    wide[10:50, 100:19000] = 90
    assert find_panels(wide)


def test_a_mask_s_share_in_a_panel():
    panels, mask = [Panel(2, 1, 4, 3, "picture"), Panel(0, 0, 9, 8, "drawing")], np.zeros((8, 9), bool)
    assert shares(panels, mask).tolist() == [0, 0]
    mask[2, 4:8] = True
    assert shares(panels, mask).tolist() == [0.5, 1]

"""Panels are found where they were laid in composed figures, and where a person outlined them in real ones."""

import json
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from common.data.images import read_image
from common.figures.kinds import DRAWN
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
        fields = [field(10 * seed + number, mean=80 + 8 * number) for number in range(9)]
        figure = compose_figure(fields, rng, natural="none")
        pictures = [panel for panel in find_panels(figure.image) if not panel.drawn]
        found += [max(overlap(panel, box) for panel in pictures) > 0.75 for box in figure.panels]
    assert np.mean(found) >= 0.9


@pytest.mark.slow
def test_panels_of_real_figures(shared_data):
    """Of 30 figures that nothing was tuned on: what is measured in docs/RESULTS.md, less a little."""
    truth = json.loads((Path(__file__).parent / "outlines.json").read_text(encoding="utf-8"))
    counts = {"pictures": [0, 0, 0], "all": [0, 0, 0]}  # outlined, found, matched
    for name, outlined in truth.items():
        found = find_panels(read_image(shared_data / "figures" / "images" / name))
        for which, count in counts.items():
            boxes = [panel["box"] for panel in outlined if which == "all" or panel["kind"] not in DRAWN]
            panels = [panel for panel in found if which == "all" or not panel.drawn]
            matched = sum(any(overlap(panel, box) >= 0.75 for panel in panels) for box in boxes)
            counts[which] = [a + b for a, b in zip(count, (len(boxes), len(panels), matched), strict=True)]
    for outlined, found, matched in counts.values():
        assert matched > 0.6 * outlined and matched > 0.6 * found


def plot(draw) -> np.ndarray:
    """A figure as matplotlib saves it, uint8 (H, W, 3)."""
    figure = Figure((4, 3), dpi=120)
    draw(figure)
    figure.savefig(buffer := BytesIO(), format="png")
    return cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)


def test_each_pair_of_axes_is_a_plot_with_its_labels():
    def two(figure):
        for axes in figure.subplots(1, 2):
            axes.plot(np.random.default_rng(0).normal(size=30).cumsum())
            axes.set(xlabel="time", ylabel="signal")
        figure.subplots_adjust(wspace=0.6)

    found = find_panels(plot(two))
    assert [panel.kind for panel in found] == ["plot", "plot"]
    assert found[0].x + found[0].width < found[1].x + 5


def test_a_blot_in_a_frame_is_a_picture_though_its_ground_is_white():
    rng, page = np.random.default_rng(0), np.full((300, 600, 3), 255, np.uint8)
    for band in range(6):
        cv2.ellipse(page, (150 + 60 * band, 150), (22, 9), 0, 0, 360, (70, 70, 70), -1)
    page = cv2.GaussianBlur(page, (0, 0), 3)
    grain = rng.integers(0, 6, (80, 380, 1), np.uint8)
    page[110:190, 110:490] -= np.minimum(page[110:190, 110:490], grain)
    cv2.rectangle(page, (110, 110), (490, 190), (0, 0, 0), 1)
    (panel,) = find_panels(page)
    assert panel.kind == "blot"
    assert overlap(panel, (110, 110, 381, 81)) > 0.9


def draw_blot(page: np.ndarray, x: int, y: int, wide: int, high: int, seed: int):
    """Draw a blot with a white ground on a page."""
    rng = np.random.default_rng(seed)
    part = np.full((high, wide, 3), 255, np.uint8)
    for centre in range(30, wide - 20, 45):
        cv2.ellipse(part, (centre, high // 2), (16, 7), 0, 0, 360, (70, 70, 70), -1)
    part = cv2.GaussianBlur(part, (0, 0), 2)
    page[y : y + high, x : x + wide] = part - np.minimum(part, rng.integers(0, 6, (high, wide, 1), np.uint8))


def test_two_blots_in_frames_that_touch_are_two():
    page = np.full((400, 700, 3), 255, np.uint8)
    boxes = [(110, 110, 170, 90), (282, 110, 170, 90)]
    for seed, (x, y, wide, high) in enumerate(boxes):
        draw_blot(page, x, y, wide, high, seed)
        cv2.rectangle(page, (x, y), (x + wide - 1, y + high - 1), (0, 0, 0), 2)
    found = find_panels(page)
    assert [panel.kind for panel in found] == ["blot", "blot"]
    assert all(overlap(panel, box) > 0.95 for panel, box in zip(found, boxes, strict=True))


def test_pictures_with_two_pixels_of_paper_between_them_are_parted():
    """In rows of three and two, as no line crosses both rows."""
    figure = np.full((560, 940, 3), 255, np.uint8)
    boxes = [(20 + 302 * n, 20, 300, 250) for n in range(3)] + [(171 + 302 * n, 272, 300, 250) for n in range(2)]
    for seed, (x, y, wide, high) in enumerate(boxes):
        figure[y : y + high, x : x + wide] = field(seed, mean=110)[:high, :wide]
    found = find_panels(figure)
    assert len(found) == 5
    assert all(max(overlap(panel, box) for panel in found) > 0.95 for box in boxes)


def test_a_letter_of_a_panel_belongs_to_no_plot():
    def drawn(letter: str):
        def one(figure):
            axes = figure.subplots()
            axes.plot(np.random.default_rng(0).normal(size=30).cumsum())
            axes.tick_params(labelsize=6)
            figure.subplots_adjust(left=0.3, top=0.8)
            figure.text(0.265, 0.82, letter, size=11, weight="bold")

        return one

    assert find_panels(plot(drawn("B"))) == find_panels(plot(drawn("")))


def test_a_legend_with_lines_at_right_angles_belongs_to_the_plot_beside_it():
    def one(figure):
        axes = figure.subplots()
        for number in range(2):
            axes.plot(np.random.default_rng(number).normal(size=30).cumsum(), label=f"dose {number}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), edgecolor="black", fancybox=False, fontsize=8)
        figure.subplots_adjust(right=0.7)

    (panel,) = find_panels(plot(one))
    assert panel.kind == "plot"
    assert panel.width > 0.85 * 480


def test_cells_on_black_are_no_panels():
    picture = np.zeros((400, 500, 3), np.uint8)
    rng = np.random.default_rng(2)
    for _ in range(20):
        centre = tuple(int(value) for value in rng.integers(40, 360, 2))
        cv2.ellipse(picture, centre, (24, 18), float(rng.uniform(0, 180)), 0, 360, (0, 160, 60), -1)
    (panel,) = find_panels(cv2.GaussianBlur(picture, (0, 0), 2))
    assert (panel.x, panel.y, panel.width, panel.height) == (0, 0, 500, 400)


def test_a_pattern_of_stripes_is_one_picture():
    figure = np.full((460, 460, 3), 255, np.uint8)
    stripes = 120 + 80 * np.sign(np.sin(np.arange(400) / 3))
    noise = np.random.default_rng(0).normal(0, 4, (400, 400))
    figure[30:430, 30:430] = (stripes + noise).clip(0, 255).astype(np.uint8)[..., None]
    assert len([panel for panel in find_panels(figure) if not panel.drawn]) == 1


def test_one_picture_is_one_panel():
    assert find_panels(field(0)) == [Panel(0, 0, 360, 360, "micrograph")]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_colour(level):
    (panel,) = find_panels(np.full((90, 120, 3), level, np.uint8))
    assert (panel.x, panel.y, panel.width, panel.height) == (0, 0, 120, 90)


def test_words_are_no_pictures():
    page = np.full((500, 700, 3), 255, np.uint8)
    for line in range(10):
        cv2.putText(
            page, "Western blots of the cells", (30, 50 + 42 * line), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0, 0, 0), 2
        )
    assert len(find_panels(page)) == 1  # nothing that is a panel: the page is one


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
    assert sum(not panel.drawn for panel in find_panels(grid)) >= 360
    wide = np.full((60, 20000, 3), 255, np.uint8)
    wide[10:50, 100:19000] = 90
    assert find_panels(wide)


def test_a_mask_s_share_in_a_panel():
    panels, mask = [Panel(2, 1, 4, 3, "micrograph"), Panel(0, 0, 9, 8, "drawing")], np.zeros((8, 9), bool)
    assert shares(panels, mask).tolist() == [0, 0]
    mask[2, 4:8] = True
    assert shares(panels, mask).tolist() == [0.5, 1]

"""Six examples, forged and untouched, for a first look: made of drawn figures and bundled photographs.

None of their photographs is among those that the released network was trained on (`NOT_FREE`); the drawn figures are
new ones of the same kinds.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from common.data.images import read_image
from common.making.demo import NOT_FREE, bundled_photographs
from common.making.drawing import draw_blot, draw_cells, draw_gel
from common.making.figures import compose_figure
from common.making.layout import write_image, write_mask, write_sample_submission
from common.making.synthesis import copy_move, is_visible, splice

Example = tuple[np.ndarray, np.ndarray | None]
"""An image, uint8 (H, W, 3) RGB, and its mask, uint8 (N, H, W), None where it is untouched."""
SIDE = 480
"""Of the photographs' crops, in pixels."""


def make_examples(folder: Path, seed: int) -> list[str]:
    """Write the examples as test images with masks and sample_submission.csv.

    Args:
        folder: From `common.making.layout.new_folder`.
        seed: The same seed makes the same examples.

    Returns:
        Their case ids.
    """
    for number, (name, make) in enumerate(EXAMPLES.items()):
        image, masks = make(np.random.default_rng([seed, number]))
        write_image(folder / "test_images" / f"{name}.png", image)
        if masks is not None:
            write_mask(folder / "test_masks" / f"{name}.npy", masks)
    write_sample_submission(folder, EXAMPLES)
    return list(EXAMPLES)


def _panel_twice(rng: np.random.Generator) -> Example:
    figure = compose_figure(_fields(rng), rng, "whole", natural="none")
    return figure.image, figure.mask


def _untouched_figure(rng: np.random.Generator) -> Example:
    return compose_figure(_fields(rng), rng, "none", natural="none").image, None


def _pasted_blot(rng: np.random.Generator) -> Example:
    """A blot into which a piece of another one was pasted."""
    blot, donor = (draw_blot(320, 460, rng) for _ in range(2))
    return _visible(blot, lambda: splice(blot, donor, rng, area_share=0.06))


def _copied_cells(rng: np.random.Generator) -> Example:
    return _copied(draw_cells(400, 520, rng), rng)


def _copied_photograph(rng: np.random.Generator) -> Example:
    return _copied(_photograph("motorcycle_left", rng), rng)


def _untouched_photograph(rng: np.random.Generator) -> Example:
    return _photograph("china", rng), None


def _copied(image: np.ndarray, rng: np.random.Generator) -> Example:
    """A part of the image was copied, turned or scaled, and pasted."""
    return _visible(image, lambda: copy_move(image, rng, area_share=0.12, plain_probability=0))


def _visible(image: np.ndarray, forge: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Example:
    """The first of some forgeries of an image that can be seen."""
    while True:
        forged, mask = forge()
        if is_visible(image, forged, mask):
            return forged, mask[None]


def _fields(rng: np.random.Generator) -> list[np.ndarray]:
    return [draw(360, 360, rng) for draw in (draw_cells, draw_cells, draw_gel, draw_cells, draw_cells, draw_gel)]


def _photograph(name: str, rng: np.random.Generator) -> np.ndarray:
    """A square of a bundled photograph that the released network was not trained on."""
    assert name in NOT_FREE
    (path,) = (path for path in bundled_photographs() if path.stem == name)
    image = read_image(path)
    scale = 1.3 * SIDE / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    top, left = (int(rng.integers(max(length - SIDE, 0) + 1)) for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])


EXAMPLES: dict[str, Callable[[np.random.Generator], Example]] = {
    "figure_with_a_panel_twice": _panel_twice,
    "cells_with_a_copy": _copied_cells,
    "photograph_with_a_copy": _copied_photograph,
    "blot_with_a_pasted_piece": _pasted_blot,
    "untouched_figure": _untouched_figure,
    "untouched_photograph": _untouched_photograph,
}

"""Print on pictures, as papers have it: words, letters, scale bars, arrows, circles, boxes and dots."""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from common.making.figures import FONTS, TITLES, load_font

COLOURS = ((255, 255, 255), (0, 0, 0), (255, 255, 0), (255, 0, 0), (0, 255, 255), (60, 120, 220), (0, 200, 0))
"""White and black are drawn more often than the others."""
MOST = 5
"""Marks on a picture, at most."""


def annotate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture with one to `MOST` marks of one colour.

    Args:
        image: uint8 (H, W, 3) RGB, of 32 px or more; it is not modified.
        rng: Random generator.
    """
    marked = np.ascontiguousarray(image).copy()
    colour = COLOURS[rng.integers(2) if rng.random() < 0.7 else rng.integers(len(COLOURS))]
    kind = _MARKS[rng.integers(len(_MARKS))]
    for _ in range(int(rng.integers(1, MOST + 1))):
        marked = kind(marked, colour, rng)
        if rng.random() < 0.5:
            kind = _MARKS[rng.integers(len(_MARKS))]
    return marked


def _place(image: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    height, width = image.shape[:2]
    return int(rng.integers(width)), int(rng.integers(height))


def _words(image: np.ndarray, colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    text = (
        TITLES[rng.integers(len(TITLES))]
        if rng.random() < 0.6
        else chr(int(rng.integers(65, 91)) + 32 * int(rng.integers(2)))
    )
    size = int(rng.integers(9, 34))
    page = Image.fromarray(image)
    ImageDraw.Draw(page).text(
        _place(image, rng), text, fill=colour, font=load_font(FONTS[rng.integers(len(FONTS))], size)
    )
    return np.asarray(page).copy()


def _bar(image: np.ndarray, colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    x, y = _place(image, rng)
    length, thickness = int(rng.integers(15, 90)), int(rng.integers(2, 9))
    size = (length, thickness) if rng.random() < 0.8 else (thickness, length)
    return cv2.rectangle(image, (x, y, *size), colour, -1)


def _arrow(image: np.ndarray, colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    x, y = _place(image, rng)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(12, 50)
    tip = (round(x + length * np.cos(angle)), round(y + length * np.sin(angle)))
    if rng.random() < 0.6:
        return cv2.arrowedLine(
            image, (x, y), tip, colour, int(rng.integers(1, 5)), cv2.LINE_AA, 0, rng.uniform(0.2, 0.5)
        )
    side = length / 3 * np.array([-np.sin(angle), np.cos(angle)])  # an arrow head alone
    corners = np.rint([np.add((x, y), side), tip, np.subtract((x, y), side)]).astype(np.int32)
    return cv2.fillPoly(image, [corners], colour, cv2.LINE_AA)


def _circle(image: np.ndarray, colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    axes = (
        tuple(int(value) for value in rng.integers(4, 40, 2)) if rng.random() < 0.5 else (int(rng.integers(4, 30)),) * 2
    )
    thickness = -1 if rng.random() < 0.25 else int(rng.integers(1, 4))
    return cv2.ellipse(image, _place(image, rng), axes, rng.uniform(0, 180), 0, 360, colour, thickness, cv2.LINE_AA)


def _box(image: np.ndarray, colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    x, y = _place(image, rng)
    size = tuple(int(value) for value in rng.integers(15, 120, 2))
    return cv2.rectangle(image, (x, y, *size), colour, int(rng.integers(1, 4)))


def _line(image: np.ndarray, colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """A straight line across the picture, as between panels that touch."""
    x, y = _place(image, rng)
    start, end = ((x, 0), (x, image.shape[0])) if rng.random() < 0.5 else ((0, y), (image.shape[1], y))
    return cv2.line(image, start, end, colour, int(rng.integers(1, 8)))


_MARKS = (_words, _words, _words, _bar, _arrow, _arrow, _circle, _box, _line)

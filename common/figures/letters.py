"""The letters by which a figure's panels are named, read at their upper left corners."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import ascii_letters, ascii_lowercase

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.figures.panels import Panel

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf")
"""Matplotlib's own, which every installation has: glyphs are compared with theirs."""
LEAST_LIKENESS = 0.72
"""Smallest correlation of a glyph with a font's, from -1 to 1."""
_SPARE = 2  # letters beyond the number of panels: some panels are not found
_GLYPH = 20  # pixels: side of a compared glyph
_HEIGHTS = 0.008, 0.06  # of the figure's longer side
_OUTSIDE, _WITHIN = 0.08, 0.2  # of the figure's longer side beyond the panel's corner, and of the panel's sides inside
_ASPECT = 1.4  # largest ratio of the aspects of a glyph and its font's
_ALONE = 0.6  # of its height: how near another letter makes it a word
_SLIM = 0.5  # of its height: a bracket or a full stop beside a letter is no word
_SAME_IN_BOTH_CASES = "cosuvwxz"


def find_letters(image: np.ndarray, panels: Sequence[Panel]) -> list[str | None]:
    """Read the printed letter of each panel.

    Args:
        image: The figure, uint8 (H, W, 3) RGB.
        panels: Of the figure.

    Returns:
        For each panel a letter, or None; no letter twice, the likeliest place keeps it.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # Letters follow the alphabet: of five panels none is named T.
    alphabet = ascii_lowercase[: len(panels) + _SPARE]
    read = [_read(gray, panel, alphabet + alphabet.upper()) for panel in panels]
    known = [letter for letter, _ in read if letter and letter.lower() not in _SAME_IN_BOTH_CASES]
    upper = sum(letter.isupper() for letter in known) * 2 >= len(known)
    letters: list[str | None] = [None] * len(panels)
    taken = set()
    for place in sorted(range(len(panels)), key=lambda place: -read[place][1]):
        letter, likeness = read[place]
        if letter.lower() in _SAME_IN_BOTH_CASES:
            letter = letter.upper() if upper else letter.lower()
        if likeness >= LEAST_LIKENESS and letter not in taken and letter.isupper() == upper:
            letters[place] = letter
            taken.add(letter)
    # A letter whose two predecessors are both missing is a mark that looks like one.
    places = {ord(letter) for letter in taken}
    first = ord("A" if upper else "a")
    return [
        letter if letter and (ord(letter) <= first + 2 or {ord(letter) - 1, ord(letter) - 2} & places) else None
        for letter in letters
    ]


def _read(gray: np.ndarray, panel: Panel, allowed: str) -> tuple[str, float]:
    """The letter at a panel's corner and its likeness; "" and 0 without any."""
    longest = max(gray.shape)
    left, top = max(panel.x - round(_OUTSIDE * longest), 0), max(panel.y - round(_OUTSIDE * longest), 0)
    right, low = panel.x + round(_WITHIN * panel.width), panel.y + round(_WITHIN * panel.height)
    zone = gray[top : max(low, top + 1), left : max(right, left + 1)]
    _, dark = cv2.threshold(zone, 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    best = ("", 0.0, np.inf)
    for ink in (dark, 1 - dark):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
        for number in range(1, count):
            x, y, wide, high, _ = stats[number]
            if not max(7, _HEIGHTS[0] * longest) <= high <= _HEIGHTS[1] * longest or wide > 1.6 * high:
                continue
            if not _is_alone(stats, number):
                continue
            letter, likeness = _recognised(labels[y : y + high, x : x + wide] == number, allowed)
            corner = np.hypot(left + x - panel.x, top + y - panel.y) / longest
            if likeness >= LEAST_LIKENESS and (letter and likeness - 2 * corner > best[1] - 2 * best[2]):
                best = (letter, likeness, corner)
    return best[0], best[1]


def _is_alone(stats: np.ndarray, number: int) -> bool:
    """Whether no other letter stands beside a component on its line."""
    x, y, wide, high, _ = stats[number]
    others = np.delete(stats[1:], number - 1, axis=0)
    level = (others[:, 1] < y + 0.8 * high) & (others[:, 1] + others[:, 3] > y + 0.2 * high)
    gap = np.maximum(others[:, 0] - (x + wide), x - (others[:, 0] + others[:, 2]))
    tall = (others[:, 3] > 0.5 * high) & (others[:, 3] < 2 * high) & (others[:, 2] > _SLIM * others[:, 3])
    return not bool((level & (gap < _ALONE * high) & tall).any())


def _recognised(ink: np.ndarray, allowed: str) -> tuple[str, float]:
    """The likeliest of the allowed letters for a glyph, bool (h, w), and the correlation with it."""
    names, glyphs, aspects, holes = _templates()
    glyph, aspect = _normal(ink.astype(np.uint8)), ink.shape[1] / ink.shape[0]
    fits = np.maximum(aspects / aspect, aspect / aspects) <= _ASPECT
    fits &= (holes == _holes(ink)) & np.isin(names, list(allowed))
    likeness = np.where(fits, glyphs @ glyph, -1)
    best = int(likeness.argmax())
    return str(names[best]), float(likeness[best])


def _holes(ink: np.ndarray) -> int:
    """Number of holes in a glyph, bool (h, w): O has one where C has none."""
    padded = np.pad(~ink, 1, constant_values=True).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    return int(np.count_nonzero(stats[1:count, 4] > 0.005 * ink.size)) - 1


def _normal(ink: np.ndarray) -> np.ndarray:
    """A glyph of mean 0 and length 1, float32 (n,)."""
    glyph = cv2.resize(ink.astype(np.float32), (_GLYPH, _GLYPH), interpolation=cv2.INTER_AREA)
    glyph = cv2.GaussianBlur(glyph, (0, 0), 1).ravel()
    glyph -= glyph.mean()
    return glyph / max(float(np.linalg.norm(glyph)), 1e-6)


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names (n,), glyphs (n, d), aspects (n,) and numbers of holes (n,) of the letters of all fonts."""
    names, glyphs, aspects, holes = [], [], [], []
    for name in FONTS:
        font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), 48)
        for letter in ascii_letters:
            page = Image.new("L", (96, 96))
            ImageDraw.Draw(page).text((20, 20), letter, fill=255, font=font)
            ink = np.asarray(page) > 127
            rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
            ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            names.append(letter)
            glyphs.append(_normal(ink.astype(np.uint8)))
            aspects.append(ink.shape[1] / ink.shape[0])
            holes.append(_holes(ink))
    return np.array(names), np.array(glyphs), np.array(aspects), np.array(holes)

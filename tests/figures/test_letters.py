"""Panel letters are read where they are printed."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from common.figures import letters as letters_module
from common.figures.letters import find_letters
from common.figures.panels import Panel

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "STIXGeneralBol.ttf", "cmss10.ttf")


def figure(letters: str, font: str, size: int, template: str = "{}") -> tuple[np.ndarray, list[Panel]]:
    """Gray panels, three in a row, with letters above them."""
    page = Image.new("RGB", (980, 40 + 260 * -(-len(letters) // 3)), "white")
    draw, panels = ImageDraw.Draw(page), []
    name = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", font), size)
    for number, letter in enumerate(letters):
        x, y = 30 + 315 * (number % 3), 40 + 260 * (number // 3)
        draw.rectangle((x, y, x + 280, y + 200), fill=(120, 130, 140))
        draw.text((x - 12, y - 34), template.format(letter), fill="black", font=name)
        draw.text((x + 60, y - 24), "treated 24 h", fill="black", font=name.font_variant(size=14))
        panels.append(Panel(x, y, 281, 201, "micrograph"))
    return np.asarray(page), panels


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("letters", ["ABCDEF", "abcdef", "ABCDEFGHIJKL"])
def test_letters_are_read(font, letters):
    read = find_letters(*figure(letters, font, 26))
    # The last font is none of those that glyphs are compared with.
    least = 0.9 if font in letters_module.FONTS else 0.7
    assert sum(one == other for one, other in zip(read, letters, strict=True)) >= least * len(letters)
    assert all(one in (other, None) for one, other in zip(read, letters, strict=True))


def test_letters_in_brackets():
    assert find_letters(*figure("abc", "DejaVuSans.ttf", 22, "({})")) == ["a", "b", "c"]


def test_words_and_other_letters_are_none():
    page, panels = figure("XQZ", "DejaVuSans.ttf", 26)  # of three panels none is named X
    assert find_letters(page, panels) == [None, None, None]


def test_no_panels_and_small_ones():
    page = np.full((40, 40, 3), 255, np.uint8)
    assert find_letters(page, []) == []
    assert find_letters(page, [Panel(0, 0, 1, 1, "micrograph"), Panel(39, 39, 1, 1, "plot")]) == [None, None]

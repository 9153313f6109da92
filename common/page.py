"""A matplotlib figure laid out in pixels: panels and texts."""

from typing import Any

import cv2
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.colours import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION, YELLOW
from common.errors import readable

# The most legible on a dark background first.
COLOURS = (ORANGE, SKY_BLUE, PURPLE, GREEN, YELLOW, VERMILION, BLUE)

# In pixels of the page.
DPI, MARGIN = 100, 20
PANEL_SIDE, WIDE_PANEL = (
    780,
    1580,
)  # longest side of a panel that shares its row, and of one alone in it
LEAST_WIDTH = 820  # of a page: the title needs it
MOST_ENLARGED = 8  # times that a small image is enlarged at most


class Page:
    """A figure measured in pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        """Make a white page of `width` × `height` pixels."""
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def title(self, text: str) -> None:
        """Write the title, in smaller letters if it is long."""
        text = readable(text)
        # A letter is at most about 0.87 pixels wide per point of font size, in the mean of a sentence.
        size = min(13, (self.width - 2 * MARGIN) / (0.87 * max(len(text), 1)))
        self.text(MARGIN, 12, text, fontsize=size, weight="bold")

    def text(self, x: float, y: float, text: str, **style) -> None:
        """Write a text with its top left corner at x, y; `style` are matplotlib's properties of texts."""
        # A file name may contain a $, which matplotlib would typeset as mathematics.
        options: dict[str, Any] = {"va": "top", "fontsize": 10, "parse_math": False} | style
        self.figure.text(x / self.width, 1 - y / self.height, readable(text), **options)

    def panel(self, picture: np.ndarray, x: int, y: int) -> Axes:
        """Show a picture, uint8 (h, w, 3), pixel for pixel with its top left corner at x, y."""
        high, wide = picture.shape[:2]
        axes = self.figure.add_axes(
            (x / self.width, 1 - (y + high) / self.height, wide / self.width, high / self.height)
        )
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
        axes.set_axis_off()
        return axes


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at another (width, height); from 4× on its pixels are repeated, not interpolated."""
    factor = size[0] / picture.shape[1]
    enlarging = cv2.INTER_NEAREST if factor >= 4 else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else enlarging)


def resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) at another (width, height), uint8, 1 inside."""
    # A small region must not vanish when a large image shrinks: a pixel is inside if any part of it is.
    shrinking = size[0] < mask.shape[1]
    shown = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_NEAREST)
    return (shown > 0).astype(np.uint8)


def outlined(picture: np.ndarray, mask: np.ndarray | None, colour: str) -> np.ndarray:
    """The picture (h, w, 3), paler, with a mask (H, W) tinted and outlined, or labelled `authentic` if it is empty."""
    rgb = np.array([round(255 * part) for part in matplotlib.colors.to_rgb(colour)], np.uint8)
    pale = cv2.addWeighted(picture, 0.65, np.full_like(picture, 255), 0.35, 0)
    if mask is None or not mask.any():
        text, font = "authentic", cv2.FONT_HERSHEY_SIMPLEX
        (width, height), _ = cv2.getTextSize(text, font, 0.9, 2)
        cv2.rectangle(pale, (0, 0), (width + 20, height + 22), (255, 255, 255), -1)
        cv2.putText(pale, text, (10, height + 10), font, 0.9, rgb.tolist(), 2, cv2.LINE_AA)
        return pale
    inside = resized_mask(mask, pale.shape[1::-1])
    pale[inside > 0] = (0.65 * picture[inside > 0] + 0.35 * rgb).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(pale, contours, -1, rgb.tolist(), 2, cv2.LINE_AA)

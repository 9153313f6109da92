"""A picture of panels and texts, measured in pixels."""

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Apart for colour-blind readers (Okabe and Ito 2008), those that show best on a dark ground first.
COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")

# All in pixels of the picture.
DPI, MARGIN = 100, 20
PANEL_SIDE, WIDE_PANEL = 780, 1580  # longest side of an image beside another, and above it
LEAST_WIDTH = 820  # the title needs it
MOST_ENLARGED = 8


class Page:
    """A figure measured in pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        """White, `width` × `height` pixels."""
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def title(self, text: str) -> None:
        """Write the title: a long one becomes smaller, not cut off."""
        # A letter is about 0.83 pixels wide for each point of its size.
        size = min(13, (self.width - 2 * MARGIN) / (0.83 * len(text)))
        self.text(MARGIN, 12, text, fontsize=size, weight="bold")

    def text(self, x: float, y: float, text: str, **style) -> None:
        """Write, with the top left corner of the text at x, y."""
        # A file's name may hold a $, which isn't meant as mathematics.
        place = {"va": "top", "fontsize": 10, "parse_math": False}
        self.figure.text(x / self.width, 1 - y / self.height, text, **place | style)

    def panel(self, picture: np.ndarray, x: int, y: int) -> Axes:
        """Show a picture, pixel for pixel, with its top left corner at x, y."""
        high, wide = picture.shape[:2]
        axes = self.figure.add_axes(
            (x / self.width, 1 - (y + high) / self.height, wide / self.width, high / self.height)
        )
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
        axes.set_axis_off()
        return axes


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at another (width, height); much enlarged it shows its pixels, and invents none between them."""
    factor = size[0] / picture.shape[1]
    enlarging = cv2.INTER_NEAREST if factor >= 4 else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else enlarging)

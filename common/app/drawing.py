"""Pictures for the browser: encoded pictures, outlines of regions, and views that show how a picture was made."""

from base64 import b64encode
from io import BytesIO

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from common.colours import VERMILION
from common.forensics.ela import error_level
from common.page import resized, resized_mask

MOST_SIDE = 2000
"""Pixels of the longer side of a figure that is shown; regions and masks that are handed over are whole."""
THUMB_SIDE = 160
MASK_COLOUR = ImageColor.getrgb(VERMILION)
COLOUR_MAPS = ("inferno", "viridis", "nipy_spectral", "hot")
"""Those that the page offers, of matplotlib."""
_STEPS = 17  # of a colour map in the browser, which interpolates between them
_NOISE_GAIN = 8.0
_MAPPED = matplotlib.colormaps["inferno"]


def shown_size(image: np.ndarray, most: int = MOST_SIDE) -> tuple[int, int]:
    """Width and height at which a picture (H, W, ...) is shown."""
    height, width = image.shape[:2]
    scale = min(1.0, most / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def png_bytes(picture: np.ndarray) -> bytes:
    """A picture, uint8 (H, W) or (H, W, 3) RGB, as a PNG file."""
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    return cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def png_uri(picture: np.ndarray) -> str:
    """The same for the page."""
    return f"data:image/png;base64,{b64encode(png_bytes(picture)).decode()}"


def shown_uri(image: np.ndarray, most: int = MOST_SIDE) -> str:
    """A picture, uint8 (H, W, 3) RGB, at the size at which it is shown."""
    size = shown_size(image, most)
    return png_uri(image if size == image.shape[1::-1] else resized(image, size))


def thumbnail_uri(image: np.ndarray) -> str:
    """A small picture of an image, uint8 (H, W, 3) RGB."""
    small = resized(image, shown_size(image, THUMB_SIDE))
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
    return f"data:image/jpeg;base64,{b64encode(data).decode()}"


def figure_uri(figure: Figure) -> str:
    """A matplotlib figure."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def mask_uri(labels: np.ndarray) -> str:
    """The pixels above 0, (H, W), in one colour, and the others transparent, at the size at which they are shown."""
    inside = resized_mask(labels > 0, shown_size(labels))
    picture = Image.fromarray(inside, "P")
    picture.putpalette([0, 0, 0, *MASK_COLOUR])
    file = BytesIO()
    # One bit a pixel: as four bytes it would take ten times as long.
    picture.save(file, "PNG", bits=1, transparency=0, compress_level=1)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def outline(mask: np.ndarray, origin: tuple[float, float] = (0, 0), scale: float = 1.0) -> str:
    """The border of a region as the path of an SVG.

    Args:
        mask: bool (H, W).
        origin: Where the mask's first pixel lies, x and y.
        scale: Units of the SVG a pixel of the mask.
    """
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for contour in contours:
        places = cv2.approxPolyDP(contour, 0.75, closed=True)[:, 0] + 0.5  # the middle of a pixel
        places = places * scale + np.array(origin)
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) + "Z")
    return "".join(parts)


def noise_residual(image: np.ndarray) -> np.ndarray:
    """What a median of 3 × 3 pixels takes away, eight times enlarged around gray: uint8 (H, W, 3)."""
    difference = image.astype(np.int16) - cv2.medianBlur(image, 3)
    return np.clip(128 + _NOISE_GAIN * difference, 0, 255).astype(np.uint8)


def error_levels(image: np.ndarray) -> np.ndarray:
    """Error level analysis of an image, uint8 (H, W, 3) RGB, as a gray picture, uint8 (H, W, 3)."""
    return np.repeat(error_level(image)[..., None], 3, axis=2)


def coloured_map(prob: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities (h, w) in colours at a width and height, uint8 (H, W, 3)."""
    values = cv2.resize(prob.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.rint(255 * _MAPPED(values.clip(0, 1))[..., :3]).astype(np.uint8)


def colour_tables() -> dict[str, list[list[float]]]:
    """Name → red, green and blue of a colour map at equal steps from dark to bright, each in [0, 1]."""
    steps = np.linspace(0, 1, _STEPS)
    return {name: np.round(np.asarray(matplotlib.colormaps[name](steps))[:, :3].T, 3).tolist() for name in COLOUR_MAPS}

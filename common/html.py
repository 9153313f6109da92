"""HTML pages that need no other file: filled Jinja2 templates, and pictures as data URIs."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.errors import readable
from common.page import resized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUALITIES = (88, 75, 60, 45)  # of a JPEG, tried in this order before it is made smaller
_SMALLER = 0.8  # factor on lengths
# Marks that turn the direction of writing within a name, and can't be seen; `readable` leaves them, as letters may need
# them.
_UNSEEN = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\u061c\u200e\u200f\ufeff"}


def filled(template: Path, **values: object) -> str:
    """The page that a template makes of its values.

    It may extend `base.html`, which forbids the browser to run or to load anything. Every string is text on the page,
    whatever it holds, and is `readable`. Besides Jinja's, a template has two functions: `name(text)`, a name of a file
    or the like, set apart from the text around it; and `count(n, one, many)`, such as `2 images`.
    """
    # Imported here: most runs of a program make no page.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        finalize=_shown,
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = {
        "name": lambda text: Markup('<bdi class="name">{}</bdi>').format(_shown(text)),
        "count": lambda n, one, many: f"{n:,} {one if n == 1 else many}",
    }
    return environment.get_template(template.name).render(values | functions)


def _shown(value: object) -> object:
    """A value as it is written: plain text is `readable`, markup is left."""
    return readable(value).translate(_UNSEEN) if type(value) is str else value


def picture_uri(picture: np.ndarray, *, most_wide: int, most_bytes: int) -> str:
    """A picture, uint8 (H, W, 3) RGB, as the data URI of a JPEG.

    Args:
        picture: Scaled down until it keeps both limits.
        most_wide: Pixels.
        most_bytes: Of the JPEG; the URI is a third longer.
    """
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    scale = min(1.0, most_wide / bgr.shape[1])
    while True:
        size = max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale))
        small = resized(bgr, size) if scale < 1 else bgr
        for quality in _QUALITIES:
            data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(data) <= most_bytes or max(size) == 1:
                return f"data:image/jpeg;base64,{b64encode(data).decode()}"
        scale *= _SMALLER


def plot_uri(figure: "Figure") -> str:
    """A matplotlib figure as the data URI of an SVG, which stays sharp in print. Its texts are drawn, not typed."""
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(file.getvalue()).decode()}"

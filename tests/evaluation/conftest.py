import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pictures():
    """What each axes of a figure shows, uint8 (h, w, 3), cut out of the saved picture; and the picture."""

    def cut_out(figure):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        page = np.asarray(Image.open(file).convert("RGB"))
        height, width = page.shape[:2]
        cut = []
        for axes in figure.axes:
            box = axes.get_position()
            rows = slice(round((1 - box.y1) * height), round((1 - box.y0) * height))
            cut.append(page[rows, round(box.x0 * width) : round(box.x1 * width)])
        return cut, page

    return cut_out

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest
from PIL import Image

Placed = tuple[np.ndarray, float, float, float]


@pytest.fixture(scope="session")
def fields() -> list[np.ndarray]:
    """Twelve different pictures of blurred noise, uint8 (200, 240, 3)."""
    rng = np.random.default_rng(7)
    pictures = [cv2.GaussianBlur(rng.integers(0, 256, (200, 240, 3), np.uint8), (0, 0), 1.8) for _ in range(12)]
    return [cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX) for picture in pictures]


@pytest.fixture(scope="session")
def write_pdf():
    """Write a PDF of pages of 600 × 800 points, each a list of pictures with left, lower side and width in points."""

    def write(path: Path, pages: Sequence[Sequence[Placed]], *, rotation: int = 0, form: bool = False) -> Path:
        document = pypdfium2.PdfDocument.new()
        for placed in pages:
            page = document.new_page(600, 800)
            for picture, left, low, width in placed:
                image = pypdfium2.PdfImage.new(document)
                image.set_bitmap(pypdfium2.PdfBitmap.from_pil(Image.fromarray(picture)))
                height = width * picture.shape[0] / picture.shape[1]
                image.set_matrix(pypdfium2.PdfMatrix().scale(width, height).translate(left, low))
                page.insert_obj(image)
            page.set_rotation(rotation)
            page.gen_content()
        if form:
            inner, document = document, pypdfium2.PdfDocument.new()
            for number in range(len(inner)):
                held = inner.page_as_xobject(number, document)
                page = document.new_page(600, 800)
                drawn = held.as_pageobject()
                drawn.set_matrix(pypdfium2.PdfMatrix().scale(0.5, 0.5).translate(100, 200))
                page.insert_obj(drawn)
                page.gen_content()
        document.save(path)
        return path

    return write

"""The pictures of the documents, drawn again: what the programs show today.

    python -m benchmarks.pictures MICROGRAPHS     # the page and the app need Playwright and Debian's chromium

Writes docs/pictures: explained.jpg (a copy in scikit-image's `immunohistochemistry`), altered.jpg and report.png (the
examples of `make demo`), figure_overlap.jpg and figure_again.jpg (figures that `benchmarks.figures` composes), app.png.
"""

from common.process import prepare

prepare()  # before torch is imported

from contextlib import chdir
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import tyro
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

from benchmarks.app import page_of, served
from benchmarks.figures import composed, fields
from common.data.images import read_image
from common.explaining.figure import search_figure
from common.explaining.many import PAGE, Run, explain_many
from common.making.examples import make_examples

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
OVERLAP, AGAIN = 7, 9
"""Figures of `benchmarks.figures generated`: two overlapping fields, and a panel that is shown again."""
WIDTH = 1200
QUALITY = 85
SHOWN = 0.5  # least score of a finding that is drawn


def main(micrographs: tyro.conf.Positional[Path]) -> None:
    """Draw all.

    Args:
        micrographs: Folder, as `benchmarks.figures generated` takes it.
    """
    _write("explained.jpg", search_figure(tissue()).picture("tissue.png", SHOWN))
    for name, number in (("figure_overlap.jpg", OVERLAP), ("figure_again.jpg", AGAIN)):
        figure = composed(fields(micrographs), number)
        _write(name, search_figure(figure.image).picture("figure.png", SHOWN))
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_examples(folder, seed=0)
        images = folder / "test_images"
        blot = images / "blot_with_a_pasted_piece.png"
        _write("altered.jpg", search_figure(read_image(blot), Path("models")).picture(blot.name, SHOWN))
        with chdir(folder):  # the page names what was examined, and is to name no place of this machine
            explain_many(Run(sources=[Path(images.name)], output=Path("found")))
        with page_of((folder / "found" / PAGE).as_uri(), 900) as page:
            _shoot(page, "report.png", 1775)
        with served() as (address, _, _), page_of(address, 1100) as page:
            page.locator("#drop input[type=file]").set_input_files(images / "figure_with_a_panel_twice.png")
            page.locator("[data-verdict]").wait_for()
            page.wait_for_function("document.querySelector('.fe-step').hidden")
            page.click(".fe-finding")
            page.click("[data-flicker]")  # still: else the picture shows one of the two by chance
            _shoot(page, "app.png")


def tissue() -> np.ndarray:
    """The tissue section, uint8 (400, 512, 3) RGB, with a piece of it turned by 35°, enlarged by 9 % and pasted."""
    image = np.ascontiguousarray(data.immunohistochemistry()[:400])
    piece = np.zeros(image.shape[:2], np.uint8)
    piece[62:124, 236:298] = 1
    matrix = cv2.getRotationMatrix2D((267, 93), -35, 1.09)
    matrix[:, 2] += 133, -12
    options = {"M": matrix, "dsize": image.shape[1::-1], "flags": cv2.INTER_CUBIC}
    moved, inside = cv2.warpAffine(image, **options), cv2.warpAffine(255 * piece, **options)
    return np.where(inside[..., None] > 127, moved, image)


def _shoot(page, name: str, most_high: int | None = None) -> None:
    """Write what a browser shows, of at most so many pixels of height, in 256 colours."""
    with Image.open(BytesIO(page.screenshot(full_page=True))) as shot:
        part = shot.convert("RGB").crop((0, 0, shot.width, min(shot.height, most_high or shot.height)))
    part.quantize(256).save(FOLDER / name, optimize=True)


def _write(name: str, drawn: Figure) -> None:
    file = BytesIO()
    drawn.savefig(file, format="png")
    with Image.open(file) as picture:
        size = (WIDTH, round(picture.height * WIDTH / picture.width))
        picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(FOLDER / name, quality=QUALITY)


if __name__ == "__main__":
    tyro.cli(main)

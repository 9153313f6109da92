"""Authentic images with forged twins: of a folder of untouched images, drawn figures, bundled photographs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.images import read_image
from common.forensics.jpeg import jpeg
from common.making.demo import bundled_photographs
from common.making.drawing import FIGURES
from common.making.layout import write_groups, write_image, write_mask
from common.making.synthesis import copy_move, draw_area_share, inpaint, is_visible, redraw, splice

KINDS = {"copymove": 0.25, "splice": 0.35, "inpaint": 0.15, "redraw": 0.25}
"""Share of each kind among the forgeries."""
INSTANCES = (0.75, 0.20, 0.05)
"""Share of the images with one, two, three forged regions."""
DRAWN_SIDES = (256, 640)
"""Shortest and longest side of a drawn figure, in pixels."""
CROP = 512
"""Longest side of the crops of a bundled photograph, in pixels."""
COMPRESSED = 0.4
"""Share of the pairs that are compressed as JPEG, both twins alike, with a quality from 70 to 98."""
_TRIES = 20
Source = tuple[Path | np.ndarray, Path | np.ndarray, str]
"""An image, the one that splices come from, and the group that both belong to in the folds."""


def make_pairs(images: list[Path], folder: Path, *, drawn: int, photographs: int, seed: int) -> int:
    """Write pairs with groups.csv into a new data folder; splices come from within a pair of images of one kind.

    Args:
        images: Untouched images; of an odd number one is left out.
        folder: From `common.making.layout.new_folder`.
        drawn: Number of drawn figures.
        photographs: Number of crops of each bundled photograph.
        seed: Determines the pairs, to the byte.

    Returns:
        How many pairs were made: an image in which no forgery is visible has none.

    Raises:
        UserError: An image can't be read.
    """
    rng = np.random.default_rng(seed)
    sources = [*_paired(images, rng), *_drawn(drawn, rng), *_photographs(photographs, rng)]
    rows = []
    for number, (host, donor, group) in enumerate(tqdm(sources, "forging", unit="pair", disable=None), start=1):
        host, donor = (read_image(image) if isinstance(image, Path) else image for image in (host, donor))
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        forged, masks = _forge(host, donor, kind, rng)
        if not masks:
            continue
        if rng.random() < COMPRESSED:
            quality = int(rng.integers(70, 99))
            host, forged = jpeg(host, quality), jpeg(forged, quality)
        write_image(folder / "train_images" / "authentic" / f"{number}.png", host)
        write_image(folder / "train_images" / "forged" / f"{number}.png", forged)
        write_mask(folder / "train_masks" / f"{number}.npy", np.stack(masks))
        rows.append((str(number), group, kind))
    write_groups(folder, rows)
    return len(rows)


def _paired(images: list[Path], rng: np.random.Generator) -> Iterator[Source]:
    order = [images[i] for i in rng.permutation(len(images))]
    for number, path in enumerate(order[: len(order) // 2 * 2]):
        yield path, order[number ^ 1], f"images-{number // 2}"


def _drawn(count: int, rng: np.random.Generator) -> Iterator[Source]:
    for number in range(count):
        figures = []
        for kind in rng.choice(list(FIGURES), 2, replace=False):
            height, width = rng.integers(*DRAWN_SIDES, 2, endpoint=True)
            figures.append(FIGURES[kind](height, width, rng))
        yield figures[0], figures[1], f"drawn-{number}"


def _photographs(count: int, rng: np.random.Generator) -> Iterator[Source]:
    for path in bundled_photographs() if count else []:
        image = read_image(path)
        for _ in range(count):
            host, donor = _crop(image, rng), _crop(image, rng)
            yield host, donor, f"photograph-{path.stem}"


def _crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = (min(length, CROP) for length in image.shape[:2])
    top, left = (int(rng.integers(room + 1)) for room in (image.shape[0] - height, image.shape[1] - width))
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _forge(
    image: np.ndarray, donor: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The forged image and its masks, none where no forgery could be made visible."""
    count = 1 + rng.choice(3, p=INSTANCES)
    share, masks = draw_area_share(rng) / count, []
    for _ in range(count):
        for _ in range(_TRIES):
            avoid = np.any(masks, axis=0) if masks else None
            try:
                if kind == "splice":
                    forged, mask = splice(image, donor, rng, area_share=share, avoid=avoid)
                else:
                    forge = {"copymove": copy_move, "inpaint": inpaint, "redraw": redraw}[kind]
                    forged, mask = forge(image, rng, area_share=share, avoid=avoid)
            except ValueError:  # no room
                continue
            if is_visible(image, forged, mask):
                image = forged
                masks.append(mask)
                break
    return image, masks

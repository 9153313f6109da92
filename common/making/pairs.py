"""Authentic images with forged twins: of untouched images, compound figures of them, drawn figures, photographs."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.data.images import read_image
from common.errors import UserError
from common.forensics.jpeg import jpeg
from common.making.demo import INSTANCES, bundled_photographs
from common.making.drawing import FIGURES
from common.making.figures import LEAST_FIELDS, LEAST_SIDE, MOST_FIELDS, compose_figure
from common.making.layout import write_groups, write_image, write_mask
from common.making.plots import draw_plot, draw_scheme
from common.making.synthesis import copy_move, draw_area_share, inpaint, is_visible, redraw, splice

KINDS = {"copymove": 0.25, "splice": 0.35, "inpaint": 0.15, "redraw": 0.25}
"""Share of each kind among the forgeries."""
DRAWN_SIDES = (256, 640)
"""Shortest and longest side of a drawn figure, in pixels."""
CROP = 512
"""Longest side of the crops of a bundled photograph, in pixels."""
RELATED = 12
"""Images that one group of the folds holds: compound figures are made of the images of one group."""
PLOTS = 3
"""Plots and schemes in a compound figure, at most."""
COMPRESSED = 0.4
"""Share of the pairs that are compressed as JPEG, both twins alike, with a quality from 70 to 98."""
_TRIES = 20
Box = tuple[int, int, int, int]
Source = tuple[np.ndarray, np.ndarray, Box | None, str]
"""An image, the one that splices come from, the part that is forged (None for all), and the group in the folds."""


def make_pairs(images: list[Path], folder: Path, *, figures: int, drawn: int, photographs: int, seed: int) -> int:
    """Write pairs with groups.csv into a new data folder; splices come from images of the same group.

    Args:
        images: Untouched images.
        folder: From `common.making.layout.new_folder`.
        figures: Number of compound figures of the images, with plots and print; one panel of each is forged.
        drawn: Number of drawn figures.
        photographs: Number of crops of each bundled photograph.
        seed: Determines the pairs, to the byte.

    Returns:
        How many pairs were made: an image in which no forgery is visible has none.

    Raises:
        UserError: An image can't be read.
    """
    rng = np.random.default_rng(seed)
    order = [images[i] for i in rng.permutation(len(images))]
    if len(order) < 2:
        raise UserError(f"splices need two images or more, not {len(order)}.")
    if figures and len(order) < LEAST_FIELDS:
        raise UserError(f"compound figures need {LEAST_FIELDS} images or more, not {len(order)}.")
    count = max(1, len(order) // RELATED)  # groups of equal size: a last one of one image could lend to itself alone
    related = [list(group) for group in np.array_split(np.array(order, object), count)]
    total = len(images) + figures + drawn + photographs * (len(bundled_photographs(free=True)) if photographs else 0)
    sources = chain(
        _images(related), _figures(related, figures, rng), _drawn(drawn, rng), _photographs(photographs, rng)
    )
    rows = []
    for number, (host, donor, box, group) in enumerate(tqdm(sources, "forging", total, unit="pair", disable=None), 1):
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        x, y, width, height = (0, 0, host.shape[1], host.shape[0]) if box is None else box
        part, parts = _forge(np.ascontiguousarray(host[y : y + height, x : x + width]), donor, kind, rng)
        if not parts:
            continue
        forged = host.copy()
        forged[y : y + height, x : x + width] = part
        masks = np.zeros((len(parts), *host.shape[:2]), np.uint8)
        masks[:, y : y + height, x : x + width] = parts
        if rng.random() < COMPRESSED:
            quality = int(rng.integers(70, 99))
            host, forged = jpeg(host, quality), jpeg(forged, quality)
        write_image(folder / "train_images" / "authentic" / f"{number}.png", host)
        write_image(folder / "train_images" / "forged" / f"{number}.png", forged)
        write_mask(folder / "train_masks" / f"{number}.npy", masks)
        rows.append((str(number), group, kind))
    write_groups(folder, rows)
    return len(rows)


def _images(related: list[list[Path]]) -> Iterator[Source]:
    for number, group in enumerate(related):
        for place, path in enumerate(group):
            yield read_image(path), read_image(group[place - 1]), None, f"images-{number}"


def _figures(related: list[list[Path]], count: int, rng: np.random.Generator) -> Iterator[Source]:
    for number, (group, share) in enumerate(zip(related, np.array_split(np.arange(count), len(related)), strict=True)):
        # One group in memory at a time.
        fields = [image for image in map(read_image, group) if min(image.shape[:2]) >= LEAST_SIDE] if len(share) else []
        if len(share) and len(fields) < LEAST_FIELDS:
            raise UserError(
                f"compound figures need images of {LEAST_SIDE} px or more; {group[0]} and others have less."
            )
        for _ in share:
            order = rng.permutation(len(fields))
            donor, chosen = fields[order[0]], [fields[i] for i in order[1 : MOST_FIELDS + 1]]
            figure = compose_figure(chosen, rng)
            pictures = [box for box, printed in zip(figure.panels, figure.pictures, strict=True) if printed]
            box = pictures[rng.integers(len(pictures))]
            plots = [(draw_plot if rng.random() < 0.7 else draw_scheme)(rng) for _ in range(rng.integers(PLOTS + 1))]
            yield _with_plots(figure.image, plots), donor, box, f"images-{number}"


def _with_plots(image: np.ndarray, plots: list[np.ndarray]) -> np.ndarray:
    """A figure with plots in a row below it, on white."""
    if not plots:
        return image
    gap = 16
    below = max(plot.shape[0] for plot in plots)
    width = max(image.shape[1], sum(plot.shape[1] + gap for plot in plots))
    page = cv2.copyMakeBorder(
        image, 0, below + gap, 0, width - image.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    left = 0
    for plot in plots:
        top = image.shape[0] + gap
        page[top : top + plot.shape[0], left : left + plot.shape[1]] = plot
        left += plot.shape[1] + gap
    return page


def _drawn(count: int, rng: np.random.Generator) -> Iterator[Source]:
    for number in range(count):
        figures = []
        for kind in rng.choice(list(FIGURES), 2, replace=False):
            height, width = rng.integers(*DRAWN_SIDES, 2, endpoint=True)
            figures.append(FIGURES[kind](height, width, rng))
        yield figures[0], figures[1], None, f"drawn-{number}"


def _photographs(count: int, rng: np.random.Generator) -> Iterator[Source]:
    for path in bundled_photographs(free=True) if count else []:
        image = read_image(path)
        for _ in range(count):
            host, donor = _crop(image, rng), _crop(image, rng)
            yield host, donor, None, f"photograph-{path.stem}"


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

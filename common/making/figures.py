"""Compound figures as papers print them: panels in a grid with letters, scale bars and titles, some showing the same.

Made of pictures that are given, deterministic by the generator of random numbers. What is shown twice is known: a
part of a field in two panels, a whole panel again, mirrored or turned, with other brightness.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from common.data.images import read_image
from common.errors import UserError
from common.forensics.jpeg import jpeg
from common.making.layout import write_groups, write_image, write_mask, write_sample_submission

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "STIXGeneral.ttf")
"""Matplotlib's own, which every installation has."""
TITLES = ("control", "treated", "WT", "KO", "siRNA", "DMSO", "0 h", "24 h", "DAPI", "GFP", "merge", "10 µM", "Vehicle")
LEAST_FIELDS, MOST_FIELDS, LEAST_SIDE = 4, 9, 64
"""Fields that a set of figures needs at least, and that one figure shows at most; least side of a field in pixels."""
OVERLAPS = (0.3, 0.8)
"""Share of a panel's width and height that an overlapping one shows too."""


@dataclass(frozen=True, kw_only=True)
class ComposedFigure:
    """A figure, and what is known of it."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB."""
    panels: list[tuple[int, int, int, int]]
    """x, y, width and height of each panel."""
    mask: np.ndarray
    """uint8 (1, H, W): 1 where something is shown twice."""
    relation: str
    """`none`, `overlap` or `whole`."""


def compose_figure(
    fields: Sequence[np.ndarray], rng: np.random.Generator, relation: str = "none", *, labels: bool = True
) -> ComposedFigure:
    """Lay out panels cut from different fields in a grid.

    Args:
        fields: At least two pictures, uint8 (h, w, 3) RGB, of at least 64 px.
        rng: Draws layout, sizes, print and compression.
        relation: `none`: every panel shows another field. `overlap`: two panels show overlapping parts of one field.
            `whole`: two panels show the same.
        labels: Whether to print letters, scale bars and titles.
    """
    side = int(min(rng.integers(140, 320), *(min(field.shape[:2]) for field in fields)))
    rows, columns = ((1, 2), (1, 3), (2, 2), (2, 3), (3, 3), (2, 4))[rng.integers(6)]
    count = min(rows * columns, len(fields))
    chosen = rng.permutation(len(fields))[:count]
    pictures = [_crop(fields[number], side, rng) for number in chosen]
    marked = [np.zeros((side, side), np.uint8) for _ in pictures]
    if relation != "none":
        first, second = rng.choice(count, 2, replace=False)
        pair = _overlapping(fields[chosen[first]], side, rng) if relation == "overlap" else None
        if pair is None:
            relation = "whole"
            pair = pictures[first], pictures[first], np.ones((side, side), np.uint8), np.ones((side, side), np.uint8)
        one, other, mask, mask_there = pair
        other, mask_there = _changed(other, mask_there, rng)
        pictures[first], pictures[second], marked[first], marked[second] = one, other, mask, mask_there
    gap, head = int(rng.integers(0, 24)), int(rng.integers(14, 30)) if labels else 0
    ground = 255 if rng.random() < 0.85 else 0
    height, width = rows * (side + gap + head) + gap, columns * (side + gap) + gap
    image, mask = np.full((height, width, 3), ground, np.uint8), np.zeros((1, height, width), np.uint8)
    boxes = []
    for number, (picture, own) in enumerate(zip(pictures, marked, strict=True)):
        x, y = gap + number % columns * (side + gap), gap + head + number // columns * (side + gap + head)
        image[y : y + side, x : x + side], mask[0, y : y + side, x : x + side] = picture, own
        boxes.append((x, y, side, side))
    if labels:
        image = _printed(image, boxes, head, ground, rng)
    if rng.random() < 0.6:
        image = jpeg(image, int(rng.integers(75, 97)))
    return ComposedFigure(image=image, panels=boxes, mask=mask, relation=relation)


def _crop(field: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    y, x = (int(rng.integers(0, length - side + 1)) for length in field.shape[:2])
    return field[y : y + side, x : x + side].copy()


def _overlapping(
    field: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Two crops that overlap, and the masks of what they share; None if the field is too small."""
    room = [length - side for length in field.shape[:2]]
    shift = [int(side * (1 - share)) for share in rng.uniform(*OVERLAPS, 2)]
    if any(step > space for step, space in zip(shift, room, strict=True)):
        return None
    y, x = (int(rng.integers(0, space - step + 1)) for space, step in zip(room, shift, strict=True))
    flip = rng.random() < 0.5
    x_one, x_other = (x + shift[1], x) if flip else (x, x + shift[1])
    one, other = field[y : y + side, x_one : x_one + side], field[y + shift[0] :, x_other:][:side, :side]
    mask, mask_there = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    mask[shift[0] :, slice(0, side - shift[1]) if flip else slice(shift[1], side)] = 1
    mask_there[: side - shift[0], slice(shift[1], side) if flip else slice(0, side - shift[1])] = 1
    return one.copy(), other.copy(), mask, mask_there


def _changed(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mirrored or turned, and with other brightness, each in some cases."""
    if rng.random() < 0.3:
        picture, mask = picture[:, ::-1], mask[:, ::-1]
    if rng.random() < 0.2:
        turns = int(rng.integers(1, 4))
        picture, mask = np.rot90(picture, turns), np.rot90(mask, turns)
    if rng.random() < 0.4:
        gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-15, 15)
        picture = np.rint(picture * gain + offset).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture), np.ascontiguousarray(mask)


def _printed(
    image: np.ndarray, boxes: list[tuple[int, int, int, int]], head: int, ground: int, rng: np.random.Generator
) -> np.ndarray:
    """Letters and scale bars in the panels, titles above them."""
    page = Image.fromarray(image)
    draw = ImageDraw.Draw(page)
    side = boxes[0][2]
    name = FONTS[rng.integers(len(FONTS))]
    letter, small = _font(name, max(10, side // 9)), _font(name, max(9, side // 14))
    boxed, bars, first = rng.random() < 0.3, rng.random() < 0.7, "Aa"[rng.integers(2)]
    length = int(side * rng.uniform(0.15, 0.35))
    text = f"{(10, 20, 50, 100)[rng.integers(4)]} µm"
    for number, (x, y, wide, high) in enumerate(boxes):
        ink = (255, 255, 255) if np.median(image[y : y + high, x : x + wide]) < 128 else (0, 0, 0)
        place = (x + side // 25 + 1, y + side // 30)
        if boxed:
            draw.rectangle((x, y, x + side // 6, y + side // 6), fill=tuple(255 - value for value in ink))
        draw.text(place, chr(ord(first) + number), fill=ink, font=letter)
        if bars:
            right, low = x + wide - side // 15, y + high - side // 12
            draw.rectangle((right - length, low, right, low + max(2, side // 60)), fill=ink)
            draw.text((right - length, low - side // 10), text, fill=ink, font=small)
        if head:
            title = TITLES[rng.integers(len(TITLES))]
            draw.text((x + 2, y - head + 2), title, fill=(255 - ground,) * 3, font=_font(name, max(9, head - 6)))
    return np.asarray(page).copy()


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def make_figures(fields: Sequence[Path], folder: Path, *, train: int, test: int, seed: int) -> list[str]:
    """Write composed figures into a new data folder in the competition's layout.

    Every second figure is authentic. A figure takes its panels from one of several parts of the fields; those of a part
    are one group, and no part serves training and test.

    Args:
        fields: Image files of at least 64 px, each of another field; four of them or more, eight for a test.
        folder: From `common.making.layout.new_folder`.
        train: Number of training figures.
        test: Number of test figures.
        seed: Of the parts and of each figure.

    Returns:
        The relation of each figure, training ones first: `none`, `overlap` or `whole`.

    Raises:
        UserError: There are too few fields, or one can't be read or is too small.
    """
    needed = LEAST_FIELDS * (2 if test else 1)
    if len(fields) < needed:
        raise UserError(f"{len(fields)} pictures are too few for figures; {needed} or more are needed.")
    order = np.random.default_rng(seed).permutation(len(fields))
    n_parts = max(2 if test else 1, min(len(fields) // MOST_FIELDS, (train + test) // 4))
    parts = [[fields[place] for place in part] for part in np.array_split(order, n_parts)]
    n_test = max(1, round(n_parts * test / max(train + test, 1))) if test else 0
    jobs = [("train", number, n_test + number % max(n_parts - n_test, 1)) for number in range(train)]
    jobs += [("test", train + number, number % n_test) for number in range(test)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made = pool.map(lambda job: _write_figure(job, parts[job[2]], folder, seed), jobs)
        relations = list(tqdm(made, "composing", len(jobs), unit="figure", leave=False, disable=None))
    rows = [
        (str(number), f"part-{part}", relation.replace("none", ""))
        for (_, number, part), relation in zip(jobs, relations, strict=True)
    ]
    write_groups(folder, rows)
    if test:
        write_sample_submission(folder, [str(train + number) for number in range(test)])
    return relations


def _write_figure(job: tuple[str, int, int], fields: Sequence[Path], folder: Path, seed: int) -> str:
    split, number, _ = job
    # Its own generator: a figure depends neither on the others nor on the order of the threads.
    rng = np.random.default_rng([seed, 2, number])
    chosen = rng.permutation(len(fields))[:MOST_FIELDS]
    pictures = [_read_field(fields[place]) for place in chosen]
    figure = compose_figure(pictures, rng, ("none", "overlap", "none", "whole")[number % 4])
    forged = figure.relation != "none"
    name = f"{number}.png"
    if split == "test":
        write_image(folder / "test_images" / name, figure.image)
    else:
        write_image(folder / "train_images" / ("forged" if forged else "authentic") / name, figure.image)
    if forged:
        write_mask(folder / f"{split}_masks" / f"{number}.npy", figure.mask)
    return figure.relation


def _read_field(path: Path) -> np.ndarray:
    field = read_image(path)
    if min(field.shape[:2]) < LEAST_SIDE:
        raise UserError(f"{path} has a side below {LEAST_SIDE} px. Remove it, or enlarge it.")
    return field

"""Compound figures as papers print them: panels with letters, scale bars and titles, some showing the same.

Made of pictures that are given, deterministic by the generator of random numbers. What is shown twice is known: a
part of a field in two panels, a whole panel again, a part of a panel copied within it; mirrored, turned, enlarged, with
other brightness. Natural relations, which are no reuse, stand beside it: a merge and its channels, an enlarged detail.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from common.data.images import read_image
from common.errors import UserError
from common.forensics.jpeg import jpeg
from common.making.drawing import draw_blot
from common.making.layout import write_groups, write_image, write_mask, write_sample_submission
from common.making.synthesis import copy_move

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "STIXGeneral.ttf")
"""Matplotlib's own, which every installation has."""
TITLES = ("control", "treated", "WT", "KO", "siRNA", "DMSO", "0 h", "24 h", "DAPI", "GFP", "merge", "10 µM", "Vehicle")
LEAST_FIELDS, MOST_FIELDS, LEAST_SIDE = 4, 9, 64
"""Fields that a set of figures needs at least, and that one figure shows at most; least side of a field in pixels."""
OVERLAPS = (0.3, 0.8)
"""Share of a panel's width and height that an overlapping one shows too."""

Relation = Literal["none", "overlap", "whole", "within"]
"""What is shown twice: nothing, a part of a field in two panels, a whole panel, a part of a panel within it."""
RELATIONS: tuple[Relation, ...] = get_args(Relation)
Natural = Literal["none", "channels", "enlargement", "exposures"]
"""A natural relation beside it: two channels and their merge; a detail of a panel enlarged, in it or in another one; a
field at two times, of other brightness and with grain of its own."""
_SIDES = (120, 320)  # pixels of a panel
_CONTENT = 5.0  # gray levels: least deviation of what is shown twice, which a reader must be able to see
_GRAIN_SIGMA, _LEAST_GRAIN = 1.5, 1.5  # pixels: of the blur that takes grain away; gray levels: deviation of grain
_TRIES = 3  # places in each field


@dataclass(frozen=True, kw_only=True)
class ComposedFigure:
    """A figure, and what is known of it."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB."""
    panels: list[tuple[int, int, int, int]]
    """x, y, width and height of each panel."""
    pictures: list[bool]
    """Of each panel, whether it is one of the pictures, and no plot or blot beside them."""
    mask: np.ndarray
    """uint8 (1, H, W): 1 where something is shown twice."""
    relation: Relation
    transform: str
    """How the second place differs: `shifted` alone, or of `mirrored`, `turned`, `scaled`, `brightness`; empty for
    `none`."""
    natural: Natural


@dataclass(frozen=True)
class _Panel:
    """A panel before it is laid out."""

    picture: np.ndarray
    marked: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    """Where it shows what is shown twice, uint8 (h, w), or empty."""
    printed: bool = True
    """Whether it gets a letter and a scale bar."""

    @property
    def mask(self) -> np.ndarray:
        return self.marked if self.marked.size else np.zeros(self.picture.shape[:2], np.uint8)


def compose_figure(
    fields: Sequence[np.ndarray],
    rng: np.random.Generator,
    relation: Relation = "none",
    *,
    natural: Natural | None = None,
    labels: bool = True,
) -> ComposedFigure:
    """Lay out panels cut from different fields, in a grid or in rows of their own heights.

    Args:
        fields: At least two pictures, uint8 (h, w, 3) RGB, of at least 64 px.
        rng: Draws layout, sizes, print and compression.
        relation: What is shown twice. Without a place that is not empty another relation is taken, `none` at last.
        natural: A natural relation beside it; drawn by default, `none` in half of the figures.
        labels: Whether to print letters, scale bars and titles.
    """
    if natural is None:
        natural = (*("none",) * 5, "exposures", *("channels",) * 2, *("enlargement",) * 2)[rng.integers(10)]
    pool = [fields[number] for number in rng.permutation(len(fields))]
    least = min(min(picture.shape[:2]) for picture in pool)
    grid = rng.random() < 0.5
    side = int(min(rng.integers(140, 320), least))
    count = int(rng.integers(2, 10))
    panels: list[_Panel] = []
    relation, transform = _add_reuse(panels, pool, rng, relation, side, grid=grid)
    natural = _add_natural(panels, pool, rng, natural, side)
    while pool and len(panels) < count:
        size = (side, side) if grid else _draw_size(rng, least)
        panels.append(_Panel(_crop(pool.pop(), size, rng)))
    distractors = int(rng.integers(0, 3)) if labels and not grid else 0
    panels += [_Panel(_distractor(rng, side), printed=False) for _ in range(distractors)]
    panels = [panels[place] for place in rng.permutation(len(panels))]
    return _laid_out(panels, rng, relation, transform, natural, grid=grid, labels=labels)


def _draw_size(rng: np.random.Generator, least: int) -> tuple[int, int]:
    """Height and width of a panel."""
    high = int(rng.integers(*_SIDES))
    return min(high, least), min(int(high * rng.uniform(0.7, 1.5)), least)


def _crop(picture: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    y, x = (int(rng.integers(0, length - side + 1)) for length, side in zip(picture.shape, size, strict=False))
    return picture[y : y + size[0], x : x + size[1]].copy()


def _has_content(picture: np.ndarray) -> bool:
    """Whether a reader sees more than an empty ground."""
    return float(cv2.GaussianBlur(picture, (0, 0), 1.5).std(axis=(0, 1)).max()) >= _CONTENT


def _add_reuse(
    panels: list[_Panel],
    pool: list[np.ndarray],
    rng: np.random.Generator,
    relation: Relation,
    side: int,
    *,
    grid: bool,
) -> tuple[Relation, str]:
    """Add the panels that show the same, from the pool's fields; the relation that was possible, and its transform."""
    wishes: tuple[Relation, ...] = () if relation == "none" else (relation, "whole")
    for wanted in dict.fromkeys(wishes):
        for place in [int(place) for place in rng.permutation(len(pool)) for _ in range(_TRIES)]:
            made = _reused(pool[place], rng, wanted, side, grid=grid)
            if made is not None:
                pool.pop(place)
                panels += made[0]
                return wanted, made[1]
    return "none", ""


def _reused(
    picture: np.ndarray, rng: np.random.Generator, relation: Relation, side: int, *, grid: bool
) -> tuple[list[_Panel], str] | None:
    size = (side, side)
    if relation == "overlap":
        pair = _overlapping(picture, side, rng)
        if pair is None:
            return None
        one, other = pair
        if not _has_content(one.picture[np.ix_(*(one.marked.any(axis=axis) for axis in (1, 0)))]):
            return None
        other, transform = _changed(other, rng, grid=True)
        return [one, other], transform
    part = _crop(picture, size, rng)
    if not _has_content(part):
        return None
    if relation == "within":
        try:
            forged, mask = copy_move(part, rng, area_share=float(rng.uniform(0.04, 0.25)), plain_probability=0.6)
        except ValueError:
            return None
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows) or not _has_content(forged[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]):
            return None
        return [_Panel(forged, mask)], "within"
    whole = _Panel(part, np.ones(size, np.uint8))
    other, transform = _changed(whole, rng, grid=grid)
    return [whole, other], transform


def _overlapping(picture: np.ndarray, side: int, rng: np.random.Generator) -> tuple[_Panel, _Panel] | None:
    """Two crops that overlap; None if the field is too small."""
    room = [length - side for length in picture.shape[:2]]
    shift = [int(side * (1 - share)) for share in rng.uniform(*OVERLAPS, 2)]
    if any(step > space for step, space in zip(shift, room, strict=True)):
        return None
    y, x = (int(rng.integers(0, space - step + 1)) for space, step in zip(room, shift, strict=True))
    flip = rng.random() < 0.5
    x_one, x_other = (x + shift[1], x) if flip else (x, x + shift[1])
    one, other = picture[y : y + side, x_one : x_one + side], picture[y + shift[0] :, x_other:][:side, :side]
    mask, mask_there = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    mask[shift[0] :, slice(0, side - shift[1]) if flip else slice(shift[1], side)] = 1
    mask_there[: side - shift[0], slice(shift[1], side) if flip else slice(0, side - shift[1])] = 1
    return _Panel(one.copy(), mask), _Panel(other.copy(), mask_there)


def _changed(panel: _Panel, rng: np.random.Generator, *, grid: bool) -> tuple[_Panel, str]:
    """Mirrored, turned, scaled outside of a grid, and with other brightness, each in some cases; and their names."""
    picture, mask, names = panel.picture, panel.marked, []
    if rng.random() < 0.25:
        picture, mask = picture[:, ::-1], mask[:, ::-1]
        names.append("mirrored")
    if rng.random() < 0.2:
        turns = int(rng.integers(1, 4))
        picture, mask = np.rot90(picture, turns), np.rot90(mask, turns)
        names.append("turned")
    if not grid and rng.random() < 0.3:
        scale = float(rng.choice([0.7, 0.8, 1.25, 1.4]))
        size = tuple(round(length * scale) for length in mask.shape[::-1])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        picture = cv2.resize(np.ascontiguousarray(picture), size, interpolation=interpolation)
        mask = cv2.resize(np.ascontiguousarray(mask), size, interpolation=cv2.INTER_NEAREST)
        names.append("scaled")
    if rng.random() < 0.3:
        gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-15, 15)
        picture = np.rint(picture * gain + offset).clip(0, 255).astype(np.uint8)
        names.append("brightness")
    changed = replace(panel, picture=np.ascontiguousarray(picture), marked=np.ascontiguousarray(mask))
    return changed, ", ".join(names) or "shifted"


def _add_natural(
    panels: list[_Panel], pool: list[np.ndarray], rng: np.random.Generator, natural: Natural, side: int
) -> Natural:
    """Add the panels of a natural relation from the pool's fields; the relation that was possible."""
    if natural == "channels" and len(pool) >= 2:
        first, second = (_crop(pool.pop(), (side, side), rng).max(axis=2) for _ in range(2))
        one, two = rng.choice(3, 2, replace=False)
        channels = np.zeros((2, side, side, 3), np.uint8)
        channels[0, ..., one], channels[1, ..., two] = first, second
        panels += [_Panel(channels[0]), _Panel(channels[1]), _Panel(channels.max(axis=0))]
        return natural
    if natural == "enlargement" and pool:
        picture = _crop(pool.pop(), (side, side), rng)
        inside = rng.random() < 0.5
        zoom = int(rng.integers(2, 5))
        part = side // (2 * zoom) if inside else side // zoom
        y, x = (int(value) for value in rng.integers(0, side // 2 - part + 1, 2))
        detail = cv2.resize(picture[y : y + part, x : x + part], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        colour = (255, 255, 255) if np.median(picture) < 128 else (0, 0, 0)
        cv2.rectangle(picture, (x, y), (x + part, y + part), colour, 1)
        if inside:
            picture[-len(detail) :, -len(detail) :] = detail
            corner = side - len(detail)
            cv2.rectangle(picture, (corner, corner), (side - 1, side - 1), colour, 1)
            panels.append(_Panel(picture, printed=False))
        else:
            panels += [_Panel(picture), _Panel(detail)]
        return natural
    if natural == "exposures" and pool:
        picture = _crop(pool.pop(), (side, side), rng).astype(np.float32)
        smooth = cv2.GaussianBlur(picture, (0, 0), _GRAIN_SIGMA)
        spread = max(float((picture - smooth).std()), _LEAST_GRAIN)
        for gain in (1.0, rng.uniform(0.7, 1.1)):
            grain = rng.normal(0, spread, picture.shape[:2])[..., None]  # of all channels: a gray one stays gray
            panels.append(_Panel(np.rint(gain * (smooth + grain)).clip(0, 255).astype(np.uint8)))
        return natural
    return "none"


def _distractor(rng: np.random.Generator, side: int) -> np.ndarray:
    """A bar plot with words, or a strip of a blot."""
    if rng.random() < 0.5:
        return draw_blot(max(side // 3, LEAST_SIDE), side, rng)
    page = Image.fromarray(np.full((side, side, 3), 255, np.uint8))
    draw, font = ImageDraw.Draw(page), load_font(FONTS[rng.integers(len(FONTS))], max(9, side // 16))
    left, low, bars = side // 6, side - side // 6, int(rng.integers(2, 6))
    draw.line((left, side // 12, left, low, side - 4, low), fill=(0, 0, 0), width=1 + side // 200)
    step = (side - left) // bars
    for number in range(bars):
        x, top = left + number * step + step // 4, int(rng.integers(side // 8, low - 8))
        colour = tuple(int(value) for value in rng.integers(0, 230, 3))
        draw.rectangle((x, top, x + step // 2, low), fill=colour, outline=(0, 0, 0))
        draw.line((x + step // 4, top - 6, x + step // 4, top), fill=(0, 0, 0))
        draw.text((x - step // 8, low + 4), TITLES[rng.integers(len(TITLES))], fill=(0, 0, 0), font=font)
    for number in range(4):
        draw.text((2, low - number * (low - side // 12) // 4 - side // 30), f"{5 * number}", fill=(0, 0, 0), font=font)
    return np.asarray(page).copy()


def _laid_out(
    panels: Sequence[_Panel],
    rng: np.random.Generator,
    relation: Relation,
    transform: str,
    natural: Natural,
    *,
    grid: bool,
    labels: bool,
) -> ComposedFigure:
    """The figure of panels in rows, each as high as its highest panel."""
    gap, head = int(rng.integers(0, 24)), int(rng.integers(14, 30)) if labels else 0
    ground = 255 if rng.random() < 0.85 else 0
    most = int(rng.integers(2, 5)) if len(panels) > 2 else 2
    rows = [panels[start : start + most] for start in range(0, len(panels), most)]
    width = max(sum(panel.picture.shape[1] + gap for panel in row) for row in rows) + gap
    height = sum(max(panel.picture.shape[0] for panel in row) + gap + head for row in rows) + gap
    image, mask = np.full((height, width, 3), ground, np.uint8), np.zeros((height, width), np.uint8)
    boxes, y = [], gap + head
    for row in rows:
        x = gap
        for panel in row:
            high, wide = panel.picture.shape[:2]
            image[y : y + high, x : x + wide], mask[y : y + high, x : x + wide] = panel.picture, panel.mask
            boxes.append((x, y, wide, high))
            x += wide + gap
        y += max(panel.picture.shape[0] for panel in row) + gap + head
    if labels:
        image = _printed(image, boxes, [panel.printed for panel in panels], head, ground, rng)
    if rng.random() < 0.25:  # as journals scale figures
        scale = float(rng.uniform(0.7, 0.95))
        size = round(width * scale), round(height * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        boxes = [tuple(round(value * scale) for value in box) for box in boxes]
    if rng.random() < 0.6:
        image = jpeg(image, int(rng.integers(75, 97)))
    return ComposedFigure(
        image=image,
        panels=boxes,
        pictures=[panel.printed for panel in panels],
        mask=mask[None],
        relation=relation,
        transform=transform,
        natural=natural,
    )


def _printed(
    image: np.ndarray,
    boxes: Sequence[tuple[int, int, int, int]],
    marked: Sequence[bool],
    head: int,
    ground: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Letters and scale bars in the panels that get them, titles above all."""
    page = Image.fromarray(image)
    draw = ImageDraw.Draw(page)
    name = FONTS[rng.integers(len(FONTS))]
    boxed, bars, first = rng.random() < 0.3, rng.random() < 0.7, "Aa"[rng.integers(2)]
    length = rng.uniform(0.15, 0.35)
    text = f"{(10, 20, 50, 100)[rng.integers(4)]} µm"
    soft = int(rng.integers(0, 40))  # print is not always of full black and white
    for number, ((x, y, wide, high), with_bar) in enumerate(zip(boxes, marked, strict=True)):
        side = min(wide, high)
        letter, small = load_font(name, max(10, side // 9)), load_font(name, max(9, side // 14))
        dark = np.median(image[y : y + high, x : x + wide]) < 128
        ink = (255 - soft,) * 3 if dark else (soft,) * 3
        if with_bar:
            if boxed:
                draw.rectangle((x, y, x + side // 6, y + side // 6), fill=tuple(255 - value for value in ink))
            draw.text((x + side // 25 + 1, y + side // 30), chr(ord(first) + number), fill=ink, font=letter)
        if bars and with_bar:
            right, low = x + wide - side // 15, y + high - side // 12
            left = right - int(side * length)
            draw.rectangle((left, low, right, low + max(2, side // 60)), fill=ink)
            draw.text((left, low - side // 10), text, fill=ink, font=small)
        if head:
            title = TITLES[rng.integers(len(TITLES))]
            draw.text((x + 2, y - head + 2), title, fill=(255 - ground,) * 3, font=load_font(name, max(9, head - 6)))
    return np.asarray(page).copy()


@cache
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of `FONTS` at a size in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def make_figures(fields: Sequence[Path], folder: Path, *, train: int, test: int, seed: int) -> list[Relation]:
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
        The relation of each figure, training ones first.

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


def _write_figure(job: tuple[str, int, int], fields: Sequence[Path], folder: Path, seed: int) -> Relation:
    split, number, _ = job
    # Its own generator: a figure depends neither on the others nor on the order of the threads.
    rng = np.random.default_rng([seed, 2, number])
    chosen = rng.permutation(len(fields))[:MOST_FIELDS]
    pictures = [_read_field(fields[place]) for place in chosen]
    figure = compose_figure(pictures, rng, RELATIONS[(number // 2) % 3 + 1] if number % 2 else "none")
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

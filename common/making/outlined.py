"""Compound figures with outlined panels of all kinds, which the panel detector is trained on.

`compose_outlined` lays out pictures, plots and drawings that are given: blocks side by side, in each one panel, a grid
of pictures that may touch, a stack of blots or a row of plots, with letters and words beside them. `vary_outlined`
makes another figure from one that was outlined by hand: other contents in its panels, other proportions and tones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from common.forensics.jpeg import jpeg
from common.making.figures import FONTS, printed_font
from common.making.plots import WORDS

Box = tuple[int, int, int, int]
Pool = Mapping[str, Sequence[np.ndarray]]
"""Contents of panels, uint8 (h, w, 3) RGB, by kind: micrograph, blot, photograph, plot, drawing."""
PICTURES = ("micrograph", "blot", "photograph")
_LEAST = 24  # pixels: least side of a panel
_SIDE = (500, 1100)  # pixels of a figure


@dataclass(frozen=True, kw_only=True)
class Outlined:
    """A figure and its panels."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB."""
    boxes: list[Box]
    """x, y, width and height in pixels."""
    kinds: list[str]
    """Of each box."""


class _Page:
    """A figure that is being laid out."""

    def __init__(self, size: tuple[int, int], pool: Pool, rng: np.random.Generator) -> None:
        width, height = size
        self.pool, self.rng = pool, rng
        self.ground = 0 if rng.random() < 0.06 else 255
        self.image = np.full((height, width, 3), self.ground, np.uint8)
        self.boxes: list[Box] = []
        self.kinds: list[str] = []
        self.texts: list[tuple[int, int, str, int, tuple[int, int, int]]] = []
        self.font = FONTS[rng.integers(len(FONTS))]
        self.letters = rng.random() < 0.8
        self.first = "Aa"[rng.integers(2)]
        self.count = 0

    def content(self, kind: str) -> np.ndarray:
        choice = self.pool[kind]
        return choice[self.rng.integers(len(choice))]

    def write(self, x: int, y: int, text: str, size: int, ink: tuple[int, int, int] | None = None) -> None:
        self.texts.append((x, y, text, size, ink or (255 - self.ground,) * 3))

    def put(self, box: Box, kind: str) -> None:
        """Paste a content of a kind into a box; a plot keeps its proportions, roughly, and a picture is cut to it."""
        x, y, wide, high = box
        if wide < _LEAST or high < min(_LEAST, 14):
            return
        content = self.content(kind)
        content = fitted(content, (wide, high), kind, self.rng)
        high, wide = content.shape[:2]
        if self.ground == 0 and kind in ("plot", "drawing"):
            content = 255 - content
        self.image[y : y + high, x : x + wide] = content
        if kind in PICTURES:
            self.mark(x, y, wide, high)
            if kind == "blot" and self.rng.random() < 0.4:
                cv2.rectangle(self.image, (x, y), (x + wide - 1, y + high - 1), (0, 0, 0), int(self.rng.integers(1, 3)))
        self.boxes.append((x, y, wide, high))
        self.kinds.append(kind)

    def mark(self, x: int, y: int, wide: int, high: int) -> None:
        """Print a scale bar, an arrow, a word or a framed detail into a picture."""
        rng, side = self.rng, min(wide, high)
        if side < 50:
            return
        dark = np.median(self.image[y : y + high, x : x + wide]) < 128
        ink = (255, 255, 255) if dark else (0, 0, 0)
        if rng.random() < 0.4:
            length = int(wide * rng.uniform(0.12, 0.35))
            low, right = y + int(high * 0.92), x + int(wide * 0.95)
            cv2.rectangle(self.image, (right - length, low), (right, low + max(1, side // 60)), ink, -1)
        if rng.random() < 0.25:
            self.write(x + side // 20, y + side // 30, _word(rng)[:6], max(9, side // 12), ink)
        if rng.random() < 0.15:
            start = (x + int(wide * rng.uniform(0.2, 0.8)), y + int(high * rng.uniform(0.2, 0.8)))
            end = (start[0] + side // 10, start[1] + side // 10)
            cv2.arrowedLine(self.image, start, end, ink, max(1, side // 100), tipLength=0.4)
        if rng.random() < 0.15:
            part = int(side * rng.uniform(0.2, 0.45))
            left, top = x + wide - part - 1, y + (0 if rng.random() < 0.5 else high - part - 1)
            source = self.image[y : y + part // 2, x : x + part // 2]
            if source.size:
                self.image[top : top + part, left : left + part] = cv2.resize(source, (part, part))
                cv2.rectangle(self.image, (left, top), (left + part, top + part), ink, 1)
        if rng.random() < 0.15:
            a, b = rng.uniform(0.1, 0.5, 2)
            corner = (x + int(a * wide), y + int(b * high))
            cv2.rectangle(self.image, corner, (corner[0] + side // 4, corner[1] + side // 4), ink, 1)

    def letter(self, x: int, y: int) -> int:
        """Print the next panel letter; the width that it takes."""
        if not self.letters:
            return 0
        size = int(self.rng.integers(14, 26))
        self.write(x, y, chr(ord(self.first) + self.count % 26), size)
        self.count += 1
        return size

    def finished(self) -> Outlined:
        page = Image.fromarray(self.image)
        draw = ImageDraw.Draw(page)
        for x, y, text, size, ink in self.texts:
            draw.text((x, y), text, fill=ink, font=printed_font(self.font, size))
        return Outlined(image=np.asarray(page).copy(), boxes=self.boxes, kinds=self.kinds)


def compose_outlined(pool: Pool, rng: np.random.Generator) -> Outlined:
    """Lay out a figure; every kind of the pool has one content at least."""
    width, height = (int(rng.integers(*_SIDE)) for _ in range(2))
    page = _Page((width, height), pool, rng)
    margin = int(rng.integers(0, 20))
    _divide(page, (margin, margin, width - 2 * margin, height - 2 * margin), int(rng.integers(1, 4)))
    if not page.boxes:
        page.put((margin, margin, width - 2 * margin, height - 2 * margin), "micrograph")
    return _printed(page.finished(), rng)


def vary_outlined(figure: Outlined, pool: Pool, rng: np.random.Generator) -> Outlined:
    """The figure with other contents in some panels, some panels taken away, and other proportions and tones."""
    image, boxes, kinds = figure.image.copy(), list(figure.boxes), list(figure.kinds)
    longest = max(image.shape[:2])
    if longest > _SIDE[1]:
        scale = _SIDE[1] / longest
        image, boxes = _resized(image, boxes, (scale, scale))
    share = rng.uniform(0, 0.8) if rng.random() < 0.6 else 0.0
    ground = 0 if np.median(image) < 20 else 255
    for number, (x, y, wide, high) in enumerate(boxes):
        if rng.random() < share and min(wide, high) >= 8:
            old = kinds[number]
            if old in PICTURES:
                kind = old if rng.random() < 0.5 else PICTURES[rng.integers(len(PICTURES))]
                if kind == "blot" and high > 1.5 * wide:
                    kind = "micrograph"
            else:
                kind = old if rng.random() < 0.7 else ("plot", "drawing")[rng.integers(2)]
            content = pool[kind][rng.integers(len(pool[kind]))]
            content = fitted(content, (wide, high), kind, rng)
            if kind in ("plot", "drawing"):
                image[y : y + high, x : x + wide] = ground
                if ground == 0:
                    content = 255 - content
            high, wide = content.shape[:2]
            image[y : y + high, x : x + wide] = content
            boxes[number], kinds[number] = (x, y, wide, high), kind
    if rng.random() < 0.25 and len(boxes) > 3:  # some panels less
        gone = rng.random(len(boxes)) < rng.uniform(0.1, 0.5)
        for (x, y, wide, high), away in zip(boxes, gone, strict=True):
            if away:
                image[y : y + high, x : x + wide] = ground
        # What was painted over takes parts of its neighbours with it where boxes overlap.
        kept = [n for n, away in enumerate(gone) if not away]
        boxes, kinds = [boxes[n] for n in kept], [kinds[n] for n in kept]
    stretch = np.exp(rng.normal(0, 0.12, 2))
    image, boxes = _resized(image, boxes, (float(stretch[0]), float(stretch[1])))
    if rng.random() < 0.3:
        gain, offset = rng.uniform(0.8, 1.2, 3), rng.uniform(-10, 10)
        ground_pixels = (image.min(axis=2) > 245) | (image.max(axis=2) < 10)
        toned = np.rint(image * gain + offset).clip(0, 255).astype(np.uint8)
        image = np.where(ground_pixels[..., None], image, toned)
    return _printed(Outlined(image=image, boxes=boxes, kinds=kinds), rng)


def fitted(content: np.ndarray, size: tuple[int, int], kind: str, rng: np.random.Generator) -> np.ndarray:
    """A content in a size (width, height): a picture fills it, what is drawn keeps its proportions within a third."""
    wide, high = size
    tall, broad = content.shape[:2]
    if kind in PICTURES:
        if kind == "micrograph" and rng.random() < 0.5:
            content = np.rot90(content, int(rng.integers(4)))
            tall, broad = content.shape[:2]
        # A part of the same proportions, at a scale between all of it and its own pixels.
        part = min(tall / high, broad / wide)
        zoom = part if part < 1 or kind == "blot" else rng.uniform(1, part)
        rows, columns = max(1, int(high * zoom)), max(1, int(wide * zoom))
        y, x = int(rng.integers(0, tall - rows + 1)), int(rng.integers(0, broad - columns + 1))
        content = content[y : y + rows, x : x + columns]
        return _scaled(content, (wide, high))
    scale = min(wide / broad, high / tall)
    wide = min(wide, round(broad * scale * rng.uniform(1, 1.33)))
    high = min(high, round(tall * scale * rng.uniform(1, 1.33)))
    return _scaled(content, (max(8, wide), max(8, high)))


def _scaled(content: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] < content.shape[1]
    return cv2.resize(
        np.ascontiguousarray(content), size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )


def _resized(image: np.ndarray, boxes: Sequence[Box], factors: tuple[float, float]) -> tuple[np.ndarray, list[Box]]:
    height, width = image.shape[:2]
    size = max(16, round(width * factors[0])), max(16, round(height * factors[1]))
    fx, fy = size[0] / width, size[1] / height
    placed = []
    for x, y, wide, high in boxes:
        left, top, right, low = round(x * fx), round(y * fy), round((x + wide) * fx), round((y + high) * fy)
        placed.append((left, top, max(1, right - left), max(1, low - top)))
    return _scaled(image, size), placed


def _printed(figure: Outlined, rng: np.random.Generator) -> Outlined:
    """As journals recode it."""
    image = jpeg(figure.image, int(rng.integers(50, 97))) if rng.random() < 0.7 else figure.image
    return Outlined(image=image, boxes=figure.boxes, kinds=figure.kinds)


def _word(rng: np.random.Generator) -> str:
    return WORDS[rng.integers(len(WORDS))]


def _divide(page: _Page, area: Box, depth: int) -> None:
    """Divide an area in two again and again, and fill the parts with blocks."""
    x, y, wide, high = area
    rng = page.rng
    if wide < 60 or high < 40:
        return
    if depth == 0 or (wide < 260 and high < 260) or rng.random() < 0.12:
        _fill(page, area)
        return
    gap = int(rng.integers(4, 40))
    cut = rng.uniform(0.3, 0.7)
    if rng.random() < wide / (wide + high):
        left = int(wide * cut)
        parts = [(x, y, left - gap, high), (x + left, y, wide - left, high)]
    else:
        top = int(high * cut)
        parts = [(x, y, wide, top - gap), (x, y + top, wide, high - top)]
    for part in parts:
        _divide(page, part, depth - 1)


def _fill(page: _Page, area: Box) -> None:
    rng = page.rng
    x, y, wide, high = area
    inside = rng.random() < 0.4
    if inside:
        page.letter(x + 3, y + 3)
    else:
        taken = page.letter(x, y)
        if rng.random() < 0.5:
            x, wide = x + taken, wide - taken
        else:
            y, high = y + taken + 2, high - taken - 2
    if wide < 50 or high < 30:
        return
    area = (x, y, wide, high)
    _BLOCKS[rng.integers(len(_BLOCKS))](page, area)


def _one(page: _Page, area: Box) -> None:
    kinds = ("plot", "plot", "plot", "drawing", "micrograph", "micrograph", "photograph", "blot")
    page.put(area, kinds[page.rng.integers(len(kinds))])


def _tiles(page: _Page, area: Box) -> None:
    """A grid of pictures with words above and beside it."""
    rng = page.rng
    x, y, wide, high = area
    kind = ("micrograph", "micrograph", "micrograph", "photograph")[rng.integers(4)]
    size = int(rng.integers(12, 18))
    head = size + 6 if rng.random() < 0.5 else 0
    side = int(rng.integers(40, 90)) if rng.random() < 0.4 else 0
    if wide - side < 80 or high - head < 80:
        head = side = 0
    wide, high = wide - side, high - head
    least = int(rng.integers(55, 160))
    columns, rows = (max(1, min(length // least, int(rng.integers(1, 8)))) for length in (wide, high))
    gap = int(rng.choice([0, 0, 1, 2, 3, 5, 8, 14]))
    step_x, step_y = wide // columns, high // rows
    if rng.random() < 0.5:
        step_x = step_y = min(step_x, step_y)
    field = page.content(kind) if rng.random() < 0.2 else None  # one field in several tones
    for row in range(rows):
        if side:
            page.write(x, y + head + int((row + 0.4) * step_y), _word(rng)[:8], size)
        for column in range(columns):
            if head and row == 0:
                page.write(x + side + column * step_x + 4, y, _word(rng)[:9], size)
            box = (x + side + column * step_x, y + head + row * step_y, step_x - gap, step_y - gap)
            if rng.random() < 0.03:
                continue
            if field is not None and min(box[2:]) >= _LEAST:
                toned = np.rint(field * rng.uniform(0.2, 1.2, 3)).clip(0, 255).astype(np.uint8)
                page.image[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = fitted(
                    toned, box[2:], "photograph", rng
                )
                page.boxes.append(box)
                page.kinds.append(kind)
            else:
                page.put(box, kind)


def _blots(page: _Page, area: Box) -> None:
    """Strips of blots under each other, with names and weights beside them."""
    rng = page.rng
    x, y, wide, high = area
    size = int(rng.integers(10, 16))
    left = int(rng.integers(40, 90)) if rng.random() < 0.7 else 0
    right = int(rng.integers(30, 50)) if rng.random() < 0.5 else 0
    head = size * 2 if rng.random() < 0.6 else 0
    wide = wide - left - right
    if wide < 60:
        left, right, wide = 0, 0, area[2]
    wide = min(wide, int(rng.integers(90, 500)))
    lanes = int(rng.integers(2, 9))
    if head:
        for lane in range(lanes):
            page.write(x + left + lane * wide // lanes + 4, y, ("+", "–", _word(rng)[:4])[rng.integers(3)], size)
    low, strip = y + head, int(rng.integers(18, 70))
    gap = int(rng.integers(1, 14))
    while low + strip <= y + high:
        page.put((x + left, low, wide, strip), "blot")
        if left:
            page.write(x, low + strip // 3, _word(rng)[:7], size)
        if right:
            page.write(x + left + wide + 4, low + strip // 3, f"{int(rng.integers(10, 250))}", size)
        low += strip + gap
        if rng.random() < 0.3:
            strip = int(rng.integers(18, 90))
        if rng.random() < 0.1:
            break


def _plots(page: _Page, area: Box) -> None:
    """A grid of plots."""
    rng = page.rng
    x, y, wide, high = area
    columns, rows = (max(1, min(length // 110, int(rng.integers(1, 5)))) for length in (wide, high))
    gap = int(rng.integers(4, 20))
    for row in range(rows):
        for column in range(columns):
            step_x, step_y = wide // columns, high // rows
            page.put((x + column * step_x, y + row * step_y, step_x - gap, step_y - gap), "plot")


_BLOCKS = (_one, _one, _one, _tiles, _tiles, _tiles, _blots, _plots)

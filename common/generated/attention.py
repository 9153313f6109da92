"""Where a classifier of whole images looked, as something to look at: maps over the image, a table of its tokens.

Attention tells how much each part weighs in the verdict, not what is wrong there: it is no mask of a forgery.
"""

import re
import textwrap
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np

from common.page import LEAST_WIDTH, MARGIN, MOST_ENLARGED, PANEL_SIDE, WIDE_PANEL, Page, resized
from common.tables import markdown_table

BEST_PROMPTS = 5
"""Prompts in the table."""
PROMPT_LETTERS = 40
"""Of a prompt, that the table shows."""

# The order of its brightness is the order of its values, for colour-blind readers too (van der Walt and Smith 2015).
COLOURS = matplotlib.colormaps["viridis"]
COLOUR_SHARE = 0.7
"""Of the colour, where it lies over the grey image."""
CAPTION = "Colour is attention: how much a part weighs in the verdict, not what is wrong there. No mask of a forgery."

# All in pixels of the picture.
LEAST_COLUMN, BAR_WIDTH, BAR_HEIGHT, LINE, STRIPE = 390, 200, 14, 16, 6
HEAD, PANEL_HEAD, BAR_FOOT = 66, 22, 46


def attention_map(
    positions: Sequence[tuple[int, int]], weights: np.ndarray, patch_size: int, height: int, width: int
) -> np.ndarray:
    """Patches' weights, each over its square.

    Args:
        positions: Row and column of the upper left pixels of P patches, in the image after `pad_to_patch`.
        weights: (P,).
        patch_size: Side of a patch in pixels.
        height: Of the image before it was padded.
        width: Likewise.

    Returns:
        float32 (height, width): means of the weights where patches overlap, nan where none lies.
    """
    padded = max(height, patch_size), max(width, patch_size)
    total, count = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    for (row, column), weight in zip(positions, weights, strict=True):
        square = np.s_[row : row + patch_size, column : column + patch_size]
        total[square] += weight
        count[square] += 1
    mean = np.divide(total, count, out=np.full(padded, np.nan, np.float32), where=count > 0)
    top, left = (padded[0] - height) // 2, (padded[1] - width) // 2
    return mean[top : top + height, left : left + width]


def semantic_map(
    names: Sequence[str], weights: np.ndarray, attention: np.ndarray, height: int, width: int
) -> np.ndarray | None:
    """Weights on the cells of the finest scale, means over the patches by their attention, each over its cell.

    Args:
        names: Of the K semantic tokens, as `Spai.semantic_tokens`.
        weights: Of each patch on the tokens, (P, K), sum 1 over them.
        attention: Of the patches, (P,), sum 1.
        height: Of the image. It was resized to a square for the tower: a cell covers its part of height and width.
        width: Likewise.

    Returns:
        float32 (height, width); None where no token is a cell.
    """
    shares = dict(zip(names, attention @ weights, strict=True))
    finest = max((_scale(name) for name in names), default=0)
    if not finest:
        return None
    grid = [[shares[f"{finest}:{row},{column}"] for column in range(finest)] for row in range(finest)]
    rows, columns = (np.arange(side) * finest // side for side in (height, width))
    return np.array(grid, np.float32)[np.ix_(rows, columns)]


def describe_tokens(
    names: Sequence[str], weights: np.ndarray, attention: np.ndarray, prompts: Sequence[str] | None = None
) -> str:
    """What the patches asked the picture's meaning about, as a Markdown table, one row a kind of semantic token.

    Args:
        names: See `semantic_map`.
        weights: Likewise.
        attention: Likewise.
        prompts: The wording of the text tokens, where it is known.

    Returns:
        Number of tokens, their share of the attention, and that in equal shares of all tokens; the best
        `BEST_PROMPTS` prompts follow by themselves.
    """
    shares = attention @ weights
    kinds: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        kinds.setdefault(_kind(name), []).append(place)
    texts = kinds.get("all prompts", [])
    for place in sorted(texts, key=lambda place: -shares[place])[:BEST_PROMPTS]:
        number = int(names[place].removeprefix("text "))
        wording = f": {textwrap.shorten(prompts[number], PROMPT_LETTERS, placeholder='…')}" if prompts else ""
        kinds[f"prompt {number + 1}{wording}".replace("|", "/")] = [place]
    rows = [
        [kind, len(places), f"{100 * shares[places].sum():.1f} %", f"{shares[places].mean() * len(names):.2f}"]
        for kind, places in kinds.items()
    ]
    return markdown_table(["semantic tokens", "number", "attention", "× equal share"], rows)


def draw_attention(
    image: np.ndarray, attention: np.ndarray, semantic: np.ndarray | None, title: str
) -> matplotlib.figure.Figure:
    """The image, and beside it in colours over its grey, or below where it is wide, how much each part weighs.

    Args:
        image: uint8 (H, W, 3) RGB of any size.
        attention: (H, W), the patches' weights in equal shares: 1 is what each would have if all had the same
            (`attention_map` times P). Where it is nan the image is hatched.
        semantic: (H, W), in equal shares of the tokens (`semantic_map` times K); None without one.
        title: Above the picture.

    Returns:
        A figure at most 1,620 pixels wide at its own dpi. Its axes are the image, and of each map the map and its bar.
    """
    height, width = image.shape[:2]
    maps = [("patch attention", attention, _patch_caption(attention))]
    if semantic is not None:
        maps.append(("semantic attention", semantic, _semantic_caption(semantic)))
    columns = 1 if width > 2 * height else 1 + len(maps)
    most = min(WIDE_PANEL if columns == 1 else PANEL_SIDE, (WIDE_PANEL - (columns - 1) * MARGIN) // columns)
    scale = min(most / width, PANEL_SIDE / height, MOST_ENLARGED)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    column = max(wide, LEAST_COLUMN)
    content = max(columns * column + (columns - 1) * MARGIN, LEAST_WIDTH - 2 * MARGIN)
    captions = [_wrapped(caption, content if columns == 1 else column) for *_, caption in maps]
    foot = BAR_FOOT + LINE * max(len(lines) for lines in captions)
    panel = PANEL_HEAD + high
    total = HEAD + panel + MARGIN + (len(maps) * (panel + foot + MARGIN) if columns == 1 else foot)

    page = Page(content + 2 * MARGIN, total)
    page.title(title)
    page.text(MARGIN, 38, CAPTION, color="0.35")
    picture = resized(image, (wide, high))
    x, y = (page.width - columns * column - (columns - 1) * MARGIN) // 2 if columns > 1 else MARGIN, HEAD
    page.text(x, y, "image", weight="bold")
    page.panel(picture, x, y + PANEL_HEAD)
    below = panel + MARGIN
    for (name, values, _), lines in zip(maps, captions, strict=True):
        x, y = (x, y + below) if columns == 1 else (x + column + MARGIN, y)
        below = panel + foot + MARGIN
        highest = max(2.0, float(np.nanmax(values)))
        page.text(x, y, name, weight="bold")
        page.panel(_coloured(picture, values / highest), x, y + PANEL_HEAD)
        _draw_bar(page, x, y + panel + 8, highest)
        for number, line in enumerate(lines):
            page.text(x, y + panel + BAR_FOOT + LINE * number, line, fontsize=9, color="0.35")
    return page.figure


def _scale(name: str) -> int:
    """The scale of a cell, s for `s:row,column`; 0 for any other token."""
    cell = re.fullmatch(r"(\d+):\d+,\d+", name)
    return int(cell[1]) if cell else 0


def _kind(name: str) -> str:
    if scale := _scale(name):
        return f"its parts, {scale}×{scale}"
    return {"image": "the picture as a whole", "patch": "the patch itself"}.get(name, "all prompts")


def _patch_caption(attention: np.ndarray) -> str:
    caption = f"Weights of the patches: {_span(attention)}."
    missed = 100 * np.isnan(attention).mean()
    return caption + (f" Hatched: not looked at, since no patch reaches there ({missed:.2g} %)." if missed else "")


def _semantic_caption(semantic: np.ndarray) -> str:
    return f"Parts of the picture whose meaning the patches take in: {_span(semantic)} of the tokens."


def _span(values: np.ndarray) -> str:
    return f"{np.nanmin(values):.2f} to {np.nanmax(values):.2f} times an equal share"


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most that many pixels."""
    return textwrap.wrap(text, width // 7)  # a letter of 9 points is about 6.5 pixels wide


def _coloured(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Colours for values (H, W) in [0, 1] over the grey picture (h, w, 3), hatched where they are nan."""
    size = picture.shape[1::-1]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    # Nearest: the borders of the patches are sharp, and nan must not spread.
    shown = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    # Half the contrast: dark parts of the picture must not look like low values.
    colours = COLOUR_SHARE * 255 * COLOURS(shown)[..., :3] + (1 - COLOUR_SHARE) * (64 + grey / 2)
    stripes = np.add.outer(np.arange(size[1]), np.arange(size[0])) // STRIPE % 2
    hatched = 0.5 * grey + np.where(stripes, 110, 60)[..., None]
    return np.where(np.isnan(shown)[..., None], hatched, colours).round().astype(np.uint8)


def _draw_bar(page: Page, x: int, y: int, highest: float) -> None:
    """What the colours mean, from 0 to the highest, with a line at an equal share."""
    ramp = np.linspace(0, 1, BAR_WIDTH, dtype=np.float32)[None].repeat(BAR_HEIGHT, axis=0)
    # As they look over a middle grey.
    axes = page.panel(_coloured(np.full((BAR_HEIGHT, BAR_WIDTH, 3), 128, np.uint8), ramp), x, y)
    axes.axvline((BAR_WIDTH - 1) / highest, color="white", linewidth=2)
    page.text(x, y + BAR_HEIGHT + 3, "0", fontsize=9)
    page.text(x + BAR_WIDTH, y + BAR_HEIGHT + 3, f"{highest:.3g}", fontsize=9, ha="right")
    page.text(x + BAR_WIDTH + 10, y, "white line: an equal share", fontsize=9)

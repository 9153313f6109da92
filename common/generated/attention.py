"""Attention of a detector of generated images: maps over the image, a table of its semantic tokens, a figure.

Attention is how much each part weighs in the verdict, not what is wrong there: it is no mask of a forgery.
"""

import re
import textwrap
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from common.generated.detector import BlendedDetector, Detector
from common.generated.scoring import FLAT
from common.metrics.conformal import Verdict
from common.page import LEAST_WIDTH, MARGIN, MOST_ENLARGED, PANEL_SIDE, WIDE_PANEL, Page, resized
from common.tables import markdown_table

BEST_PROMPTS = 5
"""Number of prompts in the table."""
PROMPT_LETTERS = 40
"""Length in letters to which the table shortens a prompt."""

# Brighter colours are larger values, for colour-blind readers too (van der Walt and Smith 2015).
COLOURS = matplotlib.colormaps["viridis"]
COLOUR_SHARE = 0.7
"""Opacity of the colour over the grey image."""
CAPTION = "Colour is attention: how much a part weighs in the verdict, not what is wrong there. No mask of a forgery."

# All in pixels of the picture.
LEAST_COLUMN, BAR_WIDTH, BAR_HEIGHT, LINE, STRIPE = 390, 200, 14, 16, 6
HEAD, PANEL_HEAD, BAR_FOOT = 66, 22, 46


def explain(detector: Detector | BlendedDetector, image: np.ndarray, title: str) -> tuple[str, Figure]:
    """Explain the verdict on an image.

    Args:
        detector: A trained network, or several: their attention is that of the first.
        image: uint8 (H, W, 3) RGB of any size.
        title: Name of the image; the title of the figure begins with it.

    Returns:
        Text: a line with verdict and probability, one with what the verdict guarantees, of several detectors one with
        the probability by each, one where the attention is flat, and, of a network with fusion, the table of
        `describe_tokens`; and the figure of `draw_attention`.
    """
    (found,) = detector.predict([image])
    parts = detector.detectors if isinstance(detector, BlendedDetector) else [detector]
    model, weights = parts[0].model, found.score.attention.numpy()
    height, width = image.shape[:2]
    patches = len(weights) * attention_map(found.score.positions, weights, model.patch_size, height, width)
    lines = [f"{found.verdict}, probability that it is generated {found.probability:.4f}"]
    lines.append(_guarantee(found.verdict, detector.target_fpr))
    if len(parts) > 1:
        each = (f"{name} {probability:.4f}" for name, probability in found.by_detector.items())
        lines.append(f"by each detector: {', '.join(each)}; the attention shown is that of {parts[0].name}")
    if len(weights) > 1 and (len(weights) * weights).std() < FLAT:
        lines.append("the patch attention is flat: all patches weigh the same, and its map says nothing")
    cells = None
    if found.score.semantic_attention is not None:
        names, asked = model.semantic_tokens, found.score.semantic_attention.numpy()
        lines.append("\n" + describe_tokens(names, asked, weights, parts[0].prompts))
        cells = semantic_map(names, asked, weights, height, width)
        cells = None if cells is None else len(names) * cells
    title = f"{title}: {found.verdict}, probability that it is generated {found.probability:.2f}"
    return "\n".join(lines), draw_attention(image, patches, cells, title)


def _guarantee(verdict: Verdict, rate: float) -> str:
    """The error rate that a verdict guarantees, in one line."""
    if verdict == "not calibrated":
        return "no verdict: too few validation images; photographs alone are enough (script_7_spai_fusion.py calibrate)"
    if verdict == "insufficient evidence":
        return f"neither verdict is known to be wrong for at most {100 * rate:g} % of such images"
    other = "real" if verdict == "generated" else "generated"
    return f"of {other} images like those of the validation, at most {100 * rate:g} % are called {verdict}"


def attention_map(
    positions: Sequence[tuple[int, int]], weights: np.ndarray, patch_size: int, height: int, width: int
) -> np.ndarray:
    """Map of the patches' weights, each over its square.

    Args:
        positions: Row and column of the upper left pixels of P patches, in the image after `pad_to_patch`.
        weights: (P,).
        patch_size: Side of a patch in pixels.
        height, width: Of the image in pixels, before it was padded.

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
    """Map of the weights on the cells of the finest scale: means over the patches, weighted by their attention.

    Args:
        names: Of the K semantic tokens, as `Spai.semantic_tokens`.
        weights: Of each patch on the tokens, (P, K), sum 1 over K.
        attention: Weights of the patches, (P,), sum 1.
        height, width: Of the image in pixels. The tower saw it as a square: a cell covers its share of the sides.

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
    """Markdown table of the attention on the semantic tokens, one row per kind of token.

    Args:
        names, weights, attention: See `semantic_map`.
        prompts: The wording of the text tokens, where it is known.

    Returns:
        Number of tokens, their share of the attention in %, and that in equal shares of all tokens; then a row for each
        of the `BEST_PROMPTS` prompts with most attention.
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


def draw_attention(image: np.ndarray, attention: np.ndarray, semantic: np.ndarray | None, title: str) -> Figure:
    """Draw the image and, beside it or, if it is wide, below, the maps in colours over the grey image.

    Args:
        image: uint8 (H, W, 3) RGB of any size.
        attention: (H, W), the patches' weights in equal shares: 1 is what each would have if all were equal
            (`attention_map` times P). Where it is nan the image is hatched.
        semantic: (H, W), in equal shares of the tokens (`semantic_map` times K); None without one.
        title: Above the picture.

    Returns:
        A figure at most 1,620 pixels wide at its own dpi. Its axes are the image and, for each map, map and bar.
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
    """Lines of at most that width in pixels."""
    return textwrap.wrap(text, width // 7)  # a letter of 9 points is about 6.5 pixels wide


def _coloured(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Colours for values (H, W) in [0, 1] over the grey picture (h, w, 3), hatched where they are nan."""
    size = picture.shape[1::-1]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    # Nearest: the borders of the patches are sharp, and nan must not spread.
    shown = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    # Half the contrast, so that dark parts of the picture do not look like low values.
    colours = COLOUR_SHARE * 255 * COLOURS(shown)[..., :3] + (1 - COLOUR_SHARE) * (64 + grey / 2)
    stripes = np.add.outer(np.arange(size[1]), np.arange(size[0])) // STRIPE % 2
    hatched = 0.5 * grey + np.where(stripes, 110, 60)[..., None]
    return np.where(np.isnan(shown)[..., None], hatched, colours).round().astype(np.uint8)


def _draw_bar(page: Page, x: int, y: int, highest: float) -> None:
    """Colour bar from 0 to the highest value, with a line at an equal share."""
    ramp = np.linspace(0, 1, BAR_WIDTH, dtype=np.float32)[None].repeat(BAR_HEIGHT, axis=0)
    # The colours as they are over a middle grey.
    axes = page.panel(_coloured(np.full((BAR_HEIGHT, BAR_WIDTH, 3), 128, np.uint8), ramp), x, y)
    axes.axvline((BAR_WIDTH - 1) / highest, color="white", linewidth=2)
    page.text(x, y + BAR_HEIGHT + 3, "0", fontsize=9)
    page.text(x + BAR_WIDTH, y + BAR_HEIGHT + 3, f"{highest:.3g}", fontsize=9, ha="right")
    page.text(x + BAR_WIDTH + 10, y, "white line: an equal share", fontsize=9)

"""Found copy-moves as a Markdown table and as a picture: outlined regions, and each copy warped onto its source."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.errors import readable
from common.forensics.copy_move import Copy, Group
from common.page import (
    COLOURS,
    LEAST_WIDTH,
    MARGIN,
    MOST_ENLARGED,
    PANEL_SIDE,
    WIDE_PANEL,
    Page,
    resized,
    resized_mask,
)
from common.tables import markdown_table

MOST_LINES = 20
"""Most lines drawn per copy."""
MOST_STRIPS = 4
"""Most groups with a strip (source, copy, difference) below the picture."""
CROP_HEIGHT = 280
"""Largest height of a strip in pixels."""
CAPTION = "same colour: same content; number: probability that it was copied; lines join matching points"
ALTERED_CAPTION = "dashed: looks pasted, filled or redrawn to the networks"
NATURAL_CAPTION = "dotted: natural, not counted"
ALTERED_COLOUR = "#FF5A5A"
NATURAL_COLOUR = "#D8D8D8"
PANEL_COLOUR = "#B0C4DE"
HALO = (patheffects.withStroke(linewidth=3.6, foreground="black"),)


@dataclass(frozen=True)
class NamedBox:
    """A part of an image with a name: a panel of a figure."""

    x: int
    y: int
    width: int
    height: int
    """In pixels of the image."""
    name: str


@dataclass(frozen=True, eq=False)
class NamedRegion:
    """A region of an image that is no copy, with a name."""

    mask: np.ndarray
    """bool (H, W)."""
    name: str


def describe(groups: Sequence[Group], panels: Sequence[str] = ()) -> str:
    """The groups as a Markdown table with one row per copy.

    Args:
        groups: The best first.
        panels: For each group the names of the panels that it joins; without them there is no such column.
    """
    head = [
        "group",
        *(["panels"] if panels else []),
        "score",
        "source x, y",
        "copy x, y",
        "rotation",
        "scale",
        "mirrored",
        "area",
        "matching points",
        "likeness",
    ]
    rows = [
        [
            name,
            *([panels[number - 1]] if panels else []),
            f"{copy.score:.2f}",
            _position(copy.source),
            _position(copy.target),
            f"{round(copy.rotation):+d}°",
            f"{copy.scale:.2f}",
            "yes" if copy.mirrored else "no",
            f"{100 * (copy.source | copy.target).mean():.2g} %",
            len(copy.points),
            f"{copy.correlation:.2f}",
        ]
        for number, group in enumerate(groups, 1)
        for name, copy in _named(number, group)
    ]
    return markdown_table(head, rows)


def draw_explanation(
    image: np.ndarray,
    groups: Sequence[Group],
    title: str,
    panels: Sequence[NamedBox] = (),
    altered: Sequence[NamedRegion] = (),
    natural: Sequence[NamedRegion] = (),
) -> Figure:
    """Draw an image, beside it its groups of copies, and below them each group's best copy warped onto its source.

    Args:
        image: uint8 (H, W, 3) RGB of any size.
        groups: The best first; without any, and without altered and natural regions, the image is drawn alone.
        title: Above the picture.
        panels: Drawn on the image with their names.
        altered: Regions that look pasted, filled or redrawn, outlined beside the groups.
        natural: Regions that match for a natural reason, outlined there too.

    Returns:
        A figure at most 1,620 pixels wide at its own dpi. Its axes are the image, the groups, and for each of the first
        `MOST_STRIPS` groups source, copy and difference.
    """
    height, width = image.shape[:2]
    marked = bool(groups or altered or natural)
    stacked = marked and width > 2 * height
    scale = min((WIDE_PANEL if stacked else PANEL_SIDE) / max(height, width), MOST_ENLARGED)
    picture = resized(image, (max(1, round(width * scale)), max(1, round(height * scale))))
    high, wide = picture.shape[:2]
    views = 2 if marked else 1
    columns = 1 if stacked else views
    content = max(columns * wide + (columns - 1) * MARGIN, LEAST_WIDTH - 2 * MARGIN)
    strips = [copy_strip(image, group.copies[0], (content - 2 * MARGIN) // 3) for group in groups[:MOST_STRIPS]]

    head, strip_head = (62 if marked else 42), 56
    total = head + views // columns * (high + MARGIN) + sum(strip_head + len(strip[0]) for strip in strips) + MARGIN
    page = Page(content + 2 * MARGIN, total)
    page.title(title)
    if marked:
        captions = [CAPTION] * bool(groups) + [ALTERED_CAPTION] * bool(altered) + [NATURAL_CAPTION] * bool(natural)
        page.text(MARGIN, 38, "; ".join(captions), color="0.35")
    left = (page.width - columns * wide - (columns - 1) * MARGIN) // 2
    _draw_panels(page.panel(picture, left, head), panels, (width, height), (wide, high))
    top = head + high + MARGIN
    if marked:
        x, y = (left, top) if stacked else (left + wide + MARGIN, head)
        masks = [*(group.mask for group in groups), *(region.mask for region in [*altered, *natural])]
        axes = page.panel(_spotlit(picture, np.any(masks, axis=0)), x, y)
        for region in natural:
            _draw_region(axes, region, (wide, high), NATURAL_COLOUR, (0, (1, 2)))
        for region in altered:
            _draw_region(axes, region, (wide, high), ALTERED_COLOUR, (0, (4, 3)))
        # The best is drawn last, on top of the others.
        for number, group in reversed([*enumerate(groups, 1)]):
            _draw_group(axes, number, group, (width, height), (wide, high))
        top += high + MARGIN if stacked else 0
    for number, (group, strip) in enumerate(zip(groups, strips, strict=False), 1):
        _draw_strip(page, top, number, group, strip)
        top += strip_head + len(strip[0])
    return page.figure


def _named(number: int, group: Group) -> list[tuple[str, Copy]]:
    """The copies of a group with their names: `2`, or `2.1`, `2.2` if there are several."""
    if len(group.copies) == 1:
        return [(str(number), group.copies[0])]
    return [(f"{number}.{place}", copy) for place, copy in enumerate(group.copies, 1)]


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]


def _position(region: np.ndarray) -> str:
    y, x = (places.mean() for places in np.nonzero(region))
    return f"{x:.0f}, {y:.0f}"


def _draw_group(axes: Axes, number: int, group: Group, size: tuple[int, int], shown: tuple[int, int]) -> None:
    """Outlines, lines and labels of a group, on an image of `size` shown as `shown`, both (width, height)."""
    colour, factor = _colour(number), np.divide(shown, size)
    labels = {f"{number} · {group.score:.2f}": group.copies[0].source}
    for name, copy in _named(number, group):
        labels[name] = copy.target
        for region in (copy.source, copy.target):
            _outline(axes, resized_mask(region, shown), colour)
        ends = (some_points(copy) + 0.5) * factor - 0.5
        axes.add_collection(LineCollection([*ends], colors=colour, linewidths=0.8, alpha=0.75))
        axes.plot(*ends.reshape(-1, 2).T, ".", color=colour, markersize=3)
    for text, region in labels.items():
        _label(axes, text, resized_mask(region, shown), colour)


def some_points(copy: Copy) -> np.ndarray:
    """At most `MOST_LINES` pairs of matching points, (n, 2, 2): of each x and y in the source, then in the copy."""
    chosen = np.linspace(0, len(copy.points) - 1, min(len(copy.points), MOST_LINES)).round().astype(int)
    return copy.points[np.unique(chosen)]


def _draw_region(
    axes: Axes, region: NamedRegion, shown: tuple[int, int], colour: str, dashes: tuple[int, tuple[int, int]]
) -> None:
    """Broken outline and name of a region, on an image that is shown as `shown`, (width, height)."""
    mask = resized_mask(region.mask, shown)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        x, y = np.concatenate([contour, contour[:1]])[:, 0].T
        axes.plot(x, y, color="black", linewidth=3.2)
        axes.plot(x, y, color=colour, linewidth=1.8, linestyle=dashes)
    if contours:
        _label(axes, region.name, mask, colour)


def _label(axes: Axes, text: str, mask: np.ndarray, colour: str) -> None:
    """Write a text above the largest part of a mask, uint8 (h, w), and inside the picture of its size."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    x, y, wide, _ = cv2.boundingRect(max(contours, key=cv2.contourArea))
    half = 6 + 4 * len(text)
    place = (np.clip(x + wide / 2, half, max(half, mask.shape[1] - half)), max(y - 12, 12))
    box = {"boxstyle": "round,pad=0.2", "facecolor": "black", "edgecolor": colour, "alpha": 0.8}
    style = {"fontsize": 9, "weight": "bold", "ha": "center", "va": "center", "parse_math": False}
    axes.text(*place, text, color=colour, bbox=box, **style)


def _draw_panels(axes: Axes, panels: Sequence[NamedBox], size: tuple[int, int], shown: tuple[int, int]) -> None:
    """Thin frames and names of panels, on an image of `size` shown as `shown`, both (width, height)."""
    across, down = np.divide(shown, size)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "black", "edgecolor": "none", "alpha": 0.65}
    for panel in panels:
        x, y = panel.x * across - 0.5, panel.y * down - 0.5
        frame = (x + 1, y + 1), panel.width * across - 2, panel.height * down - 2
        axes.add_patch(Rectangle(*frame, fill=False, edgecolor=PANEL_COLOUR, linewidth=1.2, path_effects=HALO))
        # At the foot: figures have their own letters at the head, and scale bars at the right.
        foot = x + 6, y + panel.height * down - 6
        axes.text(*foot, readable(panel.name), color="white", fontsize=7.5, va="bottom", bbox=box, parse_math=False)


def _outline(axes: Axes, mask: np.ndarray, colour: str, linewidth: float = 1.8) -> None:
    """Draw the contours of a mask, uint8 (h, w), over a picture of its size, with a dark halo."""
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        x, y = np.concatenate([contour, contour[:1]])[:, 0].T
        axes.plot(x, y, color=colour, linewidth=linewidth, path_effects=HALO, solid_joinstyle="round")


def _spotlit(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture, dark and grey outside the mask (H, W) of any scale."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) // 2
    inside = resized_mask(mask, picture.shape[1::-1])[..., None] > 0
    return np.where(inside, picture, grey[..., None])


def copy_strip(image: np.ndarray, copy: Copy, wide: int, high: int = CROP_HEIGHT) -> list[np.ndarray]:
    """The source, the copy warped onto it, twice their difference, each uint8 (h, w, 3), and the source's mask.

    Before the difference, the copy's brightness and contrast within the region are fitted to the source's.

    Args:
        image: uint8 (H, W, 3) RGB.
        copy: Found in it.
        wide: Largest width of each picture in pixels.
        high: Largest height.
    """
    rows, columns = (np.flatnonzero(copy.source.any(axis=axis))[[0, -1]] for axis in (1, 0))
    margin = 4 + round(0.15 * max(np.ptp(rows), np.ptp(columns)))
    # As wide as the page allows, to show that the surroundings of the region do not agree.
    wanted = (np.ptp(rows) + 2 * margin) * wide / high
    aside = max(margin, int(wanted - np.ptp(columns)) // 2)
    y0, x0 = max(rows[0] - margin, 0), max(columns[0] - aside, 0)
    window = (slice(y0, rows[1] + margin + 1), slice(x0, columns[1] + aside + 1))
    source, mask = image[window], copy.source[window]
    # The window's pixel (0, 0) is the image's (x0, y0).
    back = np.column_stack([copy.matrix[:, :2], copy.matrix @ (x0, y0, 1)])
    options = {"dsize": mask.shape[::-1], "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP}
    laid = cv2.warpAffine(image, back, borderValue=(200, 200, 200), **options)
    known = mask & (cv2.warpAffine(np.ones(image.shape[:2], np.float32), back, **options) > 0.999)
    fitted = np.stack([_fitted(laid[..., c], source[..., c], known) for c in range(3)], axis=2)
    distance = np.abs(fitted - source).mean(axis=2)
    difference = np.repeat((2 * distance).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    scale = min(wide / mask.shape[1], high / mask.shape[0])
    shown = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    crops = (resized(np.ascontiguousarray(crop), shown) for crop in (source, laid, difference))
    return [*crops, resized_mask(mask, shown)]


def _fitted(channel: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The channel (h, w) with the gain and offset that fit it to `wanted` within a mask (least squares)."""
    if not mask.any():
        return channel.astype(np.float64)
    there, here = channel[mask].astype(np.float64), wanted[mask].astype(np.float64)
    spread = there.var()
    gain = ((there - there.mean()) * (here - here.mean())).mean() / spread if spread > 0 else 1.0
    return (channel - there.mean()) * gain + here.mean()


def _draw_strip(page: Page, top: int, number: int, group: Group, strip: Sequence[np.ndarray]) -> None:
    """Draw a group's name and crops with their titles."""
    *crops, mask = strip
    name, copy = _named(number, group)[0]
    kinds = (
        (f"turned by {round(copy.rotation):+d}°", round(copy.rotation) != 0),
        (f"scaled by {copy.scale:.2f}", round(copy.scale, 2) != 1),
        ("mirrored", copy.mirrored),
    )
    changes = ", ".join(kind for kind, applies in kinds if applies) or "only shifted"
    page.text(MARGIN, top + 4, "■", color=_colour(number), fontsize=12)
    verdict = f"{name}   score {copy.score:.2f}  ·  copy {changes}"
    page.text(MARGIN + 20, top + 6, f"{verdict}  ·  likeness {copy.correlation:.2f}", weight="bold")
    step = (page.width - MARGIN) // 3
    names = ("source", "copy, laid over the source", "difference × 2: black where equal")
    for column, (crop, text) in enumerate(zip(crops, names, strict=True)):
        page.text(MARGIN + column * step, top + 28, text, fontsize=9, color="0.35")
        axes = page.panel(crop, MARGIN + column * step, top + 46)
        _outline(axes, mask, _colour(number), 1.2)

"""A scored clip as something to look at: a sheet of its faces, a plot of its scores over time, marks in its frames.

Knows arrays and plain values only; what is written where is up to `common.video.report`.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.page import COLOURS, LEAST_WIDTH, MARGIN, WIDE_PANEL, Page, resized

# The order of its brightness is the order of its values, for colour-blind readers too (van der Walt and Smith 2015);
# over grey its warm end is not taken for skin.
HEAT = matplotlib.colormaps["inferno"]
HEAT_SHARE = 0.75
"""Of the colour where the heat is 1; the picture alone shows where it is 0."""

# Blue and vermilion stay apart for colour-blind readers (Okabe and Ito 2008).
BELOW, ABOVE = "#0072B2", "#D55E00"

# All in pixels of the picture.
MOST_COLUMNS, MOST_SIDE, GAP, LINE = 8, 240, 10, 16
CELL_FOOT, BAR_WIDTH, BAR_HEIGHT = 40, 200, 14
TIMELINE_WIDTH, PLOT_HEIGHT, PLOT_LEFT, PLOT_FOOT, LEGEND_WIDTH = 1200, 300, 60, 50, 250
FRAME_SIDE = 360
"""Shorter side of a frame in which lines are one pixel wide."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Curve:
    """One face's scores over time."""

    number: int
    """Of the face, from 1: its colour."""
    name: str
    times: np.ndarray
    """(n,) seconds."""
    scores: np.ndarray
    """(n,) probabilities."""
    found: np.ndarray
    """(n,) bool: false where its place was only supposed."""
    decides: bool
    """Whether the clip's probability is this face's: its line is broad."""


@dataclass(frozen=True)
class Mark:
    """One face in one frame."""

    number: int
    """Of the face, from 1."""
    box: Box
    """Left, top, right, bottom in pixels."""
    score: float
    found: bool
    """Whether it was found there; else its frame is thin."""
    heat: np.ndarray | None = None
    """(h, w) in [0, 1], blended into `area`."""
    area: Box | None = None
    """Where the heat lies, likewise in pixels; it may leave the picture."""


def colour_of(number: int) -> str:
    """The colour of a face (from 1) in all pictures of its clip."""
    return COLOURS[(number - 1) % len(COLOURS)]


def overlaid(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture in grey, and heat over it in colours.

    Args:
        picture: uint8 (H, W, 3) RGB.
        heat: (h, w) in [0, 1], of any size.

    Returns:
        uint8 (H, W, 3): the grey picture alone where the heat is 0.
    """
    heat = cv2.resize(heat.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    share = HEAT_SHARE * heat[..., None]
    return ((1 - share) * grey + share * 255 * HEAT(heat)[..., :3]).round().astype(np.uint8)


def draw_contact_sheet(
    crops: np.ndarray,
    heatmaps: np.ndarray,
    times: np.ndarray,
    scores: np.ndarray,
    found: np.ndarray,
    *,
    threshold: float,
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """The crops of one face in the order of time, each above itself with its heat, its time and its score.

    Args:
        crops: uint8 (n, S, S, 3) RGB.
        heatmaps: (n, h, w) in [0, 1].
        times: (n,) seconds.
        scores: (n,) probabilities.
        found: (n,) bool: whether the face was found in that frame.
        threshold: Scores from it on are written in vermilion, others in blue.
        title: Above the picture.
        notes: Sentences below the title.

    Returns:
        A figure at most 1,620 pixels wide at its own dpi. Its axes are the sheet and the bar of the heat's colours.
    """
    columns = min(len(crops), MOST_COLUMNS)
    rows = -(-len(crops) // columns)
    side = min(MOST_SIDE, (WIDE_PANEL - (columns - 1) * GAP) // columns)
    wide, cell = columns * (side + GAP) - GAP, 2 * side + 2 + CELL_FOOT
    width = max(wide + 2 * MARGIN, LEAST_WIDTH)
    lines = _wrapped(notes, width)
    bar_top = 42 + LINE * len(lines)
    head = bar_top + BAR_HEIGHT + 30

    page = Page(width, head + rows * cell + MARGIN)
    page.title(title)
    for number, line in enumerate(lines):
        page.text(MARGIN, 38 + LINE * number, line, color="0.35")
    sheet = np.full((rows * cell, wide, 3), 255, np.uint8)
    for place, (crop, heat) in enumerate(zip(crops, heatmaps, strict=True)):
        row, column = divmod(place, columns)
        x, y = column * (side + GAP), row * cell
        picture = resized(crop, (side, side))
        sheet[y : y + side, x : x + side] = picture
        sheet[y + side + 2 : y + 2 * side + 2, x : x + side] = overlaid(picture, heat)
        left, foot = MARGIN + x, head + y + 2 * side + 6
        page.text(left, foot, f"{times[place]:.2f} s", fontsize=9)
        colour = ABOVE if scores[place] >= threshold else BELOW
        score = {"color": colour, "weight": "bold", "ha": "right"}
        page.text(left + side, foot, f"{scores[place]:.2f}", fontsize=9, **score)
        if not found[place]:
            page.text(left, foot + 14, "no face found", fontsize=9, color="0.35", style="italic")
    page.panel(sheet, MARGIN, head)
    _draw_bar(page, MARGIN, bar_top)
    return page.figure


def draw_timeline(
    curves: Sequence[Curve],
    sampled: np.ndarray,
    found: np.ndarray,
    *,
    probability: float,
    threshold: float,
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Scores over time, a line a face, with the clip's probability and the threshold; hatched where no face was found.

    Args:
        curves: At least one.
        sampled: (m,) seconds of all frames that were looked at, ascending.
        found: (m,) bool: whether any face was found there.
        probability: The clip's.
        threshold: From which it is called fake.
        title: Above the picture.
        notes: Sentences below the title.

    Returns:
        A figure 1,200 pixels wide at its own dpi, with one axes.
    """
    lines = _wrapped(notes, TIMELINE_WIDTH)
    head = 52 + LINE * len(lines)
    page = Page(TIMELINE_WIDTH, head + PLOT_HEIGHT + PLOT_FOOT)
    page.title(title)
    for number, line in enumerate(lines):
        page.text(MARGIN, 38 + LINE * number, line, color="0.35")
    wide = TIMELINE_WIDTH - PLOT_LEFT - LEGEND_WIDTH
    axes = page.figure.add_axes(
        (PLOT_LEFT / page.width, PLOT_FOOT / page.height, wide / page.width, PLOT_HEIGHT / page.height)
    )
    edges = span_edges(sampled)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(-0.03, 1.03), xlabel="time, s", ylabel="probability that it is fake")
    axes.spines[["top", "right"]].set_visible(False)
    handles = _draw_gaps(axes, edges, found)
    # The deciding one last, on top of the others.
    for curve in sorted(curves, key=lambda curve: curve.decides):
        handles.append(_draw_curve(axes, curve))
    probability_line = axes.axhline(probability, color="black", linewidth=1.5)
    threshold_line = axes.axhline(threshold, color="black", linewidth=1, linestyle="--")
    handles += [probability_line, threshold_line]
    labels = [str(handle.get_label()) for handle in handles[:-2]]
    labels += [f"the clip: {probability:.2f}", f"threshold: {threshold:.2f}"]
    handles.reverse()
    labels.reverse()
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=9)
    return page.figure


def span_edges(times: np.ndarray) -> np.ndarray:
    """The borders of the spans of time nearest to each of n moments.

    Args:
        times: (n,) ascending, at least one.

    Returns:
        (n + 1,): the middles between neighbours, and beyond the first and last as far again as to their middle; half
        a second about a single one.
    """
    if len(times) == 1:
        return times[0] + np.array([-0.5, 0.5])
    middles = (times[1:] + times[:-1]) / 2
    return np.array([2 * times[0] - middles[0], *middles, 2 * times[-1] - middles[-1]])


def draw_marks(frame: np.ndarray, marks: Sequence[Mark], heading: str) -> np.ndarray:
    """A frame with its faces boxed, named and scored, and a line of text above.

    Args:
        frame: uint8 (H, W, 3) RGB; it stays as it is.
        marks: The faces in it.
        heading: ASCII, in the upper left corner.

    Returns:
        uint8 (H, W, 3).
    """
    drawn = frame.copy()
    unit = max(1, round(min(frame.shape[:2]) / FRAME_SIDE))
    for mark in marks:
        if mark.heat is not None and mark.area is not None:
            _blend(drawn, mark.heat, mark.area)
    for mark in marks:
        colour = _rgb(colour_of(mark.number))
        left, top, right, bottom = (round(float(side)) for side in mark.box)
        thickness = 3 * unit if mark.found else unit
        cv2.rectangle(drawn, (left, top), (right, bottom), (0, 0, 0), thickness + 2 * unit)
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, thickness)
        label = f"{mark.number}: {mark.score:.2f}" + ("" if mark.found else " ?")
        _write(drawn, label, left, top, unit, colour)
    _write(drawn, heading, 0, 0, unit, (255, 255, 255))
    return drawn


def _wrapped(notes: Sequence[str], width: int) -> list[str]:
    # A letter of 10 points is about 7 pixels wide.
    return [line for note in notes for line in textwrap.wrap(note, (width - 3 * MARGIN) // 7)]


def _draw_bar(page: Page, x: int, y: int) -> None:
    """What the colours mean, over a middle grey."""
    ramp = np.linspace(0, 1, BAR_WIDTH, dtype=np.float32)[None].repeat(BAR_HEIGHT, axis=0)
    page.panel(overlaid(np.full((BAR_HEIGHT, BAR_WIDTH, 3), 128, np.uint8), ramp), x, y)
    legend = "heat, from none to the most in this clip; below on the right each frame's own score"
    page.text(x + BAR_WIDTH + 10, y, legend, fontsize=9, color="0.35")


def _draw_gaps(axes: Axes, edges: np.ndarray, found: np.ndarray) -> list:
    style = {"facecolor": "0.93", "edgecolor": "0.7", "hatch": "///", "linewidth": 0}
    for start, end in zip(edges[:-1][~found], edges[1:][~found], strict=True):
        axes.axvspan(start, end, **style)
    return [] if found.all() else [Patch(label="no face found", **style)]


def _draw_curve(axes: Axes, curve: Curve) -> Line2D:
    """Its line, with hollow dots where the face was not found."""
    colour, width = colour_of(curve.number), 2.5 if curve.decides else 1.2
    style = {"color": colour, "linewidth": width, "marker": "o", "markersize": 5, "label": curve.name}
    (line,) = axes.plot(curve.times, curve.scores, **style)
    missed = ~curve.found
    hollow = {"markerfacecolor": "white", "markeredgecolor": colour, "markersize": 5}
    axes.plot(curve.times[missed], curve.scores[missed], "o", **hollow)
    return line


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (round(255 * value) for value in matplotlib.colors.to_rgb(colour))
    return red, green, blue


def _blend(picture: np.ndarray, heat: np.ndarray, area: Box) -> None:
    """Blend heat into the part of the picture that lies in the area, in place."""
    left, top, right, bottom = (round(float(side)) for side in area)
    wide, high = max(right - left, 1), max(bottom - top, 1)
    y, x = (slice(max(start, 0), max(start, 0, end)) for start, end in ((top, top + high), (left, left + wide)))
    part = picture[y, x]
    if part.size:
        shown = cv2.resize(heat.astype(np.float32), (wide, high), interpolation=cv2.INTER_LINEAR)
        shown = shown[y.start - top :, x.start - left :][: part.shape[0], : part.shape[1]]
        picture[y, x] = overlaid(np.ascontiguousarray(part), shown)


def _write(picture: np.ndarray, text: str, x: int, y: int, unit: int, colour: tuple[int, int, int]) -> None:
    """Write in colour on black above a point, or below it where there is no room, within the picture, in place."""
    font, scale, margin = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * unit, 3 * unit
    (wide, high), below = cv2.getTextSize(text, font, scale, unit)
    height, width = high + below + 2 * margin, wide + 2 * margin
    left = max(0, min(x, picture.shape[1] - width))
    top = y - height if y >= height else max(0, y)
    picture[top : top + height, left : left + width] = 0
    place = (left + margin, top + margin + high)
    cv2.putText(picture, text, place, font, scale, colour, unit, cv2.LINE_AA)

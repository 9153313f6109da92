"""Pictures of a scored clip: contact sheet of the deciding face, timeline of scores, and frames with marked faces."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure

from common.colours import BLUE, VERMILION
from common.page import COLOURS, LEAST_WIDTH, MARGIN, WIDE_PANEL, Page, resized
from common.video.detector import TrackScore, VideoScore

# Its brightness grows with the values, for colour-blind readers too (van der Walt and Smith 2015), and over grey its
# warm end can't be confused with skin.
HEAT = matplotlib.colormaps["inferno"]
HEAT_SHARE = 0.75
"""Share of the colour where the heat is 1; where it is 0 only the picture is visible."""

BELOW, ABOVE = BLUE, VERMILION

# All in px of the picture.
MOST_COLUMNS, MOST_SIDE, GAP, LINE = 8, 240, 10, 16
CELL_FOOT, BAR_WIDTH, BAR_HEIGHT = 40, 200, 14
TIMELINE_WIDTH, PLOT_HEIGHT, PLOT_LEFT, PLOT_FOOT, LEGEND_WIDTH = 1200, 300, 60, 50, 250
RELIABILITY_BINS = 5
"""Bins of equal width of the reliability diagram: test splits of clips are small."""
FRAME_SIDE = 360
"""Shorter side of a frame in which lines are one pixel wide."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in px."""


@dataclass(frozen=True)
class Mark:
    """One face in one frame."""

    number: int
    """Number of the face, from 1."""
    box: Box
    score: float
    found: bool
    """Whether the face was found in the frame; otherwise its box is drawn thin."""
    heat: np.ndarray | None = None
    """(h, w) in [0, 1], blended into `area`."""
    area: Box | None = None
    """Area of the heat; may reach beyond the frame."""


def colour_of(number: int) -> str:
    """The colour of a face (from 1) in all pictures of its clip."""
    return COLOURS[(number - 1) % len(COLOURS)]


def overlaid(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend heat, in colours, over the picture in grey.

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


def draw_contact_sheet(score: VideoScore, heatmaps: np.ndarray, *, title: str, notes: Sequence[str] = ()) -> Figure:
    """Draw the deciding face's crops in the order of time, below each the same with its heat, its time and its score.

    Args:
        score: Score of the clip. Frames' scores from its threshold on are vermilion, others blue.
        heatmaps: (n, h, w) in [0, 1], of the face's n frames.
        title: Title of the picture.
        notes: Sentences below the title.

    Returns:
        A figure, at most 1,620 px wide at its own dpi, whose axes are the sheet and the colour bar.
    """
    crops, faces = score.track.faces.crops, score.track.faces
    columns = min(len(crops), MOST_COLUMNS)
    rows = -(-len(crops) // columns)
    side = min(MOST_SIDE, (WIDE_PANEL - (columns - 1) * GAP) // columns)
    wide, cell = columns * (side + GAP) - GAP, 2 * side + 2 + CELL_FOOT
    page, top = _headed_page(max(wide + 2 * MARGIN, LEAST_WIDTH), 48 + rows * cell + MARGIN, title, notes)
    head = top + 48
    sheet = np.full((rows * cell, wide, 3), 255, np.uint8)
    for place, (crop, heat) in enumerate(zip(crops, heatmaps, strict=True)):
        row, column = divmod(place, columns)
        x, y = column * (side + GAP), row * cell
        picture = resized(crop, (side, side))
        sheet[y : y + side, x : x + side] = picture
        sheet[y + side + 2 : y + 2 * side + 2, x : x + side] = overlaid(picture, heat)
        left, foot = MARGIN + x, head + y + 2 * side + 6
        page.text(left, foot, f"{faces.times[place]:.2f} s", fontsize=9)
        own = score.track.frame_scores[place]
        colour = ABOVE if own >= score.threshold else BELOW
        page.text(left + side, foot, f"{own:.2f}", fontsize=9, color=colour, weight="bold", ha="right")
        if not faces.found[place]:
            page.text(left, foot + 14, "no face found", fontsize=9, color="0.35", style="italic")
    page.panel(sheet, MARGIN, head)
    _draw_bar(page, MARGIN, top + 4)
    return page.figure


def draw_timeline(score: VideoScore, tracks: Sequence[TrackScore], *, title: str, notes: Sequence[str] = ()) -> Figure:
    """Plot faces' scores over time, the clip's probability and the threshold; hatched where no face was found.

    Args:
        score: Score of the clip.
        tracks: The faces to plot, from the lowest to the topmost line; the deciding face's is wide.
        title: Title of the picture.
        notes: Sentences below the title.

    Returns:
        A figure, 1,200 px wide at its own dpi, with one axes.
    """
    page, _ = _headed_page(TIMELINE_WIDTH, 14 + PLOT_HEIGHT + PLOT_FOOT, title, notes)
    wide = TIMELINE_WIDTH - PLOT_LEFT - LEGEND_WIDTH
    axes = page.figure.add_axes(
        (PLOT_LEFT / page.width, PLOT_FOOT / page.height, wide / page.width, PLOT_HEIGHT / page.height)
    )
    edges, found = span_edges(score.faces.times), score.faces.found
    axes.set(xlim=(edges[0], edges[-1]), ylim=(-0.03, 1.03), xlabel="time, s", ylabel="probability that it is fake")
    axes.spines[["top", "right"]].set_visible(False)
    label = "no face found"
    for start, end in zip(edges[:-1][~found], edges[1:][~found], strict=True):
        axes.axvspan(start, end, facecolor="0.93", edgecolor="0.7", hatch="///", linewidth=0, label=label)
        label = ""  # one entry of the legend
    for track in tracks:
        times, scores, missed = track.faces.times, track.frame_scores, ~track.faces.found
        colour, width = colour_of(track.number), 2.5 if track is score.track else 1.2
        axes.plot(times, scores, "o-", color=colour, linewidth=width, markersize=5, label=_curve_name(score, track))
        axes.plot(times[missed], scores[missed], "o", color=colour, markerfacecolor="white", markersize=5)
    axes.axhline(score.probability, color="black", linewidth=1.5, label=f"the clip: {score.probability:.2f}")
    axes.axhline(score.threshold, color="black", linewidth=1, linestyle="--", label=f"threshold: {score.threshold:.2f}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=9, reverse=True)
    return page.figure


def draw_reliability(probabilities: Mapping[int, np.ndarray], fake: np.ndarray) -> Figure:
    """Reliability diagram by the length of clips: the share of fakes among clips of about one probability.

    Args:
        probabilities: Most frames of a clip → calibrated probabilities (n,) that the clips, so shortened, are fake.
        fake: bool (n,), the truth.

    Returns:
        A figure with two axes. Bars show the standard error of a share, (p (1 − p) / n)½ with p after Laplace.
    """
    figure = Figure(figsize=(5.2, 6.0), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1.3))
    above.plot([0, 1], [0, 1], color="0.55", linewidth=1, linestyle=":")
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    for (most, probs), colour in zip(probabilities.items(), COLOURS, strict=False):
        label = f"at most {most} frames" if most > 1 else "one frame"
        places = np.digitize(probs, edges[1:-1])
        bins = [places == place for place in range(RELIABILITY_BINS)]
        means = [(probs[own].mean(), fake[own].mean(), _standard_error(fake[own])) for own in bins if own.any()]
        x, y, error = np.array(means).T
        above.errorbar(x, y, error, fmt="o-", color=colour, elinewidth=1, linewidth=1.5, markersize=5, label=label)
        below.stairs([own.sum() for own in bins], edges, color=colour, linewidth=1.5)
    above.set(xlim=(0, 1), ylim=(-0.05, 1.05), ylabel="share of them that is fake")
    above.legend(frameon=False, fontsize=9)
    below.set(xlabel="probability that the clip is fake", ylabel="clips")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _standard_error(truths: np.ndarray) -> float:
    share = (truths.sum() + 1) / (len(truths) + 2)
    return float(np.sqrt(share * (1 - share) / len(truths)))


def span_edges(times: np.ndarray) -> np.ndarray:
    """Edges of the spans of time that are nearest to each of n moments.

    Args:
        times: (n,) ascending, at least one.

    Returns:
        (n + 1,): the midpoints between neighbours; the first and last span are symmetric about their moment, and that
        of a single moment is one second long.
    """
    if len(times) == 1:
        return times[0] + np.array([-0.5, 0.5])
    middles = (times[1:] + times[:-1]) / 2
    return np.array([2 * times[0] - middles[0], *middles, 2 * times[-1] - middles[-1]])


def draw_marks(frame: np.ndarray, marks: Sequence[Mark], heading: str) -> np.ndarray:
    """Draw the boxes, numbers, scores and heat of faces into a copy of their frame, and a line of text.

    Args:
        frame: uint8 (H, W, 3) RGB.
        marks: The faces.
        heading: ASCII text for the upper left corner.

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


def _headed_page(width: int, height: int, title: str, notes: Sequence[str]) -> tuple[Page, int]:
    """A page with title and notes and `height` px below them, and the y at which they end."""
    # A letter of 10 points is about 7 px wide.
    lines = [line for note in notes for line in textwrap.wrap(note, (width - 3 * MARGIN) // 7)]
    top = 38 + LINE * len(lines)
    page = Page(width, top + height)
    page.title(title)
    for number, line in enumerate(lines):
        page.text(MARGIN, 38 + LINE * number, line, color="0.35")
    return page, top


def _draw_bar(page: Page, x: int, y: int) -> None:
    """The colour bar of the heat, over medium grey."""
    ramp = np.linspace(0, 1, BAR_WIDTH, dtype=np.float32)[None].repeat(BAR_HEIGHT, axis=0)
    page.panel(overlaid(np.full((BAR_HEIGHT, BAR_WIDTH, 3), 128, np.uint8), ramp), x, y)
    legend = "heat, from none to the clip's maximum; below right: each frame's own score"
    page.text(x + BAR_WIDTH + 10, y, legend, fontsize=9, color="0.35")


def _curve_name(score: VideoScore, track: TrackScore) -> str:
    if not track.faces.found.any():
        return "centre, by frame"
    decides = " (decides)" if track is score.track and score.verdict != "inconclusive" else ""
    return f"face {track.number}, by frame{decides}"


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (round(255 * value) for value in matplotlib.colors.to_rgb(colour))
    return red, green, blue


def _blend(picture: np.ndarray, heat: np.ndarray, area: Box) -> None:
    """Blend heat into the part of the area that is in the picture, in place."""
    left, top, right, bottom = (round(float(side)) for side in area)
    wide, high = max(right - left, 1), max(bottom - top, 1)
    y, x = (slice(max(start, 0), max(start, 0, end)) for start, end in ((top, top + high), (left, left + wide)))
    part = picture[y, x]
    if part.size:
        shown = cv2.resize(heat.astype(np.float32), (wide, high), interpolation=cv2.INTER_LINEAR)
        shown = shown[y.start - top :, x.start - left :][: part.shape[0], : part.shape[1]]
        picture[y, x] = overlaid(np.ascontiguousarray(part), shown)


def _write(picture: np.ndarray, text: str, x: int, y: int, unit: int, colour: tuple[int, int, int]) -> None:
    """Write coloured text on black above a point, or below it if there is no room, in place."""
    font, scale, margin = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * unit, 3 * unit
    (wide, high), below = cv2.getTextSize(text, font, scale, unit)
    height, width = high + below + 2 * margin, wide + 2 * margin
    left = max(0, min(x, picture.shape[1] - width))
    top = y - height if y >= height else max(0, y)
    picture[top : top + height, left : left + width] = 0
    place = (left + margin, top + margin + high)
    cv2.putText(picture, text, place, font, scale, colour, unit, cv2.LINE_AA)

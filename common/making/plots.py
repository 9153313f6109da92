"""Plots and schematics as papers print them, drawn by Matplotlib with random contents and styles.

Every function returns uint8 (height, width, 3) RGB on white, cut to its ink, and takes all randomness from the
generator passed in.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch, Polygon
from PIL import Image

WORDS = (
    "control", "treated", "WT", "KO", "mock", "DMSO", "vehicle", "siRNA", "Time (h)", "Count", "Relative expression",
    "Dose (µM)", "Survival (%)", "p53", "GAPDH", "Actin", "IL-6", "log2 fold change", "Intensity (a.u.)", "Cells",
    "Distance (µm)", "Frequency", "Accuracy", "n = 12", "Age", "PC1 (34 %)", "PC2", "Day 3", "Weight (g)", "TGF-β",
)  # fmt: skip
"""Titles, ticks and legends."""
_DPI = 100
_PALETTES = ("tab10", "Set1", "Set2", "Dark2", "Paired", "viridis", "Greys", "Blues", "coolwarm")
_MAPS = ("viridis", "hot", "jet", "coolwarm", "RdBu_r", "Blues", "Greys", "magma", "bwr", "Reds")


def draw_plot(rng: np.random.Generator) -> np.ndarray:
    """A plot with axes, of one of many kinds, up to about 500 px wide and high."""
    size = rng.uniform(1.5, 4.2, 2)
    style = {
        "font.size": rng.uniform(6, 11),
        "font.family": ("DejaVu Sans", "DejaVu Sans", "DejaVu Serif", "STIXGeneral")[rng.integers(4)],
        "axes.linewidth": rng.uniform(0.5, 1.6),
        "axes.spines.top": rng.random() < 0.4,
        "axes.spines.right": rng.random() < 0.4,
        "axes.grid": rng.random() < 0.2,
        "axes.facecolor": "#eaeaf2" if rng.random() < 0.08 else "white",
        "xtick.direction": "in" if rng.random() < 0.3 else "out",
        "ytick.direction": "in" if rng.random() < 0.3 else "out",
        "lines.linewidth": rng.uniform(0.6, 2.2),
    }
    with rc_context(style):
        figure = Figure(figsize=(float(size[0]), float(size[1])), dpi=_DPI)
        axes = figure.add_subplot()
        _PLOTS[rng.integers(len(_PLOTS))](axes, rng)
        _dress(axes, rng)
        return _rendered(figure)


def draw_scheme(rng: np.random.Generator) -> np.ndarray:
    """A schematic of boxes, cells, arrows and words, up to about 500 px wide and high."""
    size = rng.uniform(1.5, 5.0, 2)
    with rc_context({"font.size": rng.uniform(6, 11)}):
        figure = Figure(figsize=(float(size[0]), float(size[1])), dpi=_DPI)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.axis("off")
        _SCHEMES[rng.integers(len(_SCHEMES))](axes, rng)
        return _rendered(figure)


def cut_to_ink(image: np.ndarray) -> np.ndarray:
    """An image, uint8 (H, W, 3) RGB, without its white margins; at least one pixel."""
    ink = image.min(axis=2) < 245
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return image[:1, :1]
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _rendered(figure: Figure) -> np.ndarray:
    file = BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.02)  # with titles that stand outside of it
    return cut_to_ink(np.asarray(Image.open(file).convert("RGB")))


def _word(rng: np.random.Generator) -> str:
    return WORDS[rng.integers(len(WORDS))]


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    if rng.random() < 0.25:  # of gray or of one colour
        return np.repeat(rng.uniform(0, 0.8, (count, 1)), 3, axis=1)
    palette = colormaps[_PALETTES[rng.integers(len(_PALETTES))]]
    return palette(rng.uniform(0, 0.9, count))[:, :3]


def _dress(axes: Axes, rng: np.random.Generator) -> None:
    """Titles, and a legend where there is something to name."""
    if axes.name != "rectilinear" or not axes.axison:
        return
    if rng.random() < 0.75:
        axes.set_xlabel(_word(rng))
    if rng.random() < 0.8:
        axes.set_ylabel(_word(rng))
    if rng.random() < 0.35:
        axes.set_title(_word(rng))
    if rng.random() < 0.1:
        axes.set_xticks([])
    if axes.get_legend_handles_labels()[1] and rng.random() < 0.5:
        frame = bool(rng.random() < 0.4)
        if rng.random() < 0.3:
            axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=frame)
        else:
            axes.legend(frameon=frame)


def _bars(axes: Axes, rng: np.random.Generator) -> None:
    groups, bars = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    width, colours = 0.8 / bars, _colours(rng, bars)
    errors = rng.random() < 0.7
    edge = "black" if rng.random() < 0.5 else "none"
    hatch = "///" if rng.random() < 0.1 else None
    for bar in range(bars):
        heights = rng.uniform(0.2, 3, groups)
        places = np.arange(groups) + bar * width
        axes.bar(places, heights, width, color=colours[bar], edgecolor=edge, hatch=hatch, label=_word(rng))
        if errors:
            axes.errorbar(places, heights, rng.uniform(0.05, 0.4, groups), fmt="none", ecolor="black", capsize=3)
        if rng.random() < 0.4:
            for place, height in zip(places, heights, strict=True):
                axes.plot(place + rng.normal(0, width / 8, 5), height * rng.normal(1, 0.1, 5), "ko", ms=2)
    axes.set_xticks(np.arange(groups) + 0.4 - width / 2)
    axes.set_xticklabels([_word(rng)[:8] for _ in range(groups)], rotation=int(rng.choice([0, 45, 90])))
    if rng.random() < 0.3:
        top = axes.get_ylim()[1]
        axes.plot([0, groups - 1], [top, top], "k-", lw=1)
        axes.text((groups - 1) / 2, top, "***"[: rng.integers(1, 4)], ha="center")


def _lines(axes: Axes, rng: np.random.Generator) -> None:
    count, points = int(rng.integers(1, 6)), int(rng.integers(5, 60))
    x = np.linspace(0, rng.uniform(1, 100), points)
    marker = ("", "o", "s", "^")[rng.integers(4)] if points < 25 else ""
    steps = rng.random() < 0.25  # survival curves
    for colour in _colours(rng, count):
        y = np.cumsum(rng.normal(0.1, 1, points)) + rng.normal(0, 4)
        if steps:
            axes.step(x, np.sort(rng.uniform(0, 1, points))[::-1], color=colour, label=_word(rng))
            continue
        axes.plot(x, y, color=colour, marker=marker, ms=3, label=_word(rng), ls=("-", "-", "--")[rng.integers(3)])
        if rng.random() < 0.25:
            axes.fill_between(x, y - 1.5, y + 1.5, color=colour, alpha=0.25, lw=0)
        if marker and rng.random() < 0.5:
            axes.errorbar(x, y, np.abs(rng.normal(0, 1, points)), color=colour, fmt="none", capsize=2)


def _trace(axes: Axes, rng: np.random.Generator) -> None:
    points = 600
    x = np.linspace(0, 50, points)
    y = rng.normal(0, 0.05, points)
    for _ in range(int(rng.integers(2, 12))):
        y += rng.uniform(0.2, 2) * np.exp(-0.5 * ((x - rng.uniform(0, 50)) / rng.uniform(0.1, 3)) ** 2)
    axes.plot(x, y, color=_colours(rng, 1)[0], lw=0.7)
    if rng.random() < 0.3:
        axes.axis("off")


def _scatter(axes: Axes, rng: np.random.Generator) -> None:
    size = rng.uniform(1, 20)
    for colour in _colours(rng, int(rng.integers(1, 6))):
        count = int(rng.integers(10, 400))
        points = rng.normal(rng.normal(0, 2, 2), rng.uniform(0.3, 1.2, 2), (count, 2))
        axes.scatter(*points.T, s=size, color=[colour], alpha=rng.uniform(0.4, 1), lw=0, label=_word(rng))
    if rng.random() < 0.3:
        axes.axhline(0, color="gray", ls="--", lw=0.8)
        axes.axvline(0, color="gray", ls="--", lw=0.8)


def _boxes(axes: Axes, rng: np.random.Generator) -> None:
    groups = int(rng.integers(2, 8))
    values = [rng.normal(rng.normal(0, 1), rng.uniform(0.3, 1.2), 40) for _ in range(groups)]
    colours = _colours(rng, groups)
    if rng.random() < 0.35:
        bodies: Any = axes.violinplot(values, showmedians=True)["bodies"]
        for body, colour in zip(bodies, colours, strict=True):
            body.set_facecolor(colour)
    else:
        drawn = axes.boxplot(values, patch_artist=True, widths=0.6, showfliers=bool(rng.random() < 0.5))
        for box, colour in zip(drawn["boxes"], colours, strict=True):
            box.set_facecolor(colour if rng.random() < 0.8 else "white")
    axes.set_xticks(np.arange(1, groups + 1))
    axes.set_xticklabels([_word(rng)[:7] for _ in range(groups)], rotation=int(rng.choice([0, 45, 90])))


def _histogram(axes: Axes, rng: np.random.Generator) -> None:
    for colour in _colours(rng, int(rng.integers(1, 4))):
        values = rng.normal(rng.normal(0, 1), rng.uniform(0.5, 1.5), 500)
        style = "step" if rng.random() < 0.3 else "stepfilled" if rng.random() < 0.5 else "bar"
        axes.hist(values, int(rng.integers(8, 50)), color=colour, alpha=0.6, histtype=style, label=_word(rng))


def _heat_map(axes: Axes, rng: np.random.Generator) -> None:
    rows, columns = rng.integers(3, 30, 2)
    values = rng.normal(0, 1, (rows, columns)) + rng.normal(0, 1, (rows, 1))
    if rng.random() < 0.3:  # as a confusion matrix
        values = values * 0.2 + 2 * np.eye(rows, columns)
    drawn = axes.imshow(values, cmap=_MAPS[rng.integers(len(_MAPS))], aspect="auto", interpolation="nearest")
    if rng.random() < 0.6:
        axes.figure.colorbar(drawn, ax=axes)
    if rows < 10 and columns < 10 and rng.random() < 0.4:
        for row, column in np.ndindex(*values.shape):
            axes.text(column, row, f"{values[row, column]:.1f}", ha="center", va="center", size=6)
    if rng.random() < 0.4:
        axes.set_yticks(np.arange(rows))
        axes.set_yticklabels([_word(rng)[:7] for _ in range(rows)], size=5)


def _contours(axes: Axes, rng: np.random.Generator) -> None:
    x, y = np.meshgrid(np.linspace(-2, 2, 50), np.linspace(-2, 2, 50))
    values = sum(
        rng.uniform(0.3, 1) * np.exp(-((x - rng.normal()) ** 2 + (y - rng.normal()) ** 2) / rng.uniform(0.1, 1.5))
        for _ in range(4)
    )
    draw = axes.contourf if rng.random() < 0.6 else axes.contour
    drawn = draw(x, y, values, int(rng.integers(5, 20)), cmap=_MAPS[rng.integers(len(_MAPS))])
    if rng.random() < 0.4:
        axes.figure.colorbar(drawn, ax=axes)


def _forest(axes: Axes, rng: np.random.Generator) -> None:
    rows = int(rng.integers(4, 16))
    middle = rng.normal(0, 1, rows)
    axes.errorbar(middle, np.arange(rows), xerr=rng.uniform(0.2, 1, rows), fmt="s", color="black", ms=4, capsize=2)
    axes.axvline(0, color="gray", ls="--")
    axes.set_yticks(np.arange(rows))
    axes.set_yticklabels([_word(rng) for _ in range(rows)])


def _pie(axes: Axes, rng: np.random.Generator) -> None:
    parts = int(rng.integers(2, 8))
    labels = [_word(rng) for _ in range(parts)] if rng.random() < 0.7 else None
    axes.pie(rng.uniform(0.2, 1, parts), labels=labels, colors=[*_colours(rng, parts)], autopct="%1.0f%%")


def _horizontal(axes: Axes, rng: np.random.Generator) -> None:
    rows = int(rng.integers(3, 15))
    axes.barh(np.arange(rows), rng.uniform(0.2, 3, rows), color=[*_colours(rng, rows)], height=rng.uniform(0.4, 0.9))
    axes.set_yticks(np.arange(rows))
    axes.set_yticklabels([_word(rng) for _ in range(rows)])


_PLOTS: tuple[Callable[[Axes, np.random.Generator], None], ...] = (
    _bars, _bars, _lines, _lines, _trace, _scatter, _scatter, _boxes, _histogram, _heat_map, _heat_map, _contours,
    _forest, _pie, _horizontal,
)  # fmt: skip


def _flow(axes: Axes, rng: np.random.Generator) -> None:
    """Boxes with words in rows, and arrows between them."""
    rows, columns = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    colours = _colours(rng, rows)
    style = "round,pad=0.01" if rng.random() < 0.5 else "square,pad=0.01"
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.15) / columns, (row + 0.2) / rows
            wide, high = 0.65 / columns, 0.5 / rows
            fill = colours[row] if rng.random() < 0.7 else "white"
            axes.add_patch(FancyBboxPatch((x, y), wide, high, boxstyle=style, facecolor=fill, edgecolor="black"))
            axes.text(x + wide / 2, y + high / 2, _word(rng), ha="center", va="center")
            if column + 1 < columns:
                axes.annotate(
                    "", (x + 1 / columns, y + high / 2), (x + wide, y + high / 2), arrowprops={"arrowstyle": "->"}
                )
            if row + 1 < rows and rng.random() < 0.6:
                axes.annotate(
                    "", (x + wide / 2, y + 1 / rows), (x + wide / 2, y + high), arrowprops={"arrowstyle": "->"}
                )


def _cells(axes: Axes, rng: np.random.Generator) -> None:
    """Cells with nuclei, and words with arrows."""
    for _ in range(int(rng.integers(1, 7))):
        x, y = rng.uniform(0.2, 0.8, 2)
        wide, high = rng.uniform(0.1, 0.35, 2)
        fill = _colours(rng, 2)
        axes.add_patch(Ellipse((x, y), wide, high, facecolor=(*fill[0], 0.5), edgecolor=fill[0], lw=1.5))
        axes.add_patch(Ellipse((x, y), wide / 3, high / 3, facecolor=fill[1]))
        if rng.random() < 0.7:
            axes.annotate(
                _word(rng), (x, y), (rng.uniform(0.05, 0.9), rng.uniform(0.05, 0.9)), arrowprops={"arrowstyle": "-|>"}
            )


def _tree(axes: Axes, rng: np.random.Generator) -> None:
    """A dendrogram with names."""
    places = [(1.0, (place + 0.5)) for place in range(int(rng.integers(4, 16)))]
    total = len(places)
    for place in range(total):
        axes.text(0.72, (place + 0.5) / total, _word(rng), va="center", size=7)
    while len(places) > 1:
        first = int(rng.integers(len(places) - 1))
        (x1, y1), (x2, y2) = places[first : first + 2]
        x = min(x1, x2) - rng.uniform(0.4, 1) / total
        for x_here, y in ((x1, y1), (x2, y2)):
            axes.plot([max(x, 0) * 0.7, max(x_here, 0) * 0.7], [y / total] * 2, "k-", lw=1)
        axes.plot([max(x, 0) * 0.7] * 2, [y1 / total, y2 / total], "k-", lw=1)
        places[first : first + 2] = [(x, (y1 + y2) / 2)]


def _shapes(axes: Axes, rng: np.random.Generator) -> None:
    """Polygons and lines: a molecule, a device, a map."""
    for colour in _colours(rng, int(rng.integers(2, 9))):
        corners, middle = int(rng.integers(3, 8)), rng.uniform(0.15, 0.85, 2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        points = middle + rng.uniform(0.05, 0.3) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        axes.add_patch(
            Polygon(points.clip(0, 1), closed=True, facecolor=colour if rng.random() < 0.6 else "none", ec="black")
        )
        if rng.random() < 0.5:
            axes.text(middle[0], middle[1], _word(rng), ha="center")


def _table(axes: Axes, rng: np.random.Generator) -> None:
    """A table of words and numbers."""
    rows, columns = int(rng.integers(3, 12)), int(rng.integers(2, 6))
    for row in range(rows):
        for column in range(columns):
            text = _word(rng) if not row or not column else f"{rng.uniform(0, 100):.1f}"
            axes.text((column + 0.05) / columns, 1 - (row + 0.6) / rows, text, size=7)
    for place in {0, 1, rows} if rng.random() < 0.6 else range(rows + 1):
        axes.plot([0, 1], [1 - place / rows] * 2, "k-", lw=0.8)


_SCHEMES: tuple[Callable[[Axes, np.random.Generator], None], ...] = (_flow, _flow, _cells, _tree, _shapes, _table)

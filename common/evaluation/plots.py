"""Plots of an evaluation, as matplotlib figures."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from common.colours import BLUE, GREEN, VERMILION
from common.ensemble.choices import MODE_THRESHOLDS
from common.errors import readable
from common.evaluation.scoring import Evaluation
from common.evaluation.thresholds import at_thresholds
from common.metrics import forgery as metrics
from common.sizes import SIZES

GREY = "#8a8f98"
BINS = 10
"""Bins of equal width of the reliability diagram."""
MOST_POINTS = 400
"""Points of a curve that is drawn."""
LONGEST_LABEL = 28
"""Characters of a kind beside its bar."""


def plot_verdicts(evaluation: Evaluation) -> Figure:
    """Recall, false alarms, precision and oF1 against the threshold of the probability, with the modes marked."""
    curve = at_thresholds(evaluation.rows, np.linspace(0, 1, 201), evaluation.mode_threshold)
    figure = Figure(figsize=(8.6, 6.2), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for column, label, colour in (
        ("image_recall", "forged images found", BLUE),
        ("image_fpr", "authentic images called forged", VERMILION),
        ("image_precision", "of those called forged: forged", GREEN),
    ):
        above.plot(curve["threshold"], curve[column], color=colour, linewidth=2, label=label)
    below.plot(curve["threshold"], curve["of1"], color=BLUE, linewidth=2, label="this submission")
    authentic = float((evaluation.rows["n_truth"] == 0).mean())
    below.axhline(authentic, color=GREY, linewidth=1.5, linestyle="--", label="all called authentic")
    for axes, label in ((above, "share of images"), (below, "oF1")):
        _mark_modes(axes, named=axes is above)
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel=label)
        axes.legend(frameon=False, fontsize=9)
        _plain(axes)
    if evaluation.mode_threshold > 0:
        for axes in (above, below):
            axes.axvspan(0, evaluation.mode_threshold, color=GREY, alpha=0.12, linewidth=0)
        below.text(0.01, 0.95, "not in this submission", va="top", color="#4a5666", fontsize=9)
    below.set(xlabel="least probability of an image that is called forged")
    return figure


def _mark_modes(axes: Axes, *, named: bool) -> None:
    for mode, threshold in MODE_THRESHOLDS.items():
        axes.axvline(threshold, color="#1c2430", linewidth=0.8, linestyle=":")
        if named:
            text = f"{mode} {threshold:.2f}"
            options = {"rotation": 45, "ha": "left", "va": "bottom", "rotation_mode": "anchor", "fontsize": 8.5}
            axes.text(threshold, 1.03, text, transform=axes.get_xaxis_transform(), **options)


def plot_pixel_thresholds(evaluation: Evaluation) -> Figure:
    """Mean pixel F1 of the maps, which there must be, against the pixel threshold, by size."""
    sizes = evaluation.rows["size"].value_counts()
    # The thresholds, every float16, lie dense near zero.
    places = np.searchsorted(metrics.PIXEL_THRESHOLDS, np.linspace(0, 1, MOST_POINTS))
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    axes = figure.subplots()
    shades = dict(zip(SIZES, ("#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#084594"), strict=True))
    for size in SIZES:
        if size in evaluation.curves:
            mean = evaluation.curves[size] / sizes[size]
            label = f"{size} ({sizes[size]})"
            axes.plot(metrics.PIXEL_THRESHOLDS[places], mean[places], color=shades[size], linewidth=1.2, label=label)
    every = np.sum([*evaluation.curves.values()], axis=0) / sizes[list(evaluation.curves)].sum()
    axes.plot(
        metrics.PIXEL_THRESHOLDS[places], every[places], color=VERMILION, linewidth=2.5, label="all forged images"
    )
    best, threshold = metrics.best_threshold(every)
    axes.plot([threshold], [best], "o", color=VERMILION, markersize=8)
    axes.annotate(
        f"best for the set: {best:.3f} at {threshold:.3f}",
        (threshold, best),
        xytext=(8, 8),
        textcoords="offset points",
        ha="right" if threshold > 0.7 else "left",
        fontsize=9,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="least probability of a forged pixel", ylabel="mean pixel F1")
    axes.legend(frameon=False, fontsize=9, ncols=2)
    _plain(axes)
    return figure


def plot_calibration(probabilities: np.ndarray, forged: np.ndarray) -> Figure:
    """Reliability diagram, with 95 % intervals, above the numbers of images with each probability.

    Args:
        probabilities: (n,) in [0, 1].
        forged: bool (n,).
    """
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1.3))
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    found = [(probabilities[places == place], forged[places == place]) for place in range(BINS)]
    means = [(probs.mean(), truths.mean(), *_interval(truths)) for probs, truths in found if len(probs)]
    x, y, low, high = np.array(means).T
    above.errorbar(x, y, (y - low, high - y), fmt="o", color=VERMILION, ecolor=VERMILION, elinewidth=1.2, markersize=6)
    above.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share of them that is forged")
    edges = np.linspace(0, 1, 2 * BINS + 1)
    parts, labels = (probabilities[~forged], probabilities[forged]), ("authentic", "forged")
    below.hist(parts, edges, stacked=True, color=(BLUE, VERMILION), label=labels)
    below.set(xlabel="probability that the image is forged", ylabel="images")
    below.legend(frameon=False, fontsize=9)
    _plain(above, below)
    return figure


def plot_scores(scores: np.ndarray, forged: np.ndarray, *, with_modes: bool) -> Figure:
    """ROC curve of image scores.

    Args:
        scores: (n,).
        forged: bool (n,), of both classes.
        with_modes: Whether the scores are probabilities, on which the modes are marked.
    """
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    fpr, tpr, _ = roc_curve(forged, scores)
    axes.plot(fpr, tpr, color=BLUE, linewidth=2)
    for shape, (mode, threshold) in zip("osD^v", MODE_THRESHOLDS.items() if with_modes else (), strict=False):
        called = scores >= threshold
        place = [called[~forged].mean()], [called[forged].mean()]
        label = f"{mode} {threshold:.2f}"
        axes.plot(*place, shape, color=VERMILION, fillstyle="none", markersize=8, label=label, linestyle="none")
    if with_modes:
        axes.legend(frameon=False, loc="lower right", fontsize=9)
    what = "probability that it is forged" if with_modes else "99.9 % quantile of the map"
    axes.set_title(f"{what}: AUC {metrics.image_auc(scores, forged):.3f}", fontsize=10)
    axes.set(xlabel="authentic images called forged", ylabel="forged images found")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _plain(axes)
    return figure


def plot_groups(groups: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """Share of the forged images that were found, with 95 % intervals, and mean oF1, in groups of images.

    Args:
        groups: Name and rows of an `Evaluation`, at least one each.
    """
    figure = Figure(figsize=(8.6, 1.1 + 0.5 * len(groups)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(groups))[::-1]
    found = [(rows["n_predicted"] > 0).to_numpy() for _, rows in groups]
    recall = np.array([calls.mean() for calls in found])
    low, high = np.array([_interval(calls) for calls in found]).T
    error = {"ecolor": "#1c2430", "elinewidth": 1, "capsize": 2}
    bars = axes.barh(places + 0.2, recall, 0.36, color=BLUE, label="called forged", error_kw=error)
    axes.errorbar(recall, places + 0.2, xerr=(recall - low, high - recall), fmt="none", **error)
    of1 = axes.barh(places - 0.2, [rows["of1"].mean() for _, rows in groups], 0.36, color=VERMILION, label="mean oF1")
    axes.bar_label(of1, fmt="%.2f", padding=3, fontsize=8.5)
    for bar, share, end in zip(bars, recall, high, strict=True):
        axes.text(end + 0.012, bar.get_y() + 0.18, f"{share:.2f}", va="center", fontsize=8.5)
    labels = axes.set_yticks(places, [f"{_short(name)} (n = {len(rows)})" for name, rows in groups])
    for tick in labels:
        tick.label1.set_parse_math(False)
    axes.set(xlim=(0, 1.1), ylim=(-0.6, len(groups) - 0.4))
    figure.legend(frameon=False, fontsize=9, loc="outside upper right", ncols=2)
    _plain(axes)
    return figure


def _short(name: str) -> str:
    name = readable(name)
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"


def _interval(holds: Iterable[bool]) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    holds = np.asarray(holds)
    interval = binomtest(int(holds.sum()), len(holds)).proportion_ci(method="wilson")
    return interval.low, interval.high


def _plain(*all_axes: Axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)

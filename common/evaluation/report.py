"""The evaluation as something to look at: tables, plots and a sheet of predictions beside the truth."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.data.images import read_image
from common.errors import UserError
from common.evaluation.scoring import Case, Evaluation, read_map, read_truth, summarize
from common.metrics import forgery as metrics
from common.metrics import rle
from common.sizes import SIZES
from common.tables import markdown_table

# Blue and orange stay apart for colour-blind readers (Okabe and Ito 2008), and on grey figures.
TRUTH_COLOUR, PREDICTED_COLOUR, GREY = "#0072B2", "#D55E00", "#8a8f98"

# Long side of a picture on the sheet, in pixels; outlines are drawn after shrinking, so that they stay visible.
PICTURE_SIDE = 480


def tables(evaluation: Evaluation) -> str:
    """The figures as Markdown tables that read well in a terminal too."""
    figures, rows = summarize(evaluation), evaluation.rows
    by_size = [
        [size, row["n"], *_values(row, "of1", "lift", "pixel_f1", "image_recall"), *_map_values(evaluation, row)]
        for size, row in figures["by_size"].items()
        if row["n"]
    ]
    head = ["images", "oF1", "lift", "pixel F1", "recall"]
    map_head = ["pixel AUC", "best pixel F1"] if evaluation.curves else []
    parts = [
        markdown_table(["", "figure"], _headline(figures, evaluation)),
        markdown_table(["forged, by size", *head, *map_head], by_size),
    ]
    if kinds := sorted(set(rows["kind"]) - {""}):
        groups = [rows[(rows["kind"] == kind) & (rows["n_truth"] > 0)] for kind in kinds]
        by_kind = [
            [kind, len(group), *[group["of1"].mean()] * 2, group["pixel_f1"].mean(), (group["n_predicted"] > 0).mean()]
            + ([group["pixel_auc"].mean()] if evaluation.curves else [])
            for kind, group in zip(kinds, groups, strict=True)
        ]
        parts.append(markdown_table(["forged, by kind", *head, *map_head[:1]], by_kind))
    return "\n\n".join(parts)


def _headline(figures: dict, evaluation: Evaluation) -> list[list]:
    rows = [
        ["images", f"{figures['n_forged']} forged, {figures['n_authentic']} authentic"],
        ["oF1", figures["of1"]],
        ["oF1 of all-authentic", figures["of1_all_authentic"]],
        ["lift over all-authentic", f"{figures['lift']:+.4f}"],
        *(
            [f"image {'FPR' if name == 'fpr' else 'MCC' if name == 'mcc' else name}", figures[f"image_{name}"]]
            for name in ("precision", "recall", "f1", "fpr", "mcc")
        ),
        ["pixel F1, forged images", figures["pixel_f1"]],
        ["pixel IoU, forged images", figures["pixel_iou"]],
    ]
    if evaluation.curves:
        rows += [
            ["pixel AUC of the maps", figures["pixel_auc"]],
            [f"pixel F1 of the maps at {evaluation.threshold:.3f}, best for the set", figures["pixel_f1_best"]],
        ]
    scored = evaluation.rows.dropna(subset="image_score")
    if not math.isnan(auc := metrics.image_auc(scored["image_score"], scored["n_truth"] > 0)):
        rows.append(["image AUC of the maps' 99.9 % quantile", auc])
    return rows


def _values(row: dict, *names: str) -> list:
    return [row[name] for name in names]


def _map_values(evaluation: Evaluation, row: dict) -> list:
    return _values(row, "pixel_auc", "pixel_f1_best") if evaluation.curves else []


def write_report(folder: Path, evaluation: Evaluation, cases: Sequence[Case], images: dict[str, Path]) -> Path:
    """Write `report.md`, its pictures, and `images.csv` with the scores of every image into a folder.

    Args:
        folder: Made if missing; files of an older report are replaced.
        evaluation: The scores of `cases`.
        cases: The same cases, for the sheet of predictions.
        images: Case id → image file, as far as known. Without its image a case is drawn on grey.

    Returns:
        The path of `report.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.rows.to_csv(folder / "images.csv", index=False)
    pictures = {"sizes.png": plot_sizes(evaluation), "scores.png": plot_scores(evaluation)}
    pictures["predictions.png"] = draw_predictions(evaluation, cases, images)
    for name, figure in pictures.items():
        (folder / name).unlink(missing_ok=True)
        if figure is not None:
            figure.savefig(folder / name, dpi=110, facecolor="white")
    sections = {
        "sizes.png": "oF1 by size of the forgery",
        "scores.png": "Scores of the images",
        "predictions.png": "Predictions beside the truth (probabilities from 0, dark, to 1, bright)",
    }
    shown = [f"## {sections[name]}\n\n![{sections[name]}]({name})" for name, figure in pictures.items() if figure]
    text = "\n\n".join(["# Evaluation", tables(evaluation), *shown, "All images: [images.csv](images.csv)."])
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    return folder / "report.md"


def plot_sizes(evaluation: Evaluation) -> Figure | None:
    """oF1 of each size beside what all-authentic scores there; None without images."""
    sizes = [name for name in ("authentic", *SIZES) if (evaluation.rows["size"] == name).any()]
    parts = [evaluation.rows.loc[evaluation.rows["size"] == name, "of1"] for name in sizes]
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(sizes))
    baseline = [float(name == "authentic") for name in sizes]
    axes.bar(positions - 0.19, baseline, 0.36, color=GREY, label="all-authentic")
    axes.bar(positions + 0.19, [part.mean() for part in parts], 0.36, color=PREDICTED_COLOUR, label="this submission")
    for position, part, base in zip(positions, parts, baseline, strict=True):
        axes.annotate(f"{part.mean():.2f}", (position + 0.19, part.mean()), (0, 3), **_CENTRED)
        axes.annotate(f"{base:.0f}", (position - 0.19, base), (0, 3), **_CENTRED)
    axes.set_xticks(positions, [f"{name}\nn = {len(part)}" for name, part in zip(sizes, parts, strict=True)])
    axes.set(ylim=(0, 1.1), ylabel="mean oF1")
    axes.legend(frameon=False, loc="upper right" if sizes[0] == "authentic" else "best")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


_CENTRED = {"textcoords": "offset points", "ha": "center", "fontsize": 9}


def plot_scores(evaluation: Evaluation) -> Figure | None:
    """Histogram and ROC curve of the image scores; None unless maps of both classes exist."""
    scored = evaluation.rows.dropna(subset="image_score")
    scores, forged = scored["image_score"].to_numpy(), scored["n_truth"].to_numpy() > 0
    auc = metrics.image_auc(scores, forged)
    if math.isnan(auc):
        return None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 26)
    left.hist(scores[~forged], bins, color=TRUTH_COLOUR, alpha=0.6, label=f"authentic ({(~forged).sum()})")
    left.hist(scores[forged], bins, color=PREDICTED_COLOUR, alpha=0.6, label=f"forged ({forged.sum()})")
    left.set(xlabel="image score (99.9 % quantile of the map)", ylabel="images", xlim=(0, 1))
    left.legend(frameon=False)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # equal scores move together
    rates = [np.insert(np.cumsum(part[order])[last] / part.sum(), 0, 0) for part in (~forged, forged)]
    right.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    right.plot(*rates, color=PREDICTED_COLOUR, linewidth=2)
    right.set(xlabel="authentic images called forged", ylabel="forged images found", title=f"ROC, AUC {auc:.3f}")
    right.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def choose_cases(rows: pd.DataFrame, most: int = 8) -> list[tuple[str, str]]:
    """Case ids for the sheet, each with its verdict: hits, poor hits, misses and false alarms in turn.

    Of each, one image of every size before a second one of any: the best first among hits, the worst first among poor
    hits, the largest first among misses.
    """
    forged, called = rows["n_truth"] > 0, rows["n_predicted"] > 0
    good = rows["of1"] >= 0.5

    def each_size_first(group: pd.DataFrame, by: str, ascending: bool = False) -> pd.DataFrame:
        group = group.sort_values(by, ascending=ascending, kind="stable")
        return group.iloc[np.argsort(group.groupby("size").cumcount(), kind="stable")]

    groups = {
        "hit": each_size_first(rows[forged & called & good], "of1"),
        "poor hit": each_size_first(rows[forged & called & ~good], "of1", ascending=True),
        "miss": each_size_first(rows[forged & ~called], "area_share"),
        "false alarm": rows[~forged & called],
    }
    ranked = [
        (rank, order, case_id, verdict)
        for order, (verdict, group) in enumerate(groups.items())
        for rank, case_id in enumerate(group["case_id"])
    ]
    chosen = sorted(sorted(ranked)[:most], key=lambda entry: (entry[1], entry[0]))
    return [(case_id, verdict) for _, _, case_id, verdict in chosen]


def draw_predictions(evaluation: Evaluation, cases: Sequence[Case], images: dict[str, Path]) -> Figure | None:
    """A sheet with one case a row: image, truth, prediction and (where there are maps) probabilities.

    Returns None where there is nothing to show: no forged image, and none called forged.

    Raises:
        UserError: An image cannot be read or does not have the size of its mask.
    """
    by_id, scores = {case.case_id: case for case in cases}, evaluation.rows.set_index("case_id")
    columns = ["image", "truth", "prediction"] + ["probability"] * any(case.map is not None for case in cases)
    panels = []
    for case_id, verdict in choose_cases(evaluation.rows):
        pictures = _pictures(by_id[case_id], images.get(case_id))
        if pictures:
            panels.append((_title(verdict, scores.loc[case_id]), pictures[: len(columns)]))
    if not panels:
        return None
    # All in inches from the top: the names of the columns, then a title and a row of pictures for each case.
    width, title_height, names_height = 2.9, 0.42, 0.35
    sides = [pictures[0].shape[:2] for _, pictures in panels]
    heights = [width * min(max(height / side, 0.35), 1.1) for height, side in sides]
    total = names_height + sum(heights) + title_height * len(heights) + 0.08
    figure = Figure(figsize=(width * len(columns), total))
    colours = {"truth": TRUTH_COLOUR, "prediction": PREDICTED_COLOUR}
    for column, name in enumerate(columns):
        place = {"x": (column + 0.5) / len(columns), "y": 1 - 0.12 / total, "ha": "center", "va": "top"}
        figure.text(s=name, fontsize=12, weight="bold", color=colours.get(name, "black"), **place)
    top = total - names_height
    for (title, pictures), height in zip(panels, heights, strict=True):
        top -= title_height
        figure.text(0.02, (top + 0.09) / total, title, fontsize=10.5, va="bottom")
        for column, picture in enumerate(pictures):
            axes = figure.add_axes(
                ((column + 0.01) / len(columns), (top - height) / total, 0.98 / len(columns), height / total)
            )
            axes.imshow(picture)
            axes.set_axis_off()
        top -= height
    return figure


def _title(verdict: str, score: pd.Series) -> str:
    """Case id, verdict and score of a row of the sheet."""
    parts = [str(score.name), verdict, f"oF1 {score['of1']:.2f}"]
    if score["n_truth"]:
        parts += [
            f"pixel F1 {score['pixel_f1']:.2f}",
            f"{score['size']}, {100 * score['area_share']:.2g} % of the image",
        ]
        parts.append(f"{score['n_predicted']} predicted for {score['n_truth']}")
    if not math.isnan(score["image_score"]):
        parts.append(f"score {score['image_score']:.2f}")
    return "   ·   ".join(parts)


def _pictures(case: Case, image: Path | None) -> list[np.ndarray]:
    """Image, truth, prediction, probabilities of a case, each uint8 (h, w, 3); empty where no size is known."""
    truth = read_truth(case.mask).any(axis=0) if case.mask else None
    probs = read_map(case.map) if case.map else None
    pixels = read_image(image) if image else None
    size = next((array.shape[:2] for array in (truth, pixels, probs) if array is not None), None)
    if size is None:
        return []
    if pixels is None:
        pixels = np.full((*size, 3), 200, np.uint8)
    elif pixels.shape[:2] != size:
        raise UserError(
            f"{image} is {pixels.shape[0]}×{pixels.shape[1]}, the mask {case.mask} {size[0]}×{size[1]} "
            "(height×width). Name the folder of the images that the masks belong to with --images."
        )
    predicted = rle.decode_union(rle.parse_runs(case.annotation, *size), *size)
    scale = PICTURE_SIDE / max(size)
    sides = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    picture = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    heat = np.full_like(picture, 255)
    if probs is not None:
        small = cv2.resize(probs.astype(np.float32), sides, interpolation=cv2.INTER_AREA)
        heat = (matplotlib.colormaps["magma"](small)[..., :3] * 255).astype(np.uint8)
    return [
        picture,
        _outlined(picture, truth, TRUTH_COLOUR),
        _outlined(picture, predicted, PREDICTED_COLOUR),
        heat,
    ]


def _outlined(picture: np.ndarray, mask: np.ndarray | None, colour: str) -> np.ndarray:
    """The picture (h, w, 3), paler, with a mask (H, W) of any scale tinted and outlined; in words if it is empty."""
    rgb = np.array([round(255 * part) for part in matplotlib.colors.to_rgb(colour)], np.uint8)
    pale = cv2.addWeighted(picture, 0.65, np.full_like(picture, 255), 0.35, 0)
    if mask is None or not mask.any():
        text, font = "authentic", cv2.FONT_HERSHEY_SIMPLEX
        (width, height), _ = cv2.getTextSize(text, font, 0.9, 2)
        cv2.rectangle(pale, (0, 0), (width + 20, height + 22), (255, 255, 255), -1)
        cv2.putText(pale, text, (10, height + 10), font, 0.9, rgb.tolist(), 2, cv2.LINE_AA)
        return pale
    # A forgery must not vanish when a large image shrinks: a pixel is inside if any part of it was.
    inside = (cv2.resize(mask.astype(np.float32), pale.shape[1::-1], interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    pale[inside > 0] = (0.65 * picture[inside > 0] + 0.35 * rgb).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(pale, contours, -1, rgb.tolist(), 2, cv2.LINE_AA)

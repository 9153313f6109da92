"""Report of an evaluation: Markdown tables, plots, and a sheet of predictions beside the truth."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from common.data.images import read_image
from common.errors import UserError, readable
from common.evaluation.scoring import Evaluation, SubmissionRow, read_map, read_truth, summarize
from common.metrics import forgery as metrics
from common.metrics import rle
from common.page import outlined
from common.sizes import SIZES
from common.tables import markdown_table

# Blue and orange are distinct for colour-blind readers (Okabe and Ito 2008), and on grey figures.
TRUTH_COLOUR, PREDICTED_COLOUR, GREY = "#0072B2", "#D55E00", "#8a8f98"
PICTURE_SIDE = 480
"""Long side of a picture on the sheet, in pixels. Outlines are drawn after resizing, so that they stay visible."""


def tables(evaluation: Evaluation) -> str:
    """The metrics as Markdown tables, readable in a terminal too."""
    summary, rows = summarize(evaluation), evaluation.rows
    head, keys = ["images", "oF1", "lift", "pixel F1", "recall"], ["n", "of1", "lift", "pixel_f1", "image_recall"]
    if evaluation.curves:
        head, keys = [*head, "pixel AUC", "best pixel F1"], [*keys, "pixel_auc", "pixel_f1_best"]
    by_size = [[size, *(row[key] for key in keys)] for size, row in summary["by_size"].items() if row["n"]]
    parts = [
        markdown_table(["", "value"], _headline(summary, evaluation)),
        markdown_table(["forged, by size", *head], by_size),
    ]
    head = head[:6]  # without the best pixel F1, whose curves are summed by size
    by_kind = [
        [str(kind), len(group), *[group["of1"].mean()] * 2, group["pixel_f1"].mean(), (group["n_predicted"] > 0).mean()]
        + [group["pixel_auc"].mean()] * (len(head) == 6)
        for kind, group in rows[(rows["kind"] != "") & (rows["n_truth"] > 0)].groupby("kind")
    ]
    if by_kind:
        parts.append(markdown_table(["forged, by kind", *head], by_kind))
    return "\n\n".join(parts)


def _headline(summary: dict, evaluation: Evaluation) -> list[list]:
    rows = [
        ["images", f"{summary['n_forged']} forged, {summary['n_authentic']} authentic"],
        ["oF1", summary["of1"]],
        ["oF1 of all-authentic", summary["of1_all_authentic"]],
        ["lift over all-authentic", f"{summary['lift']:+.4f}"],
        ["image precision", summary["image_precision"]],
        ["image recall", summary["image_recall"]],
        ["image F1", summary["image_f1"]],
        ["image FPR", summary["image_fpr"]],
        ["image MCC", summary["image_mcc"]],
        ["pixel F1, forged images", summary["pixel_f1"]],
        ["pixel IoU, forged images", summary["pixel_iou"]],
    ]
    if evaluation.curves:
        rows += [
            ["pixel AUC of the maps", summary["pixel_auc"]],
            [f"pixel F1 of the maps at {evaluation.threshold:.3f}, best for the set", summary["pixel_f1_best"]],
        ]
    if not math.isnan(auc := metrics.image_auc(*_image_scores(evaluation))):
        rows.append(["image AUC of the maps' 99.9 % quantile", auc])
    return rows


def _image_scores(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Score, and whether it is forged, of each image with a map."""
    scored = evaluation.rows.dropna(subset="image_score")
    return scored["image_score"].to_numpy(), scored["n_truth"].to_numpy() > 0


def write_evaluation(
    folder: Path, evaluation: Evaluation, submission: Sequence[SubmissionRow], images: dict[str, Path]
) -> Path:
    """Write `report.md`, its pictures, and `images.csv` with the metrics of every image into a folder.

    Args:
        folder: Made if missing; files of an older report are replaced.
        evaluation: The metrics of `submission`.
        submission: For the sheet of predictions.
        images: Case id → image file, as far as known. An image without a file is drawn grey.

    Returns:
        The path of `report.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.rows.to_csv(folder / "images.csv", index=False)
    text = f"# Evaluation\n\n{tables(evaluation)}\n\n"
    for name, title, figure in (
        ("sizes.png", "oF1 by size of the forgery", plot_sizes(evaluation)),
        ("scores.png", "Scores of the images", plot_scores(evaluation)),
        (
            "predictions.png",
            "Predictions beside the truth (probabilities from 0, dark, to 1, bright)",
            draw_predictions(evaluation, submission, images),
        ),
    ):
        (folder / name).unlink(missing_ok=True)
        if figure is not None:
            figure.savefig(folder / name, dpi=110, facecolor="white")
            text += f"## {title}\n\n![{title}]({name})\n\n"
    (folder / "report.md").write_text(f"{text}All images: [images.csv](images.csv).\n", encoding="utf-8")
    return folder / "report.md"


def plot_sizes(evaluation: Evaluation) -> Figure:
    """Mean oF1 by size of the forgery, beside that of all-authentic."""
    sizes = [name for name in ("authentic", *SIZES) if (evaluation.rows["size"] == name).any()]
    parts = [evaluation.rows.loc[evaluation.rows["size"] == name, "of1"] for name in sizes]
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(sizes))
    baseline = axes.bar(
        positions - 0.19, [float(name == "authentic") for name in sizes], 0.36, color=GREY, label="all-authentic"
    )
    axes.bar_label(baseline, fmt="%.0f", padding=3, fontsize=9)
    bars = axes.bar(
        positions + 0.19, [part.mean() for part in parts], 0.36, color=PREDICTED_COLOUR, label="this submission"
    )
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_xticks(positions, [f"{name}\nn = {len(part)}" for name, part in zip(sizes, parts, strict=True)])
    axes.set(ylim=(0, 1.1), ylabel="mean oF1")
    axes.legend(frameon=False, loc="upper right" if sizes[0] == "authentic" else "best")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_scores(evaluation: Evaluation) -> Figure | None:
    """Histogram and ROC curve of the image scores; None unless there are maps of both classes."""
    scores, forged = _image_scores(evaluation)
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
    right.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    fpr, tpr, _ = roc_curve(forged, scores)
    right.plot(fpr, tpr, color=PREDICTED_COLOUR, linewidth=2)
    right.set(xlabel="authentic images called forged", ylabel="forged images found", title=f"ROC, AUC {auc:.3f}")
    right.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def choose_examples(rows: pd.DataFrame, most: int = 8) -> list[tuple[str, str]]:
    """Case ids for the sheet, each with its verdict: hits, poor hits, misses and false alarms in turn.

    Of each, one image of every size before a second one of any: the best first among hits, the worst first among poor
    hits, the largest first among misses.
    """
    forged, called, good = rows["n_truth"] > 0, rows["n_predicted"] > 0, rows["of1"] >= 0.5

    def each_size_first(group: pd.DataFrame, by: str, *, ascending: bool = False) -> pd.DataFrame:
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


def draw_predictions(
    evaluation: Evaluation, submission: Sequence[SubmissionRow], images: dict[str, Path]
) -> Figure | None:
    """A sheet with one example per row: image, truth, prediction and, if there are maps, probabilities.

    Returns None if no image is forged or called forged.

    Raises:
        UserError: An image cannot be read or does not have the size of its mask.
    """
    by_id = {row.case_id: row for row in submission}
    scores = {score["case_id"]: score for score in evaluation.rows.to_dict("records")}
    columns = ["image", "truth", "prediction"] + ["probability"] * any(row.map is not None for row in submission)
    panels = []
    for case_id, verdict in choose_examples(evaluation.rows):
        if pictures := _pictures(by_id[case_id], images.get(case_id)):
            panels.append((_title(verdict, scores[case_id]), pictures[: len(columns)]))
    if not panels:
        return None
    heights = [min(max(len(pictures[0]) / pictures[0].shape[1], 0.35), 1.1) for _, pictures in panels]
    figure = Figure(figsize=(2.9 * len(columns), 2.9 * sum(heights) + 0.5 * len(heights) + 0.3), layout="constrained")
    rows = figure.subfigures(len(panels), squeeze=False, height_ratios=[2.9 * height + 0.5 for height in heights])
    colours = {"truth": TRUTH_COLOUR, "prediction": PREDICTED_COLOUR}
    for row, (title, pictures) in zip(rows[:, 0], panels, strict=True):
        row.suptitle(title, x=0.02, ha="left", fontsize=10.5, parse_math=False)
        for axes, name, picture in zip(row.subplots(1, len(columns)), columns, pictures, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
            axes.set_title(name, fontsize=9, color=colours.get(name, "black"))
    return figure


def _title(verdict: str, score: dict) -> str:
    """Title of an example: case id, verdict and metrics."""
    parts = [score["case_id"], verdict, f"oF1 {score['of1']:.2f}"]
    if score["n_truth"]:
        parts += [
            f"pixel F1 {score['pixel_f1']:.2f}",
            f"{score['size']}, {100 * score['area_share']:.2g} % of the image",
            f"{score['n_predicted']} predicted for {score['n_truth']}",
        ]
    if not math.isnan(score["image_score"]):
        parts.append(f"score {score['image_score']:.2f}")
    return readable("   ·   ".join(parts))


def _pictures(row: SubmissionRow, image: Path | None) -> list[np.ndarray]:
    """Image, truth, prediction and probabilities, each uint8 (h, w, 3); empty if the size of the image is unknown."""
    truth = np.logical_or.reduce(read_truth(row.mask)) if row.mask else None
    probs = read_map(row.map) if row.map else None
    pixels = read_image(image) if image else None
    size = next((array.shape[:2] for array in (truth, pixels, probs) if array is not None), None)
    if size is None:
        return []
    if pixels is None:
        pixels = np.full((*size, 3), 200, np.uint8)
    elif pixels.shape[:2] != size:
        raise UserError(
            f"{image} is {pixels.shape[0]}×{pixels.shape[1]}, the mask {row.mask} {size[0]}×{size[1]} "
            "(height×width). Name the folder of the images that the masks belong to."
        )
    predicted = rle.decode_union(rle.parse_runs(row.annotation, *size), *size)
    scale = PICTURE_SIDE / max(size)
    sides = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    picture = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    heat = np.full_like(picture, 255)
    if probs is not None:
        small = cv2.resize(probs.astype(np.float32), sides, interpolation=cv2.INTER_AREA)
        heat = (matplotlib.colormaps["magma"](small)[..., :3] * 255).astype(np.uint8)
    return [
        picture,
        outlined(picture, truth, TRUTH_COLOUR),
        outlined(picture, predicted, PREDICTED_COLOUR),
        heat,
    ]

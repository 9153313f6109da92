"""Report of an evaluation: tables for the terminal, and one HTML page with plots and pictures."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from common.colours import VERMILION
from common.data.images import read_picture
from common.ensemble.choices import MODE_THRESHOLDS
from common.errors import UserError
from common.evaluation import plots
from common.evaluation.scoring import Evaluation, SubmissionRow, read_instances, read_map, read_truth, summarize
from common.evaluation.thresholds import at_thresholds
from common.files import written_whole
from common.html import filled, picture_uri, plot_uri
from common.metrics import forgery as metrics
from common.metrics import rle
from common.page import outlined
from common.sizes import SIZES
from common.tables import markdown_table

PAGE = "report.html"
MOST_EXAMPLES = 48
"""Images in the gallery."""
MOST_KINDS = 20
"""Kinds that are drawn, those with most images; the tables have all."""
PICTURE_SIDE = 480
"""Long side of a picture in the gallery, in pixels. Outlines are drawn after resizing, so that they stay visible."""
PICTURE_BYTES = 60_000
"""Of a picture in the gallery, as JPEG: the page has less than 16 MB."""

Row = Sequence[str | int | float]


def tables(evaluation: Evaluation) -> str:
    """The metrics as Markdown tables, readable in a terminal too."""
    return "\n\n".join(markdown_table(head, rows) for head, rows in _tables(evaluation))


def _tables(evaluation: Evaluation) -> list[tuple[list[str], list[Row]]]:
    """Head and rows of each table: all images, forged images by size, and by kind if there are any."""
    summary, rows = summarize(evaluation), evaluation.rows
    head, keys = ["images", "oF1", "lift", "pixel F1", "recall"], ["n", "of1", "lift", "pixel_f1", "image_recall"]
    if evaluation.curves:
        head, keys = [*head, "pixel AUC", "best pixel F1"], [*keys, "pixel_auc", "pixel_f1_best"]
    by_size: list[Row] = [[size, *(row[key] for key in keys)] for size, row in summary["by_size"].items() if row["n"]]
    found: list[tuple[list[str], list[Row]]] = [
        (["", "value"], _headline(summary, evaluation)),
        (["forged, by size", *head], by_size),
    ]
    head = head[:6]  # without the best pixel F1, whose curves are summed by size
    by_kind: list[Row] = [
        [kind, len(group), *[group["of1"].mean()] * 2, group["pixel_f1"].mean(), (group["n_predicted"] > 0).mean()]
        + [group["pixel_auc"].mean()] * (len(head) == 6)
        for kind, group in _by_kind(rows)
    ]
    return [*found, (["forged, by kind", *head], by_kind)] if by_kind else found


def _by_kind(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The forged images of each kind that is known."""
    return [(str(kind), group) for kind, group in rows[(rows["kind"] != "") & (rows["n_truth"] > 0)].groupby("kind")]


def _headline(summary: dict, evaluation: Evaluation) -> list[Row]:
    rows: list[Row] = [
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
    if not math.isnan(auc := metrics.image_auc(*_scores(evaluation, "image_score"))):
        rows.append(["image AUC of the maps' 99.9 % quantile", auc])
    if evaluation.rows["probability"].notna().any():
        rows += [
            ["image AUC of the probabilities", summary["image_auc"]],
            ["calibration error of the probabilities", summary["calibration_error"]],
        ]
    return rows


def _scores(evaluation: Evaluation, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A score, `image_score` or `probability`, and whether it is forged, of each image that has one."""
    scored = evaluation.rows.dropna(subset=column)
    return scored[column].to_numpy(), scored["n_truth"].to_numpy() > 0


def write_report(
    folder: Path,
    evaluation: Evaluation,
    submission: Sequence[SubmissionRow],
    images: Mapping[str, Path],
    files: Mapping[str, object],
    *,
    upright: bool = False,
) -> Path:
    """Write `report.html`, one page with all in it, and `images.csv` with the metrics of every image into a folder.

    Args:
        folder: Made if missing.
        evaluation: The metrics of `submission`.
        submission: For the gallery.
        images: Case id → image file, as far as known. An image without a file is drawn grey.
        files: What was scored, for the page's head: what it is → file or folder.
        upright: Whether masks, maps and regions refer to the images as their EXIF orientation turns them.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: An image can't be read, has another size than its mask or map, or is left by a region; or the folder
            can't be written.
    """
    with written_whole(folder / "images.csv") as file:
        evaluation.rows.to_csv(file, index=False)
    rows = evaluation.rows
    forged, called = rows["n_truth"] > 0, rows["n_predicted"] > 0
    head, *groups = _tables(evaluation)
    modes = at_thresholds(rows, MODE_THRESHOLDS.values(), evaluation.mode_threshold)
    page = filled(
        Path(__file__).with_name(PAGE),
        summary=summarize(evaluation),
        files={name: str(path) for name, path in files.items()},
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M (UTC%z)}",
        headline=head[1],
        groups=groups,
        recall=_recall_by_kind(rows[forged]),
        sizes=SIZES,
        modes=[{"mode": mode} | row for mode, row in zip(MODE_THRESHOLDS, modes.to_dict("records"), strict=True)],
        evaluation=evaluation,
        plots={name: plot_uri(figure) for name, figure in _plots(evaluation).items()},
        examples=_gallery(evaluation, submission, images, upright=upright),
        wrong_or_forged=(forged | called).sum(),
    )
    with written_whole(folder / PAGE) as file:
        file.write(page)
    return folder / PAGE


def _plots(evaluation: Evaluation) -> dict[str, Figure]:
    """The plots that there are numbers for."""
    rows, found = evaluation.rows, {}
    forged = rows[rows["n_truth"] > 0]
    if len(forged):
        by_size = [(size, forged[forged["size"] == size]) for size in SIZES if (forged["size"] == size).any()]
        by_kind = sorted(_by_kind(rows), key=lambda kind: -len(kind[1]))
        found["groups"] = plots.plot_groups([*by_size, *by_kind[:MOST_KINDS]])
    probabilities, truths = _scores(evaluation, "probability")
    if len(probabilities):
        found["verdicts"] = plots.plot_verdicts(evaluation)
        found["calibration"] = plots.plot_calibration(probabilities, truths)
    if evaluation.curves:
        found["pixels"] = plots.plot_pixel_thresholds(evaluation)
    scores, truths = (probabilities, truths) if len(probabilities) else _scores(evaluation, "image_score")
    if not math.isnan(metrics.image_auc(scores, truths)):
        found["scores"] = plots.plot_scores(scores, truths, with_modes=len(probabilities) > 0)
    return found


def _recall_by_kind(forged: pd.DataFrame) -> dict[str, dict[str, tuple[int, int]]]:
    """Kind → size → how many of the images were called forged, and how many there are; without kinds, nothing."""
    found = {}
    for kind, group in _by_kind(forged):
        sizes = {str(size): part["n_predicted"] > 0 for size, part in group.groupby("size")}
        found[kind] = {size: (calls.sum(), len(calls)) for size, calls in sizes.items()}
    return found


def _gallery(
    evaluation: Evaluation, submission: Sequence[SubmissionRow], images: Mapping[str, Path], *, upright: bool
) -> list[dict[str, Any]]:
    """What the page shows of the chosen images, the largest error (1 − oF1) first.

    Raises:
        UserError: As `write_report`.
    """
    by_id = {row.case_id: row for row in submission}
    verdicts = dict(choose_examples(evaluation.rows, MOST_EXAMPLES))
    rows = evaluation.rows[evaluation.rows["case_id"].isin(verdicts.keys())]
    # Among equal errors those first that the probabilities are most certain of, and then the largest forgeries.
    surprise = ((rows["n_truth"] > 0) - rows["probability"]).abs()
    rows = rows.assign(surprise=surprise).sort_values(
        ["of1", "surprise", "area_share"], ascending=[True, False, False], kind="stable"
    )
    examples = []
    for row in tqdm(rows.to_dict("records"), "report", unit="img", leave=False, disable=None):
        case_id = row["case_id"]
        pictures = _pictures(by_id[case_id], images.get(case_id), upright=upright)
        uris = [picture_uri(picture, most_wide=PICTURE_SIDE, most_bytes=PICTURE_BYTES) for picture in pictures]
        shown = dict(zip(("image", "truth", "prediction", "probability of each pixel"), uris, strict=False))
        examples.append({"row": row, "verdict": verdicts[case_id], "pictures": shown})
    return examples


def choose_examples(rows: pd.DataFrame, most: int) -> list[tuple[str, str]]:
    """Case ids for the gallery, each with its verdict: hits, poor hits, misses and false alarms in turn.

    Of each, one image of every size before a second one of any: the best first among hits, the worst first among poor
    hits, the largest first among misses, the most probable first among false alarms.
    """
    forged, called, good = rows["n_truth"] > 0, rows["n_predicted"] > 0, rows["of1"] >= 0.5

    def each_size_first(group: pd.DataFrame, by: str, *, ascending: bool = False) -> pd.DataFrame:
        group = group.sort_values(by, ascending=ascending, kind="stable")
        return group.iloc[np.argsort(group.groupby("size").cumcount(), kind="stable")]

    groups = {
        "hit": each_size_first(rows[forged & called & good], "of1"),
        "poor hit": each_size_first(rows[forged & called & ~good], "of1", ascending=True),
        "miss": each_size_first(rows[forged & ~called], "area_share"),
        "false alarm": rows[~forged & called].sort_values("probability", ascending=False, kind="stable"),
    }
    ranked = [
        (rank, order, case_id, verdict)
        for order, (verdict, group) in enumerate(groups.items())
        for rank, case_id in enumerate(group["case_id"])
    ]
    chosen = sorted(sorted(ranked)[:most], key=lambda entry: (entry[1], entry[0]))
    return [(case_id, verdict) for _, _, case_id, verdict in chosen]


def _pictures(row: SubmissionRow, image: Path | None, *, upright: bool) -> list[np.ndarray]:
    """Image, truth, prediction and, with a map, probabilities, uint8 (h, w, 3); empty if no file tells the size."""
    truth = np.logical_or.reduce(read_truth(row.mask)) if row.mask else None
    probs = read_map(row.map) if row.map else None
    stored = read_picture(image) if image else None
    pixels = None if stored is None else stored.upright if upright else stored.pixels
    size = next((array.shape[:2] for array in (truth, probs, pixels) if array is not None), None)
    if size is None:
        return []
    if pixels is None:
        pixels = np.full((*size, 3), 200, np.uint8)
    elif pixels.shape[:2] != size:
        what, other = ("mask", row.mask) if row.mask else ("map", row.map)
        remedy = f"Name the folder of the images that the {what}s belong to."
        if stored and size == (stored.pixels if upright else stored.upright).shape[:2]:
            remedy = "It has that size as its EXIF orientation turns it: add --masks-are-upright."
            if upright:
                remedy = "It has that size as it is stored: leave out --masks-are-upright."
        raise UserError(
            f"{image} is {pixels.shape[0]}×{pixels.shape[1]}, the {what} {other} {size[0]}×{size[1]} (height×width). "
            f"{remedy}"
        )
    predicted = rle.decode_union(read_instances(row, *size), *size)
    scale = PICTURE_SIDE / max(size)
    sides = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    picture = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    shown = [
        picture,
        outlined(picture, truth, plots.BLUE),
        outlined(picture, predicted, VERMILION),
    ]
    if probs is not None:
        small = cv2.resize(probs.astype(np.float32), sides, interpolation=cv2.INTER_AREA)
        shown.append((matplotlib.colormaps["magma"](small)[..., :3] * 255).astype(np.uint8))
    return shown

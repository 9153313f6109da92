"""Metrics of a submission against the true masks, computed one image at a time."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.data.arrays import load_array
from common.data.decoding import decode
from common.data.masks import read_mask
from common.data.samples import read_groups
from common.errors import UserError, listing, readable
from common.files import files_below, spelled_out
from common.metrics import forgery as metrics
from common.metrics import rle
from common.metrics.detection import calibration_error
from common.sizes import SIZES, size_of
from common.suffixes import IMAGE_SUFFIXES
from common.tables import numbered_rows, read_table

# The size of an authentic image is not known, nor needed: its annotation is only parsed.
UNKNOWN_SIDE = 2**31


@dataclass(frozen=True, kw_only=True)
class SubmissionRow:
    """One row of a submission, with the files of its true mask and of its probability map."""

    case_id: str
    annotation: str
    where: str
    """File and line of the row, for messages."""
    mask: Path | None
    """None for an authentic image."""
    map: Path | None = None
    kind: str = ""
    """How the image was forged, if that is known."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics of one image. Pixel metrics are of forged images only, and nan for the others."""

    case_id: str
    kind: str
    size: str = "authentic"
    """`authentic`, or the size of the forgery: tiny, small, medium, large, xlarge."""
    area_share: float = 0.0
    """Forged share of the image in [0, 1]."""
    n_truth: int = 0
    """Forged groups in the truth."""
    n_predicted: int
    """Predicted instances, 0 for `authentic`."""
    of1: float
    pixel_f1: float = math.nan
    """Of the union of the instances against that of the truth; 0 for a forged image called authentic."""
    pixel_iou: float = math.nan
    pixel_auc: float = math.nan
    """Of the probability map; nan without one."""
    image_score: float
    """99.9 % quantile of the probability map; nan without one."""
    probability: float = math.nan
    """Calibrated probability that the image is forged, in [0, 1]; nan without one (`with_probabilities`)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of all images."""

    rows: pd.DataFrame
    """One row per image in the submission's order, with the fields of `Score` as columns."""
    curves: dict[str, np.ndarray]
    """Size → sum of `metrics.pixel_f1_curve` over its images; empty without maps."""
    mode_threshold: float = math.nan
    """Probability from which the submission calls an image forged; nan without probabilities."""

    @property
    def threshold(self) -> float:
        """The pixel threshold with the best mean pixel F1 over all forged images; nan without maps."""
        return metrics.best_threshold(np.sum([*self.curves.values()], axis=0))[1] if self.curves else math.nan


def read_submission(submission: Path, masks: Path, maps: Path | None = None) -> list[SubmissionRow]:
    """Read a submission and find the mask and the map of each row.

    The mask is `<masks>/<case_id>.npy` (or an image file of that name); without one the image is authentic. For a
    submission of the whole folder `train_images`, whose case ids begin with `forged/`, masks are also found without
    this prefix. The map is `<maps>/<case_id>.npy`, `<case_id>_map.png` (both as `make_submission.py` writes them) or
    `<case_id>.png`, the first of these that is there. Kinds are read from `groups.csv` (case_id, group, kind) beside
    the masks' folder.

    Raises:
        UserError: A folder or file is missing, the submission lacks a column or has a case id twice, or masks or maps
            do not belong to its rows.
    """
    mask_files = _files_by_case_id(masks, {".npy"} | IMAGE_SUFFIXES, "masks")
    map_files = _files_by_case_id(maps, {".npy", ".png"}, "probability maps") if maps else {}
    groups, rows, used = read_groups(spelled_out(masks).parent / "groups.csv"), [], set()
    for line, case_id, annotation in _read_csv(submission):
        mask_id = case_id if case_id in mask_files else case_id.removeprefix("forged/")
        mask = mask_files.get(mask_id)
        used.add(mask_id)
        rows.append(
            SubmissionRow(
                case_id=case_id,
                annotation=annotation,
                where=f"{submission}, line {line} (case_id {case_id})",
                mask=mask,
                map=_map_of(case_id, map_files),
                kind=groups[mask_id][1] if mask and mask_id in groups else "",
            )
        )
    if unused := [case_id for case_id in mask_files if case_id not in used]:
        remedy = "Add the rows, or name the folder of masks that belongs to this submission"
        raise UserError(listing(f"{len(unused)} masks in {masks} have no row in {submission}. {remedy}:", unused))
    if maps and (bare := [row.case_id for row in rows if row.mask and not row.map]):
        remedy = "Write maps and submission in one run of make_submission.py, or evaluate without maps"
        raise UserError(listing(f"{len(bare)} forged images have no probability map in {maps}. {remedy}:", bare))
    return rows


def _map_of(case_id: str, files: Mapping[str, Path]) -> Path | None:
    """The map of an image, among files by their paths without suffix, as `read_submission` says."""
    own, beside = files.get(case_id), files.get(f"{case_id}_map")
    if beside and beside.suffix.lower() == ".png" and not (own and own.suffix.lower() == ".npy"):
        return beside
    return own


def _read_csv(path: Path) -> list[tuple[int, str, str]]:
    """Line, case id and annotation of each row."""
    rows = numbered_rows(path, ["case_id"])
    try:
        _, columns = next(rows)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path} does not exist. Make it with `python make_submission.py`.") from None
        raise
    if missing := [column for column in ("case_id", "annotation") if column not in columns]:
        raise UserError(
            f"{path} lacks the column {' and '.join(missing)}. Its first line must be `case_id,annotation`; "
            f"it has: {', '.join(columns) or 'nothing'}."
        )
    ids, annotations = columns.index("case_id"), columns.index("annotation")
    found = [(line, readable(row[ids]), row[annotations]) for line, row in rows]
    if not found:
        raise UserError(f"{path} has no rows, only a header. Every image needs one.")
    lines: dict[str, int] = {}
    for line, case_id, _ in found:
        if (first := lines.setdefault(case_id, line)) != line:
            raise UserError(
                f"{path}, line {line}: case_id {case_id} is already on line {first}. Keep one row per image."
            )
    return found


def _files_by_case_id(folder: Path, suffixes: Iterable[str], what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder of the {what}.")
    files: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix.lower() not in suffixes:
            continue
        case_id = readable(path.relative_to(folder).with_suffix("").as_posix())  # as in a submission
        if (first := files.setdefault(case_id, path)) != path:
            raise UserError(f"{first} and {path} share the case id {case_id!r}. Remove one of them.")
    return files


def score_submission(rows: Iterable[SubmissionRow]) -> Evaluation:
    """Score all images, one at a time.

    Raises:
        UserError: A mask or map cannot be read or has the wrong size, or an annotation breaks the format.
    """
    scores, curves = [], {}
    for row in tqdm(rows, "scoring", unit="img", leave=False, disable=None):
        score, curve = _score(row)
        scores.append(asdict(score))
        if curve is not None:
            curves[score.size] = curves.get(score.size, 0) + curve
    return Evaluation(rows=pd.DataFrame(scores), curves=curves)


def with_probabilities(evaluation: Evaluation, scores: Path) -> Evaluation:
    """Add the probabilities of the table that `make_submission.py` writes beside a submission.

    Raises:
        UserError: The table can't be read, has a value that is none, or is of another submission.
    """
    columns = ["case_id", "forged_probability", "threshold", "n_instances"]
    table = read_table(scores, columns)
    table = table[(table["forged_probability"] != "") & ~table["case_id"].duplicated()]  # videos have none
    table["case_id"] = table["case_id"].map(readable)
    numbers = table[columns[1:]].apply(pd.to_numeric, errors="coerce")
    wrong = numbers.isna().any(axis=1) | ~numbers[["forged_probability", "threshold"]].apply(
        lambda column: column.between(0, 1)
    ).all(axis=1)
    if wrong.any():
        case_id = table.loc[wrong.idxmax(), "case_id"]
        raise UserError(f"{scores}: the row of {case_id} has a value that is no probability or number. {_RENEW}")
    found = numbers.set_axis(table["case_id"], axis="index").reindex(evaluation.rows["case_id"])
    counts = evaluation.rows["n_predicted"].to_numpy()
    other = found["n_instances"].notna().to_numpy() & (found["n_instances"].to_numpy() != counts)
    if other.any() or found["n_instances"].isna().all():
        example = f": {found.index[other][0]} has other regions there" if other.any() else ""
        raise UserError(f"{scores} is not of this submission{example}. {_RENEW}")
    rows = evaluation.rows.assign(probability=found["forged_probability"].to_numpy())
    return replace(evaluation, rows=rows, mode_threshold=float(found["threshold"].max()))


_RENEW = "Write both in one run of make_submission.py, or name the right table."


def _score(row: SubmissionRow) -> tuple[Score, np.ndarray | None]:
    """Metrics of one image, and its `metrics.pixel_f1_curve` if it is forged and has a map."""
    truth = None if row.mask is None else read_truth(row.mask)
    height, width = (UNKNOWN_SIDE, UNKNOWN_SIDE) if truth is None else truth.shape[1:]
    predicted = read_instances(row, height, width)
    probs = read_map(row.map, None if truth is None else (height, width)) if row.map else None
    image_score = math.nan if probs is None else metrics.image_score(probs)
    score = partial(Score, case_id=row.case_id, kind=row.kind, n_predicted=len(predicted), image_score=image_score)
    if truth is None:
        return score(of1=float(not predicted)), None
    union, truth_union = rle.decode_union(predicted, height, width), np.logical_or.reduce(truth)
    inter = np.array([rle.pixels_inside(predicted, channel) for channel in truth]).T
    areas = np.array([sum(runs[1::2]) for runs in predicted])
    share = float(truth_union.mean())
    pixel_auc, curve = math.nan, None
    if probs is not None:
        pixel_auc, curve = metrics.pixel_auc(probs, truth_union), metrics.pixel_f1_curve(probs, truth_union)
    forged = score(
        size=size_of(share),
        area_share=share,
        n_truth=len(truth),
        of1=metrics.of1_from_counts(inter, areas, np.count_nonzero(truth, axis=(1, 2))),
        pixel_f1=metrics.pixel_f1(union, truth_union),
        pixel_iou=metrics.pixel_iou(union, truth_union),
        pixel_auc=pixel_auc,
    )
    return forged, curve


def read_instances(row: SubmissionRow, height: int, width: int) -> list[list[int]]:
    """Run lengths of the instances that a row reports, in an image of this size; none for `authentic`.

    Raises:
        UserError: The annotation breaks the format, or leaves the image.
    """
    try:
        return rle.parse_runs(row.annotation, height, width)
    except UserError as error:
        raise UserError(f"{row.where}: {error}. Fix the row, or write the submission again.") from None


def read_truth(path: Path) -> np.ndarray:
    """Masks of a forged image, bool (m, H, W).

    Raises:
        UserError: The file cannot be read, or a channel marks no pixel.
    """
    truth = read_mask(path).view(bool)
    if not truth.size or not truth.any(axis=(1, 2)).all():
        raise UserError(f"{path}: a mask channel marks no pixel. An authentic image has no mask file: remove it.")
    return truth


def read_map(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Probability map in [0, 1], float32 (H, W), of a `.npy` file or an 8-bit image (0 to 255).

    Raises:
        UserError: The file cannot be read, is not a map, or does not have the given (height, width).
    """
    if path.suffix.lower() == ".npy":
        probs = load_array(path, "a map")
    else:
        pixels = decode(path).values
        if pixels.dtype != np.uint8:
            raise UserError(f"{path} is not an 8-bit image. Write the map as .npy or as 8-bit PNG.")
        probs = pixels / np.float32(255)
    if probs.ndim != 2 or not np.issubdtype(probs.dtype, np.floating) or not probs.size:
        raise UserError(
            f"{path} has shape {probs.shape} and type {probs.dtype}; a map is (H, W) of float16 or float32."
        )
    probs = probs.astype(np.float32, copy=False)
    if not (probs.min() >= 0 and probs.max() <= 1):  # nan fails too
        raise UserError(f"{path} has values outside [0, 1] or nan; a map holds probabilities, not logits.")
    if size and probs.shape != size:
        raise UserError(
            f"{path} is {probs.shape[0]}×{probs.shape[1]}, the image's mask {size[0]}×{size[1]} (height×width). "
            "Write maps at the size of the image."
        )
    return probs


def summarize(evaluation: Evaluation) -> dict:
    """Metrics of a submission as plain numbers; nan if undefined.

    Returns:
        of1, of1_all_authentic (that of `authentic` in every row) and lift, their difference; image_precision,
        image_recall, image_f1, image_fpr, image_mcc; image_auc and calibration_error of the probabilities; n_forged,
        n_authentic; and as means over forged images pixel_f1 and pixel_iou (0 for those called authentic), pixel_auc of
        the maps, and pixel_f1_best, that of the maps at `Evaluation.threshold`. by_size: the same, as far as defined,
        for each of the five sizes.
    """
    rows, forged = evaluation.rows, evaluation.rows["size"] != "authentic"
    best = np.searchsorted(metrics.PIXEL_THRESHOLDS, evaluation.threshold)

    def figures(rows: pd.DataFrame, sizes: Iterable[str]) -> dict[str, float]:
        curves = [float(evaluation.curves[size][best]) for size in sizes if size in evaluation.curves]
        means = {name: float(rows[name].mean()) for name in ("pixel_f1", "pixel_iou", "pixel_auc")}
        return means | {"pixel_f1_best": sum(curves) / len(rows) if curves else math.nan}

    def size_figures(size: str) -> dict[str, float]:
        part = rows[rows["size"] == size]
        of1 = float(part["of1"].mean())
        verdicts = {"n": len(part), "of1": of1, "of1_all_authentic": 0.0 * of1, "lift": of1}
        return verdicts | {"image_recall": float((part["n_predicted"] > 0).mean())} | figures(part, [size])

    of1, of1_all_authentic = float(rows["of1"].mean()), float((~forged).mean())
    rated = rows["probability"].notna()
    probabilities, truths = rows.loc[rated, "probability"].to_numpy(), forged[rated].to_numpy()
    return {
        "of1": of1,
        "of1_all_authentic": of1_all_authentic,
        "lift": of1 - of1_all_authentic,
        **metrics.image_metrics(rows["n_predicted"] > 0, forged),
        "image_auc": metrics.image_auc(probabilities, truths),
        "calibration_error": calibration_error(probabilities, truths),
        **figures(rows[forged], SIZES),
        "n_forged": len(rows[forged]),
        "n_authentic": len(rows[~forged]),
        "by_size": {size: size_figures(size) for size in SIZES},
    }

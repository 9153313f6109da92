"""A submission scored against its truth, image by image: one mask and one map in memory at a time."""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from common.data.images import read_mask
from common.data.samples import read_groups
from common.errors import UserError
from common.metrics import forgery as metrics
from common.metrics import rle
from common.sizes import SIZES, size_of
from common.suffixes import IMAGE_SUFFIXES

# An authentic image needs no pixels to be scored, so nobody asks for its size; its annotation is only parsed.
UNKNOWN_SIDE = 2**31


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image of a submission, and where its truth lies."""

    case_id: str
    annotation: str
    where: str
    """File and line of the annotation, for messages."""
    mask: Path | None
    """None for an authentic image."""
    map: Path | None = None
    """Probability map, where there is one."""
    kind: str = ""
    """How it was forged, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one image scored. What does not apply to it is nan."""

    case_id: str
    kind: str
    size: str
    """`authentic`, or the size of the forgery: tiny, small, medium, large, xlarge."""
    area_share: float
    """Forged share of the image in [0, 1]."""
    n_truth: int
    """Forged groups in the truth."""
    n_predicted: int
    """Predicted instances, 0 for `authentic`."""
    of1: float
    pixel_f1: float
    """Of the union of the instances against that of the truth; 0 for a forged image called authentic."""
    pixel_iou: float
    pixel_auc: float
    """Of the probability map; only for forged images, as every pixel figure."""
    image_score: float
    """99.9 % quantile of the probability map."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of all images."""

    rows: pd.DataFrame
    """One row an image in the submission's order, the fields of `Score` as columns."""
    curves: dict[str, np.ndarray]
    """Size → sum of `metrics.pixel_f1_curve` over its images; empty without maps."""

    @property
    def threshold(self) -> float:
        """The one pixel threshold with the best mean pixel F1 over all forged images; nan without maps."""
        return metrics.best_threshold(sum(self.curves.values()))[1] if self.curves else math.nan


def find_cases(submission: Path, masks: Path, maps: Path | None = None) -> list[Case]:
    """Pair the rows of a submission with masks and maps.

    A row belongs to `<masks>/<case_id>.npy` (or an image file of that name) and is authentic where there is none.
    For a submission made from the folder `train_images` as a whole, whose case ids begin with `forged/`, the mask is
    looked up without this prefix too. `groups.csv` beside the masks' folder (case_id, group, kind) tells the kinds.

    Raises:
        UserError: A folder or file is missing, the submission lacks a column or names a case id twice, or masks or
            maps do not belong to its rows.
    """
    table = _read_submission(submission)
    mask_files = _files_by_case_id(masks, {".npy"} | IMAGE_SUFFIXES, "masks")
    map_files = _files_by_case_id(maps, {".npy", ".png"}, "probability maps") if maps else {}
    groups = read_groups(masks.parent / "groups.csv")
    cases, used = [], set()
    for line, case_id, annotation in table:
        mask_id = case_id if case_id in mask_files else case_id.removeprefix("forged/")
        mask = mask_files.get(mask_id)
        used.add(mask_id)
        cases.append(
            Case(
                case_id=case_id,
                annotation=annotation,
                where=f"{submission}, line {line} (case_id {case_id})",
                mask=mask,
                map=map_files.get(case_id),
                kind=groups[mask_id][1] if mask and mask_id in groups else "",
            )
        )
    if unused := [case_id for case_id in mask_files if case_id not in used]:
        raise UserError(
            f"{len(unused)} masks in {masks} have no row in {submission}: {_shown(unused)}. "
            "Add the rows, or name the folder of masks that belongs to this submission."
        )
    if maps and (bare := [case.case_id for case in cases if case.mask and not case.map]):
        raise UserError(
            f"{len(bare)} forged images have no probability map in {maps}: {_shown(bare)}. Make the maps and the "
            "submission in one run of `python make_submission.py ... --maps DIR`, or leave --maps out."
        )
    return cases


def _read_submission(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, case id and annotation of each row."""
    csv.field_size_limit(2**31 - 1)  # a noisy mask of a large figure runs to megabytes, far above the default
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Make it with `python make_submission.py`.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV ({error}). Write it anew.") from error
    if missing := [column for column in ("case_id", "annotation") if column not in columns]:
        raise UserError(
            f"{path} lacks the column {' and '.join(missing)}. Its first line must be `case_id,annotation`; "
            f"it has: {', '.join(columns) or 'nothing'}."
        )
    if not rows:
        raise UserError(f"{path} has no rows, only a header. Every image needs one.")
    lines: dict[str, int] = {}
    for line, row in rows:
        if row["annotation"] is None or None in row:
            raise UserError(
                f"{path}, line {line}: the row needs {len(columns)} fields. Quote annotations that hold commas."
            )
        if row["case_id"] in lines:
            raise UserError(
                f"{path}, line {line}: case_id {row['case_id']} stands on line {lines[row['case_id']]} already. "
                "Keep one row an image."
            )
        lines[row["case_id"]] = line
    return ((line, row["case_id"], row["annotation"]) for line, row in rows)


def _files_by_case_id(folder: Path, suffixes: Iterable[str], what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the {what}.")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        case_id = path.relative_to(folder).with_suffix("").as_posix()
        if case_id in files:
            raise UserError(f"{files[case_id]} and {path} share the case id {case_id!r}. Remove one of them.")
        files[case_id] = path
    return files


def _shown(case_ids: list[str], most: int = 10) -> str:
    more = f" and {len(case_ids) - most} more" if len(case_ids) > most else ""
    return ", ".join(case_ids[:most]) + more


def score_cases(cases: list[Case]) -> Evaluation:
    """Score all images, one at a time.

    Raises:
        UserError: A mask or map cannot be read or has the wrong size, or an annotation breaks the format.
    """
    rows, curves = [], {}
    for case in tqdm(cases, "scoring", unit="img", leave=False, disable=None):
        score, curve = score_case(case)
        rows.append(asdict(score))
        if curve is not None:
            curves[score.size] = curves.get(score.size, 0) + curve
    return Evaluation(rows=pd.DataFrame(rows), curves=curves)


def score_case(case: Case) -> tuple[Score, np.ndarray | None]:
    """Score of one image, and its `metrics.pixel_f1_curve` if it is forged and has a map. Errors as `score_cases`."""
    if case.mask is None:
        predicted = _parse(case, UNKNOWN_SIDE, UNKNOWN_SIDE)
        probs = read_map(case.map) if case.map else None
        score = Score(
            case_id=case.case_id,
            kind=case.kind,
            size="authentic",
            area_share=0.0,
            n_truth=0,
            n_predicted=len(predicted),
            of1=float(not predicted),
            pixel_f1=math.nan,
            pixel_iou=math.nan,
            pixel_auc=math.nan,
            image_score=math.nan if probs is None else metrics.image_score(probs),
        )
        return score, None
    truth = read_truth(case.mask)
    height, width = truth.shape[1:]
    predicted = _parse(case, height, width)
    union, truth_union = rle.decode_union(predicted, height, width), truth.any(axis=0)
    inter = np.array([rle.pixels_inside(predicted, channel) for channel in truth]).T
    areas = np.array([sum(runs[1::2]) for runs in predicted])
    probs = read_map(case.map, (height, width)) if case.map else None
    share = float(truth_union.mean())
    score = Score(
        case_id=case.case_id,
        kind=case.kind,
        size=size_of(share),
        area_share=share,
        n_truth=len(truth),
        n_predicted=len(predicted),
        of1=metrics.of1_from_counts(inter, areas, np.count_nonzero(truth, axis=(1, 2))),
        pixel_f1=metrics.pixel_f1(union, truth_union),
        pixel_iou=metrics.pixel_iou(union, truth_union),
        pixel_auc=math.nan if probs is None else metrics.pixel_auc(probs, truth_union),
        image_score=math.nan if probs is None else metrics.image_score(probs),
    )
    return score, None if probs is None else metrics.pixel_f1_curve(probs, truth_union)


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
        UserError: The file cannot be read, holds something else, or is not of the given (height, width).
    """
    if path.suffix.lower() == ".npy":
        try:
            probs = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read as a map ({error}). Write it anew.") from error
    else:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
        if pixels is None or pixels.dtype != np.uint8:
            raise UserError(f"{path} is no 8-bit image. Write the map anew, as .npy or as 8-bit PNG.")
        probs = pixels / np.float32(255)
    if probs.ndim != 2 or not np.issubdtype(probs.dtype, np.floating) or not probs.size:
        raise UserError(
            f"{path} has shape {probs.shape} and type {probs.dtype}; a map is (H, W) of float16 or float32."
        )
    probs = probs.astype(np.float32, copy=False)
    if not (probs.min() >= 0 and probs.max() <= 1):  # nan fails too
        raise UserError(f"{path} holds values outside [0, 1] or nan; a map holds probabilities, not logits.")
    if size and probs.shape != size:
        raise UserError(
            f"{path} is {probs.shape[0]}×{probs.shape[1]}, the image's mask {size[0]}×{size[1]} (height×width). "
            "Write maps at the size of the image."
        )
    return probs


def _parse(case: Case, height: int, width: int) -> list[list[int]]:
    try:
        return rle.parse_runs(case.annotation, height, width)
    except UserError as error:
        raise UserError(f"{case.where}: {error}. Mend the row, or write the submission anew.") from None


def summarize(evaluation: Evaluation) -> dict:
    """The figures of a submission; plain numbers, nan where there is nothing to measure.

    Returns:
        of1, of1_all_authentic (what `authentic` in every row scores) and lift, their difference; image_precision,
        image_recall, image_f1, image_fpr, image_mcc; n_forged, n_authentic; and as means over forged images pixel_f1
        and pixel_iou (0 for those called authentic), pixel_auc (of each image's map) and pixel_f1_best: the mean
        pixel F1 at the one threshold that is best for the whole set, not at each image's own. by_size: the same,
        as far as it applies, for each of the five sizes, pixel_f1_best at the threshold of the whole set.
    """
    rows, forged = evaluation.rows, evaluation.rows["size"] != "authentic"
    best = np.searchsorted(metrics.THRESHOLDS, evaluation.threshold)

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
    return {
        "of1": of1,
        "of1_all_authentic": of1_all_authentic,
        "lift": of1 - of1_all_authentic,
        **metrics.image_metrics(rows["n_predicted"] > 0, forged),
        **figures(rows[forged], SIZES),
        "n_forged": int(forged.sum()),
        "n_authentic": int((~forged).sum()),
        "by_size": {size: size_figures(size) for size in SIZES},
    }

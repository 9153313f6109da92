"""Blots: lanes, runs of lanes and strips shown twice, found by `find_reuse`; seams; false alarms on untouched ones.

    python -m benchmarks.blots lanes BLOTS
    python -m benchmarks.blots seams BLOTS --models-dir models/release
    python -m benchmarks.blots fit BLOTS

Each figure holds strips of three different blots, at sizes that figures have, as PNG or JPEG. The threshold is that
which 2 % of the figures without reuse exceed. `fit` fits the score of lanes (`common.forensics.lane_score`) on the
groups that `lanes` and `seams` do not show.
"""

from common.process import prepare

prepare()  # before torch is imported

import time
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from common.data.images import read_image
from common.ensemble.loading import load_ensemble
from common.figures.matching import picture_search
from common.figures.panels import find_panels
from common.figures.reuse import find_reuse, lane_windows
from common.forensics.jpeg import jpeg
from common.forensics.lane_copies import MOST_FITTED, in_image
from common.forensics.lane_fit import fit_pairs
from common.forensics.lane_score import FEATURES, FURTHEST, describe_lanes
from common.forensics.lane_search import find_pairs, prepare_blots
from common.making.blots import BLOT_REUSES, ReusedBlot, compose_blots, joined_strip, scaled_strip
from common.metrics.forgery import image_auc, image_score, recall_at_fpr

NOT_PRISTINE = ("img_000014", "img_000041")
"""Blots of the pristine set (Manjunath et al. 2024) that show something twice themselves, as `find_reuse` found and the
eye confirms: the ground below the bands, equal in its grain; a lane, equal in its grain and not in its specks."""
FALSE_POSITIVES = 0.02
STRIPS = 3
FOLDS = 3
PENALTY = 10.0
"""Inverse of the strength of the fit's L2 penalty."""
NEAR = 0.15
"""Of the sides of what was reused: how far from its middle a candidate may lead that is it."""
TRIES = 20


def lanes(folder: tyro.conf.Positional[Path], count: int = 400, workers: int = 2) -> None:
    """Compose figures of strips, three quarters of them with reuse, and print what is found.

    Args:
        folder: With pristine/ and index.csv, of columns file, label and group.
        count: Number of figures.
        workers: Number of processes.
    """
    table = pristine(folder, develop=False)
    jobs = (joblib.delayed(_composed)(folder, table, number) for number in range(count))
    results = joblib.Parallel(workers, return_as="generator")(jobs)
    found = pd.DataFrame(list(tqdm(results, "figures", count, disable=None)))
    clean, reused = found[found.kind == "none"], found[found.kind != "none"]
    threshold = float(np.quantile(clean.score, 1 - FALSE_POSITIVES, method="higher"))
    print(f"{table.group.nunique()} blots, {count} figures, {found.seconds.mean():.1f} s a figure")
    print(f"without reuse: {(clean.score >= 0.5).mean():.3f} of {len(clean)} above 0.5; 2 % above {threshold:.3f}\n")
    for column, order in (
        ("kind", BLOT_REUSES),
        ("transform", ("shifted", "mirrored", "turned", "stretched", "exposure")),
    ):
        rows = reused.assign(**{column: reused[column].str.split(", ")}).explode(column)
        for name in order:
            some = rows[rows[column] == name]
            both = pd.concat([clean, some])
            auc = roc_auc_score(both.kind != "none", both.score)
            at_half, at_rate = (((some.score >= level) & some.hit).mean() for level in (0.5, threshold + 1e-9))
            print(f"{name:<10} {len(some):>4}  AUC {auc:.3f}  found at 0.5 {at_half:.3f}, at 2 % {at_rate:.3f}")


def seams(folder: tyro.conf.Positional[Path], *, models_dir: Path = Path("models/release"), count: int = 240) -> None:
    """Put strips together from two pieces, and print how many of the seams networks find at 2 % false alarms.

    Each strip is scored as it was and with a seam, after the same compression.

    Args:
        folder: With pristine/ and index.csv, of columns file, label and group.
        models_dir: Folder of the networks.
        count: Number of strips; half have a piece cut out, the others go on with a piece of another blot.
    """
    table = pristine(folder, develop=False)
    ensemble = load_ensemble(models_dir, allow_missing=True, copy_move=False, generated=False)
    rows = []
    for number in tqdm(range(count), "strips", disable=None):
        rng = np.random.default_rng([19, number])
        groups = rng.choice(table.group.unique(), 2, replace=False)
        files = [rng.choice(table.file[table.group == group]) for group in groups]
        strip, other = (scaled_strip(_strip(folder / file, rng), rng) for file in files)
        kind = ("piece cut out", "piece of another blot")[number % 2]
        joined = joined_strip(strip, other if number % 2 else None, rng)
        seed = rng.integers(2**31)
        for name, picture in (("none", strip), (kind, joined)):
            image = _compressed(np.repeat(picture[..., None], 3, axis=2), np.random.default_rng(seed))
            rows.append({"kind": name, "score": image_score(ensemble.predict([image])[0].prob)})
    found = pd.DataFrame(rows)
    clean = found[found.kind == "none"]
    print(f"{table.group.nunique()} blots, {count} strips, networks of {models_dir}\n")
    for kind, some in found[found.kind != "none"].groupby("kind"):
        both = pd.concat([clean, some])
        truth = (both.kind != "none").to_numpy()
        auc, found_at = image_auc(both.score.to_numpy(), truth), recall_at_fpr(both.score, truth, FALSE_POSITIVES)
        print(f"{kind:<22} {len(some):>4}  AUC {auc:.3f}  found at 2 % {found_at:.3f}")


def fit(folder: tyro.conf.Positional[Path], count: int = 240, workers: int = 2) -> None:
    """Fit the score of lanes on figures of the blots to develop on, in three folds of groups; print its constants.

    Args:
        folder: With pristine/ and index.csv.
        count: Number of figures.
        workers: Number of processes.
    """
    table = pristine(folder, develop=True)
    groups = sorted(table.group.unique())
    folds = [table[table.group.isin(groups[fold::FOLDS])] for fold in range(FOLDS)]
    jobs = (joblib.delayed(_described)(folder, folds[number % FOLDS], number) for number in range(count))
    results = joblib.Parallel(workers, return_as="generator")(jobs)
    rows = pd.DataFrame([row for rows in tqdm(results, "figures", count, disable=None) for row in rows])
    rows["score"] = 0.0
    for fold in range(FOLDS):
        inside = rows.figure % FOLDS == fold
        mean, scale, model = _fitted(rows[~inside])
        z = ((rows.loc[inside, list(FEATURES)] - mean) / scale).clip(-FURTHEST, FURTHEST)
        rows.loc[inside, "score"] = model.predict_proba(z)[:, 1]
    best = rows.groupby("figure").agg(kind=("kind", "first"), true=("true", "any"))
    best["planted"] = rows[rows.true].groupby("figure").score.max()
    best["other"] = rows[~rows.true].groupby("figure").score.max()
    clean, reused = best[best.kind == "none"], best[best.kind != "none"]
    threshold = float(np.quantile(clean.other, 1 - FALSE_POSITIVES, method="higher"))
    print(f"{len(groups)} blots, {count} figures, {rows.true.sum()} copies among {len(rows)} candidates")
    print(f"without reuse: {(clean.other >= 0.5).mean():.3f} above 0.5; 2 % above {threshold:.3f}")
    for kind, some in reused.groupby("kind"):
        at_half, at_rate = (some.planted >= 0.5).mean(), (some.planted > threshold).mean()
        print(
            f"{kind:<10} {len(some):>4}  candidate {some.true.mean():.3f}  at 0.5 {at_half:.3f}, at 2 % {at_rate:.3f}"
        )
    mean, scale, model = _fitted(rows)
    for name, values in (
        ("MEAN", mean),
        ("SCALE", scale),
        ("WEIGHTS", model.coef_[0]),
        ("INTERCEPT", model.intercept_),
    ):
        print(name, np.round(values, 3).tolist())


def _fitted(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series, LogisticRegression]:
    """Mean and deviation of the features and the model; candidates of a figure of many count less."""
    mean, scale = rows[list(FEATURES)].mean(), rows[list(FEATURES)].std()
    weight = 1 / np.sqrt(rows.figure.map(rows.figure.value_counts()))
    z = ((rows[list(FEATURES)] - mean) / scale).clip(-FURTHEST, FURTHEST)
    return mean, scale, LogisticRegression(C=PENALTY).fit(z, rows.true, sample_weight=weight)


def _described(folder: Path, table: pd.DataFrame, number: int) -> list[dict]:
    """Features of the candidates of a figure of the blots of a table, and which of them are the planted copy."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([18, number])
    figure = draw_blots(folder, table, rng, number // FOLDS)
    image = _compressed(figure.image, rng)
    panels = find_panels(image)
    gray = picture_search(image, panels).gray
    blots = prepare_blots(gray, lane_windows(panels))
    fits = fit_pairs(blots, find_pairs(blots), MOST_FITTED)
    planted = [number for number, fit in enumerate(fits) if _is_planted(figure, in_image(blots, fit))]
    best = max(planted, key=lambda n: fits[n].correlation, default=None)
    rows = [
        describe_lanes(blots[fit.source], blots[fit.target], fit)
        | {"figure": number, "kind": figure.kind, "true": n == best}
        for n, fit in enumerate(fits)
        if n == best or n not in planted  # worse fits of what was planted are neither
    ]
    return rows or [dict.fromkeys(FEATURES, 0.0) | {"figure": number, "kind": figure.kind, "true": False}]


def _is_planted(figure: ReusedBlot, matrix: np.ndarray) -> bool:
    """Whether a matrix takes the middle of one of the two places that show the same near that of the other."""
    if figure.kind == "none":
        return False
    view = (
        -1 if {"mirrored", "turned"} & {*figure.transform.split(", ")} else 1,
        -1 if "turned" in figure.transform else 1,
    )
    if (*np.sign(np.diag(matrix)),) != view:
        return False
    count, _, stats, _ = cv2.connectedComponentsWithStats(figure.mask, connectivity=4)
    boxes = stats[1:count, :4].astype(float)
    if len(boxes) == 1:  # neighbours that touch, about as wide
        x, y, wide, high = boxes[0]
        boxes = np.array([(x, y, wide / 2, high), (x + wide / 2, y, wide / 2, high)])
    one, other = boxes[:, :2] + boxes[:, 2:] / 2
    reach = np.maximum(NEAR * boxes[:, 2:].min(axis=0), 4)
    return any(
        (np.abs(matrix[:, :2] @ here + matrix[:, 2] - there) <= reach).all()
        for here, there in ((one, other), (other, one))
    )


def pristine(folder: Path, *, develop: bool) -> pd.DataFrame:
    """Rows of the pristine blots of every second group: those to develop on, or the others, which are measured."""
    table = pd.read_csv(folder / "index.csv")
    table = table[(table.label == "authentic") & ~table.group.isin(NOT_PRISTINE)]
    return table[table.group.isin(sorted(table.group.unique())[0 if develop else 1 :: 2])]


def draw_blots(folder: Path, table: pd.DataFrame, rng: np.random.Generator, number: int) -> ReusedBlot:
    """A figure of strips of three groups; of four in a row one has no reuse, and the others one kind each.

    Raises:
        ValueError: No blot with enough lanes was drawn.
    """
    kind = None if number % 4 == 0 else BLOT_REUSES[number % 4 - 1]
    for _ in range(TRIES):
        chosen = rng.choice(sorted(table.group.unique()), STRIPS, replace=False)
        files = [rng.choice(table.file[table.group == group]) for group in chosen]
        strips = [_strip(folder / file, rng) for file in files]
        try:
            return compose_blots(strips, rng, kind)
        except ValueError:
            continue
    raise ValueError(f"figure {number}: no blot with enough lanes in {TRIES} tries")


def _composed(folder: Path, table: pd.DataFrame, number: int) -> dict:
    cv2.setNumThreads(1)
    rng = np.random.default_rng([17, number])
    figure = draw_blots(folder, table, rng, number)
    image = _compressed(figure.image, rng)
    start = time.perf_counter()
    found = find_reuse(image).reuse
    seconds = time.perf_counter() - start
    best = found[0] if found else None
    return {
        "kind": figure.kind,
        "transform": figure.transform,
        "score": best.score if best else 0.0,
        "hit": bool(best is not None and (best.mask & (figure.mask > 0)).sum() > 0.5 * best.mask.sum()),
        "seconds": seconds,
    }


def _compressed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image as it is, or most often as JPEG 75 to 96."""
    quality = None if rng.random() < 0.3 else int(rng.integers(75, 97))
    return image if quality is None else jpeg(image, quality)


def _strip(path: Path, rng: np.random.Generator) -> np.ndarray:
    """A piece of a blot at most six times as long as high, its lanes running downwards, uint8 (h, w)."""
    gray = read_image(path)[..., 0]
    gray = gray.T if gray.shape[0] > gray.shape[1] else gray
    length = min(gray.shape[1], 6 * gray.shape[0])
    start = int(rng.integers(0, gray.shape[1] - length + 1))
    return np.ascontiguousarray(gray[:, start : start + length])


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"lanes": lanes, "seams": seams, "fit": fit}, description=__doc__)

"""Blots: lanes, runs of lanes and strips shown twice, found by `find_reuse`; and false alarms on untouched ones.

    python -m benchmarks.blots lanes BLOTS

Each figure holds strips of three different blots, at sizes that figures have, as PNG or JPEG. The threshold is that
which 2 % of the figures without reuse exceed.
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
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from common.data.images import read_image
from common.figures.reuse import find_reuse
from common.forensics.jpeg import jpeg
from common.making.blots import BLOT_REUSES, ReusedBlot, compose_blots

NOT_PRISTINE = ("img_000014", "img_000041")
"""Blots of the pristine set (Manjunath et al. 2024) that show something twice themselves, as `find_reuse` found and the
eye confirms: the ground below the bands, equal in its grain; a lane, equal in its grain and not in its specks."""
FALSE_POSITIVES = 0.02
STRIPS = 3
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
    quality = None if rng.random() < 0.3 else int(rng.integers(75, 97))
    image = figure.image if quality is None else jpeg(figure.image, quality)
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


def _strip(path: Path, rng: np.random.Generator) -> np.ndarray:
    """A piece of a blot at most six times as long as high, its lanes running downwards, uint8 (h, w)."""
    gray = read_image(path)[..., 0]
    gray = gray.T if gray.shape[0] > gray.shape[1] else gray
    length = min(gray.shape[1], 6 * gray.shape[0])
    start = int(rng.integers(0, gray.shape[1] - length + 1))
    return np.ascontiguousarray(gray[:, start : start + length])


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"lanes": lanes}, description=__doc__)

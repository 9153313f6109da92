"""Networks on images that they were not trained on: forged and untouched blots, photographs, published figures.

    python -m benchmarks.networks DATA --models-dir models/release
    python -m benchmarks.networks DATA --models-dir models/release --degrade

DATA holds `blots/` and `casia1/` (images/, masks/ and index.csv as data/README.md has them) and `figures/` (nothing
forged is known in them), each if it is there. Networks alone: no copy-move evidence, and no decision fitted. Thresholds
are those which 2 % and 5 % of the untouched images of the same set exceed. In brackets: 95 % of 1,000 bootstraps of the
groups (blots, photographs).
"""

from common.process import prepare

prepare()  # before torch is imported

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from common.data.images import find_images, read_image
from common.data.masks import read_mask
from common.ensemble.ensemble import Ensemble
from common.ensemble.loading import load_ensemble
from common.forensics.jpeg import jpeg
from common.metrics.forgery import image_auc, image_score, pixel_auc, pixel_f1, recall_at_fpr
from common.tables import markdown_table

BOOTSTRAPS = 1000
FLAGGED = (0.5, 0.8)
"""Probabilities from which a pixel of a published figure counts as flagged."""
FLAGGED_SHARE = 0.001
Change = Callable[[np.ndarray], np.ndarray]


def scaled(factor: float) -> Change:
    """Shrinks an image by area average."""
    return lambda image: cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def with_noise(image: np.ndarray) -> np.ndarray:
    """Adds normal noise of deviation 3, the same in all channels."""
    noise = np.random.default_rng(0).normal(0, 3, (*image.shape[:2], 1))
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


DEGRADATIONS: dict[str, Change] = {
    "as they are": lambda image: image,
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 70": lambda image: jpeg(image, 70),
    "JPEG 50": lambda image: jpeg(image, 50),
    "shrunk by 0.75": scaled(0.75),
    "shrunk by 0.5": scaled(0.5),
    "blur, σ 1": lambda image: cv2.GaussianBlur(image, (0, 0), 1),
    "noise, σ 3": with_noise,
}


def main(
    data: tyro.conf.Positional[Path], *, models_dir: Path = Path("models"), every: int = 1, degrade: bool = False
) -> None:
    """Print a table for each set.

    Args:
        data: Folder of the sets.
        models_dir: Folder of the checkpoints, or one with a release.
        every: Take every n-th image only.
        degrade: Measure the blots after compression, shrinking, blur and noise too.
    """
    ensemble = load_ensemble(models_dir, allow_missing=True, copy_move=False, generated=False)
    plain = [next(iter(DEGRADATIONS))]
    for name, changes in (("blots", list(DEGRADATIONS) if degrade else plain), ("casia1", plain)):
        if (data / name).is_dir():
            index = pd.read_csv(data / name / "index.csv").iloc[::every]
            rows = [
                [change, *row]
                for change in changes
                for row in forged_rows(ensemble, data / name, index, DEGRADATIONS[change])
            ]
            head = ["", "forged", "images", "pixel AUC", "pixel F1 at 0.5", "image AUC", "found at 2 %", "found at 5 %"]
            print(f"\n{name}\n{markdown_table(head, rows)}")
    if (data / "figures").is_dir():
        print(f"\nfigures\n{markdown_table(*figure_rows(ensemble, data / 'figures', every))}")


def forged_rows(ensemble: Ensemble, folder: Path, index: pd.DataFrame, change: Change) -> Iterator[list[str]]:
    """A row for each kind of forgeries, and one for all."""
    forged = index[index["label"] != "authentic"]
    if "original" in index:  # the untouched patch of each place that was forged
        untouched = forged.drop_duplicates(["original", "original_y", "original_x"])
    else:
        untouched = index[index["label"] == "authentic"]
    measured = pd.DataFrame(
        _measure(ensemble, row, folder, change, authentic=authentic)
        for rows, authentic in ((untouched, True), (forged, False))
        for row in tqdm(list(rows.itertuples()), folder.name, leave=False, disable=None)
    )
    kinds = sorted(forged["kind"].unique())
    for kind in [*kinds, "all"]:
        chosen = measured[measured["authentic"] | (kind == "all") | (measured["kind"] == kind)]
        values = _figures(chosen)
        rng, groups = np.random.default_rng(0), dict(list(chosen.groupby("group")))
        draws = [
            _figures(pd.concat([groups[group] for group in rng.choice(list(groups), len(groups))]))
            for _ in range(BOOTSTRAPS)
        ]
        low, high = np.nanquantile(draws, (0.025, 0.975), axis=0)
        cells = [f"{v:.3f} ({a:.3f}–{b:.3f})" for v, a, b in zip(values, low, high, strict=True)]
        yield [kind, str(int((~chosen["authentic"]).sum())), *cells]


def figure_rows(ensemble: Ensemble, folder: Path, every: int) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of published figures: the share in which pixels are flagged."""
    shares = []
    for path in tqdm(list(find_images(folder / "images").values())[::every], folder.name, leave=False, disable=None):
        prob = ensemble.predict([read_image(path)])[0].prob
        shares.append([(prob >= threshold).mean() for threshold in FLAGGED])
    flagged = (np.array(shares) > FLAGGED_SHARE).mean(axis=0)
    head = [
        "figures",
        *(f"more than {FLAGGED_SHARE:.1%} of the pixels at {threshold} or above" for threshold in FLAGGED),
    ]
    return head, [[str(len(shares)), *(f"{share:.2f}" for share in flagged)]]


def _measure(ensemble: Ensemble, row, folder: Path, change: Change, *, authentic: bool) -> dict:
    """Score and pixel metrics of one image: a forged one, or the untouched one of the same place."""
    if authentic and hasattr(row, "original"):
        y, x = int(row.original_y), int(row.original_x)
        image = read_image(folder / row.original)[y : y + row.height, x : x + row.width]
    else:
        image = read_image(folder / row.file)
    image = change(np.ascontiguousarray(image))
    prob = ensemble.predict([image])[0].prob
    measured = {"authentic": authentic, "kind": row.kind, "group": row.group, "score": image_score(prob)}
    if not authentic:
        truth = read_mask(folder / row.mask).max(axis=0)
        size = prob.shape[::-1]
        truth = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
        measured |= {"pixel_auc": pixel_auc(prob, truth), "pixel_f1": pixel_f1(prob >= 0.5, truth)}
    return measured


def _figures(measured: pd.DataFrame) -> list[float]:
    scores, truth = measured["score"].to_numpy(), ~measured["authentic"].to_numpy()
    return [
        *(measured["pixel_auc"].mean(), measured["pixel_f1"].mean(), image_auc(scores, truth)),
        *(recall_at_fpr(scores, truth, fpr) for fpr in (0.02, 0.05)),
    ]


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

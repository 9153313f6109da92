"""Fit the logistic model of a copy's score, and write its constants, `common/forensics/score_model.py`.

    python -m benchmarks.copy_move_score CASIA1/authentic MICROGRAPHS

Candidates, regions that resemble another one, are collected on authentic images (where all are natural) and on two
copy-moves in each (where some are copies), half of them JPEG-compressed: every second image of CASIA v1's authentic
ones and every second micrograph of a folder, some of them dim, photographs in the wheel of scikit-image, drawn blots,
gels and cells, compound figures of these micrographs (`common.making.figures`), with letters and scale bars, and
plots with their axes and words, which are not forged. Two logistic models tell copies from the rest, one of the
features, one of their products too; the score is of the mean of their log-odds. Platt scaling of each image's best
candidate makes its score a probability, for as many authentic as forged images as there are here. Measured with
grouped folds, an image and its forgeries in one.
"""

from common.process import prepare

prepare()  # before torch is imported

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
import skimage.data
import tyro
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from tqdm import tqdm

from common.data.images import find_images, read_image
from common.figures.matching import picture_search
from common.figures.panels import find_panels
from common.forensics.blocks import match_blocks
from common.forensics.copy_move import candidates, shrunk
from common.forensics.jpeg import jpeg
from common.forensics.resemblance import FURTHEST, describe, natural
from common.making.drawing import FIGURES
from common.making.figures import RELATIONS, ComposedFigure, compose_figure
from common.making.synthesis import copy_move, is_visible

# Not grass and gravel: these textures were made seamless by copying.
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "hubble_deep_field"),
    *("immunohistochemistry", "microaneurysms", "moon", "page", "retina", "rocket", "text"),
)
DRAWN, PLOTS, MICROGRAPHS, COMPOUND = 12, 30, 40, 240
PENALTIES = {1: 1.0, 2: 0.02}
"""Degree of a model in the features → inverse strength of the penalty on its weights: the products are many."""
MODEL = Path(__file__).parents[1] / "common" / "forensics" / "score_model.py"
MOST_SIDE = 512  # pixels of a micrograph
LONGEST = 700  # pixels; larger photographs are scaled down
FORGERIES = 2
TRUE_SHARE, FALSE_SHARE = 0.7, 0.2
"""A candidate is true if more than the first share of it is in the mask, and natural if less than the second is."""


def main(
    authentic: tyro.conf.Positional[Path],
    micrographs: tyro.conf.Positional[Path],
    most: int = 90,
    workers: int = os.cpu_count() or 1,
) -> None:
    """Collect, fit, measure, print.

    Args:
        authentic: Folder of authentic photographs; every second one may be used.
        micrographs: Folder of pristine micrographs; every second one may be used.
        most: How many photographs.
        workers: Processes.
    """
    paths = sorted(find_images(authentic).values())[::2]
    fields = sorted(find_images(micrographs).values())[::2]
    hosts = [*_hosts(fields), *(("photograph", path) for path in paths[:: max(1, len(paths) // most)])]
    jobs = (joblib.delayed(_collect)(number, kind, image) for number, (kind, image) in enumerate(hosts))
    results = joblib.Parallel(workers, return_as="generator")(jobs)
    table = pd.DataFrame([row for rows in tqdm(results, "candidates", len(hosts), disable=None) for row in rows])
    features = [name for name in table if name not in ("host", "kind", "forgery", "true", "natural", "isotropy")]
    some = table[table.true.notna() & ~table.natural.astype(bool)]
    y, groups = some.true.to_numpy(bool), some.host.to_numpy()
    scaler = StandardScaler().fit(some[features])
    x = scaler.transform(some[features]).clip(-FURTHEST, FURTHEST)
    models = [
        make_pipeline(PolynomialFeatures(degree, include_bias=False), LogisticRegression(C=penalty, max_iter=5000))
        for degree, penalty in PENALTIES.items()
    ]
    folds = GroupKFold(5)
    each = [cross_val_predict(model, x, y, groups=groups, cv=folds, method="decision_function") for model in models]
    logits = np.mean(each, axis=0)
    best = some.assign(logit=logits).sort_values("logit").groupby(["host", "forgery"]).tail(1)
    platt = LogisticRegression(C=1e6).fit(best[["logit"]].to_numpy(), best.true.to_numpy(bool))
    best["score"] = platt.predict_proba(best[["logit"]].to_numpy())[:, 1]
    print(f"{len(table)} candidates, {table.true.eq(other=True).sum()} of them true")
    print(f"the best one of an image is true in {best.true.mean():.2f} of the images")
    for kind in dict.fromkeys(kind for kind, _ in hosts):
        _print(kind, sum(kind == other for other, _ in hosts), best[best.kind == kind])
    _write(features, scaler, [model.fit(x, y) for model in models], platt)


def _write(features: list[str], scaler: StandardScaler, models: list[Pipeline], platt: LogisticRegression) -> None:
    """Write the constants of the score: means of those of a linear model and of one with products."""
    slope, shift = platt.coef_[0, 0] / len(models), platt.intercept_[0]
    n, powers = len(features), models[1][0].powers_
    weights = slope * models[1][-1].coef_[0]
    weights[:n] += slope * models[0][-1].coef_[0]
    intercept = slope * sum(model[-1].intercept_[0] for model in models) + shift
    products = np.zeros((n, n))
    for weight, power in zip(weights[n:], powers[n:], strict=True):
        one, other = np.repeat(np.arange(n), power)
        products[one, other] = weight
    lines = [
        '"""Constants of the score of copies, written by benchmarks/copy_move_score.py."""',
        "",
        f"FEATURES = {tuple(features)!r}",
        f"MEAN = {_rounded(scaler.mean_)}",
        f"SCALE = {_rounded(scaler.scale_)}",
        f"INTERCEPT = {intercept:.4f}",
        f"LINEAR = {_rounded(weights[:n])}",
        "PRODUCTS = (",
        *(f"    {_rounded(row)}," for row in products),
        ")",
        '"""Weight of the product of two features in each place, the first one by row; below the diagonal 0."""',
    ]
    MODEL.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written: {MODEL}; format it: ruff format {MODEL}")


def _rounded(values: np.ndarray) -> str:
    return repr(tuple(round(float(value), 4) for value in values))


def _print(kind: str, hosts: int, best: pd.DataFrame) -> None:
    flagged = (best.score[best.forgery == 0] >= 0.5).sum() / hosts
    right = best.score[best.true.astype(bool)]
    found = f", true candidates above 0.5: {(right >= 0.5).mean():.3f} of {len(right)}" if len(right) else ""
    print(f"{kind:<12} {hosts:>3} hosts, untouched above 0.5: {flagged:.3f}{found}")


def _hosts(fields: Sequence[Path]) -> Iterator[tuple[str, np.ndarray | Path | ComposedFigure]]:
    for name in PHOTOGRAPHS:
        image = getattr(skimage.data, name)()
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image[..., :3]
        scale = min(1.0, LONGEST / max(image.shape))
        yield "photograph", cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(5)
    for kind, draw in FIGURES.items():
        for _ in range(DRAWN):
            yield kind, draw(*rng.integers(256, 600, 2), rng)
    for _ in range(PLOTS):
        yield "plot", _plot(rng)
    yield from (("micrograph", path) for path in fields[:: max(1, len(fields) // MICROGRAPHS)])
    for number in range(COMPOUND):
        chosen = [read_image(fields[place]) for place in rng.choice(len(fields), 9, replace=False)]
        yield "figure", compose_figure(chosen, rng, RELATIONS[number % 4], natural="none")


def _plot(rng: np.random.Generator) -> np.ndarray:
    """Panels of one kind of plot, with words and axes that recur."""
    figure = Figure(rng.uniform((3, 2.5), (7, 6)), dpi=int(rng.integers(70, 130)))
    kind = rng.integers(5)
    for number, axes in enumerate(figure.subplots(*rng.integers(1, 4, 2), squeeze=False).ravel()):
        if kind == 0:
            axes.bar(range(5), rng.random(5) * 10, yerr=rng.random(5))
            axes.set_xticks(range(5), ["ctrl", "A", "B", "A+B", "KO"], rotation=45)
        elif kind == 1:
            axes.plot(rng.normal(size=(50, 3)).cumsum(axis=0))
            axes.grid(visible=True)
            axes.legend(["a", "b", "c"], fontsize=6)
        elif kind == 2:
            axes.scatter(*rng.normal(size=(2, 100)), s=20)
            axes.set(xlabel="time (s)", ylabel="signal")
        elif kind == 3:
            axes.imshow(rng.integers(0, 3, (8, 8)))
            axes.set_title(f"n = {number}")
        else:
            axes.boxplot(rng.normal(size=(30, 4)))
            axes.set_ylabel("intensity (a.u.)")
    figure.tight_layout()
    figure.savefig(buffer := BytesIO(), format="png")
    return cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)


def _collect(number: int, kind: str, host: np.ndarray | Path | ComposedFigure) -> list[dict]:
    """The candidates of an image as it is, and of forgeries in it."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([7, number])
    quality = int(rng.integers(70, 99)) if rng.random() < 0.5 else None
    if isinstance(host, ComposedFigure):
        return _rows(number, kind, [(host.image, host.mask[0])], quality)
    host = read_image(host)[:MOST_SIDE, :MOST_SIDE] if isinstance(host, Path) else host
    if kind == "micrograph" and number % 3 == 0:  # dim, of few levels
        host = np.rint(host * rng.uniform(0.1, 0.4)).astype(np.uint8)
    images = [(host, np.zeros(host.shape[:2], np.uint8))]
    for _ in range(0 if kind == "plot" else FORGERIES):
        try:
            forged, mask = copy_move(host, rng)
        except ValueError:  # no room
            continue
        if is_visible(host, forged, mask):
            images.append((forged, mask))
    return _rows(number, kind, images, quality)


def _rows(number: int, kind: str, images: list[tuple[np.ndarray, np.ndarray]], quality: int | None) -> list[dict]:
    """The candidates of images with their masks of what is shown twice."""
    table = []
    for forgery, (image, mask) in enumerate(images):
        image = image if quality is None else jpeg(image, quality)
        compared = picture_search(image, find_panels(image))
        gray, valid = shrunk(compared.gray, compared.valid, compared.scale)
        found = candidates(gray, (compared.matcher, match_blocks), valid)
        mask = cv2.resize(mask, gray.shape[::-1], interpolation=cv2.INTER_NEAREST)
        rows = describe(gray.astype(np.float32), found)
        for one, row, dropped in zip(found, rows, natural(rows, found), strict=True):
            region = one.source | one.target
            inside = np.count_nonzero(region & (mask > 0))
            share = inside / np.count_nonzero(region)
            true = True if share > TRUE_SHARE else False if share < FALSE_SHARE else None
            known = {"host": number, "kind": kind, "forgery": forgery or int(mask.any()), "true": true}
            table.append(known | {"natural": dropped} | row)
    return table


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""Figures of merit of a detector of generated images: as a whole, for each generator, and as a table.

What is undefined is nan, never 0.
"""

import math

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_curve

from common.metrics.forgery import image_auc
from common.tables import markdown_table

MAX_FPR = 0.05
CALIBRATION_BINS = 15  # Guo et al. 2017

FIGURES = {
    "auc": "AUC",
    "ap": "AP",
    "accuracy": "accuracy",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
    "calibration_error": "calibration error",
    "n_real": "real",
    "n_generated": "generated",
}
"""The keys of `detection_metrics` → their heads in a table."""

RANKED = ["auc", "ap", "tpr_at_5_fpr"]
"""Those that only the order of the scores decides: of raw scores where a calibration may tie them."""


def detection_metrics(probs: np.ndarray, generated: np.ndarray, threshold: float = 0.5) -> dict[str, float | int]:
    """How well probabilities tell generated images from real ones.

    Args:
        probs: (n,), that the image is generated, in [0, 1].
        generated: bool (n,).
        threshold: From which probability on an image is called generated, for the accuracy.

    Returns:
        All in [0, 1]: `auc`; `ap`, the average precision; `accuracy`; `tpr_at_5_fpr`, the largest true-positive rate
        at a false-positive rate of at most 5 % (below 20 real images: at none); `calibration_error`, see there. And
        the counts `n_real` and `n_generated`. Without images of both classes, `auc`, `ap` and `tpr_at_5_fpr` are nan;
        without any, all but the counts.

    Raises:
        ValueError: Probabilities outside [0, 1].
    """
    probs, generated = np.asarray(probs, np.float64), np.asarray(generated, bool)
    if not ((probs >= 0) & (probs <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]")
    n_generated = int(generated.sum())
    n_real = len(generated) - n_generated
    both = n_real > 0 and n_generated > 0
    return {
        "auc": image_auc(probs, generated),
        "ap": float(average_precision_score(generated, probs)) if both else math.nan,
        "accuracy": float(((probs >= threshold) == generated).mean()) if len(probs) else math.nan,
        "tpr_at_5_fpr": _tpr_at_5_fpr(probs, generated) if both else math.nan,
        "calibration_error": calibration_error(probs, generated),
        "n_real": n_real,
        "n_generated": n_generated,
    }


def calibration_error(probs: np.ndarray, generated: np.ndarray) -> float:
    """Expected calibration error in [0, 1] over 15 bins of equal width (Guo et al. 2017, eq. 3); nan without images.

    The bins are those of the probability of "generated", not of the answer given: there, a detector that calls
    everything too generated would have its error at 0.3 made good by that at 0.7.

    Args:
        probs: (n,) in [0, 1].
        generated: bool (n,).
    """
    if not len(probs):
        return math.nan
    probs = np.asarray(probs, np.float64)
    bins = np.minimum((probs * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    # |Σ (p − y)| of a bin is its number of images times its gap
    gaps = np.bincount(bins, weights=probs - np.asarray(generated, bool))
    return float(np.abs(gaps).sum() / len(probs))


def by_generator(table: pd.DataFrame) -> pd.DataFrame:
    """`detection_metrics` of each generator's images against all real ones.

    Args:
        table: One row an image: `prob` in [0, 1], `generated` (bool), `generator` (name; `unknown` where it is empty,
            and of no meaning for a real image).

    Returns:
        One row a generator by name, `generator` and the keys of `detection_metrics` as columns. A last one, `average`,
        is the unweighted mean over generators, as the published tables count; its `n_generated` is their sum.
    """
    real, fakes = table[~table["generated"].astype(bool)], table[table["generated"].astype(bool)]
    names = fakes["generator"].fillna("").replace("", "unknown")
    rows = []
    for name, group in fakes.groupby(names):
        both = pd.concat([real, group])
        rows.append({"generator": name, **detection_metrics(both["prob"], both["generated"])})
    result = pd.DataFrame(rows, columns=["generator", *FIGURES])
    counts = {"n_real": len(real), "n_generated": len(fakes)}
    means = {name: float(result[name].astype(float).mean()) for name in FIGURES if name not in counts}
    return pd.DataFrame([*rows, {"generator": "average", **means, **counts}])


def format_table(table: pd.DataFrame) -> str:
    """Rows of `detection_metrics` as a Markdown table; other columns, such as `generator`, keep their names."""
    return markdown_table([FIGURES.get(name, name) for name in table], list(table.itertuples(index=False, name=None)))


def clip_score(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> float:
    """Mean of 100 · max(cos, 0) over pairs of image and prompt, in [0, 100]; nan without pairs.

    Hessel et al. 2021, eq. 1, with the factor 100 of torchmetrics instead of 2.5, since most reported scores have it.

    Args:
        image_embeddings: (n, E), of any length.
        text_embeddings: (n, E), of any length; row i belongs to image i.

    Raises:
        ValueError: Different shapes.
    """
    images, texts = np.asarray(image_embeddings, np.float64), np.asarray(text_embeddings, np.float64)
    if images.shape != texts.shape:
        raise ValueError(f"images {images.shape} against texts {texts.shape}")
    if not len(images):
        return math.nan
    cosines = (images * texts).sum(1) / (np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1))
    return float(100 * np.maximum(cosines, 0).mean())


def _tpr_at_5_fpr(probs: np.ndarray, generated: np.ndarray) -> float:
    # Points on a straight part of the curve are kept: the one at 5 % may be one of them.
    fpr, tpr, _ = roc_curve(generated, probs, drop_intermediate=False)
    return float(tpr[fpr <= MAX_FPR].max())

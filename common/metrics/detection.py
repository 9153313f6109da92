"""Metrics of a detector of generated images: overall, per generator, and as a table. Undefined values are nan."""

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
"""The keys of `detection_metrics` → their column names in a table."""

RANKED = ["auc", "ap", "tpr_at_5_fpr"]
"""Metrics that depend only on the order of the scores: computed on raw scores, because calibration may tie them."""


def detection_metrics(probs: np.ndarray, generated: np.ndarray, threshold: float = 0.5) -> dict[str, float | int]:
    """Metrics of the probabilities that images are generated.

    Args:
        probs: (n,) in [0, 1].
        generated: bool (n,), the truth.
        threshold: Probability from which an image is called generated, for the accuracy.

    Returns:
        All in [0, 1]: `auc`; `ap`, the average precision; `accuracy`; `tpr_at_5_fpr`, the largest true-positive rate
        at a false-positive rate of at most 5 % (below 20 real images: of 0); `calibration_error`. And the counts
        `n_real` and `n_generated`. Without images of both classes `auc`, `ap` and `tpr_at_5_fpr` are nan; without any
        image everything but the counts is.

    Raises:
        ValueError: Probabilities outside [0, 1].
    """
    probs, generated = np.asarray(probs, np.float64), np.asarray(generated, bool)
    if not ((probs >= 0) & (probs <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]")
    n_generated = int(generated.sum())
    n_real = len(generated) - n_generated
    ap = tpr_at_5_fpr = math.nan
    if n_real and n_generated:
        ap = float(average_precision_score(generated, probs))
        # Collinear points are kept: the one at 5 % may be one of them.
        fpr, tpr, _ = roc_curve(generated, probs, drop_intermediate=False)
        tpr_at_5_fpr = float(tpr[fpr <= MAX_FPR].max())
    return {
        "auc": image_auc(probs, generated),
        "ap": ap,
        "accuracy": float(((probs >= threshold) == generated).mean()) if len(probs) else math.nan,
        "tpr_at_5_fpr": tpr_at_5_fpr,
        "calibration_error": calibration_error(probs, generated),
        "n_real": n_real,
        "n_generated": n_generated,
    }


def calibration_error(probs: np.ndarray, generated: np.ndarray) -> float:
    """Expected calibration error in [0, 1] over 15 bins of equal width (Guo et al. 2017, eq. 3); nan without images.

    The bins are of the probability of "generated". Bins of the verdict's confidence would merge 0.3 with 0.7, where the
    errors of a detector that is biased towards "generated" cancel.

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
        table: One row per image: `prob` in [0, 1], `generated` (bool), `generator` (name; `unknown` if empty; ignored
            for real images).

    Returns:
        One row per generator, sorted by name, with the columns `generator` and the keys of `detection_metrics`. The
        last row, `average`, is the unweighted mean over generators, as in published tables, with the summed counts.
    """
    real, fakes = table[~table["generated"].astype(bool)], table[table["generated"].astype(bool)]
    names = fakes["generator"].fillna("").replace("", "unknown")
    rows = []
    for name, group in fakes.groupby(names):
        both = pd.concat([real, group])
        rows.append({"generator": name, **detection_metrics(both["prob"].to_numpy(), both["generated"].to_numpy())})
    means = pd.DataFrame(rows, columns=[*FIGURES]).astype(float).mean().to_dict()
    rows.append({"generator": "average", **means, "n_real": len(real), "n_generated": len(fakes)})
    return pd.DataFrame(rows)


def format_table(table: pd.DataFrame) -> str:
    """Rows of `detection_metrics` as a Markdown table; other columns, such as `generator`, keep their names."""
    names = FIGURES | {"content_auc": "AUC by content"}
    head = [names.get(str(name), str(name)) for name in table]
    return markdown_table(head, list(table.itertuples(index=False, name=None)))


def clip_score(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> float:
    """Mean of 100 · max(cos, 0) over pairs of image and prompt, in [0, 100]; nan without pairs.

    Hessel et al. 2021, eq. 1, with the factor 100 of torchmetrics instead of 2.5, since most reported scores have it.

    Args:
        image_embeddings: (n, E), not necessarily normalised.
        text_embeddings: (n, E), likewise; row i belongs to image i.

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

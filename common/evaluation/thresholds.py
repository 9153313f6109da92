"""What a submission would score if its images needed another probability to be called forged."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def at_thresholds(rows: pd.DataFrame, thresholds: Iterable[float], submitted: float) -> pd.DataFrame:
    """Verdicts and oF1 with other thresholds of the probability.

    An image is called forged if its probability reaches the threshold; unless it had reached the submission's own
    threshold too, and no region was left of its mask. An image without a probability keeps its verdict.

    Args:
        rows: Those of an `Evaluation`.
        thresholds: In [0, 1].
        submitted: The threshold that the submission was made with.

    Returns:
        One row per threshold: threshold; image_recall, image_fpr and image_precision in [0, 1], nan where the
        denominator is 0; and of1. Below `submitted`, of1 is nan, since nothing is known of the regions of images that
        are called forged there alone, and the others are as if each of them had a region.
    """
    probability, of1 = rows["probability"].to_numpy(), rows["of1"].to_numpy()
    called, forged = (rows["n_predicted"] > 0).to_numpy(), (rows["n_truth"] > 0).to_numpy()
    found = []
    for threshold in thresholds:
        reached = (probability >= threshold) & (called | (probability < submitted))
        verdict = np.where(np.isnan(probability), called, reached)
        of1_here = np.where(verdict, of1, ~forged).mean() if threshold >= submitted else np.nan
        recall, fpr, precision = _share(verdict[forged]), _share(verdict[~forged]), _share(forged[verdict])
        found.append((threshold, recall, fpr, precision, float(of1_here)))
    return pd.DataFrame(found, columns=["threshold", "image_recall", "image_fpr", "image_precision", "of1"])


def _share(holds: np.ndarray) -> float:
    return float(holds.mean()) if len(holds) else np.nan

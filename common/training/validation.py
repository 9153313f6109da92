"""What a network is worth on images that it has not seen, authentic ones among them."""

import math
from itertools import compress

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader

from common.errors import UserError
from common.metrics.calibration import fit_calibration
from common.metrics.forgery import (
    THRESHOLDS,
    best_threshold,
    image_auc,
    image_score,
    pixel_auc,
    pixel_f1,
    pixel_f1_curve,
    pixel_recall,
)
from common.sizes import SIZES
from common.training.engine import Validation

PIXEL_THRESHOLD = 0.5
FALSE_POSITIVE_SHARE = 0.001
"""An authentic image counts as a false positive when more than this share of its pixels reaches the threshold."""


@torch.no_grad()
def validate(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader, *, recall_weight: float = 0.0
) -> Validation:
    """Score the network on a loader of `ForgeryDataset` items, at the network's resolution.

    What picks the best epoch is Dice, and pixel recall with the share `recall_weight` (see `selection_score`).

    The metrics, all in [0, 1], nan where there is no image to average over:
        dice: over all pixels of all images at 0.5, so that false positives on authentic images lower it.
        pixel_f1, pixel_recall: mean over forged images at 0.5; pixel_f1_best: at `threshold`.
        pixel_auc: mean over forged images.
        pixel_recall_<size>, n_<size>: the same recall, and the number of images, by the forgery's size.
        image_auc: of `image_score`, forged against authentic.
        image_recall, image_fpr: share of forged / authentic images with more than 0.1 % of pixels at 0.5 or above.

    What the submission needs to decide with this network is kept besides:
        threshold: pixel threshold with the best mean pixel F1 on forged images.
        calibration: `slope` and `intercept` of the image-level decision (see `common.metrics.calibration`).

    Raises:
        UserError: The network's output is no longer finite.
    """
    samples, process = loader.dataset.samples, accelerator.process_index
    model.eval()
    rows, curve, finite = [], np.zeros(len(THRESHOLDS)), True
    seen: set[int] = set()
    for batch in loader:
        probs = torch.sigmoid(model(batch["image"]).float())[:, 0]
        finite = finite and bool(torch.isfinite(probs).all())
        # Each process scores its own images; several may have been given an image twice, to come out even.
        index = accelerator.gather(batch["index"]).tolist()
        first = [not (position in seen or seen.add(position)) for position in index]
        own = [finite and new for new in first[process * len(probs) : (process + 1) * len(probs)]]
        images = zip(batch["index"].tolist(), probs.cpu().numpy(), batch["mask"][:, 0].cpu().numpy(), strict=True)
        for position, prob, mask in compress(images, own):
            sample = samples[position]
            figures = _score(prob, mask.astype(bool))
            rows.append({"position": position, "forged": sample.forged, "size": sample.size} | figures)
            if sample.forged:
                curve += pixel_f1_curve(prob, mask)
    parts = gather_object([(rows, curve, finite)])
    if not all(finite for *_, finite in parts):  # of all processes, so that all of them stop
        raise UserError("the training diverged: the network's output is no longer finite. Lower --lr.")
    table = pd.DataFrame([row for rows, *_ in parts for row in rows]).sort_values("position", ignore_index=True)
    curve = sum(curve for _, curve, _ in parts)
    forged, authentic = table[table["forged"]], table[~table["forged"]]
    best_f1, threshold = best_threshold(curve / len(forged)) if len(forged) else (np.nan, PIXEL_THRESHOLD)
    metrics = {
        "dice": 2 * table["shared"].sum() / max(table["predicted"].sum() + table["truth"].sum(), 1),
        "pixel_f1": forged["pixel_f1"].mean(),
        "pixel_f1_best": best_f1,
        "pixel_auc": forged["pixel_auc"].mean(),
        "pixel_recall": forged["pixel_recall"].mean(),
        "image_auc": image_auc(table["score"].to_numpy(), table["forged"].to_numpy()),
        "image_recall": (forged["share"] > FALSE_POSITIVE_SHARE).mean(),
        "image_fpr": (authentic["share"] > FALSE_POSITIVE_SHARE).mean(),
        "n_authentic": len(authentic),
    }
    for size in SIZES:
        of_size = forged[forged["size"] == size]
        metrics |= {f"pixel_recall_{size}": of_size["pixel_recall"].mean(), f"n_{size}": len(of_size)}
    metrics = {name: float(value) for name, value in metrics.items()}
    return Validation(
        metrics=metrics,
        score=selection_score(metrics, recall_weight),
        kept={"threshold": threshold, "calibration": fit_calibration(table["score"], table["forged"])},
    )


def selection_score(metrics: dict[str, float], recall_weight: float) -> float:
    """Pixel recall with the share `recall_weight`, Dice with the rest; without a forgery, which has no recall, Dice."""
    recall = metrics["pixel_recall"]
    if recall_weight == 0 or math.isnan(recall):
        return metrics["dice"]
    return recall_weight * recall + (1 - recall_weight) * metrics["dice"]


def _score(prob: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """What one map (H, W) contributes."""
    pred = prob >= PIXEL_THRESHOLD
    return {
        "score": image_score(prob),
        "share": pred.mean(),
        "shared": np.count_nonzero(pred & mask),
        "predicted": np.count_nonzero(pred),
        "truth": np.count_nonzero(mask),
        "pixel_f1": pixel_f1(pred, mask),
        "pixel_recall": pixel_recall(pred, mask),
        "pixel_auc": pixel_auc(prob, mask) if mask.any() else math.nan,  # which it would be, after much counting
    }

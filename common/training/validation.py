"""Validation of a segmentation network: pixel and image metrics, and what its decisions need."""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.data.samples import Sample
from common.data.tiles import join_squares, square_windows
from common.errors import UserError
from common.metrics.calibration import fit_calibration
from common.metrics.forgery import (
    PIXEL_THRESHOLDS,
    best_threshold,
    image_auc,
    image_score,
    pixel_auc,
    pixel_f1,
    pixel_f1_curve,
    pixel_recall,
    recall_at_fpr,
)
from common.networks.pixels import probabilities
from common.sizes import SIZES
from common.training.run_files import Validation

PIXEL_THRESHOLD = 0.5
FALSE_POSITIVE_SHARE = 0.001
"""An authentic image counts as a false positive if more than this share of its pixels reaches the threshold."""


@torch.no_grad()
def validate(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader, *, recall_weight: float = 0.0
) -> Validation:
    """Score the network on a loader of `ForgeryDataset` items (`collate_whole`), at the network's resolution.

    The best epoch is selected by Dice, and with the share `recall_weight` by pixel recall (`selection_score`).

    The metrics, all in [0, 1], nan where there is no image to average over:
        dice: over all pixels of all images at 0.5, so that false positives on authentic images lower it.
        pixel_f1, pixel_recall: mean over forged images at 0.5; pixel_f1_best: at `threshold`.
        pixel_auc: mean over forged images.
        pixel_recall_<size>, n_<size>: the same recall, and the number of images, by the forgery's size.
        image_auc: of `image_score`, forged against authentic; image_recall_at_5_fpr: share of the forged images
            whose score at most 5 % of the authentic ones exceed.
        image_recall, image_fpr: share of forged / authentic images with more than 0.1 % of pixels at 0.5 or above.

    The checkpoint keeps besides, for the submission:
        threshold: pixel threshold with the best mean pixel F1 on forged images.
        calibration: `slope` and `intercept` of the image-level decision (see `common.metrics.calibration`).

    Raises:
        UserError: The network's output is not finite.
    """
    dataset: Any = loader.dataset
    # Unwrapped: processes whose images have different numbers of tiles would wait for one another in each forward pass.
    model = accelerator.unwrap_model(model).eval()
    rows, curve = [], np.zeros(len(PIXEL_THRESHOLDS))
    for batch in loader:
        maps = zip(batch["index"].tolist(), predict_maps(model, batch), batch["mask"], strict=True)
        scores = [
            _score(dataset.samples[index], prob, mask[0].cpu().numpy().astype(bool)) for index, prob, mask in maps
        ]
        # Without the images that pad the last batch of several processes.
        scores = accelerator.gather_for_metrics(scores, use_gather_object=True)
        if None in scores:  # of any process, so that all of them stop
            raise UserError("the training diverged: the network's output is no longer finite. Lower --lr.")
        for score in scores:
            curve += score.pop("curve")
        rows += scores
    table = pd.DataFrame(rows)
    forged, authentic = table[table["forged"]], table[~table["forged"]]
    best_f1, threshold = best_threshold(curve / len(forged)) if len(forged) else (np.nan, PIXEL_THRESHOLD)
    metrics = {
        "dice": 2 * table["shared"].sum() / max(table["predicted"].sum() + table["truth"].sum(), 1),
        "pixel_f1": forged["pixel_f1"].mean(),
        "pixel_f1_best": best_f1,
        "pixel_auc": forged["pixel_auc"].mean(),
        "pixel_recall": forged["pixel_recall"].mean(),
        "image_auc": image_auc(table["score"].to_numpy(), table["forged"].to_numpy()),
        "image_recall_at_5_fpr": recall_at_fpr(table["score"], table["forged"]),
        "image_recall": (forged["share"] > FALSE_POSITIVE_SHARE).mean(),
        "image_fpr": (authentic["share"] > FALSE_POSITIVE_SHARE).mean(),
        "n_authentic": len(authentic),
    }
    for size in SIZES:
        of_size = forged[forged["size"] == size]
        metrics |= {f"pixel_recall_{size}": of_size["pixel_recall"].mean(), f"n_{size}": len(of_size)}
    metrics = {name: float(value) for name, value in metrics.items()}
    calibration = fit_calibration(table["score"].tolist(), table["forged"].tolist())
    score = selection_score(metrics, recall_weight)
    return Validation(metrics=metrics, score=score, kept={"threshold": threshold, "calibration": calibration})


@torch.inference_mode()
def predict_maps(model: nn.Module, batch: dict[str, Any]) -> list[np.ndarray]:
    """The network's probability map of each image of a batch of `collate_whole`, float32 (H, W) as its mask.

    Args:
        model: Logits (N, 1, S, S) of images (N, C, S, S), on the batch's device.
        batch: Tiles go through the network as many at a time as the batch has images.
    """
    pieces, n_images = batch["image"], len(batch["index"])
    probs = np.concatenate([_probabilities(model, part) for part in pieces.split(n_images)])
    if len(probs) == n_images and isinstance(batch["mask"], Tensor):  # whole images
        return list(probs)
    maps, side = [], pieces.shape[-1]
    for mask in batch["mask"]:
        height, width = mask.shape[-2:]
        count = len(square_windows(height, width, side))
        maps.append(join_squares(probs[:count], height, width, side))
        probs = probs[count:]
    return maps


def _probabilities(model: nn.Module, images: Tensor) -> np.ndarray:
    return probabilities(model(images).float())[:, 0].cpu().numpy()


def selection_score(metrics: dict[str, float], recall_weight: float) -> float:
    """recall_weight · pixel recall + (1 − recall_weight) · Dice; Dice alone if no image is forged (recall is nan)."""
    recall = metrics["pixel_recall"]
    if recall_weight == 0 or math.isnan(recall):
        return metrics["dice"]
    return recall_weight * recall + (1 - recall_weight) * metrics["dice"]


def _score(sample: Sample, prob: np.ndarray, mask: np.ndarray) -> dict[str, Any] | None:
    """What one map (H, W) contributes; None if it is not finite."""
    if not np.isfinite(prob).all():
        return None
    pred = prob >= PIXEL_THRESHOLD
    return {
        "forged": sample.forged,
        "size": sample.size,
        "score": image_score(prob),
        "share": pred.mean(),
        "shared": np.count_nonzero(pred & mask),
        "predicted": np.count_nonzero(pred),
        "truth": np.count_nonzero(mask),
        "pixel_f1": pixel_f1(pred, mask),
        "pixel_recall": pixel_recall(pred, mask),
        "pixel_auc": pixel_auc(prob, mask) if mask.any() else math.nan,  # which it is anyway, at some cost
        "curve": pixel_f1_curve(prob, mask) if sample.forged else 0.0,
    }

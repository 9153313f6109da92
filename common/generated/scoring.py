"""Scores of a data set, shared out over the processes of the run, and the validation of a training."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from common.errors import UserError
from common.generated.config import ScoringConfig, SpaiConfig
from common.generated.network import Spai
from common.metrics.calibration import calibrated, fit_calibration
from common.metrics.detection import RANKED, detection_metrics
from common.training.engine import Validation

TEST_BATCH = 8
"""Images that are read at a time when images are scored; their patches are scored `feature_batch` at a time."""


@torch.no_grad()
def score_loader(
    accelerator: Accelerator, model: Spai, loader: DataLoader, config: ScoringConfig, *, cover_edges: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Score the images of a prepared loader of a `GeneratedTestSet`; every process gets all results.

    Returns:
        Scores in [0, 1], sigmoids of the logits, not calibrated, (n,), and whether each image is generated, bool (n,);
        both in the order of the data set.

    Raises:
        UserError: The network's output is not finite.
    """
    model.eval()
    found = []
    for batch in loader:
        scores = model.score_images(batch["image"], batch["whole"], config.feature_batch, cover_edges=cover_edges)
        logits = torch.tensor([score.logit for score in scores], device=accelerator.device)
        found.append(accelerator.gather_for_metrics((batch["index"], logits, batch["label"])))
    index, logits, labels = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    if not torch.isfinite(logits).all():
        raise UserError("the training diverged: the network's output is no longer finite. Lower the learning rate.")
    order = index.argsort()
    return torch.sigmoid(logits[order].double()).numpy(), labels[order].bool().numpy()


def validate_spai(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader, *, config: SpaiConfig, prompts: Sequence[str] = ()
) -> Validation:
    """Score images of a `GeneratedTestSet` at their own resolution; the AUC selects the best epoch.

    The metrics are those of `detection_metrics` of the calibrated probability. Besides, the checkpoint keeps what
    verdicts need: `calibration` (temperature 1 / slope and bias); `validation`, the probabilities and labels that
    conformal bounds are fitted on, and `target_fpr`; the `prompts` of the semantic tokens, in their order.

    Raises:
        UserError: The training diverged.
    """
    # In 32 bits, as the test and a submission score: bounds hold for the arithmetic that they were fitted on. The mixed
    # precision is wrapped about `forward`, which `score_images` does not call.
    network = cast(Spai, accelerator.unwrap_model(model))
    scores, generated = score_loader(accelerator, network, loader, config, cover_edges=config.cover_edges)
    calibration = fit_calibration(scores.tolist(), generated.tolist())
    probs = np.array([calibrated(score, **calibration) for score in scores])
    # Ranks of the raw score: a calibration of slope 0 would tie all images.
    raw = detection_metrics(scores, generated)
    metrics = detection_metrics(probs, generated) | {name: raw[name] for name in RANKED}
    kept = {"calibration": calibration, "target_fpr": config.target_fpr, "prompts": list(prompts)}
    kept["validation"] = {"probs": probs.tolist(), "generated": generated.tolist()}
    return Validation(metrics, metrics["auc"], kept)

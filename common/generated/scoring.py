"""Script 7's scores of a data set, shared out over the processes of the run, and its validation."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.network import Spai
from common.metrics.calibration import calibrated, fit_calibration
from common.metrics.detection import RANKED, detection_metrics
from common.training.engine import Validation

TEST_BATCH = 8
"""Images that are read at a time where images are scored; their patches are taken `feature_batch` at a time."""


@torch.no_grad()
def score_loader(accelerator: Accelerator, model: Spai, loader: DataLoader, config: SpaiConfig) -> np.ndarray:
    """Scores in [0, 1] of a prepared loader's images, in the order of its data set, (n,).

    A score is the sigmoid of the logit, not calibrated. Every process gets all of them.

    Raises:
        UserError: The network's output is not finite.
    """
    model.eval()
    logits, index = [], []
    for batch in loader:
        scores = model.score_images(batch["image"], batch["whole"], config.feature_batch, config.cover_edges)
        logits += [score.logit for score in scores]
        index.append(batch["index"])
    logits = in_order(accelerator, torch.cat(index), torch.tensor(logits, device=accelerator.device), loader)
    if not torch.isfinite(logits).all():
        raise UserError("the training diverged: the network's output is no longer finite. Lower --lr.")
    return torch.sigmoid(logits.double()).cpu().numpy()


def in_order(accelerator: Accelerator, index: Tensor, values: Tensor, loader: DataLoader) -> Tensor:
    """What the processes found of a data set, in its order, (n, ...).

    Args:
        accelerator: Of the run.
        index: Positions in the data set that this process has seen, (k,).
        values: What it found there, (k, ...).
        loader: Of the data set.
    """
    index, values = accelerator.gather((index, values))
    ordered = values.new_empty(len(loader.dataset), *values.shape[1:])
    ordered[index] = values  # several processes may have seen an item twice, to come out even
    return ordered


def validate_spai(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader, *, config: SpaiConfig, prompts: Sequence[str] = ()
) -> Validation:
    """Score images of a `GeneratedTestSet` at their own resolution; the AUC picks the best epoch.

    The metrics are those of `detection_metrics` of the calibrated probability. What decisions need is kept besides:
    `calibration` (temperature 1 / slope and bias); `validation`, the probabilities and labels that conformal bounds are
    fitted on, and `target_fpr`; the `prompts` behind the semantic tokens, in their order.

    Raises:
        UserError: The training diverged.
    """
    # In 32 bits, as the test and a submission score: bounds hold for the arithmetic that they were fitted on. The mixed
    # precision is wrapped about `forward`, which `score_images` does not call.
    scores = score_loader(accelerator, accelerator.unwrap_model(model), loader, config)
    generated = np.array([image.generated for image in loader.dataset.images])
    calibration = fit_calibration(scores, generated)
    probs = np.array([calibrated(score, **calibration) for score in scores])
    metrics = detection_metrics(probs, generated)
    # AUC of the raw score: calibration with slope 0 would tie everything.
    raw = detection_metrics(scores, generated)
    metrics |= {name: raw[name] for name in RANKED}
    kept = {"calibration": calibration, "target_fpr": config.target_fpr, "prompts": list(prompts)}
    kept["validation"] = {"probs": probs.tolist(), "generated": generated.tolist()}
    return Validation(metrics, metrics["auc"], kept)

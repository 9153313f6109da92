"""Scores of a data set, shared out over the processes of the run, and the validation of a training."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.dataset import GeneratedTestSet, make_generated_loader
from common.generated.images import LabelledImage
from common.generated.network import Spai
from common.generated.residual import ResidualNetwork
from common.metrics.calibration import calibrated, fit_calibration
from common.metrics.detection import RANKED, detection_metrics
from common.training.engine import Validation

TEST_BATCH = 8
"""Images that are read at a time when images are scored; their patches are scored `feature_batch` at a time."""


FLAT = 0.01
"""Deviation of the patch attention, in equal shares, below which it is called flat."""


class Scored(NamedTuple):
    """Scores of a data set, in its order."""

    scores: np.ndarray
    """In [0, 1], sigmoids of the logits, not calibrated, (n,)."""
    generated: np.ndarray
    """Whether each image is generated, bool (n,)."""
    attention: np.ndarray
    """Standard deviation of each image's patch attention in equal shares, (n,): 0 where all patches weigh the same."""


def score_images(
    accelerator: Accelerator,
    model: Spai | ResidualNetwork,
    images: Sequence[LabelledImage],
    degradation: str | None,
    *,
    feature_batch: int,
    workers: int,
    cover_edges: bool,
) -> Scored:
    """Score images at their own resolution, after a degradation if one is named; see `score_loader`."""
    data = GeneratedTestSet(images, degradation, whole_size=model.whole_size)
    loader = accelerator.prepare(make_generated_loader(data, TEST_BATCH, workers))
    scored = score_loader(accelerator, model, loader, feature_batch, cover_edges=cover_edges)
    accelerator.free_memory()  # it keeps each loader, and with it the loader's workers
    return scored


@torch.no_grad()
def score_loader(
    accelerator: Accelerator,
    model: Spai | ResidualNetwork,
    loader: DataLoader,
    feature_batch: int,
    *,
    cover_edges: bool,
) -> Scored:
    """Score the images of a prepared loader of a `GeneratedTestSet`; every process gets all results.

    Raises:
        UserError: The network's output is not finite.
    """
    model.eval()
    found = []
    for batch in loader:
        scores = model.score_images(batch["image"], batch["whole"], feature_batch, cover_edges=cover_edges)
        values = [(score.logit, (len(score.attention) * score.attention).std(correction=0).item()) for score in scores]
        numbers = torch.tensor(values, device=accelerator.device)
        found.append(accelerator.gather_for_metrics((batch["index"], numbers, batch["label"])))
    index, numbers, labels = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    if not torch.isfinite(numbers[:, 0]).all():
        raise UserError("the training diverged: the network's output is no longer finite. Lower the learning rate.")
    order = index.argsort()
    logits, attention = numbers[order].double().unbind(1)
    return Scored(torch.sigmoid(logits).numpy(), labels[order].bool().numpy(), attention.numpy())


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
    network = cast(Spai | ResidualNetwork, accelerator.unwrap_model(model))
    scored = score_loader(accelerator, network, loader, config.feature_batch, cover_edges=config.cover_edges)
    scores, generated = scored.scores, scored.generated
    calibration = fit_calibration(scores.tolist(), generated.tolist())
    probs = np.array([calibrated(score, **calibration) for score in scores])
    # Ranks of the raw score: a calibration of slope 0 would tie all images.
    raw = detection_metrics(scores, generated)
    metrics = detection_metrics(probs, generated) | {name: raw[name] for name in RANKED}
    kept = {"calibration": calibration, "target_fpr": config.target_fpr, "prompts": list(prompts)}
    kept["validation"] = {"probs": probs.tolist(), "generated": generated.tolist()}
    return Validation(metrics, metrics["auc"], kept)

"""Calibrated predictions of a trained network of script 7 for images of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.transforms import resize_image, to_tensor
from common.generated.network import ImageScore, Spai, load_spai
from common.generated.published import load_detector_checkpoint
from common.metrics.calibration import calibrated
from common.metrics.conformal import fit_bounds
from common.networks.pixels import probabilities
from common.training.checkpoint import find_checkpoint

DETECTOR = "spai"
"""Name of the detector among the members of the ensemble; a checkpoint is called models/spai*_best.pth."""


@dataclass(frozen=True)
class Generated:
    """A detector's verdict on one image."""

    probability: float
    """Calibrated probability in (0, 1) that the image is generated."""
    verdict: str
    """`generated`, `real`, or `insufficient evidence` (`common.metrics.conformal`)."""
    score: ImageScore


class Detector:
    """A trained network of script 7, with its calibration and the bounds of its verdicts."""

    def __init__(self, model: Spai, checkpoint: dict[str, Any], device: torch.device) -> None:
        """Move the network to a device.

        Args:
            model: In evaluation mode.
            checkpoint: With `calibration`, `validation`, `target_fpr`, `prompts` and `config`.
            device: Where the network runs.
        """
        self.model = model.to(device)
        self.calibration, self.prompts = checkpoint["calibration"], checkpoint["prompts"]
        self.cover_edges = checkpoint["config"]["cover_edges"]
        self._validation = checkpoint["validation"]
        self.adjust(checkpoint["config"]["feature_batch"], checkpoint["target_fpr"])

    def adjust(self, feature_batch: int | None = None, target_fpr: float | None = None) -> None:
        """Replace numbers of the training; None leaves one as it is.

        Args:
            feature_batch: Number of patches that are scored at a time: memory grows with it.
            target_fpr: False-positive rate in (0, 1) that the verdicts keep.
        """
        if feature_batch is not None:
            self.feature_batch = feature_batch
        if target_fpr is not None:
            self.target_fpr = target_fpr
            self.bounds = fit_bounds(self._validation["probs"], self._validation["generated"], target_fpr)

    def predict(self, images: Sequence[np.ndarray]) -> list[Generated]:
        """Probability, verdict and attention for RGB images, uint8 (H, W, 3), of any size."""
        if not images:
            return []
        size = self.model.whole_size
        whole = torch.stack([to_tensor(resize_image(image, size)) for image in images])
        scores = self.model.score_images(
            [to_tensor(image) for image in images], whole, self.feature_batch, cover_edges=self.cover_edges
        )
        found = []
        for score in scores:
            raw = probabilities(torch.tensor(score.logit, dtype=torch.float64)).item()
            probability = calibrated(raw, **self.calibration)
            found.append(Generated(probability, self.bounds.verdict(probability), score))
        return found


def find_detector(models_dir: Path) -> Path | None:
    """The checkpoint models/spai*_best.pth; None where there is none.

    Raises:
        UserError: There are several.
    """
    return find_checkpoint(models_dir, DETECTOR, "generated images", "turn their detection off")


def load_detector(path: Path, device: torch.device) -> Detector:
    """Load a checkpoint of script 7; a note is printed if it was converted and never calibrated.

    Raises:
        UserError: It can't be read, or is of another kind.
    """
    checkpoint = load_detector_checkpoint(path)
    if not checkpoint["metrics"]:
        name = path.stem.removesuffix("_best")
        print(
            f"note: {path} was never calibrated: its probability is the network's own, and the verdict is always "
            "insufficient evidence. Calibrate it on images of your own: python script_7_spai_fusion.py --fusion none "
            f"--epochs 0 --init {path} --models-dir {path.parent} --name {name} --data-dir DIR"
        )
    return Detector(load_spai(checkpoint, path), checkpoint, device)

"""Is an image as a whole generated: the checkpoints of script 7, asked about images of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.transforms import resize_image, to_tensor
from common.generated.network import SPAI_KEYS, ImageScore, Spai, load_spai
from common.metrics.calibration import calibrated
from common.metrics.conformal import fit_bounds
from common.training.checkpoint import find_checkpoint, load_checkpoint

DETECTOR = "spai"
"""Name of the detector among the members of the ensemble; a checkpoint is called models/spai*_best.pth."""


@dataclass(frozen=True)
class Generated:
    """What a detector says of one image."""

    probability: float
    """That it is generated, calibrated, in (0, 1)."""
    verdict: str
    """`generated`, `real`, or `insufficient evidence` (`common.metrics.conformal`)."""
    score: ImageScore


class Detector:
    """A trained network of script 7, with its calibration and its verdicts' bounds."""

    def __init__(self, model: Spai, checkpoint: dict[str, Any], device: torch.device) -> None:
        """Hold them.

        Args:
            model: In evaluation mode.
            checkpoint: Its `calibration`, `validation`, `target_fpr`, `prompts`, `config`.
            device: Where the network runs.
        """
        self.model = model.to(device)
        self.calibration, self.prompts = checkpoint["calibration"], checkpoint["prompts"]
        self.cover_edges = checkpoint["config"]["cover_edges"]
        self._validation = checkpoint["validation"]
        self.adjust(checkpoint["config"]["feature_batch"], checkpoint["target_fpr"])

    def adjust(self, feature_batch: int | None = None, target_fpr: float | None = None) -> None:
        """Use other numbers than the training's; None leaves one as it is.

        Args:
            feature_batch: Patches at a time: memory grows with it.
            target_fpr: False-positive rate that the verdicts keep.
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
            [to_tensor(image) for image in images], whole, self.feature_batch, self.cover_edges
        )
        return [self._judge(score) for score in scores]

    def _judge(self, score: ImageScore) -> Generated:
        raw = torch.sigmoid(torch.tensor(score.logit, dtype=torch.float64)).item()
        probability = calibrated(raw, **self.calibration)
        return Generated(probability, self.bounds.verdict(probability), score)


def find_detector(models_dir: Path) -> Path | None:
    """The checkpoint models/spai*_best.pth; None where there is none.

    Raises:
        UserError: There are several.
    """
    return find_checkpoint(models_dir, DETECTOR, "generated images", "ask none: --no-generated")


def load_detector(path: Path, device: torch.device) -> Detector:
    """Load a checkpoint of script 7, with a printed note where it was converted and never calibrated.

    Raises:
        UserError: It can't be read, or is of another kind.
    """
    checkpoint = load_checkpoint(path, SPAI_KEYS)
    if not checkpoint["metrics"]:
        name = path.stem.removesuffix("_best")
        print(
            f"note: {path} was never calibrated: its probability is the network's own, and its verdict always open. "
            "Calibrate it on images of your own (--csv, or --real and --fake): python script_7_spai_fusion.py "
            f"--fusion none --epochs 0 --init {path} --models-dir {path.parent} --name {name}"
        )
    return Detector(load_spai(checkpoint, path), checkpoint, device)

"""Calibrated predictions of trained networks of script 7, one or several, for images of any size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from common.data.transforms import resize_image, to_tensor
from common.generated.names import DETECTORS
from common.generated.network import ImageScore, Spai
from common.generated.published import load_detector_checkpoint
from common.generated.residual import ResidualNetwork, load_network
from common.metrics.calibration import calibrated, fit_calibration, log_odds
from common.metrics.conformal import Bounds, Verdict, fit_bounds
from common.networks.pixels import probabilities
from common.training.checkpoint import find_checkpoint


@dataclass(frozen=True)
class Generated:
    """A detector's verdict on one image."""

    probability: float
    """Calibrated probability in (0, 1) that the image is generated."""
    verdict: Verdict
    score: ImageScore
    """Of several detectors, that of the first."""
    by_detector: Mapping[str, float] = field(default_factory=dict)
    """Of several detectors, name → its own probability."""


class Detector:
    """A trained network of script 7, with its calibration and the bounds of its verdicts."""

    def __init__(self, model: Spai | ResidualNetwork, checkpoint: dict[str, Any], device: torch.device) -> None:
        """Move the network to a device.

        Args:
            model: In evaluation mode.
            checkpoint: With `calibration`, `validation`, `target_fpr`, `prompts` and `config`.
            device: Where the network runs.
        """
        self.model = model.to(device)
        self.name = checkpoint["config"]["name"]
        self.calibration, self.prompts = checkpoint["calibration"], checkpoint["prompts"]
        self.cover_edges = checkpoint["config"]["cover_edges"]
        self.validation = checkpoint["validation"] | {"images": validated(checkpoint)}
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
            self.bounds = bounds_of(self.validation, target_fpr)

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


class BlendedDetector:
    """Several detectors as one: the mean of their calibrated log-odds, so that one that is blind only adds a constant.

    If the detectors were validated on the same images, the blend is calibrated on them again, and its verdicts are
    bounded by its own probabilities of them; else each verdict is `not calibrated`.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        """Hold two detectors or more; a note is printed if they were validated on different images."""
        self.detectors = list(detectors)
        first, *others = (detector.validation for detector in detectors)
        keys = ("images", "generated", "degradation")
        same = all(other.get(key) == first.get(key) for other in others for key in keys)
        self.validation = first | {"probs": [], "generated": [], "degradation": []}
        self.calibration = {"slope": 1.0, "intercept": 0.0}
        if same:
            rows = zip(*(detector.validation["probs"] for detector in detectors), strict=True)
            means = [blended(row) for row in rows]
            self.calibration = fit_calibration(means, first["generated"])
            self.validation = first | {"probs": [calibrated(mean, **self.calibration) for mean in means]}
        else:
            print(
                "note: the detectors of generated images were validated on different images, so their blend has no "
                "verdicts. Train them on the same, or calibrate both: python script_7_spai_fusion.py calibrate "
                "CHECKPOINT --real DIR"
            )
        self.adjust(target_fpr=detectors[0].target_fpr)

    def adjust(self, feature_batch: int | None = None, target_fpr: float | None = None) -> None:
        """See `Detector.adjust`."""
        for detector in self.detectors:
            detector.adjust(feature_batch, target_fpr)
        if target_fpr is not None:
            self.target_fpr = target_fpr
            self.bounds = bounds_of(self.validation, target_fpr)

    def predict(self, images: Sequence[np.ndarray]) -> list[Generated]:
        """See `Detector.predict`."""
        found, names = [], [detector.name for detector in self.detectors]
        for each in zip(*(detector.predict(images) for detector in self.detectors), strict=True):
            own = dict(zip(names, (one.probability for one in each), strict=True))
            probability = calibrated(blended([*own.values()]), **self.calibration)
            found.append(Generated(probability, self.bounds.verdict(probability), each[0].score, own))
        return found


def blended(probabilities: Sequence[float]) -> float:
    """The probability whose log-odds are the mean of those given."""
    return float(expit(np.mean([log_odds(probability) for probability in probabilities])))


def bounds_of(validation: Mapping[str, Any], target_fpr: float) -> Bounds:
    """Bounds that hold for the images of a checkpoint's `validation`, after each degradation that it has."""
    return fit_bounds(validation["probs"], validation["generated"], target_fpr, validation.get("degradation"))


def validated(checkpoint: Mapping[str, Any]) -> str:
    """Hash of the images of a checkpoint's validation."""
    return checkpoint["validation"].get("images", checkpoint.get("data_fingerprint", ""))


def find_detectors(models_dir: Path) -> dict[str, Path]:
    """The checkpoints models/spai*_best.pth and models/residual*_best.pth that are there, by name.

    Raises:
        UserError: There are several of one name.
    """
    found = {
        name: find_checkpoint(models_dir, name, "generated images", "turn their detection off") for name in DETECTORS
    }
    return {name: path for name, path in found.items() if path is not None}


def load_detectors(paths: Sequence[Path], device: torch.device) -> Detector | BlendedDetector:
    """Load a detector, or several as one; see `load_detector`."""
    detectors = [load_detector(path, device) for path in paths]
    return detectors[0] if len(detectors) == 1 else BlendedDetector(detectors)


def load_detector(path: Path, device: torch.device) -> Detector:
    """Load a checkpoint of script 7; a note is printed if it was converted and never calibrated.

    Raises:
        UserError: It can't be read, or is of another kind.
    """
    checkpoint = load_detector_checkpoint(path)
    if not checkpoint["validation"]["probs"]:
        print(
            f"note: {path} was never calibrated: its probability is the network's own, and it gives no verdicts. "
            f"Photographs of your own are enough: python script_7_spai_fusion.py calibrate {path} --real DIR"
        )
    return Detector(load_network(checkpoint, path), checkpoint, device)

"""Calibration of a trained detector: by its validation split, or by photographs alone, clean and degraded.

Bounds that were fitted on clean images say nothing about compressed ones, where a detector may be blind. So they are
fitted after each of `CONDITIONS` too, and the verdicts keep the rate that was asked for in each by itself: where the
classes can't be told apart any more, the bounds leave `insufficient evidence` only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from common.data.images import find_images
from common.data.splits import of_split
from common.devices import process_state
from common.errors import UserError
from common.generated.config import CalibrationConfig, SpaiConfig
from common.generated.degradations import DEGRADATIONS
from common.generated.detector import bounds_of, validated
from common.generated.images import REAL, LabelledImage, fingerprint, readable_images
from common.generated.network import SPAI_KEYS, Spai
from common.generated.residual import ResidualNetwork, load_network
from common.generated.scoring import score_images
from common.metrics.calibration import calibrated, fit_calibration
from common.metrics.conformal import least_images
from common.training.checkpoint import load_checkpoint, save_checkpoint

CONDITIONS = ("none", *DEGRADATIONS)
"""What pictures go through as a rule, each by itself."""


def calibrate_trained(config: SpaiConfig, images: Sequence[LabelledImage]) -> None:
    """Calibrate models/<name>_best.pth by the validation split of its training, in each of `CONDITIONS`.

    Rewrites its `calibration`, fitted on all of them together, and its `validation`.
    """
    path = config.models_dir / f"{config.name}_best.pth"
    checkpoint = load_checkpoint(path, SPAI_KEYS)
    val = of_split(images, "val")
    found = _score(load_network(checkpoint, path), checkpoint, val, config.feature_batch, config.workers)
    checkpoint["calibration"] = fit_calibration(found["scores"], found["generated"])
    checkpoint["validation"] = _calibrated(found, checkpoint) | {"images": fingerprint(val)}
    _save(checkpoint, path)


def calibrate_on_photographs(config: CalibrationConfig) -> str:
    """Bound a detector's false-positive rate by real photographs, which replace those of its validation.

    The generated images of its validation, if there were any, go on bounding the verdict `real`; the calibration of the
    probability is kept.

    Returns:
        What it did, in a sentence or two.

    Raises:
        UserError: The checkpoint can't be read, or there are too few photographs.
    """
    checkpoint = load_checkpoint(config.checkpoint, SPAI_KEYS)
    target_fpr = config.target_fpr or checkpoint["target_fpr"]
    images = [
        LabelledImage(path, generated=False, split="val", generator=REAL) for path in find_images(config.real).values()
    ]
    images = readable_images(images, skip_bad_files=config.skip_bad_files)
    if len(images) < (needed := least_images(target_fpr)):
        raise UserError(
            f"{config.real} has {len(images)} images; a false-positive rate of {target_fpr} needs {needed} real ones."
        )
    model = load_network(checkpoint, config.checkpoint)
    found = _calibrated(_score(model, checkpoint, images, config.feature_batch, config.workers), checkpoint)
    earlier = checkpoint["validation"]
    conditions = earlier.get("degradation") or ["none"] * len(earlier["probs"])
    rows = zip(earlier["probs"], earlier["generated"], conditions, strict=True)
    kept = [row for row in rows if row[1]]
    for name, values in zip(("probs", "generated", "degradation"), zip(*kept, strict=True), strict=bool(kept)):
        found[name] = [*found[name], *values]
    before = validated(checkpoint) if kept else ""
    checkpoint["validation"] = found | {"images": f"{fingerprint(images)} {before}".strip()}
    checkpoint["target_fpr"] = target_fpr
    _save(checkpoint, config.checkpoint)
    bounds = bounds_of(found, target_fpr)
    text = (
        f"{config.checkpoint}: by {len(images)} photographs, clean and after {', '.join(CONDITIONS[1:])}: of such "
        f"ones at most {100 * target_fpr:g} % are called generated, those with a probability above {bounds.upper:.4f}"
    )
    if not kept:
        text += (
            "\nnothing is called real: that takes generated images, of a training or a calibration with both classes"
        )
    return text


def _score(
    model: Spai | ResidualNetwork,
    checkpoint: dict[str, Any],
    images: Sequence[LabelledImage],
    feature_batch: int,
    workers: int,
) -> dict[str, list]:
    """Raw scores, labels and conditions of images in each of `CONDITIONS`."""
    process_state()  # before the accelerator, which would take several processes without a GPU for several runs
    accelerator = Accelerator()
    model.to(accelerator.device)
    found: dict[str, list] = {"scores": [], "generated": [], "degradation": []}
    for condition in CONDITIONS:
        scored = score_images(
            accelerator,
            model,
            images,
            None if condition == "none" else condition,
            feature_batch=feature_batch,
            workers=workers,
            cover_edges=checkpoint["config"]["cover_edges"],
        )
        found["scores"] += scored.scores.tolist()
        found["generated"] += scored.generated.tolist()
        found["degradation"] += [condition] * len(images)
    return found


def _calibrated(found: dict[str, list], checkpoint: dict[str, Any]) -> dict[str, list]:
    probs = [calibrated(score, **checkpoint["calibration"]) for score in found["scores"]]
    return {"probs": probs, "generated": found["generated"], "degradation": found["degradation"]}


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    if process_state().is_main_process:
        save_checkpoint(checkpoint, path)

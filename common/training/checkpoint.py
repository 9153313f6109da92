"""Checkpoints: written whole or not at all, read without running code, and enough to rebuild the network."""

import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import written_whole

REQUIRED_KEYS = ("model_state_dict", "epoch", "best_dice", "config", "metrics", "threshold", "calibration")
"""Of a segmentation member's checkpoint."""


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors and plain types, whole or not at all."""
    with written_whole(path, "wb") as file:
        torch.save(checkpoint, file)


def load_checkpoint(path: Path, required: Iterable[str] = REQUIRED_KEYS, *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU: tensors and plain types only.

    Args:
        path: Of the file.
        required: The keys that it must have.
        mapped: Map the file instead of reading it, so that what is never looked at takes no memory: the states of
            optimiser and average are two thirds of it. For those who let go of the tensors before the file may change.

    Raises:
        UserError: The file is missing, broken, holds anything but plain types, or lacks a required key: it is no
            checkpoint of this project, or one of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # truncated zip, foreign pickle, no torch file: each raises its own kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be read as a checkpoint ({reason}). Train it again.") from error
    missing = [key for key in required if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        lacking = ", ".join(missing)
        raise UserError(f"{path} is no checkpoint of this project, or not of the kind wanted here: it lacks {lacking}.")
    return checkpoint


def find_checkpoint(models_dir: Path, name: str, of: str, otherwise: str) -> Path | None:
    """The one checkpoint `<name>*_best.pth` in a folder; None where there is none.

    Args:
        models_dir: The folder.
        name: What its own begins with.
        of: What it detects, for the message.
        otherwise: What the user can do besides keeping one, for the message.

    Raises:
        UserError: There are several.
    """
    found = sorted(models_dir.glob(f"{name}*_best.pth"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{models_dir} has several detectors of {of}: {names}. Keep one there, or {otherwise}.")
    return found[0] if found else None


def versions() -> dict[str, str]:
    """Versions of what shaped the weights."""
    packages = ("torch", "timm", "segmentation-models-pytorch", "albumentations", "opencv-python-headless", "pillow")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}

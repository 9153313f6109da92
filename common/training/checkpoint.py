"""Writing and reading of checkpoints: atomically, and without running code that a file contains."""

import importlib.metadata
import json
import math
import platform
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from common.errors import UserError, first_line
from common.files import entries, written_whole

REQUIRED_KEYS = (
    *("model_state_dict", "epoch", "best_dice", "config", "config.in_channels", "metrics", "threshold", "calibration"),
)
"""Those of a segmentation member's checkpoint; after a dot, of its configuration."""


SETTINGS = ("config", "threshold", "calibration")
"""Entries of a checkpoint whose numbers decide, and must be finite."""

PLACES = ("data_dir", "models_dir", "cache_dir")
"""Fields of a configuration that name folders of the machine it was trained on: they are not handed on."""


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors and plain types, whole or not at all."""
    with written_whole(path, "wb") as file:
        torch.save(checkpoint, file)


def save_release(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the compact form of a checkpoint, for networks that are handed on: safetensors, whole or not at all.

    The weights are rounded to half precision; all else but the optimiser's state and the `PLACES` is JSON in the file's
    header, under `checkpoint`. Counters of integers stay what they are.

    Raises:
        UserError: A weight is beyond the range of half precision.
    """
    weights = {}
    for name, value in checkpoint["model_state_dict"].items():
        half = value.half() if value.is_floating_point() else value
        if not half.isfinite().all():
            raise UserError(f"{path} can't be written: {name} is beyond the range of half precision.")
        weights[name] = half.contiguous()
    rest = {key: value for key, value in checkpoint.items() if not key.endswith("_state_dict")}
    rest["config"] = {name: value for name, value in rest["config"].items() if name not in PLACES}
    with written_whole(path, "wb") as file:
        file.write(save(weights, {"checkpoint": json.dumps(rest), "crc32": str(_crc32(weights))}))


def load_checkpoint(path: Path, required: Iterable[str] = REQUIRED_KEYS, *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU, one of `save_release` (`.safetensors`) too: tensors and plain types only.

    Args:
        path: Of the file.
        required: The keys that it must have; `config.<field>` is a field of its configuration.
        mapped: Map the file instead of reading it, so that what is never used, such as the optimiser's state, takes no
            memory. The caller must drop the tensors before the file may change.

    Raises:
        UserError: The file is missing, is broken (checksums are verified), contains anything but plain types, lacks a
            required key, or has a weight or setting that is not finite.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        if path.suffix == ".safetensors":
            checkpoint = _read_release(path)
        else:
            _verify(path)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:  # torch's message tells how to run what the file holds
        raise UserError(
            f"{path} holds more than weights and plain values, or is damaged: it could run code, and is not loaded. "
            "Train it again, or ask whoever made it for a .safetensors file."
        ) from error
    except Exception as error:  # truncated zip, no torch file: each raises its own kind
        again = "Restore the file." if path.suffix == ".safetensors" else "Train it again."
        raise UserError(f"{path} can't be read as a checkpoint ({first_line(error)}). {again}") from error
    known = checkpoint if isinstance(checkpoint, dict) else {}
    config = known["config"] if isinstance(known.get("config"), dict) else {}
    present = known.keys() | {f"config.{field}" for field in config}
    if missing := [key for key in required if key not in present]:
        lacking = f"it lacks {', '.join(missing)}"
        if "name" in config:
            raise UserError(f"{path} is a checkpoint of {config['name']}, not of the kind needed here: {lacking}.")
        raise UserError(f"{path} is no checkpoint of this project, or not of the kind needed here: {lacking}.")
    weights = checkpoint.get("model_state_dict", {})
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} can't be read as a checkpoint (its weights are no names and tensors). Train it again.")
    for name, value in weights.items():
        if not value.isfinite().all():
            raise UserError(f"{path} holds weights that are not finite ({name}). Train it again.")
    for name in SETTINGS:
        if not _is_finite(checkpoint.get(name)):
            raise UserError(f"{path} has a {name} that is not finite. Train it again.")
    if "folds" in config and "seed" in config:
        config.setdefault("fold_seed", config["seed"])  # one seed was for both, before they were told apart
    return checkpoint


def _verify(path: Path) -> None:
    """Raise where the bytes of an archive are not those that were written: torch does not check them.

    Files in the format before archives have no checksums.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")


def _crc32(weights: dict[str, Tensor]) -> int:
    """Checksum of the weights' bytes, by name."""
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].numpy().tobytes(), checksum)
    return checksum


def _is_finite(value: Any) -> bool:
    """Whether all numbers in plain values are finite."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _read_release(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        checkpoint = json.loads(header["checkpoint"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    if "crc32" in header and header["crc32"] != str(_crc32(weights)):  # early releases have none
        raise ValueError("the checksum of the weights is wrong")
    single = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    return checkpoint | {"model_state_dict": single}


def find_checkpoint(models_dir: Path, name: str, of: str, otherwise: str) -> Path | None:
    """The one checkpoint `<name>*_best.pth` in a folder; None where there is none.

    Args:
        models_dir: The folder.
        name: Beginning of the file's name.
        of: What the network detects, for the message.
        otherwise: What the user can do besides keeping one, for the message.

    Raises:
        UserError: There are several.
    """
    found = [path for path in entries(models_dir) if path.name.startswith(name) and path.name.endswith("_best.pth")]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{models_dir} has several detectors of {of}: {names}. Keep one there, or {otherwise}.")
    return found[0] if found else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the weights."""
    packages = ("torch", "timm", "segmentation-models-pytorch", "albumentations", "opencv-python-headless", "pillow")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}

"""Reading of state dicts from files without running code that a file contains."""

from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError, first_line

WRAPPERS = ("model_state_dict", "state_dict", "model", "model_ema", "state_dict_ema", "net")
"""Names under which training programs keep the weights, beside the optimiser's state and the like."""


def read_state_dict(path: Path, hint: str = "") -> dict[str, Tensor]:
    """Read names and tensors to the CPU: the file itself, or the first of its entries in `WRAPPERS`.

    Objects of other classes in a training checkpoint, such as some project's own configuration, are read as empty
    placeholders.

    Args:
        path: Of safetensors (`.safetensors`) or of `torch.save` (any other name).
        hint: What the user can do, appended to "no such file."

    Raises:
        UserError: The file is missing, is broken, refers to functions of the operating system, or has no state dict.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. {hint}".rstrip())
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} can't be read as a state dict ({first_line(error)}).") from error
    except Exception as error:  # pickle's UnpicklingError has no common base
        raise UserError(f"{path} is no file of plain tensors ({first_line(error)}).") from error
    if isinstance(weights, dict):
        weights = next((weights[key] for key in WRAPPERS if isinstance(weights.get(key), dict)), weights)
    if not isinstance(weights, dict) or not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no state dict (names and tensors).")
    return weights


def _load(path: Path) -> object:
    try:
        return torch.load(path, "cpu", weights_only=True)
    except UnpicklingError:
        # torch's restricted unpickler again, which imports nothing: unknown names become placeholders.
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Placeholder, name) for name in names]):
            return torch.load(path, "cpu", weights_only=True)


class _Placeholder:
    """Placeholder of any class or function that a file names: accepts all arguments and states, and does nothing."""

    def __new__(cls, *args: object) -> object:
        # An object made without arguments may be of a subclass of dict, filled afterwards; torch fills plain ones only.
        return super().__new__(cls) if args else OrderedDict()

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

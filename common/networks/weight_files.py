"""State dicts from files, read without running any code that a file brings along."""

from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError


def read_state_dict(path: Path, hint: str = "") -> dict[str, Tensor]:
    """Read names and tensors to the CPU: the file itself, or its entry `state_dict` or `model`.

    A training checkpoint may hold other things beside them, such as a configuration of some project's own class;
    they are read as empty shells of no class.

    Args:
        path: Of safetensors (`.safetensors`) or of `torch.save` (any other name).
        hint: What else the user may give, appended to "no such file."

    Raises:
        UserError: The file is missing, broken, refers to functions of the operating system, or holds no state dict.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. {hint}".rstrip())
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} can't be read as a state dict ({first_line(error)}).") from error
    except Exception as error:  # pickle's UnpicklingError is of no common kind
        raise UserError(f"{path} is no file of plain tensors ({first_line(error)}).") from error
    if isinstance(weights, dict):
        weights = next((weights[key] for key in ("state_dict", "model") if isinstance(weights.get(key), dict)), weights)
    if not isinstance(weights, dict) or not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no state dict (names and tensors).")
    return weights


def first_line(error: Exception) -> str:
    """The error's message in one line, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _load(path: Path) -> object:
    try:
        return torch.load(path, "cpu", weights_only=True)
    except UnpicklingError:
        # torch's restricted unpickler again, which imports nothing: the names that it doesn't know mean shells.
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Shell, name) for name in names]):
            return torch.load(path, "cpu", weights_only=True)


class _Shell:
    """Stands for whatever class or function a file names: takes any arguments and any state, and does nothing."""

    def __new__(cls, *args: object) -> object:
        # What is made of no arguments may be a dictionary of its own class, filled afterwards; torch fills plain ones.
        return super().__new__(cls) if args else OrderedDict()

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

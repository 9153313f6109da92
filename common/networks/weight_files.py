"""State dicts: reading from files without running code that a file contains, and the networks that they fit."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import UserError, first_line

Network = TypeVar("Network", bound=nn.Module)
LARGEST = 4096
"""Width, side or number of layers of a network; those that exist are below."""
WRAPPERS = ("model_state_dict", "state_dict", "model", "model_ema", "state_dict_ema", "net")
"""Names under which training programs keep the weights, beside the optimiser's state and the like."""


def build_fitting(
    build: Callable[[], Network], sizes: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
) -> Network:
    """Build the network that a file describes, if the file's own weights have its shapes.

    It is built without memory first: a wrong or hostile description may be of any size. Names that only the network or
    only the file has are left to the caller, who loads the weights.

    Args:
        build: Builds the network from `sizes`.
        sizes: The file's description of the network, by argument.
        weights: Of the file.
        path: The file, for the message.

    Raises:
        UserError: There is no such network, or its weights have other shapes.
    """
    large = [name for name, value in sizes.items() if isinstance(value, int) and value > LARGEST]
    if large:  # it would take minutes even without memory
        raise UserError(f"{path}: no network can be built from its config ({large[0]} is {sizes[large[0]]}).")
    try:
        try:
            with torch.device("meta"):
                wanted = build().state_dict()
        except Exception as error:
            if "meta tensor" not in str(error):
                raise
            wanted = build().state_dict()  # an encoder that reads values while it is built
    except Exception as error:  # a configuration of any values
        raise UserError(f"{path}: no network can be built from its config ({first_line(error)}).") from error
    both = wanted.keys() & weights.keys()
    if other := sorted(name for name in both if wanted[name].shape != weights[name].shape):
        raise UserError(f"{path}: the weights do not fit the network of its config ({other[0]} is of another shape).")
    if sum(wanted[name].numel() for name in wanted.keys() - both) > sum(weights[name].numel() for name in both):
        raise UserError(f"{path}: the weights do not fit the network of its config (most are missing).")
    return build()


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
    except Exception as error:  # whose message, of torch, tells how to run what the file holds
        raise UserError(f"{path} is no file of plain tensors: it is damaged, or could run code.") from error
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

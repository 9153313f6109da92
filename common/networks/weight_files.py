"""State dicts: reading from files without running code that a file contains, and the networks that they fit."""

import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BytesIO
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


def load_fitting(
    build: Callable[[], Network], sizes: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
) -> Network:
    """Build the network that a file describes (`build_fitting`) and load all of its weights; in evaluation mode.

    Raises:
        UserError: As `build_fitting`; or the weights have other names.
    """
    network = build_fitting(build, sizes, weights, path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the network of its config ({error!s:.300}).") from error
    return network.eval()


def read_state_dict(path: Path, hint: str = "") -> dict[str, Tensor]:
    """Read names and tensors to the CPU: the file itself, or the first of its entries in `WRAPPERS`.

    Objects of other classes in a training checkpoint, such as some project's own configuration, are read as empty
    placeholders. Of a TorchScript archive, in which OpenAI publishes CLIP, the tensors are read and the code is not.

    Args:
        path: Of safetensors (`.safetensors`), of `torch.save` or of `torch.jit.save` (any other name).
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
    if (script := _script_tensors(path)) is not None:
        return script
    try:
        return torch.load(path, "cpu", weights_only=True)
    except UnpicklingError:
        return _read_with(path, _Placeholder)


def _read_with(file: Path | BytesIO, stand_in: type) -> object:
    """Read by torch's restricted unpickler, which imports nothing; objects of unknown classes become `stand_in`s."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    if isinstance(file, BytesIO):
        file.seek(0)
    with torch.serialization.safe_globals([(stand_in, name) for name in names]):
        return torch.load(file, "cpu", weights_only=True)


def _script_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a TorchScript archive under the names of its modules; None of any other file.

    torch refuses such an archive in its restricted mode because of the code in it. What is read here is a copy without
    code: the pickle, which holds the tree of modules, and the tensors.
    """
    if not zipfile.is_zipfile(path):
        return None
    data = BytesIO()
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return None
        with zipfile.ZipFile(data, "w") as copy:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if name in ("data.pkl", "version", "byteorder") or name.startswith("data/"):
                    if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses these: they could be huge
                        raise ValueError(f"{entry.filename} is compressed")
                    copy.writestr(entry.filename, archive.read(entry))
    data.seek(0)
    tensors, waiting, seen = {}, [("", _read_with(data, _ScriptModule))], set()
    while waiting:
        prefix, module = waiting.pop()
        if isinstance(module, Tensor):
            tensors[prefix.removesuffix(".")] = module
        elif isinstance(module, _ScriptModule) and id(module) not in seen:
            seen.add(id(module))
            waiting += [(f"{prefix}{name}.", value) for name, value in module.attributes.items()]
    return tensors


class _ScriptModule:
    """A module of a TorchScript archive: its parameters, its parts and its settings by name, without its code."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Placeholder:
    """Placeholder of any class or function that a file names: accepts all arguments and states, and does nothing."""

    def __new__(cls, *args: object) -> object:
        # An object made without arguments may be of a subclass of dict, filled afterwards; torch fills plain ones only.
        return super().__new__(cls) if args else OrderedDict()

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

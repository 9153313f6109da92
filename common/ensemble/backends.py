"""Networks run by ONNX Runtime instead of torch: exported, checked against torch, and kept beside their checkpoints.

On CPUs ONNX Runtime is 1.3 times as fast (docs/LOG.md). The exported graph includes scaling and normalisation, as the
network does: it takes uint8 (N, C, S, S) and returns logits (N, 1, S, S), for any N.
"""

import functools
import importlib.util
import io
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from common.ensemble.choices import Backend
from common.ensemble.views import Network
from common.errors import UserError
from common.files import written_whole
from common.networks.segmentation import load_network

TOLERANCE = 1e-3
"""Largest accepted difference of an export's probabilities to torch's. Usual is 1e-5; above this something is broken.
"""
BREAK_EVEN = 25_000_000
"""Pixels of a network's input from which `auto` exports it: that takes a second or two for the quick network and five
for FPN-B2, and is made up for by 380 images of 256² or 95 of 512²."""
FORMAT = 1
"""Part of the kept files' names: to be raised when the export of the same checkpoint changes."""


class Export(NamedTuple):
    """A network in ONNX Runtime."""

    network: Network
    difference: float
    """Largest difference of its probabilities to torch's, in [0, 1]."""
    path: Path | None
    """Where it was kept; None where that folder can't be written."""


class OnnxNetwork:
    """Logits by ONNX Runtime, on the CPU."""

    def __init__(self, model: bytes | str, threads: int | None = None) -> None:
        """Load a model or its file, to be run by so many threads, by default as many as torch has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # As in common.process: threads that spin collapse beside a busy neighbour.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # one for each member would hold several times the memory of one
        options.log_severity_level = 3  # errors; its warnings are about its own optimisations
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, 1, S, S) of images (N, C, S, S) uint8."""
        pixels = np.ascontiguousarray(images.cpu().numpy())
        return torch.from_numpy(self._session.run(None, {"images": pixels})[0])


def choose_backend(
    backend: Backend, device: torch.device, checkpoints: Sequence[Path], pixels: float
) -> tuple[Backend, str]:
    """The backend that `auto` stands for, and the reason; any other is returned as it is.

    Args:
        backend: The requested one.
        device: Where the networks are to run.
        checkpoints: Their files.
        pixels: How many each will be applied to: images · S².

    Raises:
        UserError: The requested runtime is not installed.
    """
    if backend == "onnxruntime":
        _require_packages()
    if backend != "auto":
        return backend, "as requested"
    if device.type != "cpu":
        return "torch", f"on {device.type}"
    if missing := _missing_packages():
        return "torch", f"not installed: {', '.join(missing)} (pip install {' '.join(missing)})"
    if all(kept_path(path).is_file() for path in checkpoints):
        return "onnxruntime", "these networks are exported already"
    if pixels >= BREAK_EVEN:
        return "onnxruntime", "for so many images the export pays"
    return "torch", "too few images for the export to pay"


def load_with(
    backend: Backend,
    path: Path,
    checkpoint: dict[str, Any],
    *,
    fall_back: bool = False,
    threads: int | None = None,
) -> Network:
    """The network of a checkpoint for a backend: for ONNX Runtime the kept export, or a new one.

    Args:
        backend: Any but `auto`.
        path: The checkpoint's file.
        checkpoint: Its content.
        fall_back: Use torch for what ONNX Runtime can't run, with a printed note.
        threads: Of ONNX Runtime, for each network; by default as many as torch has.

    Raises:
        UserError: ONNX Runtime is not installed, can't run this network, or disagrees with torch.
    """
    if backend == "onnxruntime":
        try:
            return _load_export(path, checkpoint, threads)
        except UserError as error:
            if not fall_back:
                raise
            print(f"note: torch runs {path.name}: {error}")
    return load_network(checkpoint, path)


def _load_export(path: Path, checkpoint: dict[str, Any], threads: int | None) -> Network:
    _require_packages()
    kept = kept_path(path)
    if kept.is_file():
        try:
            return OnnxNetwork(str(kept), threads)
        except Exception as error:  # of another version, or broken: ONNX Runtime has errors of many kinds
            print(f"note: {kept} can't be read and is exported again ({_line(error)})")
    exported = export(path, checkpoint, kept.parent, threads)
    if exported.path is None:
        _print_once(f"note: {kept.parent} can't be written: the networks are exported again at every start")
    return exported.network


def export(path: Path, checkpoint: dict[str, Any], folder: Path, threads: int | None = None) -> Export:
    """Export the network of a checkpoint, check it, and write it to a folder, from which its stale exports are removed.

    Raises:
        UserError: As `load_with`.
    """
    _require_packages()
    network, config = load_network(checkpoint, path), checkpoint["config"]
    channels, size = config["in_channels"], config["image_size"]
    try:
        model = to_onnx(network, channels, size)
        exported = OnnxNetwork(model, threads)
        difference = largest_difference(network, exported, channels, size)
    except Exception as error:  # an operation that the exporter or the runtime does not know
        raise UserError(f"{path} can't be run by ONNX Runtime ({_line(error)}). Use the backend torch.") from error
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: ONNX Runtime differs from torch by {difference:.2g} in a probability, more than {TOLERANCE:g}. "
            "Use the backend torch."
        )
    kept = folder / kept_path(path).name
    try:
        with written_whole(kept, "wb") as file:
            file.write(model)
    except (OSError, UserError):
        return Export(exported, difference, None)
    for stale in folder.glob(f"{_name(path)}-{'[0-9a-f]' * 8}.*"):
        if stale.stem != kept.stem:
            stale.unlink(missing_ok=True)
    return Export(exported, difference, kept)


def kept_path(path: Path) -> Path:
    """Where the export of a checkpoint is kept: exported/<name>-<digest>.onnx beside it."""
    if path.suffix == ".safetensors":
        parts: Any = zlib.crc32(path.read_bytes())
    else:  # a zip archive, which has checksums of its parts
        with zipfile.ZipFile(path) as archive:
            parts = sorted((part.filename, part.CRC, part.file_size) for part in archive.infolist())
    digest = zlib.crc32(repr((FORMAT, parts)).encode())
    return path.parent / "exported" / f"{_name(path)}-{digest:08x}.onnx"


def to_onnx(network: torch.nn.Module, channels: int, size: int) -> bytes:
    """A network in evaluation mode as an ONNX model from `images` to `logits`, for any number of images."""
    buffer = io.BytesIO()
    example = torch.zeros((1, channels, size, size), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # By TorchScript, though it is the old way: torch.export takes 25 times as long for the same graph (13 s
        # for the quick network), and prints.
        torch.onnx.export(
            network,
            (example,),
            buffer,  # pyrefly: ignore[bad-argument-type]  (its stub forgets buffers)
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
        )
    return buffer.getvalue()


@torch.inference_mode()
def largest_difference(network: Network, other: Network, channels: int, size: int) -> float:
    """Largest difference between two networks' probabilities, for noise and a smooth image, one and two at a time."""
    both = probes(channels, size)
    differences = [
        (torch.sigmoid(network(images)) - torch.sigmoid(other(images))).abs().max() for images in (both[1:], both)
    ]
    return torch.stack(differences).max().item()  # nan if any is


def probes(channels: int, size: int) -> Tensor:
    """Noise and a smooth image, uint8 (2, channels, size, size)."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (channels, size, size), dtype=np.uint8)
    coarse = rng.integers(0, 256, (channels, 8, 8), dtype=np.uint8)
    smooth = np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_CUBIC) for plane in coarse])
    return torch.from_numpy(np.stack([noise, smooth]))


def _missing_packages() -> list[str]:
    """Of ONNX Runtime and onnx, by which torch exports."""
    return [name for name in ("onnxruntime", "onnx") if importlib.util.find_spec(name) is None]


def _require_packages() -> None:
    if missing := _missing_packages():
        raise UserError(
            f"the backend onnxruntime needs {' and '.join(missing)}: pip install {' '.join(missing)}. Or use the "
            "backend torch."
        )


def _name(path: Path) -> str:
    return path.stem.removesuffix("_best")


def _line(error: Exception) -> str:
    """The first line of an error, of at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@functools.cache
def _print_once(text: str) -> None:
    print(text)

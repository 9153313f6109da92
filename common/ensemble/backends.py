"""Networks by other runtimes than torch: exported to ONNX, checked against torch, kept beside their checkpoints.

On CPUs OpenVINO and ONNX Runtime are up to twice as fast (docs/LOG.md). Scaling and normalisation are in the exported
graph, as they are in the network: it takes uint8 (N, C, S, S) and gives logits (N, 1, S, S), for any N.
"""

import functools
import importlib.util
import io
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from common.ensemble.views import Network
from common.errors import UserError
from common.networks.segmentation import load_network

Backend = Literal["auto", "torch", "openvino", "onnxruntime"]

TOLERANCE = 1e-3
"""Of an export's probabilities, beside torch's. What is usual is 1e-5; with more than this something is broken."""
BREAK_EVEN = 25_000_000
"""Pixels of a network's input from which `auto` converts it: what that takes, a second or two for the quick network and
five for FPN-B2, is saved again by 380 images of 256² or 95 of 512²."""
FORMAT = 1
"""Part of the kept files' names: raised when what is exported of the same checkpoint changes."""


class Export(NamedTuple):
    """A network that another runtime runs."""

    network: Network
    difference: float
    """Largest difference of its probabilities to torch's, in [0, 1]."""
    path: Path | None
    """Where it was kept; None where that folder can't be written."""


def choose_backend(
    backend: Backend, device: torch.device, checkpoints: Sequence[Path], pixels: float
) -> tuple[Backend, str]:
    """Which runtime `auto` stands for, and why; any other is returned as it is.

    Args:
        backend: What was asked for.
        device: Where the networks are to run.
        checkpoints: Their files.
        pixels: How many each will look at: images · S².

    Raises:
        UserError: The runtime that was asked for is not installed.
    """
    if backend != "auto":
        _require(backend)
        return backend, "as asked"
    if device.type != "cpu":
        return "torch", f"on {device.type}"
    installed = [name for name in RUNTIMES if not _missing(name)]
    if not installed:
        return "torch", "neither OpenVINO nor ONNX Runtime is installed (pip install openvino onnx)"
    for name in installed:
        if all(kept_path(path, name).is_file() for path in checkpoints):
            return name, "these networks are converted already"
    if pixels >= BREAK_EVEN:
        return installed[0], "for so many images the conversion pays"
    return "torch", f"too few images to convert the networks for them (--backend {installed[0]} does)"


def load_by(
    backend: Backend, path: Path, checkpoint: dict[str, Any], or_torch: bool = False, threads: int | None = None
) -> Network:
    """The network of a checkpoint, run by torch, or on the CPU by another runtime: as it was kept, or exported now.

    Args:
        backend: Any but `auto`.
        path: Of the checkpoint's file.
        checkpoint: What it holds.
        or_torch: Let torch run what the other runtime can't, with a printed note.
        threads: Of another runtime, for each of its networks; by default as many as torch has.

    Raises:
        UserError: The runtime is not installed, can't run this network, or gives something else than torch.
    """
    if backend != "torch":
        try:
            return load_exported(path, checkpoint, backend, threads)
        except UserError as error:
            if not or_torch:
                raise
            print(f"note: torch runs {path.name}: {error}")
    return load_network(checkpoint, path)


def load_exported(path: Path, checkpoint: dict[str, Any], backend: Backend, threads: int | None = None) -> Network:
    """The network of a checkpoint by another runtime than torch (see `load_by`)."""
    _require(backend)
    kept = kept_path(path, backend)
    if kept.is_file():
        try:
            return RUNTIMES[backend].open(kept, threads)
        except Exception as error:  # of another version, or broken: each runtime raises its own kind
            print(f"note: {kept} can't be read and is made again ({_line(error)})")
    exported = export(path, checkpoint, backend, kept.parent, threads)
    if exported.path is None:
        _note(f"{kept.parent} can't be written: the networks are converted again at every start")
    return exported.network


def export(
    path: Path, checkpoint: dict[str, Any], backend: Backend, folder: Path, threads: int | None = None
) -> Export:
    """Convert the network of a checkpoint, check it, and keep it in a folder, where its stale exports are removed.

    Raises:
        UserError: As `load_by`.
    """
    _require(backend)
    network, config = load_network(checkpoint, path), checkpoint["config"]
    channels, size = config["in_channels"], config["image_size"]
    runtime = RUNTIMES[backend]
    try:
        model = runtime.convert(to_onnx(network, channels, size))
        exported = runtime.open(model, threads)
        difference = largest_difference(network, exported, channels, size)
    except Exception as error:  # an operation that the exporter or the runtime does not know
        raise UserError(f"{path} can't be run by {backend} ({_line(error)}). Use --backend torch.") from error
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: {backend} differs from torch by {difference:.2g} in a probability, more than {TOLERANCE:g}. Use "
            "--backend torch."
        )
    kept = folder / kept_path(path, backend).name
    try:
        _keep(model, runtime, kept)
    except (OSError, RuntimeError):  # OpenVINO's of a disk that is full
        return Export(exported, difference, None)
    return Export(exported, difference, kept)


def kept_path(path: Path, backend: Backend) -> Path:
    """Where the export of a checkpoint is kept: exported/<name>-<digest> beside it."""
    return path.parent / "exported" / f"{_name(path)}-{_digest(path)}{RUNTIMES[backend].suffix}"


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
            buffer,
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
        )
    return buffer.getvalue()


@torch.inference_mode()
def largest_difference(network: Network, other: Network, channels: int, size: int) -> float:
    """Largest difference between two networks' probabilities, of noise and of a smooth image, one and two at a time."""
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


class _OpenVino:
    """Logits by OpenVINO, in float32."""

    def __init__(self, model: Any, threads: int | None) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 or float16 where the processor has it
            "PERFORMANCE_HINT": "LATENCY",  # two batches at once are no faster, and take twice the memory
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
        }
        self._compiled = _openvino().Core().compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._lock = Lock()

    def __call__(self, images: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(images.cpu().numpy())
        with self._lock:  # a thread may look at the next image already
            logits = self._request.infer([pixels], share_inputs=True)[0]
            self._compiled.release_memory()  # the next member's network needs as much; it costs no time
        return torch.from_numpy(logits)


class _OnnxRuntime:
    """Logits by ONNX Runtime, on the CPU."""

    def __init__(self, model: bytes | str, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # As in common.process: threads that spin collapse beside a busy neighbour.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # one for each member would hold several times the memory of one
        options.log_severity_level = 3  # errors; its warnings are about its own optimisations
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(images.cpu().numpy())
        return torch.from_numpy(self._session.run(None, {"images": pixels})[0])


def _openvino() -> Any:
    # Without its telemetry, which reports to a server: OpenVINO takes a stub that does nothing where it is missing.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


class Runtime(NamedTuple):
    """How a runtime takes and keeps a network."""

    package: str
    suffix: str
    convert: Callable[[bytes], Any]
    """From ONNX to what it runs and writes."""
    open: Callable[[Any, int | None], Network]
    """Such a model, or the path of a kept one; the threads of it, or None for as many as torch has."""
    write: Callable[[Any, Path], None]


RUNTIMES: dict[Backend, Runtime] = {
    "openvino": Runtime(
        package="openvino",
        suffix=".xml",  # and .bin
        convert=lambda onnx: _openvino().Core().read_model(onnx),
        open=lambda model, threads: _OpenVino(model, threads),
        write=lambda model, path: _openvino().save_model(model, path, compress_to_fp16=False),
    ),
    "onnxruntime": Runtime(
        package="onnxruntime",
        suffix=".onnx",
        convert=lambda onnx: onnx,
        open=lambda model, threads: _OnnxRuntime(model, threads),
        write=lambda model, path: path.write_bytes(model),
    ),
}
"""The one that `auto` prefers first."""


def _require(backend: Backend) -> None:
    if backend in RUNTIMES and (missing := _missing(backend)):
        names, packages = " and ".join(missing), " ".join(missing)
        raise UserError(f"--backend {backend} needs {names}: pip install {packages}. Or use --backend torch.")


def _missing(backend: Backend) -> list[str]:
    """What is not installed of the runtime's package and of onnx, by which torch exports."""
    return [name for name in (RUNTIMES[backend].package, "onnx") if importlib.util.find_spec(name) is None]


def _keep(model: Any, runtime: Runtime, path: Path) -> None:
    """Write a model whole: its main file appears last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem.rsplit("-", 1)[0]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as temporary:
        runtime.write(model, Path(temporary) / path.name)
        for file in sorted(Path(temporary).iterdir()):
            file.replace(path.parent / file.name)
    for stale in path.parent.glob(f"{stem}-{'[0-9a-f]' * 8}.*"):
        if stale.stem != path.stem:
            stale.unlink(missing_ok=True)


def _name(path: Path) -> str:
    return path.stem.removesuffix("_best")


def _digest(path: Path) -> str:
    """Of a checkpoint's content: of the checksums that the zip archive, which it is, keeps of its parts."""
    with zipfile.ZipFile(path) as archive:
        parts = sorted((part.filename, part.CRC, part.file_size) for part in archive.infolist())
    return f"{zlib.crc32(repr((FORMAT, parts)).encode()):08x}"


def _line(error: Exception) -> str:
    """The first line of an error, of at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@functools.cache
def _note(text: str) -> None:
    """Print a note once."""
    print(f"note: {text}")

"""Export the ensemble's networks for other runtimes, each checked against torch.

    python export_models.py --models-dir models
    python export_models.py --models-dir models --format onnx --output exported

A network takes `images`, uint8 (N, C, S, S) for any N, RGB first, and gives `logits`, float32 (N, 1, S, S): scaling and
normalisation are inside. Its fourth channel, where it has one, is `common.forensics.ela.error_level`. How images are
resized and cut, and what becomes of the maps, is in `common.inference`.

By default the files go where make_submission.py looks for them, exported/ beside the checkpoints: its first run with
--backend openvino (or onnxruntime) then starts without converting. Needs: pip install openvino onnx.
"""

from common.process import prepare

prepare()  # before torch is imported

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common.ensemble.backends import Backend, export, kept_path
from common.ensemble.members import checkpoint_paths
from common.errors import UserError
from common.tables import markdown_table
from common.training.checkpoint import load_checkpoint

RUNTIMES: dict[str, Backend] = {"openvino": "openvino", "onnx": "onnxruntime"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, as what, and where to."""

    models_dir: Path = Path("models")
    """Where the checkpoints are. Those in its folders fold_* are exported too."""
    format: Literal["openvino", "onnx"] = "openvino"
    """openvino: .xml and .bin; onnx: .onnx, checked by ONNX Runtime."""
    output: Path | None = None
    """Folder for the files, with the same subfolders; by default exported/ beside each checkpoint."""


def main(config: ExportConfig) -> None:
    """Export each network, check it, print the table."""
    paths = checkpoint_paths(config.models_dir)
    if not paths:
        raise UserError(f"{config.models_dir} has no trained network. Train one, or name another --models-dir.")
    backend, rows = RUNTIMES[config.format], []
    for path in paths:
        kept = kept_path(path, backend)
        own = path.parent.relative_to(config.models_dir)
        folder = kept.parent if config.output is None else config.output / own
        start = time.perf_counter()
        made = export(path, load_checkpoint(path, mapped=True), backend, folder)
        seconds = time.perf_counter() - start
        if made.path is None:
            raise UserError(f"{folder} can't be written. Name another --output.")
        files = [made.path, made.path.with_suffix(".bin")] if config.format == "openvino" else [made.path]
        size = sum(file.stat().st_size for file in files)
        name = (own / path.stem.removesuffix("_best")).as_posix()
        rows.append([name, config.format, f"{size / 1e6:.1f}", f"{seconds:.1f}", f"{made.difference:.1e}", made.path])
    print(markdown_table(["name", "format", "MB", "seconds", "max difference", "file"], rows))


if __name__ == "__main__":
    main(tyro.cli(ExportConfig, description=__doc__))

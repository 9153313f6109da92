"""Export the ensemble's networks to ONNX, each checked against torch.

    python export_models.py --models-dir models
    python export_models.py --models-dir models --output exported

A network takes `images`, uint8 (N, C, S, S) for any N, RGB first, and returns `logits`, float32 (N, 1, S, S): scaling
and normalisation are inside. A fourth channel is `common.forensics.ela.error_level`. How images are resized and cut to
tiles, and how the maps are blended, is in `common/ensemble/views.py` and `blending.py`.

By default the files are written to exported/ beside the checkpoints, where make_submission.py --backend onnxruntime
finds them. Needs: pip install onnxruntime onnx.
"""

from common.process import prepare

prepare()  # before torch is imported

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.errors import UserError
from common.tables import markdown_table


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The networks to export, and the folder to write to."""

    models_dir: Path = Path("models")
    """Folder of the checkpoints. Those in its folders fold_* are exported too."""
    output: Path | None = None
    """Folder for the .onnx files, with the same subfolders; by default exported/ beside each checkpoint."""


def main(config: ExportConfig) -> None:
    """Export each network, check it, print the table."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.ensemble.backends import export, kept_path
    from common.ensemble.members import checkpoint_paths
    from common.training.checkpoint import load_checkpoint

    paths = checkpoint_paths(config.models_dir)
    if not paths:
        raise UserError(f"{config.models_dir} has no trained network. Train one, or name another --models-dir.")
    rows = []
    for path in paths:
        own = path.parent.relative_to(config.models_dir)
        folder = kept_path(path).parent if config.output is None else config.output / own
        start = time.perf_counter()
        made = export(path, load_checkpoint(path, mapped=True), folder)
        seconds = time.perf_counter() - start
        if made.path is None:
            raise UserError(f"{folder} can't be written. Name another --output.")
        name, size = (own / path.stem.removesuffix("_best")).as_posix(), made.path.stat().st_size
        rows.append([name, f"{size / 1e6:.1f}", f"{seconds:.1f}", f"{made.difference:.1e}", str(made.path)])
    print(markdown_table(["name", "MB", "seconds", "max difference", "file"], rows))


if __name__ == "__main__":
    main(tyro.cli(ExportConfig, description=__doc__))

"""Export the ensemble's networks: to ONNX, each checked against torch, or as compact checkpoints to hand on.

    python export_models.py --models-dir models
    python export_models.py --models-dir models --output exported
    python export_models.py --models-dir models --format safetensors --output models/release

A network takes `images`, uint8 (N, C, S, S) for any N, RGB first, and returns `logits`, float32 (N, 1, S, S): scaling
and normalisation are inside. A fourth channel is `common.forensics.ela.error_level`. How images are resized and cut to
tiles, and how the maps are blended, is in `common/ensemble/views.py` and `blending.py`.

ONNX. By default the files are written to exported/ beside the checkpoints, where make_submission.py --backend
onnxruntime finds them. Needs: pip install onnxruntime onnx.

Safetensors. <name>.safetensors holds the weights in half precision and all else of the checkpoint, but the optimiser's
state, in its header; an ensemble.json that was fitted for these checkpoints goes with them. make_submission.py and
explain.py take such a folder as --models-dir, and read models/release where nothing else is trained.
"""

from common.process import prepare

prepare()  # before torch is imported

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from common.errors import UserError
from common.files import check_writable, files_below
from common.locks import hold, locks_end
from common.tables import markdown_table


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The networks to export, and the folder to write to."""

    models_dir: Path = Path("models")
    """Folder of the checkpoints. Those in its folders fold_* are exported too."""
    output: Path | None = None
    """Folder for the files, with the same subfolders; by default for ONNX exported/ beside each checkpoint."""
    format: Literal["onnx", "safetensors"] = "onnx"
    """Form of the exported networks."""


@locks_end()
def main(config: ExportConfig) -> None:
    """Export the networks and print the table.

    Raises:
        UserError: There is no network, or the output is missing or can't be written.
    """
    if config.format == "safetensors":
        if config.output is None:
            raise UserError("--format safetensors needs a folder to write to: --output models/release")
        write_release(config.models_dir, config.output)
    else:
        write_onnx(config)


def write_release(models_dir: Path, output: Path) -> None:
    """Write compact checkpoints, and the fitted settings if they are those of these checkpoints."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.ensemble.members import COPY_MOVE, SETTINGS_FILE, checkpoint_paths, identities
    from common.ensemble.settings import Settings
    from common.training.checkpoint import load_checkpoint, save_release

    paths, rows, settings, copy_move = checkpoint_paths(models_dir), [], None, False
    if not paths:
        raise UserError(f"{models_dir} has no trained network. Train one, or name another --models-dir.")
    if (models_dir / SETTINGS_FILE).is_file():
        settings = Settings.load(models_dir / SETTINGS_FILE)
        copy_move = COPY_MOVE.name in settings.checkpoints
        if settings.decision.reads_generated:
            raise UserError("the decision reads script 7's detector, which is not exported. Fit with --no-generated.")
        if settings.changed_members(models_dir):
            raise UserError(f"{models_dir / SETTINGS_FILE} was fitted for other checkpoints. Fit again, or remove it.")
    targets = [
        output / path.parent.relative_to(models_dir) / f"{path.stem.removesuffix('_best')}.safetensors"
        for path in paths
    ]
    # What an earlier export left would join the ensemble.
    there = files_below(output) if output.exists() else []
    if foreign := [p for p in there if p.name.endswith((".safetensors", "_best.pth")) and p not in targets]:
        raise UserError(f"{output} holds other networks: {foreign[0]}. Name an empty folder, or remove them.")
    check_writable(output / SETTINGS_FILE)
    hold(output / SETTINGS_FILE)
    (output / SETTINGS_FILE).unlink(missing_ok=True)
    for path, target in zip(paths, targets, strict=True):
        save_release(load_checkpoint(path, mapped=True), target)
        rows.append([target.relative_to(output).as_posix(), f"{target.stat().st_size / 1e6:.1f}"])
    print(markdown_table(["file", "MB"], rows))
    if settings is None:
        print(f"without settings: fit them with fit_ensemble.py --models-dir {models_dir}, and export again")
        return
    replace(settings, checkpoints=identities(output, copy_move=copy_move)).save(output / SETTINGS_FILE)
    print(f"with the settings of {models_dir / SETTINGS_FILE}")


def write_onnx(config: ExportConfig) -> None:
    """Export each network to ONNX, check it, print the table."""
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
        checkpoint = load_checkpoint(path, mapped=True)  # checked before its kept place is read from it
        folder = kept_path(path).parent if config.output is None else config.output / own
        start = time.perf_counter()
        made = export(path, checkpoint, folder)
        seconds = time.perf_counter() - start
        if made.path is None:
            raise UserError(f"{folder} can't be written. Name another --output.")
        name, size = (own / path.stem.removesuffix("_best")).as_posix(), made.path.stat().st_size
        rows.append([name, f"{size / 1e6:.1f}", f"{seconds:.1f}", f"{made.difference:.1e}", str(made.path)])
    print(markdown_table(["name", "MB", "seconds", "max difference", "file"], rows))


if __name__ == "__main__":
    main(tyro.cli(ExportConfig, description=__doc__))

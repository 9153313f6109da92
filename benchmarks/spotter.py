"""Ablation of script 8: what attention, multi-scale features and the GRU each add to a plain classifier of frames.

    python -m benchmarks.spotter DATA --faces crops --encoder-weights mobilenet_v2_imagenet.pth
    python -m benchmarks.spotter DATA --faces crops --seeds 1 --epochs 3 --output outputs/trial

With the quick profile of script 8: `plain` is timm's encoder and a linear layer, the mean over a clip's frames; then
each part alone; and `spotter`, all of them. Each seed splits the clips in its own way, the same for all variants; they
are tested on the test split. Prints mean ± standard deviation over the seeds. OUTPUT keeps the checkpoints and results:
what is finished isn't repeated.
"""

from common.process import prepare

prepare()  # before torch is imported

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from common.files import write_json
from common.tables import markdown_table
from common.video.cache import ClipCache
from common.video.clips import Clip
from common.video.config import FaceKind, VideoConfig
from common.video.training import evaluate_spotter, load_clips, start_spotter, train_spotter

PARTS = ("attention", "multi_scale", "temporal")
VARIANTS = {
    "plain": (),
    "attention": ("attention",),
    "multi_scale": ("multi_scale",),
    "time": ("temporal",),
    "spotter": PARTS,
}
"""Name → the parts that are switched on."""
SHARED = ("faces", "encoder_weights", "epochs", "image_size", "frozen_epochs", "lr", "augment")
"""Options that are fields of script 8's configuration."""
FIGURES = {"auc": "AUC of clips", "frame_auc": "AUC of frames", "accuracy": "accuracy"}


QUICK = VideoConfig(name="spotter", tracker="none").quick()


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Which variants are trained, on what, and how."""

    data: tyro.conf.Positional[Path]
    """Folder of clips, as for script 8."""
    faces: FaceKind = "auto"
    """Face detector, as for script 8."""
    encoder_weights: str = "auto"
    """Weights of the encoder, as for script 8."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Variants to compare: plain, attention, multi_scale, time, spotter."""
    seeds: int = 3
    """Number of seeds, 1 or more; the first is 0."""
    epochs: int = QUICK.epochs
    """Passes over the training clips, 1 or more."""
    image_size: int = QUICK.image_size
    """Side of the face crops in pixels, 64 or more."""
    frozen_epochs: int = QUICK.frozen_epochs
    """Epochs at the start, below --epochs, in which the encoder does not train."""
    lr: float = QUICK.lr
    """Learning rate, above 0."""
    augment: bool = True
    """Augment the training clips."""
    output: Path = Path("outputs/spotter")
    """Folder for checkpoints and results."""


def main(ablation: Ablation) -> None:
    """Train and test what isn't yet, and print the table."""
    config = replace(
        QUICK,
        data_dir=ablation.data,
        models_dir=ablation.output,
        cache_dir=ablation.output / "cache",
        restart_epochs=ablation.epochs,
        **{name: getattr(ablation, name) for name in SHARED},
    )
    results = {name: [] for name in ablation.variants}
    for seed in range(ablation.seeds):
        clips, cache = load_clips(replace(config, seed=seed))
        for name in ablation.variants:
            parts = {part: part in VARIANTS[name] for part in PARTS}
            run = replace(config, name=f"{'_'.join(VARIANTS[name]) or 'plain'}_{seed}", seed=seed, **parts)
            results[name].append(_run(run, clips, cache))
    rows = []
    for name, found in results.items():
        figures = [[result[figure] for result in found] for figure in FIGURES]
        spread = (f"{np.mean(values):.3f} ± {np.std(values):.3f}" for values in figures)
        cost = np.mean([result["seconds"] for result in found])
        rows.append([name, *spread, f"{found[0]['parameters']:,}", f"{cost:.0f}"])
    print(markdown_table(["variant", *FIGURES.values(), "parameters", "seconds of training"], rows))


def _run(config: VideoConfig, clips: Sequence[Clip], cache: ClipCache) -> dict[str, float]:
    """The test's results for one variant and seed, trained or continued if there are none yet."""
    kept = config.models_dir / f"{config.name}_test.json"
    # A finished run ends at once, after a check that settings and clips are the same.
    config = replace(config, resume=(config.models_dir / f"{config.name}_last.pth").is_file())
    model, config = start_spotter(config)
    train_spotter(config, model, clips, cache)
    if not kept.is_file():
        seconds = json.loads((config.models_dir / f"{config.name}_metrics.json").read_text())["seconds"]
        of_clips, of_frames = evaluate_spotter(config.evaluation(), clips, cache).to_dict("records")
        figures = {"auc": of_clips["auc"], "frame_auc": of_frames["auc"], "accuracy": of_clips["accuracy"]}
        parameters = sum(parameter.numel() for parameter in model.parameters())
        write_json(figures | {"parameters": parameters, "seconds": seconds}, kept)
    return json.loads(kept.read_text())


if __name__ == "__main__":
    main(tyro.cli(Ablation, description=__doc__))

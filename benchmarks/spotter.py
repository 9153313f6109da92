"""What attention, multi-scale features and time each add to a plain classifier of frames with the same encoder.

    python -m benchmarks.spotter DATA --faces crops --encoder-weights mobilenet_v2_imagenet.pth
    python -m benchmarks.spotter DATA --faces crops --seeds 1 --epochs 3 --output outputs/trial

The quick profile of script 8: `plain` is timm's encoder and a linear layer, the mean over a clip's frames; each part
alone beside it; and `spotter`, all of them. Each seed splits the clips anew, for all alike; tested on the test split.
Mean ± standard deviation over the seeds. OUTPUT keeps the checkpoints and results: what is finished isn't done again.
"""

from common.process import prepare

prepare()  # before torch is imported

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro

from common.files import write_json
from common.tables import markdown_table
from common.video.cache import ClipCache
from common.video.clips import Clip
from common.video.config import VideoConfig
from common.video.training import evaluate_spotter, fit_spotter, load_clips, start_spotter

PARTS = ("attention", "multi_scale", "temporal")
VARIANTS = {
    "plain": (),
    "attention": ("attention",),
    "multi_scale": ("multi_scale",),
    "time": ("temporal",),
    "spotter": PARTS,
}
"""Name → the parts that are there."""
FIGURES = {"auc": "AUC of clips", "frame_auc": "AUC of frames", "accuracy": "accuracy"}


def main(
    data: tyro.conf.Positional[Path],
    faces: str = "auto",
    encoder_weights: str = "auto",
    variants: tuple[str, ...] = tuple(VARIANTS),
    seeds: int = 3,
    epochs: int = 0,
    image_size: int = 0,
    frozen_epochs: int = -1,
    lr: float = 0.0,
    augment: bool = True,
    output: Path = Path("outputs/spotter"),
) -> None:
    """Train and test what isn't yet, and print the table.

    Args:
        data: Folder of clips, as of script 8.
        faces: Of script 8, as the next.
        encoder_weights: For all variants alike.
        variants: Those that are wanted, of plain, attention, multi_scale, time, spotter.
        seeds: Number of seeds, from 0.
        epochs: Instead of the quick profile's, as the next three, where they are given.
        image_size: Side of the crops.
        frozen_epochs: The encoder learns from this epoch on.
        lr: Learning rate.
        augment: Augment the training clips.
        output: Folder for checkpoints and results.
    """
    config = VideoConfig(name="spotter", tracker="none").quick()
    config = replace(
        config,
        data_dir=data,
        faces=faces,
        encoder_weights=encoder_weights,
        epochs=epochs or config.epochs,
        restart_epochs=epochs or config.restart_epochs,
        image_size=image_size or config.image_size,
        frozen_epochs=config.frozen_epochs if frozen_epochs < 0 else frozen_epochs,
        lr=lr or config.lr,
        augment=augment,
        models_dir=output,
        cache_dir=output / "cache",
    )
    results = {name: [] for name in variants}
    for seed in range(seeds):
        clips, cache = load_clips(replace(config, seed=seed))
        for name in variants:
            there = {part: part in VARIANTS[name] for part in PARTS}
            run = replace(config, name=f"{'_'.join(VARIANTS[name]) or 'plain'}_{seed}", seed=seed, **there)
            results[name].append(_run(run, clips, cache))
    rows = []
    for name, found in results.items():
        figures = [[result[figure] for result in found] for figure in FIGURES]
        spread = (f"{np.mean(values):.3f} ± {np.std(values):.3f}" for values in figures)
        cost = np.mean([result["seconds"] for result in found])
        rows.append([name, *spread, f"{found[0]['parameters']:,}", f"{cost:.0f}"])
    print(markdown_table(["variant", *FIGURES.values(), "parameters", "seconds of training"], rows))


def _run(config: VideoConfig, clips: Sequence[Clip], cache: ClipCache) -> dict[str, float]:
    """The test's figures of one variant and seed; trained, gone on with, or as they were kept."""
    kept = config.models_dir / f"{config.name}_test.json"
    # A finished run ends at once, after a check that settings and clips are the same.
    config = replace(config, resume=(config.models_dir / f"{config.name}_last.pth").is_file())
    model, config = start_spotter(config)
    fit_spotter(config, model, clips, cache)
    if not kept.is_file():
        seconds = json.loads((config.models_dir / f"{config.name}_metrics.json").read_text())["seconds"]
        of_clips, of_frames = evaluate_spotter(config, clips, cache).to_dict("records")
        figures = {"auc": of_clips["auc"], "frame_auc": of_frames["auc"], "accuracy": of_clips["accuracy"]}
        parameters = sum(parameter.numel() for parameter in model.parameters())
        write_json(figures | {"parameters": parameters, "seconds": seconds}, kept)
    return json.loads(kept.read_text())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

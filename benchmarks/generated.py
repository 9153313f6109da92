"""Comparison of the detectors of script 7: plain SPAI, its fusion, the classifier of residuals, and a blend.

    python -m benchmarks.generated DIR
    python -m benchmarks.generated DIR --seeds 1 --epochs 6 --output outputs/trial
    python -m benchmarks.generated data/aligned --models residual grain --holdout-generator vae

The quick profile of script 7: `--fusion none`, the fusion, `--network residual`, and `blend` of the last two; beside
them `benchmarks.patch_classifier.PatchClassifier` with twice the backbone's blocks, and `grain`, a logistic regression
on four numbers: how much neighbouring pixels differ. DIR has the folders real and fake, best as
`benchmarks.aligned_set` makes them; where it has no splits, each seed draws others, the same for all models. Tested on
the test split, clean and after each degradation; means over the generators (subfolders of fake), then mean ± standard
deviation over the seeds. OUTPUT keeps the checkpoints and a table of each run, by generator: finished runs are not
repeated.
"""

from common.process import prepare

prepare()  # before torch is imported

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.patch_classifier import PatchClassifier
from common.data.images import read_image
from common.data.splits import of_split
from common.files import written_whole
from common.generated.calibrating import calibrate_trained
from common.generated.config import SpaiConfig
from common.generated.degradations import degrade
from common.generated.detector import load_detectors
from common.generated.images import LabelledImage
from common.generated.network import SPAI_KEYS, Spai
from common.generated.testing import evaluate_model
from common.generated.training import load_images, start_spai, train_spai
from common.metrics.detection import by_generator
from common.tables import markdown_table
from common.training.checkpoint import load_checkpoint
from common.training.engine import build_seeded

MODELS = ("plain", "fusion", "classifier", "grain", "residual", "blend")
DEGRADED = ("jpeg90", "jpeg", "jpeg50", "webp", "resize", "blur", "noise")
FIGURES = {"auc": "AUC", "ap": "AP", "accuracy": "accuracy"}


def main(
    data_dir: tyro.conf.Positional[Path],
    seeds: int = 3,
    epochs: int = 0,
    lr: float = 0.0,
    models: tuple[Literal["plain", "fusion", "classifier", "grain", "residual", "blend"], ...] = MODELS,
    holdout_generator: str = "",
    output: Path = Path("outputs/generated"),
) -> None:
    """Run all trainings and tests that are not finished, and print the tables.

    Args:
        data_dir: Folder with real/ and fake/, the latter in subfolders by generator if there are several.
        seeds: Number of seeds, from 0.
        epochs: Number of epochs, with warm-up and first stage in proportion; 0 for the quick profile's.
        lr: Peak of the learning rate; 0 for the quick profile's.
        models: What to compare; blend needs fusion and residual before it.
        holdout_generator: Generator that is tested on alone and not trained on.
        output: Folder of the checkpoints and tables.
    """
    runs = []
    for seed in range(seeds):
        for name in models:
            config = _config(name, epochs, lr)
            config = replace(config, name=f"{name}_{seed}", seed=seed, models_dir=output, data_dir=data_dir)
            config = replace(config, holdout_generator=holdout_generator)
            run = {"grain": _grain, "blend": _blend}.get(name, _run)
            runs.append(run(config, load_images(config)).assign(model=name, seed=seed))
    table = pd.concat(runs)
    costs = table.groupby("model", sort=False)[["parameters", "seconds"]].mean()
    rows = [[str(name), f"{row.parameters:,.0f}", f"{row.seconds:.0f}"] for name, row in costs.iterrows()]
    print(markdown_table(["model", "trainable parameters", "seconds of training"], rows), end="\n\n")
    rows, average = [], table[table["generator"] == "average"]
    for degradation in average["degradation"].unique():
        for name in models:
            own = average[(average["degradation"] == degradation) & (average["model"] == name)]
            # Of one seed the deviation is 0.
            figures = (f"{own[figure].mean():.3f} ± {own[figure].std(ddof=0):.3f}" for figure in FIGURES)
            rows.append([degradation, name, *figures])
    print(markdown_table(["degradation", "model", *FIGURES.values()], rows))


def _config(name: str, epochs: int, lr: float) -> SpaiConfig:
    config = SpaiConfig(name=name, tracker="none")
    if name == "residual":
        config = config.residual().quick()
    else:
        config = config.quick() if name == "fusion" else config.published().quick()
        config = replace(config, degradation_probability=0.5)  # as the fusion's twins: the same chains for all
    if name == "classifier":
        config = replace(config, backbone_depth=2 * config.backbone_depth)
    if epochs:
        share = epochs / config.epochs
        stage_one = round(config.stage_one_epochs * share)
        warmup = config.warmup_epochs * share
        config = replace(config, epochs=epochs, warmup_epochs=warmup, stage_one_epochs=stage_one)
    return replace(config, lr=lr or config.lr)


def _run(config: SpaiConfig, images: Sequence[LabelledImage]) -> pd.DataFrame:
    """The test's rows (see `evaluate_model`) of one model and seed, from its table if it is finished."""
    best, last, kept = (config.models_dir / f"{config.name}_{end}" for end in ("best.pth", "last.pth", "test.csv"))
    # A finished run ends at once, after a check that settings and images are those of the run.
    config = replace(config, resume=last.is_file())
    model, config = _start(config)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    train_spai(config, model, images)
    if not kept.is_file() or kept.stat().st_mtime < best.stat().st_mtime:
        if not config.name.startswith("classifier"):
            calibrate_trained(config, images)
        checkpoint = load_checkpoint(best, SPAI_KEYS)
        model.load_state_dict(checkpoint["model_state_dict"])
        seconds = json.loads((config.models_dir / f"{config.name}_metrics.json").read_text())["seconds"]
        test = replace(config.evaluation(), degrade=cast(Any, DEGRADED))
        rows = evaluate_model(model, checkpoint, test, images)
        with written_whole(kept) as file:
            rows.assign(parameters=parameters, seconds=seconds).to_csv(file, index=False)
    return pd.read_csv(kept)


def _grain(config: SpaiConfig, images: Sequence[LabelledImage]) -> pd.DataFrame:
    """The test's rows, as of `_run`, of a model without a network."""
    train, test = of_split(images, "train"), of_split(images, "test")
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit([_differences(read_image(image.path)) for image in train], [image.generated for image in train])
    tables = _tested(test, lambda shown: model.predict_proba([_differences(image) for image in shown])[:, 1])
    return tables.assign(parameters=5, seconds=0.0)


def _blend(config: SpaiConfig, images: Sequence[LabelledImage]) -> pd.DataFrame:
    """The test's rows of the blend of fusion and residual that were trained before."""
    names = (config.name.replace("blend", part) for part in ("fusion", "residual"))
    paths = [config.models_dir / f"{name}_best.pth" for name in names]
    detector = load_detectors(paths, torch.device("cpu"))
    tables = _tested(of_split(images, "test"), lambda shown: [one.probability for one in detector.predict(shown)])
    return tables.assign(parameters=0, seconds=0.0)


def _tested(
    test: Sequence[LabelledImage], probabilities: Callable[[list[np.ndarray]], Sequence[float]]
) -> pd.DataFrame:
    """The test's rows of what gives the probabilities of images, clean and after each degradation."""
    tables = []
    for degradation in ("none", *DEGRADED):
        found: list[float] = []
        for image in test:
            pixels = read_image(image.path)
            found += list(probabilities([pixels if degradation == "none" else degrade(pixels, degradation)]))
        rows = pd.DataFrame([vars(image) for image in test]).assign(prob=found)
        tables.append(by_generator(rows).assign(degradation=degradation))
    return pd.concat(tables)


def _differences(image: np.ndarray) -> list[float]:
    """Logarithms of the mean squared difference of pixels 1 and 2 apart, down and across."""
    grey = image.mean(axis=2)
    apart = [(grey[step:] - grey[:-step], grey[:, step:] - grey[:, :-step]) for step in (1, 2)]
    return [float(np.log(np.square(part).mean() + 1e-3)) for pair in apart for part in pair]


def _start(config: SpaiConfig) -> tuple[Spai, SpaiConfig]:
    if not config.name.startswith("classifier"):
        return start_spai(config)
    build = partial(
        PatchClassifier,
        config.backbone_name,
        patch_size=config.patch_size,
        patch_stride=config.patch_stride,
        depth=config.backbone_depth,
        width=config.backbone_width,
        heads=config.backbone_heads,
    )
    # The training and the test call only what the two networks have in common.
    return cast(Spai, build_seeded(config.seed, build)), config


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

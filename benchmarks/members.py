"""Members, their ensemble and the plain baseline on one held-out fold: the same images, metrics, paired differences.

    python -m benchmarks.baseline_plain --data-dir data/casia1
    python -m benchmarks.members maps --data-dir data/casia1 --models models/casia1/*_best.pth
    python -m benchmarks.members decided --data-dir data/casia1 --models-dir models/casia1
    python -m benchmarks.members degraded --data-dir data/casia1 --models models/casia1/*_best.pth --picture out.png

`maps`: each network at its own resolution, without a fitted decision; `all members` is the mean of their maps. The
second table has the differences to the baseline. `decided`: the fitted ensemble of a folder, its members and
the baseline, each with threshold, mask and decision fitted on other sources (nested, as `fit_ensemble.py` does it), and
how far the ensemble is above each other. `degraded`: the networks after all images, authentic ones too, were
compressed, shrunk, blurred or made noisy. In brackets: 95 % of 1,000 bootstraps of the groups.
"""

from common.process import prepare

prepare()  # before torch is imported

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from benchmarks.baseline_plain import FOLDER, Images, Network
from benchmarks.networks import DEGRADATIONS, Change
from common.config.segmentation import TrainConfig
from common.data.dataset import ForgeryDataset, collate_whole, make_loader
from common.data.masks import read_mask
from common.data.samples import load_samples
from common.data.transforms import resize_map, shrink_mask, to_channels
from common.ensemble.decision import feature_maps
from common.ensemble.fitting import Oof
from common.ensemble.out_of_fold import out_of_fold
from common.ensemble.variants import Variant, choose, gains, nested, summary, variants
from common.errors import UserError
from common.metrics.forgery import (
    image_auc,
    image_score,
    pixel_auc,
    pixel_f1,
    pixel_f1_curve,
    recall_at_fpr,
)
from common.networks.segmentation import load_network
from common.tables import markdown_table
from common.training.checkpoint import load_checkpoint
from common.training.member import Split, load_split
from common.training.validation import predict_maps

BOOTSTRAPS = 1000
HEAD = ("pixel AUC", "pixel F1 at 0.5", "pixel F1, best for the set", "image AUC", "image recall at 5 %")
GRID = slice(None, None, 64)  # of the thresholds that the best one is chosen among
PLAIN = "plain baseline"


def held_out(data_dir: Path) -> Split:
    """Fold 0 of 5."""
    return load_split(replace(TrainConfig(name="members", data_dir=data_dir, models_dir=FOLDER), overwrite=True))


def maps_of_plain(path: Path, split: Split, change: Change | None = None) -> list[np.ndarray]:
    """Those of the baseline with the weights of a file, as `maps_of`."""
    return maps_of(plain_network(path), Images(split.val, change), split)


@cache
def plain_network(path: Path) -> Network:
    """The baseline with the weights of a file."""
    baseline = Network("tu-tf_efficientnet_lite0")
    baseline.load_state_dict(torch.load(path, weights_only=True))
    return baseline


def name_of(path: Path) -> str:
    """Folder and member of a checkpoint, as tables and pictures name it."""
    return f"{path.parent.name}/{path.stem.removesuffix('_best')}"


def maps_of_member(path: Path, split: Split, change: Change | None = None) -> list[np.ndarray]:
    """Those of a checkpoint of scripts 1 to 6, as `maps_of`."""
    checkpoint = load_checkpoint(path)
    own = checkpoint["config"]

    def edit(image: np.ndarray, mask: np.ndarray, _) -> tuple[np.ndarray, np.ndarray]:
        changed = change(np.ascontiguousarray(image[..., :3]))
        return to_channels(changed, own["in_channels"]), shrink_mask(mask, *changed.shape[:2])

    framed = partial(ForgeryDataset, in_channels=own["in_channels"], framing=own.get("framing", "squeeze"))
    dataset = framed(split.val, own["image_size"], edit=None if change is None else edit)
    return maps_of(load_network(checkpoint, path), dataset, split)


def maps_of(network: nn.Module, dataset, split: Split) -> list[np.ndarray]:
    """The network's map of each held-out image, float16 at the image's size."""
    loader = make_loader(dataset, 8, 0, collate=collate_whole)
    sizes, found = [(sample.height, sample.width) for sample in split.val], []
    for batch in tqdm(loader, "maps", leave=False, disable=None):
        for prob in predict_maps(network.eval(), batch):
            height, width = sizes[len(found)]
            if height > width and isinstance(dataset, Images):
                prob = np.rot90(prob, -1)  # it was turned
            found.append(resize_map(np.ascontiguousarray(prob), height, width).astype(np.float16))
    return found


def mean_map(maps: tuple[np.ndarray, ...]) -> np.ndarray:
    """Mean of several networks' maps of one image."""
    return np.mean([prob.astype(np.float32) for prob in maps], axis=0)


def rows_of(maps: list[np.ndarray], split: Split) -> pd.DataFrame:
    """What each image contributes to the metrics."""
    rows = []
    for prob, sample in zip(maps, split.val, strict=True):
        row = {"group": sample.group, "forged": sample.forged, "score": image_score(prob)}
        if sample.forged:
            truth = read_mask(sample.mask).max(axis=0) > 0
            row |= {"auc": pixel_auc(prob, truth), "f1": pixel_f1(prob >= np.float16(0.5), truth)}
            row["curve"] = pixel_f1_curve(prob, truth)[GRID]
        rows.append(row)
    return pd.DataFrame(rows)


def figures(rows: pd.DataFrame) -> np.ndarray:
    """The metrics of `HEAD`."""
    forged = rows[rows["forged"]]
    scores, truth = rows["score"].to_numpy(), rows["forged"].to_numpy()
    best = np.mean(np.stack(forged["curve"].to_list()), axis=0).max()
    means = (forged["auc"].mean(), forged["f1"].mean(), best)
    return np.array([*means, image_auc(scores, truth), recall_at_fpr(scores, truth)])


def cells(value: np.ndarray, draws: np.ndarray) -> list[str]:
    """A value and its interval, for each metric."""
    low, high = np.nanquantile(draws, (0.025, 0.975), axis=0)
    return [f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in zip(value, low, high, strict=True)]


def maps(*, data_dir: Path = Path("data"), models: tuple[Path, ...], plain: Path = FOLDER / "seed_0.pth") -> None:
    """Metrics of the maps, and their differences to the baseline's.

    Args:
        data_dir: Data folder; fold 0 of 5 is held out.
        models: Checkpoints of scripts 1 to 6.
        plain: Weights of the baseline.
    """
    split = held_out(data_dir)
    found = {PLAIN: maps_of_plain(plain, split)} | {name_of(path): maps_of_member(path, split) for path in models}
    if len(models) > 1:
        found["all members"] = list(map(mean_map, zip(*list(found.values())[1:], strict=True)))
    tables = {name: rows_of(own, split) for name, own in found.items()}
    rng = np.random.default_rng(0)
    places = pd.Series(range(len(split.val))).groupby([sample.group for sample in split.val]).agg(list).to_list()
    drawn = [
        np.concatenate([places[n] for n in rng.integers(len(places), size=len(places))]) for _ in range(BOOTSTRAPS)
    ]
    draws = {
        name: np.stack([figures(table.iloc[order]) for order in tqdm(drawn, name, leave=False, disable=None)])
        for name, table in tables.items()
    }
    values = {name: figures(table) for name, table in tables.items()}
    print(markdown_table(["", *HEAD], [[name, *cells(values[name], draws[name])] for name in tables]))
    first, *others = tables
    rows = [[name, *cells(values[name] - values[first], draws[name] - draws[first])] for name in others]
    print("\nabove the baseline")
    print(markdown_table(["", *HEAD], rows))


def decided(*, data_dir: Path = Path("data"), models_dir: Path, plain: Path = FOLDER / "seed_0.pth") -> None:
    """Metrics of what is decided, nested, and how far the row that a fit takes is above each other.

    Args:
        data_dir: Data folder; fold 0 of 5 is held out.
        models_dir: Folder of the members, of fold 0.
        plain: Weights of the baseline.
    """
    split = held_out(data_dir)
    samples = load_samples(data_dir)
    views = {
        name: out_of_fold(models_dir, samples, tta=tta, allow_missing=True, generated=False)
        for name, tta in (("", "none"), (", flips", "flips"))
    }
    oof = views[""]
    if [sample.group for sample in split.val] != oof.groups.tolist():
        raise UserError(
            f"{models_dir} holds other folds than fold 0 of 5, which the baseline holds out. Leave them out."
        )
    theirs = np.stack([feature_maps(prob[None].astype(np.float32)) for prob in maps_of_plain(plain, split)])
    baseline = Oof(
        names=(PLAIN,),
        roles=("average",),
        original_weights=(1.0,),
        maps=theirs,
        truths=oof.truths,
        groups=oof.groups,
        sizes=oof.sizes,
    )
    outcomes = {PLAIN: nested(baseline, Variant(name=PLAIN, members=(PLAIN,), features=None, fit_mask=True))}
    for name, own in views.items():
        for variant in variants(own):
            outcomes[variant.name + name] = nested(own, variant)
    columns = ("of1", "lift", "image_recall", "image_fpr", "image_auc", "pixel_f1")
    found = {name: summary(outcome) for name, outcome in outcomes.items()}
    rows = [[name, *(f"{values[column]:.3f}" for column in columns)] for name, values in found.items()]
    print(markdown_table(["", *columns], rows))
    best = choose(found)
    above = gains(outcomes, best, oof.groups)
    rows = [
        [name, *(f"{value:+.3f} ({low:+.3f} to {high:+.3f})" for value, low, high in metrics.values())]
        for name, metrics in above.items()
    ]
    print(f"\n{best} above each other\n{markdown_table(['', *next(iter(above.values()))], rows)}")


def degraded(
    *,
    data_dir: Path = Path("data"),
    models: tuple[Path, ...],
    plain: Path = FOLDER / "seed_0.pth",
    picture: Path | None = None,
) -> None:
    """Pixel and image AUC after degradations.

    Args:
        data_dir: Data folder; fold 0 of 5 is held out.
        models: Checkpoints of scripts 1 to 6.
        plain: Weights of the baseline.
        picture: PNG to draw.
    """
    split, values = held_out(data_dir), {}
    for change_name, change in tqdm(DEGRADATIONS.items(), "degradations", disable=None):
        found = {PLAIN: maps_of_plain(plain, split, change)}
        found |= {name_of(path): maps_of_member(path, split, change) for path in models}
        if len(models) > 1:
            found["all members"] = list(map(mean_map, zip(*list(found.values())[1:], strict=True)))
        values[change_name] = {name: figures(rows_of(own, split))[[0, 3]] for name, own in found.items()}
    names = list(next(iter(values.values())))
    rows = [[change, *(f"{pixel:.3f}, {image:.3f}" for pixel, image in own.values())] for change, own in values.items()]
    print(markdown_table(["pixel AUC, image AUC", *names], rows))
    if picture is not None:
        draw(values, picture)


def draw(values: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Both metrics of each network by degradation, side by side."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for place, (axes, label) in enumerate(
        zip(figure.subplots(1, 2, sharey=True), ("pixel AUC", "image AUC"), strict=True)
    ):
        for name in next(iter(values.values())):
            bold = {"linewidth": 2.5, "color": "black"} if name == "all members" else {}
            dashed = {"linestyle": "--", "color": "tab:red"} if name == PLAIN else {}
            axes.plot(list(values), [own[name][place] for own in values.values()], "o-", **bold, **dashed, label=name)
        axes.axhline(0.5, color="gray", linewidth=0.8)
        axes.set_title(label)
        axes.tick_params(axis="x", rotation=35)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    tyro.extras.subcommand_cli_from_dict(
        {command.__name__: command for command in (maps, decided, degraded)}, description=__doc__
    )

"""Members and the plain baseline on one held-out fold: the same images, the same metrics, paired differences.

    python -m benchmarks.baseline_plain --data-dir data/casia1
    python -m benchmarks.members --data-dir data/casia1 --models models/casia1/*_best.pth

Each network at its own resolution, without a fitted decision. In brackets: 95 % of 1,000 bootstraps of the groups; the
second table has the differences to the baseline, of the same bootstraps. `all members` is the mean of their maps.
"""

from common.process import prepare

prepare()  # before torch is imported

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from torch import nn
from tqdm import tqdm

from benchmarks.baseline_plain import FOLDER, Images, Network
from common.config.segmentation import TrainConfig
from common.data.dataset import ForgeryDataset, collate_whole, make_loader
from common.data.masks import read_mask
from common.data.transforms import resize_map
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


def main(*, data_dir: Path = Path("data"), models: tuple[Path, ...], plain: Path = FOLDER / "seed_0.pth") -> None:
    """Print both tables.

    Args:
        data_dir: Data folder; fold 0 of 5 is held out.
        models: Checkpoints of scripts 1 to 6.
        plain: Weights of the baseline.
    """
    torch.set_grad_enabled(False)
    config = TrainConfig(name="members", data_dir=data_dir, models_dir=FOLDER)
    split = load_split(replace(config, overwrite=True))
    baseline = Network("tu-tf_efficientnet_lite0")
    baseline.load_state_dict(torch.load(plain, weights_only=True))
    maps = {"plain baseline": maps_of(baseline, Images(split.val), split)}
    for path in models:
        checkpoint = load_checkpoint(path)
        own = checkpoint["config"]
        dataset = partial(ForgeryDataset, split.val, own["image_size"], in_channels=own["in_channels"])
        network = load_network(checkpoint, path)
        maps[str(path)] = maps_of(network, dataset(framing=own.get("framing", "squeeze")), split)
    if len(models) > 1:
        members = zip(*(found for name, found in maps.items() if name != "plain baseline"), strict=True)
        maps["all members"] = [np.mean([prob.astype(np.float32) for prob in own], axis=0) for own in members]
    tables = {name: rows_of(found, split) for name, found in maps.items()}
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


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

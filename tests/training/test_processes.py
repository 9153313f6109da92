"""Two processes on the CPU train, validate and mine as one does."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from common.config.segmentation import TrainConfig
from common.data.dataset import ForgeryDataset, make_loader
from common.data.samples import assign_folds, load_samples
from common.data.sampling import WeightedSampler, small_forgery_weights
from common.data.transforms import basic_augmentation
from common.networks.pixels import unit_range
from common.sizes import SIZES
from common.training.checkpoint import load_checkpoint, load_network, save_checkpoint
from common.training.engine import fit
from common.training.losses import CombinedLoss
from common.training.member import segmentation_step
from common.training.mining import hard_negatives, scan, write_round
from common.training.validation import validate

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

ROOT = Path(__file__).parent.parent.parent
SMALL = ("--profile", "quick", "--image-size", "64", "--decoder-channels", "32", "--epochs", "1")


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A program in two processes, on a port that is free."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += map(str, arguments)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # this file is such a program too
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


class Plain(nn.Module):
    """Two convolutions and no batch norm, whose statistics would be those of each process's own batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 1, 5, padding=2)

    def forward(self, x):
        return self.head(torch.tanh(self.body(unit_range(x))))


def train_plain(data: str, models_dir: str, accumulation: str) -> None:
    """Sixteen images to draw from, by weights, and nineteen to validate on, in batches of four."""
    config = TrainConfig(
        name="plain",
        models_dir=Path(models_dir),
        tracker="none",
        epochs=3,
        lr=1e-3,
        accumulation=int(accumulation),
        ema_decay=0.5,
    )
    set_seed(0)
    samples = load_samples(Path(data))
    train, val = samples[2:18], samples[:19]
    sampler = WeightedSampler(small_forgery_weights(train, 0.1, 3.0), 0)
    fit(
        config,
        Plain(),
        partial(segmentation_step, CombinedLoss()),
        validate,
        make_loader(ForgeryDataset(train, 64, basic_augmentation()), config.batch_size, 0, sampler),
        make_loader(ForgeryDataset(val, 64), config.batch_size, 0),
        "pairs",
    )


def test_two_processes_are_one_with_twice_the_batch(pairs_dir, tmp_path, capsys):
    """Weights, their average, losses and all metrics; nineteen images do not divide by two batches of four."""
    result = launch(__file__, pairs_dir, tmp_path / "two", 1)
    assert result.returncode == 0, result.stderr
    train_plain(str(pairs_dir), str(tmp_path / "one"), "2")
    lines = [
        [line for line in out.splitlines() if line.startswith("epoch")]
        for out in (result.stdout, capsys.readouterr().out)
    ]
    two, one = ([float(re.search(r"loss ([\d.]+),", line)[1]) for line in of_run] for of_run in lines)
    assert len(one) == 3
    assert two == pytest.approx(one, abs=1.01e-4)
    for name in ("plain_last.pth", "plain_best.pth"):
        two, one = (load_checkpoint(tmp_path / run / name) for run in ("two", "one"))
        assert two["epoch"] == one["epoch"]
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6, nan_ok=True)
        assert two["metrics"]["n_authentic"] + sum(two["metrics"][f"n_{size}"] for size in SIZES) == 19
        assert two["threshold"] == pytest.approx(one["threshold"], abs=1e-3)
        for key in {"model_state_dict", "trained_state_dict"} & set(one):
            for part, weight in one[key].items():
                torch.testing.assert_close(two[key][part], weight, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def odd_dir(pairs_dir, tmp_path_factory):
    """A data folder, and a fold of it that has an odd number of images."""
    folder = tmp_path_factory.mktemp("odd") / "data"
    shutil.copytree(pairs_dir, folder)
    (folder / "train_images" / "authentic" / "3.png").unlink()
    folds = assign_folds(load_samples(folder), 5, 0).tolist()
    return folder, next(fold for fold in range(5) if folds.count(fold) % 2)


@pytest.fixture(scope="module")
def trained(odd_dir, tmp_path_factory):
    """What script 1 in two processes printed, and where it wrote."""
    folder, fold = odd_dir
    models_dir = tmp_path_factory.mktemp("models")
    options = ("--data-dir", folder, "--models-dir", models_dir, "--fold", fold, *SMALL)
    # Each process validates some images; no forward pass brings the average's statistics of batch norm into line.
    options += ("--encoder-weights", "none", "--ema-decay", "0.5", "--batch-size", "2")
    result = launch("script_1_highres_no_ela.py", *options)
    assert result.returncode == 0, result.stderr
    return result, models_dir


def test_script_1_speaks_and_writes_once_and_its_metrics_are_those_of_its_checkpoint(trained, odd_dir):
    result, models_dir = trained
    lines = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert lines == ["highres_no_ela", "epoch 1/1", "highres_no_ela"]
    written = {path.name for path in models_dir.glob("highres_no_ela*")}
    assert written == {"highres_no_ela_best.pth", "highres_no_ela_last.pth", "highres_no_ela_metrics.json"}
    assert not list(models_dir.rglob("*.partial"))

    path = models_dir / "highres_no_ela_best.pth"
    checkpoint = load_checkpoint(path)
    folder, fold = odd_dir
    samples = load_samples(folder)
    folds = assign_folds(samples, 5, 0)
    val = [sample for sample, own in zip(samples, folds, strict=True) if own == fold]
    assert len(val) % 2 == 1
    again = validate(Accelerator(), load_network(checkpoint, path), make_loader(ForgeryDataset(val, 64), 8, 0))
    assert checkpoint["metrics"] == pytest.approx(again.metrics, abs=1e-6, nan_ok=True)
    assert json.loads((models_dir / "highres_no_ela_metrics.json").read_text())["dice"] == checkpoint["best_dice"]


def test_script_2_mines_the_same_images(trained, odd_dir, tmp_path):
    """From script 1's network, with an offset that makes it flag some of the pixels."""
    folder, fold = odd_dir
    path = tmp_path / "highres_no_ela_best.pth"
    checkpoint = load_checkpoint(trained[1] / path.name)
    network = load_network(checkpoint, path)
    samples = load_samples(folder)
    batch = next(iter(make_loader(ForgeryDataset(samples, 64), len(samples), 0)))
    with torch.no_grad():
        checkpoint["model_state_dict"]["head.0.bias"] -= network(batch["image"]).quantile(0.9)
    save_checkpoint(checkpoint, path)

    folds = assign_folds(samples, 5, 0)
    authentic = [s for s, own in zip(samples, folds, strict=True) if own != fold and not s.forged]
    scanned = scan(load_network(checkpoint, path), ForgeryDataset(authentic, 64), batch_size=8)
    hard = hard_negatives(scanned, 500)
    assert len(hard) > 2
    write_round(tmp_path / "one.csv", scanned, hard)

    options = ("--data-dir", folder, "--models-dir", tmp_path, "--fold", fold, *SMALL)
    result = launch("script_2_hard_negative_mining.py", *options)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "hard_negative_round_1.csv").read_text() == (tmp_path / "one.csv").read_text()
    counts = [line for line in result.stdout.splitlines() if "of the validation fold, before and after" in line]
    assert len(counts) == 1
    assert sum(line.startswith("round 1: ") for line in result.stdout.splitlines()) == 1


if __name__ == "__main__":
    train_plain(*sys.argv[1:])

"""Two processes on the CPU train, validate, mine and test as one does."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from common.config.segmentation import TrainConfig
from common.data.dataset import ForgeryDataset, collate_whole, make_loader
from common.data.samples import Sample, assign_folds, load_samples
from common.data.sampling import WeightedSampler, small_forgery_weights
from common.data.transforms import basic_augmentation
from common.generated.config import EvaluationConfig
from common.generated.network import SPAI_KEYS
from common.networks.pixels import unit_range
from common.networks.segmentation import load_network
from common.sizes import SIZES
from common.training.checkpoint import REQUIRED_KEYS, load_checkpoint, save_checkpoint
from common.training.engine import Data, Objective, fit
from common.training.losses import CombinedLoss
from common.training.member import segmentation_step
from common.training.mining import hard_false_negatives, hard_negatives, scan, write_round
from common.training.validation import validate
from common.video.network import VIDEO_KEYS

ROOT = Path(__file__).parent.parent.parent
PLAIN = "plain"
SMALL = {"image_size": 64, "decoder_channels": 32, "epochs": 1}
# Each process draws its own dropout; the batches of two are of one process with accumulation 2.
ALIKE = {"dropout": 0.0, "batch_size": 4}
SPAI = ALIKE | {"epochs": 2, "views": 2, "stage_one_epochs": 1, "warmup_epochs": 0.5}
VIDEO = ALIKE | {"encoder_name": "mobilenetv3_small_100", "encoder_weights": "none", "faces": "crops", "lr": 5e-3}
# Batch norm takes its statistics from a process's own batch.
VIDEO |= {"image_size": 64, "frames": 3, "hidden": 8, "freeze_batch_norm": True}
PATHS = ("data_dir", "csv", "cache_dir")


class Plain(nn.Module):
    """Two convolutions and no batch norm, whose statistics would be those of each process's own batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 1, 5, padding=2)

    def forward(self, x):
        return self.head(torch.tanh(self.body(unit_range(x))))


def train_plain(config: TrainConfig) -> None:
    """Sixteen images to draw from, by weights, and nineteen to validate on, in batches of four."""
    set_seed(0)
    samples = load_samples(config.data_dir)
    train, val = samples[2:18], samples[:19]
    sampler = WeightedSampler(small_forgery_weights(train, 0.1, 3.0), 0)
    objective = Objective(step=partial(segmentation_step, CombinedLoss()), validate=validate)
    train_loader = make_loader(ForgeryDataset(train, 64, basic_augmentation()), config.batch_size, 0, sampler)
    val_loader = make_loader(ForgeryDataset(val, 64), config.batch_size, 0)
    fit(config, Plain(), objective, Data(train_loader, val_loader, "pairs"))


def run(folder: Path, program: str, fields: dict[str, Any], process: str = "0") -> None:
    """Run a script's quick recipe with other fields, or the training above; what it prints is added to a file."""
    fields = fields | {"models_dir": folder} | {name: Path(fields[name]) for name in PATHS if name in fields}
    with (folder / f"{process}.txt").open("a") as file, redirect_stdout(file):
        if program == PLAIN:
            train_plain(TrainConfig(name="plain", tracker="none", epochs=3, lr=1e-3, **fields))
            return
        script = runpy.run_path(str(ROOT / program))
        if "degrade" in fields:
            script["main"](EvaluationConfig(**fields))
        else:
            script["main"](replace(script["CONFIG"].quick(), tracker="none", **fields))


def launch(*command: object) -> subprocess.Popen[str]:
    """A program in two processes, on a port that is free."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # this file is such a program too
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*map(str, [*launcher, *command])], cwd=ROOT, env=environment, text=True, **pipes)


@pytest.fixture(scope="module")
def odd_dir(pairs_dir, tmp_path_factory):
    """A data folder, and a fold of it that has an odd number of images."""
    folder = tmp_path_factory.mktemp("odd") / "data"
    shutil.copytree(pairs_dir, folder)
    (folder / "train_images" / "authentic" / "3.png").unlink()
    folds = assign_folds(load_samples(folder), 5, 0).tolist()
    return folder, next(fold for fold in range(5) if folds.count(fold) % 2)


def draw(path: Path, noise: int, rng: np.random.Generator) -> None:
    image = cv2.resize(rng.integers(60, 190, (4, 5, 3), dtype=np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A table of sixteen pictures to train on, nine to validate and seven to test; every second one is noisy."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    rows = ["file,label,split"]
    for number, split in enumerate(16 * ["train"] + 9 * ["val"] + 7 * ["test"]):
        draw(folder / f"{number}.png", 60 * (number % 2), rng)
        rows.append(f"{number}.png,{('real', 'fake')[number % 2]},{split}")
    (folder / "images.csv").write_text("\n".join(rows))
    return folder / "images.csv"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A table of as many clips, of one to three frames."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    rows = ["file,label,split"]
    for number, split in enumerate(16 * ["train"] + 9 * ["val"] + 7 * ["test"]):
        for frame in range(1 + number % 3):
            draw(folder / str(number) / f"{frame}.png", 60 * (number % 2), rng)
        rows.append(f"{number},{('real', 'fake')[number % 2]},{split}")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def jobs(pairs_dir, odd_dir, pictures, clips, tmp_path_factory):
    """Programs and their fields, one after the other in a folder."""
    small = SMALL | {"data_dir": str(odd_dir[0]), "fold": odd_dir[1]}
    table = {"csv": str(pictures)}
    video = VIDEO | {"csv": str(clips), "cache_dir": str(tmp_path_factory.mktemp("cache"))}
    whole = video | {"frozen_epochs": 0}
    script_7, script_8 = "script_7_spai_fusion.py", "script_8_deepfake_video.py"
    return {
        "plain": [(PLAIN, {"data_dir": str(pairs_dir)})],
        "script_1": [("script_1_highres_no_ela.py", small | {"encoder_weights": "none", "batch_size": 2})],
        "script_2": [("script_2_hard_negative_mining.py", small)],
        "script_3": [("script_3_hard_fn_mining.py", small)],
        "script_7": [(script_7, SPAI | table), (script_7, table | {"name": "spai_fusion", "degrade": ("blur",)})],
        "script_8": [(script_8, video | {"frozen_epochs": 1, "epochs": 2})],
        "resumed": [(script_8, whole | {"epochs": 1}), (script_8, whole | {"epochs": 2, "resume": True})],
    }


QUICK = ("plain", "script_2")
"""Jobs of the default tests; the others are slow."""


def each(*names: str) -> list:
    """Parameters of the jobs, those that are not `QUICK` marked as slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def launched(jobs, odd_dir, save_network, tmp_path_factory):
    """Runs jobs in two processes: a folder with one for each, in which they wrote, and what each process printed."""

    @cache
    def launched(names: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp("two")
        for name in {"script_2", "script_3"} & {*names}:
            path = save_network(folder / name / "highres_no_ela_best.pth", encoder_weights="none")
            flag_half(path, load_samples(odd_dir[0]))
        (folder / "jobs.json").write_text(json.dumps({name: jobs[name] for name in names}))
        process = launch(__file__, folder)
        _, complaints = process.communicate(timeout=300)
        assert process.returncode == 0, complaints
        return folder

    return launched


@pytest.fixture
def two(request, jobs, launched):
    """The folder of `launched` that holds the test's job, or `plain`."""
    job = request.node.callspec.params["job"] if hasattr(request.node, "callspec") else "plain"
    return launched(QUICK if job in QUICK else tuple(name for name in jobs if name not in QUICK))


def flag_half(path: Path, samples: Sequence[Sample]) -> None:
    """Move a network's logits so that it calls half of the pixels forged."""
    checkpoint = load_checkpoint(path)
    batch = next(iter(make_loader(ForgeryDataset(samples, 64), len(samples), 0)))
    with torch.no_grad():
        checkpoint["model_state_dict"]["head.0.bias"] -= load_network(checkpoint, path)(batch["image"]).median()
    save_checkpoint(checkpoint, path)


@pytest.fixture
def one(jobs, tmp_path, torch_threads):
    """Runs a job in this process alone and unbroken, the two processes' batches in two steps; where it wrote."""

    def one(name: str) -> Path:
        for program, fields in jobs[name][-1:] if name == "resumed" else jobs[name]:
            unbroken = {"accumulation": 2, "resume": False} if "degrade" not in fields else {}
            run(tmp_path, program, fields | unbroken)
        return tmp_path

    torch_threads(1)  # as the launcher gives each process: two add up in another order
    return one


def printed(folder: Path, process: int = 0) -> list[str]:
    return (folder / f"{process}.txt").read_text().splitlines()


def losses(folder: Path) -> list[float]:
    return [float(re.search(r"loss ([\d.]+),", line)[1]) for line in printed(folder) if line.startswith("epoch")]


def figures(folder: Path) -> list[float]:
    """Of the printed tables of a test."""
    cells = re.findall(r"\d+\.\d+", "".join(line for line in printed(folder) if line.startswith("|")))
    return [float(cell) for cell in cells]


KINDS = {"plain": ("plain", REQUIRED_KEYS), "script_7": ("spai_fusion", SPAI_KEYS)}
KINDS |= dict.fromkeys(("script_8", "resumed"), ("deepfake_video", VIDEO_KEYS))


@pytest.mark.parametrize("job", each(*KINDS))
def test_two_processes_are_one_with_twice_the_batch(two, one, job):
    """Weights, losses, metrics, the figures of a test, and what decisions need."""
    own, (name, keys) = one(job), KINDS[job]
    assert len(losses(own)) > 1
    assert losses(two / job) == pytest.approx(losses(own), abs=1.01e-4)
    for path in (own / f"{name}_last.pth", own / f"{name}_best.pth"):
        theirs, ours = load_checkpoint(two / job / path.name, keys), load_checkpoint(path, keys)
        assert theirs["epoch"] == ours["epoch"]
        assert theirs["metrics"] == pytest.approx(ours["metrics"], abs=1e-6, nan_ok=True)
        assert theirs["calibration"] == pytest.approx(ours["calibration"], abs=1e-5)
        assert theirs.get("threshold") == pytest.approx(ours.get("threshold"), abs=1e-3)
        for part, weight in ours["model_state_dict"].items():
            torch.testing.assert_close(theirs["model_state_dict"][part], weight, rtol=1e-4, atol=1e-6)
    ours, theirs = figures(own), figures(two / job)
    assert theirs[len(theirs) - len(ours) :] == pytest.approx(ours, abs=1.01e-4)  # a resumed run has tested twice


def test_nineteen_images_are_validated_once(two):
    """They do not divide by two batches of four."""
    metrics = load_checkpoint(two / "plain" / "plain_last.pth")["metrics"]
    assert metrics["n_authentic"] + sum(metrics[f"n_{size}"] for size in SIZES) == 19


@pytest.mark.slow
@pytest.mark.parametrize("job", ["script_7"])
def test_the_verdicts_of_script_7_know_all_of_the_validation(two, pictures, job):
    checkpoint = load_checkpoint(two / job / "spai_fusion_best.pth", SPAI_KEYS)
    table = pd.read_csv(pictures).query("split == 'val'")
    found = pd.DataFrame({name: checkpoint["validation"][name] for name in ("probs", "generated", "degradation")})
    assert found["degradation"].unique().tolist() == ["none", "jpeg", "webp", "resize", "blur", "noise"]
    for _, rows in found.groupby("degradation"):
        assert rows["generated"].tolist() == (table["label"] == "fake").tolist()
        assert rows["probs"].nunique() == 9


NAMES = {"script_1": "highres_no_ela", "script_2": "hard_negative", "script_3": "high_recall"}
NAMES |= {"script_7": "spai_fusion", "script_8": "deepfake_video", "resumed": "deepfake_video"}


@pytest.mark.parametrize("job", each(*NAMES))
def test_each_program_speaks_and_writes_once(two, jobs, job):
    name = NAMES[job]
    first, second = printed(two / job), printed(two / job, process=1)
    assert second == []
    epochs = [line.split(":")[0] for line in first if line.startswith("epoch")]
    assert len(epochs) == len(set(epochs)) > 0
    trainings = sum("degrade" not in fields for _, fields in jobs[job])
    assert sum(line.startswith(f"{name}: ") and line.endswith("_best.pth") for line in first) == trainings
    written = {path.name for path in (two / job).glob(f"{name}_*")} - {"hard_negative_round_1.csv"}
    ends = ["best.pth", "last.pth", "metrics.json", "history.json", *["curve.png"] * (len(epochs) > 1)]
    ends += ["reliability.png"] * (name == "deepfake_video")
    assert written == {f"{name}_{end}" for end in ends}
    assert not list((two / job).rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("job", ["script_1"])
def test_the_metrics_of_script_1_are_those_of_its_checkpoint(two, odd_dir, job):
    folder, fold = odd_dir
    path = two / job / "highres_no_ela_best.pth"
    checkpoint, samples = load_checkpoint(path), load_samples(folder)
    folds = assign_folds(samples, 5, 0)
    val = [sample for sample, own in zip(samples, folds, strict=True) if own == fold]
    assert len(val) % 2 == 1
    loader = make_loader(ForgeryDataset(val, 64, framing="crop"), 8, 0, collate=collate_whole)
    again = validate(Accelerator(), load_network(checkpoint, path), loader)
    assert checkpoint["metrics"] == pytest.approx(again.metrics, abs=1e-6, nan_ok=True)
    metrics = json.loads(path.with_name("highres_no_ela_metrics.json").read_text())
    assert metrics["dice"] == checkpoint["best_dice"]
    begins = [line.split(":")[0] for line in printed(path.parent)]
    assert begins == ["highres_no_ela", "epoch 1/1", "highres_no_ela"]


@pytest.mark.parametrize(
    ("job", "forged", "find", "name"),
    [
        ("script_2", False, partial(hard_negatives, most=500), "hard_negative"),
        pytest.param("script_3", True, hard_false_negatives, "hard_false_negative", marks=pytest.mark.slow),
    ],
)
def test_two_processes_mine_the_same_images(two, odd_dir, tmp_path, job, forged, find, name):
    folder, fold = odd_dir
    samples, path = load_samples(folder), two / job / "highres_no_ela_best.pth"
    folds = assign_folds(samples, 5, 0)
    mined = [s for s, own in zip(samples, folds, strict=True) if own != fold and s.forged == forged]
    scanned = scan(load_network(load_checkpoint(path), path), ForgeryDataset(mined, 64), batch_size=8)
    hard = find(scanned)
    assert len(hard) > 2
    write_round(tmp_path / "one.csv", scanned, hard)
    assert (two / job / f"{name}_round_1.csv").read_text() == (tmp_path / "one.csv").read_text()
    told = printed(two / job)
    assert sum("of the validation fold, before and after" in line for line in told) == 1
    assert sum(line.startswith("round 1: ") for line in told) == 1


@pytest.mark.slow
def test_an_interrupted_run_is_kept_and_goes_on(odd_dir, tmp_path):
    """Ctrl-C reaches the launcher alone, which passes it on."""
    small = ("--image-size", 64, "--decoder-channels", 32, "--encoder-weights", "none", "--schedule", "constant")
    options = ("--data-dir", odd_dir[0], "--models-dir", tmp_path, "--profile", "quick", "--tracker", "none")
    script = ("script_1_highres_no_ela.py", *options, *small)
    last = tmp_path / "highres_no_ela_last.pth"
    process = launch(*script, "--epochs", 10000)
    while not last.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert psutil.wait_procs(workers, timeout=1)[1] == []
    done = load_checkpoint(last)["epoch"] + 1
    assert complaints.count("interrupted: ") == 1
    assert f"{last} holds the run up to epoch {done}; go on with --resume" in complaints

    process = launch(*script, "--epochs", done + 1, "--resume")
    told, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    assert re.findall("^epoch .*?:", told, re.MULTILINE) == [f"epoch {done + 1}/{done + 1}:"]


def run_all(folder: Path) -> None:
    """In each of the processes: all jobs after each other, since a start takes longer than a job."""
    for name, programs in json.loads((folder / "jobs.json").read_text()).items():
        (folder / name).mkdir(exist_ok=True)
        for program, fields in programs:
            run(folder / name, program, fields, process=os.environ["RANK"])


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))

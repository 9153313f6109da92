"""Training speed of script 1, compared with the original recipe's loop and with the network alone.

    python -m benchmarks.training --data-dir data/casia1
    python -m benchmarks.training --data-dir data/casia1 --profile full --images 2000      # on a GPU

Plain is `benchmarks.reference train`. Ours is script 1's own path through `fit_member`: an epoch in which the cache of
decoded images is empty, then one in which it is full. The limit is a loop of the same network, loss and optimiser over
one batch of random pixels on the device. Every run is a process of its own; the rounds are interleaved, and a cell is
the median of its rounds. The peak of memory is that of the whole process (Linux). The plain rate leaves out the first
two steps; ours does not.
"""

from common.process import prepare

prepare()  # before torch is imported

import contextlib
import io
import json
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks import high_water
from common.config.segmentation import OversamplingConfig
from common.data.dataset import ForgeryDataset
from common.data.packed import PackedList
from common.data.samples import Sample
from common.data.sampling import WeightedSampler, small_forgery_weights
from common.data.transforms import basic_augmentation
from common.devices import process_state
from common.networks.segmentation import build_network
from common.tables import markdown_table
from common.training.losses import CombinedLoss
from common.training.member import Split, fit_member, load_split, start_network

VALIDATED = 8
"""Number of validation images, few because validation is not in the rate."""
FIRST_STEPS = 2

Figures = dict[str, float]
Profile = Literal["quick", "full"]


def main(data_dir: Path, images: int = 200, profile: Profile = "quick", rounds: int = 2) -> None:
    """Run all ways in turn, and print the table.

    Args:
        data_dir: Data folder.
        images: Number of training images of each run.
        profile: Profile of script 1.
        rounds: Runs of each way.
    """
    config = replace(OversamplingConfig(name="measured"), data_dir=data_dir, encoder_weights="none", tracker="none")
    config = config.quick() if profile == "quick" else config
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else platform.machine()
    print(f"{device}, {os.cpu_count()} cores, torch {torch.__version__}; {profile} profile, {images} images\n")
    found: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        command = ["benchmarks.reference", "train", "--data-dir", data_dir, "--images", images, "--profile", profile]
        result = subprocess.run(
            [sys.executable, "-m", *map(str, command), "--json"], capture_output=True, text=True, check=True
        )
        found.setdefault("plain", []).append(json.loads(result.stdout.splitlines()[-1]))
        for precision in ("bf16", "fp32") if gpu else ("fp32",):
            of_run = replace(config, precision=precision)
            for way, figures in zip(("cold", "warm"), _in_a_process(_ours, of_run, images), strict=True):
                found.setdefault(f"ours, {precision}, cache {way}", []).append(figures)
            found.setdefault(f"no data, {precision}", []).append(_in_a_process(_no_data, of_run, images))
    print(_table(found))


def _table(found: dict[str, list[Figures]]) -> str:
    def median(way: str, figure: str) -> float:
        values = [figures[figure] for figures in found[way] if figure in figures]
        return statistics.median(values) if values else float("nan")

    rows, plain = [], median("plain", "images_per_second")
    for way in found:
        rate = median(way, "images_per_second")
        limit = median(
            re.sub(r"^ours, (\w+),.*|^plain", lambda m: f"no data, {m[1] or 'fp32'}", way), "images_per_second"
        )
        waiting = median(way, "waiting_share")
        cells = [f"{rate:.1f}", f"{rate / plain:.2f}×", f"{rate / limit:.0%}", f"{median(way, 'peak_mb'):.0f}"]
        rows.append([way, *cells, "–" if waiting != waiting else f"{waiting:.0%}"])
    return markdown_table(["training", "images/s", "ratio", "of no data", "peak MB", "waiting"], rows)


def _ours(config: OversamplingConfig, images: int) -> list[Figures]:
    """Figures of an epoch with an empty cache, and of one with a full cache."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        config = replace(config, models_dir=Path(folder), epochs=2)
        split = load_split(config)
        some = PackedList(_some(split.train, images)), PackedList(_some(split.val, VALIDATED))
        split = Split(*some, split.fingerprint)
        model, config = start_network(config, split)
        weights = small_forgery_weights(split.train, config.small_forgery_threshold, config.oversample_factor)
        train_set = ForgeryDataset(split.train, config.image_size, basic_augmentation())

        def fill(epoch: int) -> bool:
            if epoch == 1:
                for index in range(len(train_set)):
                    train_set[index]
            return True

        val_set = ForgeryDataset(split.val, config.image_size)
        fit_member(config, split, model, train_set, val_set, WeightedSampler(weights, config.seed), fill)
    epochs = re.findall(r"([\d.]+) img/s, (\d+)% waiting", printed.getvalue())
    peak = high_water()
    return [
        {"images_per_second": float(rate), "waiting_share": int(share) / 100, "peak_mb": peak} for rate, share in epochs
    ]


def _some(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples, spread over all of them."""
    return list(samples)[:: max(1, len(samples) // count)][:count]


def _no_data(config: OversamplingConfig, images: int) -> Figures:
    """The rate of training steps on pixels that are on the device."""
    device, size = torch.device(str(process_state().device)), config.image_size
    torch.backends.cudnn.benchmark = True
    image = torch.randint(0, 256, (config.batch_size, 3, size, size), dtype=torch.uint8, device=device)
    mask = (torch.rand(config.batch_size, 1, size, size, device=device) > 0.9).to(torch.uint8)
    model, loss = build_network(config).to(device).train(), CombinedLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    steps, started = max(1, images // config.batch_size), 0.0
    for step in range(FIRST_STEPS + steps):
        if step == FIRST_STEPS:
            started = _now()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            value = loss(model(image), mask)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"images_per_second": steps * config.batch_size / (_now() - started), "peak_mb": high_water()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _in_a_process(function, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


if __name__ == "__main__":
    tyro.cli(main)

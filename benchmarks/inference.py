"""A submission of six members: images a second and memory, with each backend and by the original recipe's loop.

    python -m benchmarks.inference
    python -m benchmarks.inference --full --images 6

Without --models-dir the members have random weights, their maps brought to a spread as trained ones have; without
--input the images are drawn figures and JPEGs of them, of about 1000×800 pixels. The original recipe's loop is `python
-m benchmarks.reference submit`. Each run is a process of its own; its time is without the imports, but with the loading
of the networks. The outputs are compared: the images' probabilities must agree within 1e-3, the drawn regions with an
intersection over union of 0.99. Then ten times as many images: memory must not grow with them. A run that is not
measured comes first, since the first reading from the disk is slow.
"""

from common.process import prepare

prepare()  # before torch is imported

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import tyro
from torch import nn

from common.config.segmentation import TrainConfig
from common.data.images import find_images
from common.data.transforms import resize_image, to_channels, to_tensor
from common.ensemble.backends import TOLERANCE, probes
from common.ensemble.members import MEMBERS, member_path
from common.making.drawing import draw_blot, draw_cells, draw_gel
from common.metrics.rle import parse_annotation
from common.networks.segmentation import build_network
from common.tables import markdown_table
from common.training.checkpoint import save_checkpoint

ROOT = Path(__file__).parent.parent
PROGRAM = """
import json, runpy, sys, time
from common.process import prepare; prepare()
import common.submission.predictor
start, sys.argv = time.perf_counter(), sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
seconds = time.perf_counter() - start
from benchmarks import high_water
print(json.dumps({"seconds": seconds, "peak_mb": high_water()}))
"""
LEAST_IOU = 0.99
MOST_GROWTH = 1.1
"""Of the peak of memory with many images, beside that with few."""


@dataclass(frozen=True, kw_only=True)
class InferenceBenchmark:
    """What to submit, by which members."""

    input: Path | None = None
    """Folder of images; by default some are drawn."""
    models_dir: Path | None = None
    """Folder of checkpoints; by default six with random weights."""
    full: bool = False
    """The original recipe's network, FPN-B2 at 512 px, instead of the quick profile's. (Without --models-dir.)"""
    images: int = 24
    """How many are drawn."""
    times: int = 10
    """How many times as many images the second measurement of the memory has; 1 leaves it out."""


def main(config: InferenceBenchmark) -> None:
    """Make what is missing, run, compare, print the tables."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        images, models = Path(folder) / "images", Path(folder) / "models"
        if config.input is None:
            draw_images(images, config.images)
        else:
            images = shutil.copytree(config.input, images)
        if config.models_dir is None:
            make_members(models, images, full=config.full)
        else:  # a copy: its exports are made again, and their time is measured
            models = shutil.copytree(config.models_dir, models, ignore=shutil.ignore_patterns("exported"))
        count = len(find_images(images))
        _submit(next(iter(find_images(images).values())), models, Path(folder) / "cold" / "submission.csv", "torch")
        plain = _reference(images, models, Path(folder) / "reference.csv")
        rows = [["original loop", f"{count / plain['seconds']:.2f}", "1.00×", f"{plain['peak_mb']:.0f} MB", "", ""]]
        exported = _program("export_models.py", "--models-dir", models)["seconds"]
        for backend in ("torch", "onnxruntime"):
            ours = _submit(images, models, Path(folder) / backend / "submission.csv", backend)
            difference, iou = _compare(Path(folder), Path(folder) / backend)
            rate, ratio = f"{count / ours['seconds']:.2f}", f"{plain['seconds'] / ours['seconds']:.2f}×"
            rows.append([backend, rate, ratio, f"{ours['peak_mb']:.0f} MB", f"{difference:.1e}", f"{iou:.4f}"])
        head = [f"six members, {count} images", "images/s", "ratio", "peak memory", "max difference", "least IoU"]
        print(markdown_table(head, rows))
        print(f"\nexport of the networks, once: {exported:.1f} s\n")
        if config.times > 1:
            first = images.rename(images.with_name("once"))
            for number in range(config.times):
                shutil.copytree(first, images / str(number))
            many = _submit(images, models, Path(folder) / "many" / "submission.csv", backend)
            figures = [[f"{backend}, {config.times * count} images", f"{many['peak_mb']:.0f} MB"]]
            print(markdown_table(["memory", "peak"], figures))
            if many["peak_mb"] > MOST_GROWTH * ours["peak_mb"]:
                raise SystemExit(f"memory grows: with {count} images the peak was {ours['peak_mb']:.0f} MB")


def draw_images(folder: Path, count: int) -> None:
    """Figures of about 1000×800 pixels, every second one a JPEG."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        draw = (draw_blot, draw_gel, draw_cells)[number % 3]
        figure = draw(int(rng.integers(700, 900)), int(rng.integers(900, 1100)), rng)
        cv2.imwrite(str(folder / f"{number:03}{'.jpg' if number % 2 else '.png'}"), figure[..., ::-1])


def make_members(folder: Path, images: Path, *, full: bool) -> None:
    """Checkpoints of six members with random weights, whose logits on these images have mean −2 and deviation 2."""
    plain = TrainConfig(name="random")
    pixels = [cv2.imread(str(path))[..., ::-1].copy() for path in list(find_images(images).values())[:4]]
    for number, member in enumerate(member for member in MEMBERS if member.role in ("average", "union")):
        config = replace(plain if full else plain.quick(), name=member.name).plain() | {
            "in_channels": member.in_channels
        }
        torch.manual_seed(number)
        network = build_network(config).train()
        batch = [resize_image(to_channels(image, member.in_channels), config["image_size"]) for image in pixels]
        batch = torch.stack([to_tensor(image) for image in batch])
        # With the statistics of figures alone, random layers blow up the rounding errors of other images.
        known = torch.cat([batch, probes(member.in_channels, config["image_size"])])
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None  # the statistics of this one batch
            network(known)
            logits = network.eval()(batch)
            head = network.head[0]
            head.weight *= 2 / logits.std()
            head.bias.copy_((head.bias - logits.mean()) * 2 / logits.std() - 2)
        checkpoint = {"model_state_dict": network.state_dict(), "config": config, "epoch": 0, "best_dice": 0.0}
        checkpoint |= {"metrics": {}, "threshold": 0.5, "calibration": {"slope": 1.0, "intercept": 0.0}}
        save_checkpoint(checkpoint, member_path(folder, member))


def _reference(images: Path, models: Path, output: Path) -> dict[str, float]:
    flags = ("--input", images, "--models-dir", models, "--output", output, "--json")
    return _figures("-m", "benchmarks.reference", "submit", *flags)


def _submit(images: Path, models: Path, output: Path, backend: str) -> dict[str, float]:
    flags = ("--input", images, "--models-dir", models, "--output", output, "--backend", backend)
    return _program("make_submission.py", *flags, "--no-copy-move", "--no-generated", "--no-videos")


def _program(name: str, *flags: object) -> dict[str, float]:
    return _figures("-c", PROGRAM, name, *flags)


def _figures(*arguments: object) -> dict[str, float]:
    """Run Python; its last line is JSON."""
    # Nothing of this process's settings (common.process) is handed down.
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    what = " ".join(str(argument) for argument in arguments[1:] if argument != PROGRAM)
    print(f"{what[:60]} … {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _compare(plain: Path, ours: Path) -> tuple[float, float]:
    """Largest difference of a probability, and least intersection over union of an image's regions.

    Raises:
        SystemExit: They are not the same submission.
    """
    expected, submitted = (_table(plain / "reference.csv", plain), _table(ours / "submission.csv", ours))
    if not (expected.index == submitted.index).all():
        raise SystemExit(f"{ours.name}: other rows than the original loop")
    sizes = pd.read_csv(ours / "scores.csv", dtype={"case_id": str}).set_index("case_id")
    difference = (expected.forged_probability - submitted.forged_probability).abs().max(skipna=False)
    iou = min(
        _iou(*(parse_annotation(table.annotation[name], row.height, row.width) for table in (expected, submitted)))
        for name, row in sizes.iterrows()
    )
    if not (difference <= TOLERANCE and iou >= LEAST_IOU):  # nan is neither
        raise SystemExit(f"{ours.name}: probabilities {difference:.1e} off, regions agree by {iou:.4f}")
    return difference, iou


def _table(submission: Path, folder: Path) -> pd.DataFrame:
    tables = [
        pd.read_csv(path, dtype={"case_id": str}).set_index("case_id") for path in (submission, folder / "scores.csv")
    ]
    return tables[0].join(tables[1])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks, 1 where both are empty."""
    a, b = a > 0, b > 0
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


if __name__ == "__main__":
    main(tyro.cli(InferenceBenchmark, description=__doc__))

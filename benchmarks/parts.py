"""Seconds of a core for each part of a submission, from which docs/SCALING.md derives images an hour.

    python -m benchmarks.parts
    python -m benchmarks.parts --cores 2 16 64

One thread, drawn images of three sizes, random weights; medians. The ensemble's lines are without its networks: error
levels, tiles cut, resized and blended, features, decision. The last lines are the sums of an image's parts. A GPU's
rate is bounded by its arithmetic, and by the cores that read and decide meanwhile; a multiplication and an addition are
two operations.
"""

from common.process import prepare

prepare()  # before torch is imported

import csv
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.config.segmentation import TrainConfig
from common.data.images import read_image
from common.data.transforms import resize_image
from common.ensemble.backends import load_with
from common.ensemble.ensemble import Ensemble, Loaded
from common.ensemble.instances import find_instances
from common.ensemble.loading import original_settings
from common.ensemble.members import MEMBERS
from common.ensemble.views import Network, extract_pieces
from common.errors import UserError
from common.forensics.copy_move import find_copies
from common.forensics.ela import error_level
from common.making.drawing import draw_cells
from common.metrics.rle import encode_labels, format_annotation
from common.networks.segmentation import build_network
from common.tables import markdown_table
from common.training.checkpoint import save_checkpoint

SIZES = {"512 × 512": (512, 512), "1500 × 1000": (1000, 1500), "4000 × 3000": (3000, 4000)}
TYPICAL = "1500 × 1000"
PROFILES = {"quick": TrainConfig(name="quick").quick(), "full": TrainConfig(name="full")}
NETWORKS = [member for member in MEMBERS if member.role in ("average", "union")]
DISK_MB = 256


class Drawn(nn.Module):
    """A network at no cost: four spots are forged, whatever the image."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1, S, S) for images (N, C, S, S)."""
        logits = torch.full((len(x), 1, *x.shape[2:]), -4.0)
        side = x.shape[2] // 10
        for row, column in ((1, 1), (1, 6), (5, 2), (7, 7)):
            logits[:, 0, row * side : (row + 1) * side, column * side : (column + 1) * side] = 4.0
        return logits


def main(cores: tuple[int, ...] = (1, 2, 16, 64)) -> None:
    """Measure the parts, print the table and what follows.

    Args:
        cores: Numbers of cores that the hourly rates are derived for.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        disk = _disk_rate(Path(folder) / "disk")
        for size, shape in SIZES.items():
            seconds |= _image_parts(Path(folder), size, shape)
        for profile in PROFILES:
            seconds |= _forward_parts(Path(folder), profile)
    seconds["CSV, a row of both tables"] = _csv_seconds()

    print(
        f"{platform.machine()}, {platform.processor()}, {os.cpu_count()} cores, torch {torch.__version__}; one thread\n"
    )
    rows = [[part, f"{1e3 * taken:,.2f} ms", f"{1 / taken:,.1f}"] for part, taken in seconds.items()]
    print(markdown_table(["part", "an image", "images a second and core"], rows))
    print(f"\nreading from the disk: {disk:,.0f} MB/s")
    for profile, config in PROFILES.items():
        print(_derived(profile, config, seconds, cores))


def _image_parts(folder: Path, size: str, shape: tuple[int, int]) -> dict[str, float]:
    """Seconds of what depends on the image's size."""
    image = _drawn(*shape)
    png, jpg = folder / "image.png", folder / "image.jpg"
    Image.fromarray(image).save(png)
    Image.fromarray(image).save(jpg, quality=90)
    ensembles = {profile: _ensemble(config.image_size) for profile, config in PROFILES.items()}
    prob = ensembles["full"].predict([image])[0].prob
    prob = cv2.resize(prob, shape[::-1], interpolation=cv2.INTER_LINEAR)
    parts = {
        f"decode PNG ({png.stat().st_size / 1e6:.1f} MB)": lambda: read_image(png),
        f"decode JPEG ({jpg.stat().st_size / 1e6:.1f} MB)": lambda: read_image(jpg),
        "error levels": lambda: error_level(image),
        "resize to 256": lambda: resize_image(image, 256),
        "resize to 512": lambda: resize_image(image, 512),
        **{f"ensemble, {name}": lambda own=own: own.predict([image]) for name, own in ensembles.items()},
        "regions and run lengths": lambda: format_annotation(encode_labels(find_instances(prob, 0.5))),
        "copy-move": lambda: find_copies(image),
    }
    return {f"{size}: {name}": _median(part) for name, part in parts.items()}


def _drawn(height: int, width: int) -> np.ndarray:
    """Cells, tiled from one figure where the image is large: to draw them takes longer than anything measured here."""
    figure = draw_cells(min(height, 1000), min(width, 1500), np.random.default_rng(0))
    return np.ascontiguousarray(np.tile(figure, (-(-height // 1000), -(-width // 1500), 1))[:height, :width])


def _ensemble(size: int) -> Ensemble:
    """All members, whose networks cost nothing."""
    calibration = {"slope": 1.0, "intercept": 0.0}
    checkpoint = {"config": {"image_size": size}, "threshold": 0.5, "calibration": calibration}
    loaded = [Loaded(member, Drawn(), checkpoint) for member in NETWORKS]
    return Ensemble([loaded], original_settings(loaded), torch.device("cpu"))


def _forward_parts(folder: Path, profile: str) -> dict[str, float]:
    """Seconds of one image in one network, by torch and, if it is installed, ONNX Runtime."""
    config, batch = PROFILES[profile], 8 if profile == "quick" else 2
    network = build_network(config).eval()
    images = torch.randint(0, 256, (batch, 3, config.image_size, config.image_size), dtype=torch.uint8)
    checkpoint = {"model_state_dict": network.state_dict(), "config": config.plain()}
    path = folder / f"{profile}_best.pth"
    save_checkpoint(checkpoint, path)
    networks: dict[str, Network] = {"torch": network}
    try:
        networks["onnxruntime"] = load_with("onnxruntime", path, checkpoint)
    except UserError as error:  # not installed, or not for this machine
        print(f"without ONNX Runtime: {error}")
    what = f"forward, {profile} at {config.image_size} px ({_operations(network, images) / batch / 1e9:.2f} GFLOP)"
    with torch.inference_mode():
        return {f"{what}, {name}": _median(partial(run, images)) / batch for name, run in networks.items()}


def _operations(network: nn.Module, images: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(images)
    return counter.get_total_flops()


def _derived(profile: str, config: TrainConfig, seconds: dict[str, float], cores: tuple[int, ...]) -> str:
    """What an image of the typical size costs with six members, and what follows for an hour."""
    image = np.zeros((*SIZES[TYPICAL], 3), np.uint8)
    networks = [loaded.piece_network for loaded in _ensemble(config.image_size).folds[0]]
    found = extract_pieces([image], networks)
    pieces = sum(len(found[network.spec].pixels) for network in networks)
    forward = {name: taken for name, taken in seconds.items() if name.startswith(f"forward, {profile} ")}
    fastest = min(forward, key=lambda name: forward[name])
    around = sum(
        taken
        for name, taken in seconds.items()
        if name.startswith(f"{TYPICAL}: ")
        and ("JPEG" in name or name.endswith((f"ensemble, {profile}", "regions and run lengths")))
    )
    around += seconds["CSV, a row of both tables"]
    forward_seconds, copies = pieces * forward[fastest], seconds[f"{TYPICAL}: copy-move"]
    gflop = pieces * float(fastest.split("(")[1].split()[0])
    rates = "; ".join(
        f"{count} cores {3600 * count / (around + forward_seconds):,.0f} images an hour"
        f" ({3600 * count / (around + forward_seconds + copies):,.0f} with copy-move)"
        for count in cores
    )
    return (
        f"\n{profile}, six members, JPEG of {TYPICAL}: {pieces} pieces, {gflop:.1f} GFLOP. Of a core, networks "
        f"({fastest.split()[-1]}) {forward_seconds:.3f} s, all else {around:.3f} s, copy-move {copies:.3f} s. {rates}. "
        f"A GPU with T TFLOP/s in use does at most {3600e3 / gflop:,.0f} · T images an hour, for which "
        f"{1e3 / gflop * around:.1f} · T cores read and decide."
    )


def _csv_seconds(count: int = 20_000) -> float:
    """Of one image's rows in the submission and the scores."""

    def write() -> None:
        submission, scores = csv.writer(io.StringIO()), csv.writer(io.StringIO())
        for number in range(count):
            submission.writerow([f"case_{number}", "[123456, 78, 123556, 80, 123656, 81]"])
            scores.writerow([f"case_{number}", "image", 0.123456, 0.65, 0.01, 1, 1000, 1500, ""])

    return _median(write) / count


def _disk_rate(path: Path) -> float:
    """MB/s of a file that is not in the system's cache."""
    path.write_bytes(os.urandom(1_000_000) * DISK_MB)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        while file.read(1 << 22):
            pass
        return DISK_MB / (time.perf_counter() - start)


def _median(work: Callable) -> float:
    """Seconds: of up to nine runs after a first one, fewer where they take long."""
    work()
    taken = []
    while len(taken) < 9 and (not taken or sum(taken) < 1.5):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

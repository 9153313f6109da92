"""Scaling of a submission to a million images, without the network: time, memory, and recovery of a lost worker.

    python -m benchmarks.million                      # 1,000,000 images by two processes
    python -m benchmarks.million --images 20000       # about a minute

A manifest lists small PNG and JPEG files, made in a temporary folder, repeatedly under new case ids. Everything is as
in a submission, except that a pixel's brightness replaces the network's logit, so that a third of the images are
forged. It prints, for 1 %, 10 % and 100 % of the images: seconds (of the slowest process, from the manifest to the
merged tables), images per second, and the peak memory of a process (Linux); checks that the merged rows are complete,
in order, and forged where they should be; and, at 1 %, kills a process midway, restarts it, and compares the tables
byte for byte.
"""

from common.process import prepare

prepare()  # before torch is imported

import csv
import multiprocessing
import os
import platform
import signal
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks import high_water
from common.ensemble.ensemble import Ensemble, Loaded
from common.ensemble.loading import original_settings
from common.ensemble.members import MEMBERS
from common.errors import UserError
from common.submission.config import SubmissionConfig
from common.submission.inputs import open_parts
from common.submission.predictor import Predictor, write_part
from common.tables import markdown_table

FILES = 2000
MAP_SIZE = 256
"""The quick profile's."""


class Brightness(nn.Module):
    """Replaces a network: logits (N, 1, S, S) of uint8 (N, 3, S, S), above 0 from a value of 200 on."""

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return (images.float().mean(1, keepdim=True) - 200) / 8


def main(images: int = 1_000_000, processes: int = 2) -> None:
    """Measure, check, print the table.

    Args:
        images: How many at 100 %.
        processes: How many share the parts.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _make_images(folder / "images")
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, {processes} processes, {FILES} files of 64 to 128 pixels; "
            f"torch {torch.__version__}, OpenCV {cv2.__version__}\n"
        )
        for count in (images // 100, images // 10, images):
            config = _config(folder, count, f"whole{count}")
            measured = context.SimpleQueue()
            _join([_start(context, config, index, processes, measured) for index in range(processes)])
            seconds, peak = np.max([measured.get() for _ in range(processes)], axis=0)
            forged = _check(config, count)
            rows.append([f"{count:,}", f"{forged:,}", f"{seconds:.1f}", f"{count / seconds:.0f}", f"{peak:.0f} MB"])
        print(markdown_table(["images", "forged", "seconds", "images/s", "peak of a process"], rows))
        _lose_a_worker(context, folder, images // 100, processes)


def _config(folder: Path, count: int, name: str) -> SubmissionConfig:
    """A submission of a new manifest."""
    manifest = folder / f"{name}.csv"
    files = sorted(path.relative_to(folder).as_posix() for path in (folder / "images").iterdir())
    with manifest.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case_id", "file"])
        table.writerows((f"{number:09d}", files[number % len(files)]) for number in range(count))
    output = folder / name / "submission.csv"
    return SubmissionConfig(
        input=manifest,
        models_dir=folder,
        output=output,
        instances="components",
        copy_move=False,
        part_size=max(1, min(500, count // 20)),
    )


def _make_images(folder: Path) -> None:
    """Grey noise; in every third image two bright rectangles."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(FILES):
        height, width = rng.integers(64, 129, 2)
        image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
        if number % 3 == 0:
            image[8:24, 8:32] = image[-24:-8, -24:-4] = 250
        cv2.imwrite(str(folder / f"{number}.{'jpg' if number % 2 else 'png'}"), image)


def _start(context, config: SubmissionConfig, index: int, count: int, measured) -> BaseProcess:
    process = context.Process(target=_work, args=(config, index, count, measured))
    process.start()
    return process


def _work(config: SubmissionConfig, index: int, count: int, measured) -> None:
    """As make_submission.py for shard `index` of `count`, with another ensemble."""
    threads = max(1, (os.cpu_count() or 1) // count)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    checkpoint = {"threshold": 0.5, "calibration": {"slope": 1.0, "intercept": 0.0}, "config": {"image_size": MAP_SIZE}}
    member = [Loaded(MEMBERS[0], Brightness(), checkpoint)]
    predictor = Predictor(config, Ensemble([member], original_settings(member), torch.device("cpu")), None)
    start = time.perf_counter()  # without the imports, which take seconds for any number of images
    parts = open_parts(config)
    for part in parts.missing(parts.parts[index::count]):
        for _ in write_part(predictor, parts, part):
            pass
    parts.merge()
    measured.put((time.perf_counter() - start, high_water()))


def _join(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise UserError(f"a process ended with {worker.exitcode}; its message is above")


def _check(config: SubmissionConfig, count: int) -> int:
    """Check that the tables have every case once, in order, and the right verdicts; returns the number of forged."""
    forged = 0
    for table in (config.output, config.scores_path):
        with table.open(newline="") as file:
            rows = csv.reader(file)
            next(rows)
            for number, row in enumerate(rows):
                if int(row[0]) != number:
                    raise UserError(f"row {number} of {table} is {row[0]}")
                forged += table == config.output and row[1] != "authentic"
        if number != count - 1:
            raise UserError(f"{table} has {number + 1} rows; {count} expected")
    with config.input.open(newline="") as file:
        expected = sum(int(Path(row["file"]).stem) % 3 == 0 for row in csv.DictReader(file))
    if forged != expected:
        raise UserError(f"{forged} of {count} images are called forged; {expected} are")
    return forged


def _lose_a_worker(context, folder: Path, count: int, processes: int) -> None:
    """Kill the last process when it has done a part and not all, start it again, compare the tables."""
    config, measured = _config(folder, count, "lost"), context.SimpleQueue()
    whole = folder / f"whole{count}"
    workers = [_start(context, config, index, processes, measured) for index in range(processes)]
    parts = open_parts(config)
    own = parts.parts[processes - 1 :: processes]
    while len(parts.missing(own)) == len(own) and workers[-1].is_alive():
        time.sleep(0.01)
    workers[-1].kill()
    workers[-1].join()
    _join(workers[:-1])
    if workers[-1].exitcode not in (0, -signal.SIGKILL):
        raise UserError(f"the process ended with {workers[-1].exitcode} before it was killed; its message is above")
    missing = len(parts.missing())
    if not missing:
        raise UserError(f"the process was done before it was killed; try more --images than {100 * count}")
    again = _start(context, config, processes - 1, processes, measured)
    _join([again])
    for name in ("submission.csv", "scores.csv"):
        if (whole / name).read_bytes() != (folder / "lost" / name).read_bytes():
            raise UserError(f"after a lost process, {name} differs")
    print(f"\na process killed with {missing} of {len(parts.parts)} parts missing, and started again: the same tables")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

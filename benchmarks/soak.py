"""A submission of many images, with its memory: it must neither grow nor lose a row.

    python -m benchmarks.soak --images 20000

Small pictures with a copy in every third, one broken file in every hundred, and the released network with copy-move
evidence, by make_submission.py as a user runs it. Memory is that of the program and its workers together.
"""

from common.process import prepare

prepare()  # before torch is imported

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import tyro

from common.errors import UserError
from common.tables import markdown_table

BROKEN_EVERY = 100


def make_images(folder: Path, count: int) -> None:
    """Pictures of blurred noise of 96 × 128 pixels, in the layout of a folder to submit."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number % BROKEN_EVERY == BROKEN_EVERY - 1:
            path.write_bytes(b"\xff\xd8\xff no image")
            continue
        image = cv2.GaussianBlur(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8), (0, 0), 1.5)
        image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
        if number % 3 == 0:
            image[50:90, 70:120] = image[5:45, 5:55]
        cv2.imwrite(str(path), image)


def memory_of(program: psutil.Process) -> float:
    """Resident memory of a program and its workers in MB, shared pages counted once for each."""
    total = 0
    for process in (program, *program.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def main(*, images: int = 20000, network: bool = True) -> None:
    """Run it; print memory at each tenth, and check the rows.

    Args:
        images: Number of images.
        network: Use the released network beside the copy-move evidence.
    """
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place, "images"), Path(place, "out", "submission.csv")
        make_images(folder, images)
        Path(place, "models").mkdir()
        models = "models/release" if network else str(Path(place, "models"))
        command = [sys.executable, "make_submission.py", "--input", str(folder), "--output", str(output)]
        started, samples = time.perf_counter(), []
        with subprocess.Popen(
            [*command, "--models-dir", models, "--allow-missing"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            while run.poll() is None:
                time.sleep(1)
                samples.append(memory_of(psutil.Process(run.pid)) if psutil.pid_exists(run.pid) else 0.0)
        seconds = time.perf_counter() - started
        with output.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with (output.parent / "scores.csv").open(newline="") as file:
            scores = list(csv.DictReader(file))
    tenths = [max(part) for part in np.array_split(samples[:-1], 10)]
    print(markdown_table([f"{10 * n} %" for n in range(1, 11)], [[f"{value:.0f} MB" for value in tenths]]))
    broken = [row["case_id"] for row in scores if row["error"]]
    print(f"{images} images in {seconds:.0f} s, {len(rows)} rows, {len(broken)} with an error")
    wanted = [f"{number:06}" for number in range(images)]
    if [row["case_id"] for row in rows] != wanted or broken != wanted[BROKEN_EVERY - 1 :: BROKEN_EVERY]:
        raise UserError("rows are missing, or errors are not those of the broken files.")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

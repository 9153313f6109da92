"""Trainings and submissions that are killed again and again, and must end as those that were not.

    python -m benchmarks.killed --kills 10 --workers 0 2

Scripts 1, 2, 7 and 8 in their smallest form, on images that are made here. Each is started, killed (SIGKILL) at a
random moment, and continued as its messages say, so many times, and then left to end. A row says how many kills fell
before anything was saved, and whether all weights of the last checkpoint are those of the unbroken run, to the bit. A
submission of 40 images with copy-move evidence, in parts of 2, must end with the same tables, byte for byte.
"""

from common.process import prepare

prepare()  # before torch is imported

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro

from common.making.layout import new_folder, write_image, write_mask
from common.tables import markdown_table
from common.training.checkpoint import load_checkpoint
from common.video.files import write_video

QUICK = ("--profile", "quick", "--tracker", "none")
SMALL = ("--encoder-name", "tu-mobilenetv3_small_100", "--encoder-weights", "none", "--image-size", "64")
RUNS = {
    "highres_no_ela": ("script_1_highres_no_ela.py", *QUICK, *SMALL, "--epochs", "6", "--data-dir", "{0}/images"),
    "hard_negative": ("script_2_hard_negative_mining.py", *QUICK, "--rounds", "3", "--data-dir", "{0}/images"),
    "spai_fusion": (
        *("script_7_spai_fusion.py", *QUICK, "--epochs", "6", "--warmup-epochs", "0", "--stage-one-epochs", "1"),
        *("--batch-size", "8", "--views", "2", "--data-dir", "{0}/classes"),
    ),
    "deepfake_video": (
        *("script_8_deepfake_video.py", *QUICK, "--encoder-name", "mobilenetv3_small_100", "--encoder-weights", "none"),
        *("--image-size", "64", "--frames", "4", "--frozen-epochs", "1", "--epochs", "6", "--faces", "crops"),
        *("--data-dir", "{0}/clips"),
    ),
}
"""Member → its script and flags; {0} is the folder of the data."""


def make_data(folder: Path) -> None:
    """Forged and authentic images, real and noisy ones, and clips: enough for one batch or a few."""
    rng = np.random.default_rng(0)
    with new_folder(folder / "images") as place:
        for number in range(24):
            image, mask = rng.integers(60, 120, (96, 128, 3), dtype=np.uint8), np.zeros((1, 96, 128), np.uint8)
            write_image(place / "train_images" / "authentic" / f"{number}.png", image)
            top, left, side = *rng.integers(0, 60, 2), int(rng.integers(8, 32))
            mask[:, top : top + side, left : left + side] = 1
            image[mask[0] > 0] = 200
            write_image(place / "train_images" / "forged" / f"{number}.png", image)
            write_mask(place / "train_masks" / f"{number}.npy", mask)
    for number in range(36):
        label, noise = ("real", "fake/noise")[number % 2], 40 * (number % 2)
        split = ("train", "train", "train", "val", "test")[number // 8] if number < 32 else "test"

        def picture(noise: int = noise) -> np.ndarray:
            plain = cv2.resize(
                rng.integers(60, 190, (4, 5, 3), dtype=np.uint8), (80, 64), interpolation=cv2.INTER_CUBIC
            )
            return (plain + rng.normal(0, noise, plain.shape)).clip(0, 255).astype(np.uint8)

        write_image(folder / "classes" / split / label / f"{number}.png", picture())
        clip = folder / "clips" / split / label.split("/", maxsplit=1)[0] / f"{number}.mp4"
        clip.parent.mkdir(parents=True, exist_ok=True)
        write_video(clip, [picture() for _ in range(6)], 6.0)


def start(member: str, data: Path, models: Path, workers: int) -> subprocess.Popen:
    """Begin a training, or continue it."""
    script, *flags = RUNS[member]
    files = [models / f"{member}_{name}.pth" for name in ("last", "best")]
    again = ["--resume"] if files[0].exists() else ["--overwrite"] if files[1].exists() else []
    command = [sys.executable, script, *(flag.format(data) for flag in flags), "--models-dir", str(models)]
    return subprocess.Popen(
        [*command, "--workers", str(workers), *again], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def start_submission(images: Path, output: Path) -> subprocess.Popen:
    """Begin a submission, or continue it."""
    models = images.parent / "none"
    models.mkdir(exist_ok=True)
    command = [sys.executable, "make_submission.py", "--input", str(images), "--output", str(output)]
    flags = ["--models-dir", str(models), "--allow-missing", "--part-size", "2", "--batch-size", "2", "--workers", "2"]
    return subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def killed_submission(folder: Path, kills: int, seed: int) -> list[str]:
    """The table's row of a submission."""
    images, rng = folder / "submitted", np.random.default_rng(seed)
    for number in range(40):
        image = cv2.GaussianBlur(rng.integers(0, 256, (192, 256, 3), dtype=np.uint8), (0, 0), 1.5)
        image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
        if number % 2:
            image[100:180, 140:240] = image[10:90, 10:110]
        write_image(images / f"{number}.png", image)
    whole, output = folder / "unbroken" / "s.csv", folder / "broken" / "s.csv"
    started = time.perf_counter()
    finish(start_submission(images, whole))
    seconds, early, done = time.perf_counter() - started, 0, 0
    while done < kills:
        run = start_submission(images, output)
        time.sleep(rng.uniform(0.2, 0.9) * seconds)
        if run.poll() is not None:  # it ended before: begin anew
            finish(run)
            output.unlink()
            continue
        run.kill()
        run.communicate()
        done += 1
        early += not list(output.parent.glob("s.csv*"))
    finish(start_submission(images, output))
    tables = ("s.csv", "scores.csv")
    same = all((output.parent / name).read_bytes() == (whole.parent / name).read_bytes() for name in tables)
    left = sorted(path.name for path in output.parent.iterdir() if path.suffix != ".csv")
    return ["submission", "2", str(kills), str(early), "yes" if same else "NO", ", ".join(left) or "none"]


def finish(run: subprocess.Popen) -> None:
    """Wait for a program.

    Raises:
        RuntimeError: It failed.
    """
    errors = run.communicate()[1]
    if run.returncode:
        raise RuntimeError(f"{run.args}: {errors}")


def weights_of(models: Path, member: str) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint."""
    return load_checkpoint(models / f"{member}_last.pth", ("model_state_dict",))["model_state_dict"]


def main(
    *, kills: int = 10, workers: tuple[int, ...] = (0, 2), members: tuple[str, ...] = tuple(RUNS), seed: int = 0
) -> None:
    """Kill, continue, compare; print the table.

    Args:
        kills: Of each run.
        workers: Numbers of loader processes.
        members: Those to train.
        seed: Of the moments.
    """
    rows, lost = [], 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_data(folder)
        for member in members:
            unbroken = folder / "unbroken"
            if member == "hard_negative" and "highres_no_ela" not in members:
                finish(start("highres_no_ela", folder, unbroken, 0))
            started = time.perf_counter()
            finish(start(member, folder, unbroken, 0))
            seconds, expected = time.perf_counter() - started, weights_of(unbroken, member)
            for count in workers:
                rng, early = random.Random(f"{seed} {member} {count}"), 0
                models = folder / f"{member}_{count}"
                models.mkdir()
                for name in ("highres_no_ela_best.pth",) if member == "hard_negative" else ():
                    (models / name).write_bytes((unbroken / name).read_bytes())
                done = 0
                while done < kills:
                    run = start(member, folder, models, count)
                    time.sleep(rng.uniform(0.2, 0.9) * seconds)
                    if run.poll() is not None:  # it ended before: begin anew
                        finish(run)
                        for name in ("last", "best"):
                            (models / f"{member}_{name}.pth").unlink()
                        continue
                    run.kill()
                    run.communicate()
                    done += 1
                    early += not (models / f"{member}_last.pth").exists()
                finish(start(member, folder, models, count))
                got = weights_of(models, member)
                same = all(torch.equal(value, got[name]) for name, value in expected.items()) and len(got) == len(
                    expected
                )
                left = [path.name for path in models.iterdir() if path.name.endswith((".partial", ".lock"))]
                lost += not same or len(left)
                rows.append(
                    [member, str(count), str(kills), str(early), "yes" if same else "NO", ", ".join(left) or "none"]
                )
                print(*rows[-1], flush=True)
        rows.append(killed_submission(folder, kills, seed))
        print(*rows[-1], flush=True)
        lost += rows[-1][4:] != ["yes", "none"]
    print(markdown_table(["run", "workers", "kills", "before anything was saved", "equal", "leftovers"], rows))
    if lost:
        raise SystemExit(1)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""Copy-move detection: recall, false positives, time and memory.

    python -m benchmarks.copy_move micrographs DIR    # synthetic copy-moves on pristine images: recall by kind
    python -m benchmarks.copy_move pages DIR          # a small copy in one of twelve panels of 3400 × 2600 pixels
    python -m benchmarks.copy_move casia CASIA1       # the copy-moved half of CASIA v1, and its authentic images
    python -m benchmarks.copy_move pairs DATA         # a data folder: pixel F1 of source and copy
    python -m benchmarks.copy_move speed              # seconds and memory, one core and processes

A copy counts as found if the image's best group scores above the threshold and more than half of its mask is true. The
threshold is the 95 % quantile of the best scores of the untouched images: at most 5 % of them are above it.
"""

from common.process import prepare

prepare()  # before torch is imported

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from benchmarks import high_water
from common.data.images import find_images, read_image
from common.data.masks import read_mask
from common.data.samples import load_samples
from common.ensemble.evidence import examine
from common.figures.reuse import find_reuse
from common.forensics.copy_move import Group
from common.forensics.jpeg import jpeg
from common.making.drawing import FIGURES
from common.making.synthesis import copy_move, draw_area_share
from common.metrics.forgery import pixel_f1
from common.sizes import SIZES, size_of

SHARE = 0.04  # area of source and copy together, unless the kind sets it
FALSE_POSITIVES = 0.05


def micrographs(
    folder: tyro.conf.Positional[Path], every: int = 1, first: int = 0, workers: int = os.cpu_count() or 1
) -> None:
    """Recall of synthetic copy-moves by size, rotation, scale, mirroring and JPEG quality.

    Args:
        folder: Pristine images, searched recursively.
        every: Use every n-th image only.
        first: Number of images to skip first.
        workers: Number of processes.
    """
    paths = list(find_images(folder).values())[first::every]
    untouched = _scores((read_image(path) for path in paths), workers, len(paths), "untouched")
    threshold = _threshold(untouched)
    print(f"{len(paths)} images; threshold {threshold:.3f}; above 0.5 untouched: {np.mean(untouched > 0.5):.3f}\n")
    rows = []
    for kind, forge in _kinds().items():
        jobs = (joblib.delayed(_try)(path, forge, number, threshold) for number, path in enumerate(paths))
        results = joblib.Parallel(workers, return_as="generator")(jobs)
        made = [result for result in tqdm(results, kind, len(paths), leave=False, disable=None) if result is not None]
        rows.append({"copy": kind, "n": len(made)} | pd.DataFrame(made).mean().to_dict())
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))


def _kinds() -> dict[str, Callable]:
    """Name → image, rng ↦ forged image and mask."""

    def copier(share: float | None = SHARE, *, angle: float = 0.0, scale: float = 1.0, mirror: bool = False):
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        transform = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
        return lambda image, rng: copy_move(image, rng, area_share=share, transform=transform)

    def drawn(image, rng):
        return copy_move(image, rng, area_share=draw_area_share(rng))

    def compressed(quality: int):
        def forge(image, rng):
            forged, mask = copier()(image, rng)
            return jpeg(forged, quality), mask

        return forge

    shares = dict(zip(SIZES, (0.003, 0.01, 0.035, 0.07, 0.2), strict=True))
    return (
        {f"{size} ({share:.1%})": copier(share) for size, share in shares.items()}
        | {f"turned by {angle}°": copier(angle=angle) for angle in (5, 20, 45, 90, 180)}
        | {f"scaled by {scale}": copier(scale=scale) for scale in (0.7, 0.85, 1.2, 1.4)}
        | {"mirrored": copier(mirror=True), "mirrored, turned by 45°": copier(mirror=True, angle=45)}
        | {f"JPEG {quality}": compressed(quality) for quality in (95, 85, 75, 65)}
        | {"as the competition's (sizes, turns, retouching mixed)": drawn}
    )


def pages(folder: tyro.conf.Positional[Path], count: int = 9, every: int = 3, first: int = 0) -> None:
    """Copies of 60 to 150 px in one panel of a large page, at score 0.5.

    Args:
        folder: Pristine micrographs, searched recursively; smaller than a panel they are enlarged to it.
        count: Number of pages.
        every: Use every n-th micrograph only.
        first: Number of micrographs to skip first.
    """
    cv2.setNumThreads(1)
    paths, hits = list(find_images(folder).values())[first::every], 0
    for number in range(count):
        page, truth, side = _large_page(paths, np.random.default_rng([17, number]))
        start = time.process_time()
        result = _judge(find_reuse(page).reuse, truth, 0.5)
        hits += int(result["recall"])
        print(f"copy of {side:.0f} px: {result}, {time.process_time() - start:.1f} s of one core", flush=True)
    print(f"{hits} of {count} found")


def _large_page(paths: list[Path], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """A page of twelve panels, uint8 (2600, 3400, 3); where it shows the same, bool (2600, 3400); the copy's side."""
    page, truth = np.full((2600, 3400, 3), 255, np.uint8), np.zeros((2600, 3400), bool)
    side, forged = rng.uniform(60, 150), rng.integers(12)
    for number, place in enumerate(rng.choice(len(paths), 12, replace=False)):
        y, x = 30 + 856 * (number // 4), 30 + 842 * (number % 4)
        window = slice(y, y + 826), slice(x, x + 812)
        picture = read_image(paths[place])
        zoom = max(1.0, 826 / picture.shape[0], 812 / picture.shape[1])
        picture = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)[:826, :812]
        if number == forged:
            share = 2 * side**2 / (826 * 812)
            picture, mask = copy_move(picture, rng, area_share=share, transform=np.eye(2))
            truth[window] = mask > 0
        page[window] = picture
    return page, truth, side


def _try(path: Path, forge: Callable, number: int, threshold: float) -> dict[str, float] | None:
    """The result for one forgery; None if it can't be made."""
    cv2.setNumThreads(1)
    try:
        forged, mask = forge(read_image(path), np.random.default_rng([1, number]))
    except ValueError:  # no room for the copy
        return None
    return _judge(find_reuse(forged).reuse, mask > 0, threshold)


def _judge(groups: list[Group], truth: np.ndarray, threshold: float) -> dict[str, float]:
    if not groups:
        return {"recall": 0.0, "flagged": 0.0, "pixel F1": 0.0}
    passing = [group.mask for group in groups if group.score > threshold]
    best = groups[0].mask
    return {
        "recall": float(bool(passing) and (best & truth).sum() > 0.5 * best.sum()),
        "flagged": float(bool(passing)),
        "pixel F1": pixel_f1(np.any(passing, axis=0), truth) if passing else 0.0,
    }


def _threshold(untouched: np.ndarray) -> float:
    return float(np.quantile(untouched, 1 - FALSE_POSITIVES, method="higher"))


def _scores(images: Iterable[np.ndarray], workers: int, total: int, name: str) -> np.ndarray:
    results = joblib.Parallel(workers, return_as="generator")(joblib.delayed(_best)(image) for image in images)
    return np.array(list(tqdm(results, name, total, leave=False, disable=None)))


def _best(image: np.ndarray) -> float:
    cv2.setNumThreads(1)
    return max((group.score for group in find_reuse(image).reuse), default=0.0)


def casia(folder: tyro.conf.Positional[Path], workers: int = os.cpu_count() or 1) -> None:
    """Recall on the copy-moved images (of the copy alone, which is all the truth marks), and false positives.

    Args:
        folder: CASIA v1, with index.csv, images/, masks/ and authentic/.
        workers: Number of processes.
    """
    table = pd.read_csv(folder / "index.csv")
    # The score was fitted on every second authentic image: these, and the images made from them, are left out.
    fitted = {path.name for path in sorted(find_images(folder / "authentic").values())[::2]}
    names = table.file.str.split("/").str[-1]
    seen = table.group.isin(table.group[(table.label == "authentic") & names.isin(fitted)])
    authentic = table.file[(table.label == "authentic") & ~seen]
    moved = table[(table.kind == "copymove") & ~seen]
    untouched = _scores((read_image(folder / file) for file in authentic), workers, len(authentic), "authentic")
    files = zip(moved["file"].tolist(), moved["mask"].tolist(), strict=True)
    jobs = (joblib.delayed(_copies_recall)(folder / image, folder / mask) for image, mask in files)
    results = joblib.Parallel(workers, return_as="generator")(jobs)
    found = pd.DataFrame(list(tqdm(results, "copy-moved", len(moved), disable=None)))
    found["size"] = [size_of(share) for share in moved.mask_share]
    for threshold in (_threshold(untouched), 0.5):
        hit = found.score > threshold
        print(
            f"threshold {threshold:.3f}: authentic flagged {np.mean(untouched > threshold):.3f} of {len(untouched)}, "
            f"copy-moves found {np.mean(hit & (found.recall > 0.5)):.3f} of {len(found)}, flagged {hit.mean():.3f}, "
            f"mean recall of the copy's pixels {np.where(hit, found.recall, 0).mean():.3f}, "
            f"where found {found.recall[hit].mean():.3f}"
        )
        by_size = (hit & (found.recall > 0.5)).groupby(found["size"]).agg(["mean", "size"]).reindex(SIZES)
        print(by_size.rename(columns={"mean": "found", "size": "n"}).T.to_string(float_format="{:.2f}".format), "\n")


def _copies_recall(image: Path, mask: Path) -> dict[str, float]:
    cv2.setNumThreads(1)
    truth = read_mask(mask).any(axis=0)
    groups = find_reuse(read_image(image)).reuse
    if not groups:
        return {"score": 0.0, "recall": 0.0}
    return {"score": groups[0].score, "recall": float(groups[0].mask[truth].mean())}


def pairs(folder: tyro.conf.Positional[Path]) -> None:
    """Score and pixel F1 of each image of a data folder.

    Args:
        folder: A data folder as for training; its masks mark source and copy.
    """
    for sample in load_samples(folder):
        groups = find_reuse(read_image(sample.image)).reuse
        best, label = max((group.score for group in groups), default=0), "forged" if sample.forged else "authentic"
        line = f"{sample.case_id:>8} {label:<9} score {best:.3f}"
        if sample.mask is not None:
            truth = np.logical_or.reduce(read_mask(sample.mask) > 0)
            union = np.any([g.mask for g in groups if g.score >= 0.5] or [np.zeros_like(truth)], axis=0)
            line += f", share {truth.mean():.2%}, pixel F1 of source and copy {pixel_f1(union, truth):.3f}"
        print(line)


def speed() -> None:
    """Seconds per image on one core, peak memory (Linux), and images per second by number of processes."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, OpenCV {cv2.__version__}\n")
    print(f"| {'image':<28} | {'seconds, one core':>18} | {'memory':>8} |")
    print(f"|{'-' * 30}|{'-' * 19}:|{'-' * 9}:|")
    sizes = ((256, 256), (512, 512), (1000, 1000), (3000, 4000))
    examples = {f"cells, forged, {width} × {height}": _forged(height, width, 0) for height, width in sizes}
    examples |= {"page of text, 1000 × 1000": _page(1000), "tiles, 1000 × 1000": _tiles(1000)}
    for name, image in examples.items():
        # A process of its own, so that its peak is that of this image alone and of the imports.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, memory = pool.apply(_cost, (image,))
        print(f"| {name:<28} | {seconds:>18.2f} | {memory:>5.0f} MB |")
    images = [_forged(512, 512, number) for number in range(16)]
    times = {}
    for workers in (1, 2):
        _scores(images[:2], workers, 2, "")  # the processes start
        start = time.perf_counter()
        _scores(images, workers, len(images), "")
        times[workers] = time.perf_counter() - start
    print(f"\ntwo processes against one, 512 × 512: {times[1] / times[2]:.2f}×, {16 / times[2]:.1f} images/s")


def _cost(image: np.ndarray) -> tuple[float, float]:
    """Median seconds, and the peak of the process's memory in MB."""
    cv2.setNumThreads(1)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        examine(image)
        times.append(time.perf_counter() - start)
    return statistics.median(times), high_water()


def _page(side: int) -> np.ndarray:
    image = np.full((side, side, 3), 255, np.uint8)
    for y in range(30, side, 30):
        cv2.putText(image, "the same words and the same words again " * 2, (10, y), 3, 0.7, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def _tiles(side: int) -> np.ndarray:
    tile = np.random.default_rng(0).integers(60, 200, (side // 8, side // 8, 1), dtype=np.uint8)
    return np.repeat(np.tile(cv2.GaussianBlur(tile, (0, 0), 2)[..., None], (8, 8, 1)), 3, axis=2)


def _forged(height: int, width: int, number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return copy_move(FIGURES["cells"](height, width, rng), rng, area_share=SHARE)[0]


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"micrographs": micrographs, "pages": pages, "casia": casia, "pairs": pairs, "speed": speed},
        description=__doc__,
    )

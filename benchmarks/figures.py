"""Compound figures: reuse found and false alarms, panels, time.

    python -m benchmarks.figures generated MICROGRAPHS    # figures composed of micrographs, with known reuse
    python -m benchmarks.figures real FIGURES             # real figures without known reuse: every alarm
    python -m benchmarks.figures panels FIGURES           # panels against those outlined by hand
    python -m benchmarks.figures speed                    # seconds and memory, one core; against all pairs at full cost

Reuse counts as found if the best group of a figure scores above the threshold and more than half of its mask is true.
"""

from common.process import prepare

prepare()  # before torch is imported

import json
import multiprocessing
import os
import time
from itertools import combinations
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
import tyro
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from benchmarks import high_water
from common.data.images import find_images, read_image
from common.figures.kinds import KINDS
from common.figures.panels import Panel, find_panels
from common.figures.reuse import find_reuse
from common.forensics.copy_move import find_copies
from common.making.figures import RELATIONS, ComposedFigure, compose_figure
from common.metrics.forgery import of1, pixel_f1
from common.sizes import SIZES, size_of

FALSE_POSITIVES = 0.05
FIELDS = 9
# Not benchmarks/outlines.json: on these figures the parameters were set.
OUTLINES = Path(__file__).parents[1] / "tests" / "figures" / "outlines.json"
LEAST_IOU = 0.75
TRANSFORMS = ("shifted", "mirrored", "turned", "scaled", "brightness")


def generated(
    folder: tyro.conf.Positional[Path], count: int = 200, every: int = 2, first: int = 1, workers: int = 2
) -> None:
    """Compose figures, half of them without reuse, and print what is found.

    Args:
        folder: Micrographs. The score was fitted on every second one from the first on: others are used.
        count: Number of figures.
        every: Use every n-th micrograph only.
        first: Number of micrographs to skip first.
        workers: Number of processes.
    """
    paths = fields(folder, every, first)
    results = joblib.Parallel(workers, return_as="generator")(joblib.delayed(_found)(paths, n) for n in range(count))
    table = pd.DataFrame(list(tqdm(results, "figures", count, disable=None)))
    clean, reused = table[table.relation == "none"], table[table.relation != "none"]
    at_rate = float(np.quantile(clean.score, 1 - FALSE_POSITIVES, method="higher"))
    print(f"{len(paths)} micrographs, {count} figures, {table.seconds.mean():.1f} s a figure")
    print(f"all figures called authentic: oF1 {len(clean) / count:.3f}; evidence alone: {table.of1.mean():.3f}\n")
    for threshold in (0.5, at_rate):
        flagged = clean.score > threshold
        found = (reused.score > threshold) & reused.hit
        print(f"score above {threshold:.3f}: {flagged.mean():.3f} of {len(clean)} figures without reuse")
        by_natural = flagged.groupby(clean.natural).agg(["mean", "size"])
        print(by_natural.to_string(float_format="{:.2f}".format))
        for column, order in (("relation", RELATIONS), ("transform", TRANSFORMS), ("size", SIZES)):
            # A figure may have several transforms: it counts for each.
            rows = pd.DataFrame({"found": found, "F1": reused.f1.where(found), column: reused[column].str.split(", ")})
            grouped = (
                rows.explode(column)
                .groupby(column)
                .agg(n=("found", "size"), found=("found", "mean"), F1=("F1", "mean"))
            )
            known = [name for name in order if name in grouped.index]
            print(grouped.loc[known].to_string(float_format="{:.2f}".format))
        print(f"all: {found.mean():.3f} of {len(reused)}\n")


def fields(folder: Path, every: int = 2, first: int = 1) -> list[Path]:
    """Micrographs of a folder; see `generated`."""
    return sorted(find_images(folder).values())[first::every]


def composed(paths: list[Path], number: int) -> ComposedFigure:
    """A figure of some of the micrographs; those of odd numbers hold reuse."""
    rng = np.random.default_rng([13, number])
    pictures = [read_image(paths[place]) for place in rng.choice(len(paths), FIELDS, replace=False)]
    return compose_figure(pictures, rng, RELATIONS[number // 2 % 3 + 1] if number % 2 else "none")


def _found(paths: list[Path], number: int) -> dict:
    cv2.setNumThreads(1)
    figure = composed(paths, number)
    start = time.perf_counter()
    found = find_reuse(figure.image).reuse
    seconds = time.perf_counter() - start
    truth = figure.mask[0] > 0
    best = found[0] if found else None
    passing = [group.mask for group in found if group.score >= 0.5]
    return {
        "relation": figure.relation,
        "transform": figure.transform,
        "natural": figure.natural,
        "size": size_of(float(truth.mean())) if truth.any() else "none",
        "score": best.score if best else 0.0,
        "hit": bool(best is not None and (best.mask & truth).sum() > 0.5 * best.mask.sum()),
        "f1": pixel_f1(best.mask, truth) if best else 0.0,
        "of1": of1(np.stack(passing), figure.mask)
        if passing and truth.any()
        else float(not passing and not truth.any()),
        "seconds": seconds,
    }


def real(folder: tyro.conf.Positional[Path], workers: int = 2) -> None:
    """Print every alarm at score 0.5 on figures without known reuse.

    Args:
        folder: With images/ and index.csv, of columns file and shows.
        workers: Number of processes.
    """
    table = pd.read_csv(folder / "index.csv")
    jobs = (joblib.delayed(_alarms)(folder / file) for file in table.file)
    results = joblib.Parallel(workers, return_as="generator")(jobs)
    found = list(tqdm(results, "figures", len(table), disable=None))
    flagged = []
    for name, shows, (seconds, rows) in zip(table.file, table.shows, found, strict=True):
        flagged.append(any(relation == "reuse" for relation, _, _ in rows))
        for relation, score, places in rows:
            print(f"{Path(name).name:<60} {shows:<12} {relation:<12} {score:.2f} {places} {seconds:.1f} s")
    rates = pd.Series(flagged).groupby(table.shows).agg(["sum", "size"])
    print(f"\n{sum(flagged)} of {len(table)} figures have an alarm\n{rates.to_string()}")
    print(f"seconds a figure: mean {np.mean([s for s, _ in found]):.1f}, most {max(s for s, _ in found):.1f}")


def _alarms(path: Path) -> tuple[float, list[tuple[str, float, str]]]:
    cv2.setNumThreads(1)
    image = read_image(path)
    start = time.perf_counter()
    found = find_reuse(image)
    seconds = time.perf_counter() - start
    rows = []
    for finding in found.findings:
        if finding.group.score >= 0.5:
            copy = finding.group.copies[0]
            boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in (copy.source, copy.target)]
            rows.append((finding.relation, finding.group.score, f"{boxes[0]} {boxes[1]}"))
    return seconds, rows


def panels(folder: tyro.conf.Positional[Path], outlines: Path = OUTLINES, *, each: bool = False) -> None:
    """Print recall and precision of panels, and how many kinds are right.

    Args:
        folder: With images/.
        outlines: JSON: file name → [{box: [x, y, width, height], kind}].
        each: Print a line for every figure too.
    """
    truth = json.loads(outlines.read_text(encoding="utf-8"))
    rows, kinds = [], []
    for name, expected in truth.items():
        found = find_panels(read_image(folder / "images" / name))
        hits = matched(found, [tuple(panel["box"]) for panel in expected])
        kinds += [(expected[there]["kind"], found[here].kind) for here, there in hits]
        rows.append({"name": name, "outlined": len(expected), "found": len(found), "matched": len(hits)})
        if each:
            print(f"{name:<60} outlined {len(expected):>3}, found {len(found):>3}, matched {len(hits):>3}")
    table = pd.DataFrame(rows)
    total = table.matched.sum()
    right = np.mean([one == other for one, other in kinds])
    print(
        f"{len(table)} figures: recall {total / table.outlined.sum():.3f} of {table.outlined.sum()}, "
        f"precision {total / table.found.sum():.3f} of {table.found.sum()}, kinds right {right:.3f}"
    )
    outlined = pd.Series([panel["kind"] for panels in truth.values() for panel in panels]).value_counts()
    counts = pd.crosstab(pd.Series([one for one, _ in kinds], name="outlined"), pd.Series([two for _, two in kinds]))
    counts.insert(0, "all", outlined)
    print(counts.reindex(KINDS).to_string())


def matched(found: list[Panel], boxes: list[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
    """Positions of panels found and of outlined boxes that are one, by intersection over union."""
    overlap = np.array([[_iou(panel.box, box) for box in boxes] for panel in found])
    if not overlap.size:
        return []
    pairs = zip(*linear_sum_assignment(-overlap), strict=True)
    return [(int(here), int(there)) for here, there in pairs if overlap[here, there] >= LEAST_IOU]


def _iou(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def speed() -> None:
    """Seconds on one core and peak memory of figures, and the ratio against all pairs of panels at full cost."""
    print(f"{os.cpu_count()} cores, OpenCV {cv2.__version__}\n")
    examples = {
        "1400 × 1400, 20 panels": _grid(1400, 1400, 5, 4),
        "4000 × 3000, 12 panels": _grid(3000, 4000, 4, 3),
        "1000 × 1000, 400 panels": _grid(1000, 1000, 20, 20),
        "one colour, 1000 × 1000": np.full((1000, 1000, 3), 128, np.uint8),
        "20000 × 300": _grid(300, 20000, 60, 1),
    }
    for name, image in examples.items():
        # A process of its own, so that its peak is that of this image alone and of the imports.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, memory = pool.apply(_cost, (image,))
        print(f"| {name:<26} | {seconds:>6.2f} s | {memory:>5.0f} MB |")
    image = examples["1400 × 1400, 20 panels"]
    cv2.setNumThreads(1)
    start = time.perf_counter()
    find_reuse(image)
    ours, start = time.perf_counter() - start, time.perf_counter()
    pairs = list(combinations([panel for panel in find_panels(image) if not panel.drawn], 2))
    for one, other in pairs[:: len(pairs) // 19]:
        height = max(one.height, other.height)
        both = [
            cv2.copyMakeBorder(image[p.window], 0, height - p.height, 0, 0, cv2.BORDER_CONSTANT) for p in (one, other)
        ]
        find_copies(np.hstack(both))
    plain = (time.perf_counter() - start) * len(pairs) / len(pairs[:: len(pairs) // 19])
    print(f"\nagainst all {len(pairs)} pairs at full cost (every {len(pairs) // 19}th timed): {plain / ours:.0f}×")


def _cost(image: np.ndarray) -> tuple[float, float]:
    """Seconds, and the peak of the process's memory in MB."""
    cv2.setNumThreads(1)
    find_reuse(image[:300, :300])  # what is loaded once
    start = time.perf_counter()
    find_reuse(image)
    return time.perf_counter() - start, high_water()


def _grid(height: int, width: int, columns: int, rows: int) -> np.ndarray:
    """Panels of cells and grain in a grid on white, two of them equal, uint8 (height, width, 3)."""
    page = np.full((height, width, 3), 255, np.uint8)
    high, wide, gap = height // rows, width // columns, max(2, width // columns // 20)
    for number in range(rows * columns):
        rng = np.random.default_rng(0 if number == rows * columns - 1 else number)
        panel = np.full((high - gap, wide - gap), 70, np.float32)
        for _ in range(30):
            centre = rng.integers(0, wide, 2).tolist()
            axes = rng.integers(max(wide // 50, 2), max(wide // 16, 4), 2).tolist()
            cv2.ellipse(panel, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(110, 200)), -1)
        panel = cv2.GaussianBlur(panel, (0, 0), 1.5) + rng.normal(0, 5, panel.shape)
        y, x = number // columns * high, number % columns * wide
        page[y : y + high - gap, x : x + wide - gap] = panel.clip(0, 250).astype(np.uint8)[..., None]
    return page


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"generated": generated, "real": real, "panels": panels, "speed": speed}, description=__doc__
    )

"""Speed of regions and run lengths against plain implementations on full masks.

    python -m benchmarks.rle

Ratios above 1 mean faster; medians of interleaved rounds, after a check that both give the same result. Plain are, for
`encode`, numpy's `flatten(order="F")` with a diff; for instances, a full mask for each (timed on 20 of them, because
all take half a minute); for components, OpenCV's with statistics and a look-up per pixel.
"""

from common.process import prepare

prepare()  # before torch is imported

import os
import platform
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np

from common.ensemble.instances import find_instances
from common.metrics import rle
from common.tables import markdown_table

ROUNDS = 7
SAMPLED = 20
LARGE = (3000, 4000)


def main() -> None:
    """Check that both implementations agree, time them, print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, OpenCV {cv2.__version__}, numpy {np.__version__}\n")
    rng, rows = np.random.default_rng(0), []
    for height, width in ((512, 512), (2048, 2048), LARGE):
        mask = (_blobs(rng, height, width, 6, height // 10) > 0).astype(np.uint8)
        plain, ours = _race(lambda mask=mask: _encode_plainly(mask), lambda mask=mask: rle.encode(mask))
        rows.append(_row(f"encode, {width} × {height}, 6 blobs", plain, ours))

    labels = _blobs(rng, *LARGE, 1000, 20)
    numbers = np.unique(labels)[1:]
    sampled = numbers[:: max(1, len(numbers) // SAMPLED)][:SAMPLED]
    plain, ours = _race(
        lambda: [_encode_plainly(labels == number) for number in sampled],
        lambda: np.take(np.array(rle.encode_labels(labels), object), np.searchsorted(numbers, sampled)).tolist(),
    )
    rows.append(_row(f"encode_labels, {len(numbers)} instances", plain * len(numbers) / len(sampled), ours))

    prob = np.zeros(LARGE, np.float32)  # a thousand separate instances
    for number in range(1000):
        centre = (
            50 + 100 * (number % 40) + int(rng.integers(-20, 20)),
            50 + 110 * (number // 40) + int(rng.integers(40)),
        )
        cv2.ellipse(prob, centre, rng.integers(10, 25, 2).tolist(), float(rng.integers(180)), 0, 360, 0.9, -1)
    plain, ours = _race(lambda: _components_plainly(prob), lambda: find_instances(prob, 0.5, 1e-5, "components"))
    rows.append(_row("find_instances, components", plain, ours))
    count = find_instances(prob, 0.5, 1e-5, "components").max()
    sampled = np.linspace(0, count - 1, SAMPLED).astype(int)
    labelling = plain
    plain, ours = _race(lambda: _written_plainly(prob, sampled), lambda: _written(prob, sampled))
    plain = labelling + (plain - labelling) * count / SAMPLED
    rows.append(_row(f"find_instances to annotation, {count} instances", plain, ours))

    print(markdown_table([f"{LARGE[1]} × {LARGE[0]} unless noted", "plain", "ours", "ratio"], rows))


def _encode_plainly(mask: np.ndarray) -> list[int]:
    none = np.zeros(1, mask.dtype)
    flat = np.concatenate([none, mask.flatten(order="F"), none])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.stack([edges[::2] + 1, edges[1::2] - edges[::2]], axis=1).ravel().tolist()


def _components_plainly(prob: np.ndarray) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats((prob >= 0.5).astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= 1e-5 * labels.size
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]


def _written_plainly(prob: np.ndarray, sampled: np.ndarray) -> list[str]:
    labels = _components_plainly(prob)
    return [rle.format_annotation([_encode_plainly(labels == number + 1)]) for number in sampled]


def _written(prob: np.ndarray, sampled: np.ndarray) -> list[str]:
    annotation = rle.format_annotation(rle.encode_labels(find_instances(prob, 0.5, 1e-5, "components")))
    return np.array(annotation.split(";"), object)[sampled].tolist()


def _blobs(rng: np.random.Generator, height: int, width: int, count: int, radius: int) -> np.ndarray:
    """Labels int32 (height, width) of partly overlapping ellipses."""
    labels = np.zeros((height, width), np.int32)
    for number in range(1, count + 1):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(radius // 2, radius)), int(rng.integers(radius // 2, radius)))
        cv2.ellipse(labels, centre, axes, float(rng.integers(180)), 0, 360, number, -1)
    return labels


def _race(plain: Callable, ours: Callable) -> tuple[float, float]:
    """Median seconds of both, after a check that they give the same."""
    assert np.array_equal(np.array(plain(), object), np.array(ours(), object))
    times = ([], [])
    for _ in range(ROUNDS):
        for way, taken in zip((plain, ours), times, strict=True):
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def _row(what: str, plain: float, ours: float) -> list[str]:
    return [what, f"{1e3 * plain:,.1f} ms", f"{1e3 * ours:,.1f} ms", f"{plain / ours:,.1f}×"]


if __name__ == "__main__":
    main()

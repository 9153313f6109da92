"""Run lengths: what the transposed diff and the one pass over labels bring.

    python -m benchmarks.rle

Two ratios, above 1 is faster, medians of interleaved rounds: `encode` against numpy's `flatten(order="F")` with a diff,
and `encode_labels` against a full mask for each of 1,000 instances on 4000 × 3000 pixels (timed on 20 of them, because
all take half a minute).
"""

import os
import platform
import statistics
import time
from collections.abc import Callable

from common.inference import rle

import cv2
import numpy as np

ROUNDS = 7
SAMPLED = 20


def main() -> None:
    """Check that the ways agree, time them, print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, OpenCV {cv2.__version__}, numpy {np.__version__}\n")
    print(f"| {'what':<44} | {'plain':>12} | {'ours':>12} | ratio |")
    print(f"|{'-' * 46}|{'-' * 13}:|{'-' * 13}:|{'-' * 6}:|")
    rng = np.random.default_rng(0)
    for height, width in ((512, 512), (2048, 2048), (3000, 4000)):
        mask = (_blobs(rng, height, width, 6, height // 10) > 0).astype(np.uint8)
        plain, ours = _race(lambda mask=mask: _encode_plainly(mask), lambda mask=mask: rle.encode(mask))
        _print(f"encode, {width} × {height}, 6 blobs", plain, ours)
    labels = _blobs(rng, 3000, 4000, 1000, 20)
    numbers = np.unique(labels)[1:]
    sampled = numbers[:: max(1, len(numbers) // SAMPLED)][:SAMPLED]
    plain, ours = _race(
        lambda: [_encode_plainly(labels == number) for number in sampled],
        lambda: np.take(np.array(rle.encode_labels(labels), object), np.searchsorted(numbers, sampled)).tolist(),
    )
    _print(f"encode_labels, 4000 × 3000, {len(numbers)} instances", plain * len(numbers) / len(sampled), ours)


def _encode_plainly(mask: np.ndarray) -> list[int]:
    none = np.zeros(1, mask.dtype)
    flat = np.concatenate([none, mask.flatten(order="F"), none])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.stack([edges[::2] + 1, edges[1::2] - edges[::2]], axis=1).ravel().tolist()


def _blobs(rng: np.random.Generator, height: int, width: int, count: int, radius: int) -> np.ndarray:
    """Labels int32 (height, width) of ellipses, in part one over another."""
    labels = np.zeros((height, width), np.int32)
    for number in range(1, count + 1):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(radius // 2, radius)), int(rng.integers(radius // 2, radius)))
        cv2.ellipse(labels, centre, axes, float(rng.integers(180)), 0, 360, number, -1)
    return labels


def _race(plain: Callable[[], list], ours: Callable[[], list]) -> tuple[float, float]:
    """Median seconds of both, after a check that they give the same."""
    assert plain() == ours()
    times = ([], [])
    for _ in range(ROUNDS):
        for way, taken in zip((plain, ours), times, strict=True):
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def _print(what: str, plain: float, ours: float) -> None:
    print(f"| {what:<44} | {1e3 * plain:>9.1f} ms | {1e3 * ours:>9.1f} ms | {plain / ours:>4.0f}× |")


if __name__ == "__main__":
    main()

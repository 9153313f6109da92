"""Benchmark of data reading: the index, the cache of decoded images, the memory of a worker process.

    python -m benchmarks.data
    python -m benchmarks.data data/mine

Without a data folder, one of 60 pairs is made for the run: drawn figures, PNG of 1500 × 1000 pixels, masks of as many.
With a given folder the start is timed with all its images, the epochs with 40 of them; its index is written if there
is none. Files are in the page cache when they are timed, on both sides. Ratios above 1 are faster, or less memory.
"""

from common.process import prepare

prepare()  # before torch is imported

import gc
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from common.data.dataset import ForgeryDataset
from common.data.packed import PackedList
from common.data.pixel_cache import PixelCache
from common.data.samples import Sample, find_samples, load_samples, open_samples
from common.making.drawing import draw_blot, draw_gel
from common.making.layout import write_image, write_mask
from common.tables import markdown_table

PAIRS, HEIGHT, WIDTH, SIZE = 60, 1000, 1500, 512
ROUNDS = 3
READ = 40
"""Images in an epoch."""
INDEXED = 200_000
"""Number of samples that a worker process reads."""

Row = tuple[str, str, str, str]


def main() -> None:
    """Make the data, time every part, print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, OpenCV {cv2.__version__}, Pillow {PIL.__version__}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else _make_data(folder / "data")
        samples, rows = _index(data_dir)
        rows += _cache(samples[:: max(1, len(samples) // READ)][:READ], folder)
    rows += _worker_memory()
    print(markdown_table(("what", "plain", "ours", "ratio"), rows))


def _make_data(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    figures = [draw(HEIGHT, WIDTH, rng) for draw in (draw_blot, draw_gel) for _ in range(3)]
    for number in range(PAIRS):
        # From few figures, since drawing takes long; no two files have the same bytes.
        image = np.roll(figures[number % len(figures)], 7 * number, axis=1)
        mask = np.zeros((1, HEIGHT, WIDTH), np.uint8)
        top, left, side = rng.integers(700), rng.integers(1200), rng.integers(20, 300)
        mask[:, top : top + side, left : left + side] = 1
        write_image(folder / "train_images" / "authentic" / f"{number}.png", image)
        write_image(
            folder / "train_images" / "forged" / f"{number}.png", np.where(mask[0, ..., None], 255 - image, image)
        )
        write_mask(folder / "train_masks" / f"{number}.npy", mask)
    return folder


def _index(data_dir: Path) -> tuple[list[Sample], list[Row]]:
    """The samples, and the time of a second start: against reading the masks alone, and against opening all files."""
    found = find_samples(data_dir)
    first = _seconds(lambda: open_samples(found))
    samples = load_samples(data_dir, skip_bad_files=True)
    masks = [sample.mask for sample in samples if sample.mask]
    assert {s.mask: s.area_share for s in samples if s.mask} == {mask: _area(mask) for mask in masks}
    weighed, second = _race(
        lambda: [_area(mask) for mask in masks], lambda: load_samples(data_dir, skip_bad_files=True)
    )
    return samples, [
        _row(f"start, {len(samples)} images: read all masks", weighed, second),
        _row(f"start, {len(samples)} images: open all files", first, second),
    ]


def _area(mask: Path) -> float:
    """Forged share of an image, as the original recipe computes it."""
    return float((np.load(mask) > 0).any(axis=0).mean())


def _cache(samples: list[Sample], folder: Path) -> list[Row]:
    """Epochs without augmentation, decoded and from a full cache."""
    rows = []
    forms: dict[str, dict[str, Any]] = {"": {}, ", with error levels": {"in_channels": 4}}
    forms[", whole, for crops"] = {"edit": _crop}
    for name, settings in forms.items():
        plain, cached = (ForgeryDataset(samples, SIZE, **settings) for _ in range(2))

        def fill(plain: ForgeryDataset = plain, cached: ForgeryDataset = cached) -> None:
            cached.use_cache(PixelCache(Path(tempfile.mkdtemp(dir=folder)), samples, plain.form, 1e10))
            _epoch(cached)

        emptied = _race(lambda plain=plain: _epoch(plain), fill)
        for index in range(len(samples)):
            assert all(np.array_equal(plain[index][key], cached[index][key]) for key in ("image", "mask"))
        full = _race(lambda plain=plain: _epoch(plain), lambda cached=cached: _epoch(cached))
        rows.append(_row(f"epoch, {len(samples)} images{name}", *full))
        rows.append(_row("… the first, which fills the cache", *emptied))
    return rows


def _crop(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    top, left = rng.integers(image.shape[0] // 2), rng.integers(image.shape[1] // 2)
    return image[top : top + 256, left : left + 256], mask[top : top + 256, left : left + 256]


def _epoch(dataset: ForgeryDataset) -> None:
    for index in range(len(dataset)):
        dataset[index]


def _worker_memory() -> list[Row]:
    """Private memory of a forked worker after it has read every sample once and collected garbage."""
    plain = _private_megabytes([_sample(number) for number in range(INDEXED)], freeze=False)
    packed = _private_megabytes(PackedList(_sample(number) for number in range(INDEXED)), freeze=True)
    what = f"a worker's own memory, {INDEXED:,} samples"
    return [(what, f"{plain:.1f} MB", f"{packed:.1f} MB", f"{plain / packed:.1f}×")]


def _sample(number: int) -> Sample:
    return Sample(
        case_id=str(number),
        image=Path(f"data/train_images/forged/{number}.png"),
        mask=Path(f"data/train_masks/{number}.npy"),
        group=str(number),
        height=HEIGHT,
        width=WIDTH,
        area_share=number / INDEXED,
        image_hash=f"{number:064}",
        mask_hash=f"{number:064}",
    )


def _private_megabytes(samples: Sequence[Sample], *, freeze: bool) -> float:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_read_all, args=(samples, sender), kwargs={"freeze": freeze})
    worker.start()
    grown = receiver.recv()
    worker.join()
    return grown


def _read_all(samples: Sequence[Sample], sender, *, freeze: bool) -> None:
    if freeze:  # as `make_loader`'s workers do
        gc.freeze()
    before = _private_bytes()
    for index in range(len(samples)):
        assert samples[index].forged
    gc.collect()
    sender.send((_private_bytes() - before) / 1e6)


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private"))


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _race(plain: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, in turns."""
    times = [(_seconds(plain), _seconds(ours)) for _ in range(ROUNDS)]
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def _row(what: str, plain: float, ours: float) -> Row:
    return what, f"{1e3 * plain:.1f} ms", f"{1e3 * ours:.1f} ms", f"{plain / ours:.1f}×"


if __name__ == "__main__":
    main()

"""Whole papers: what is found in one that is made here, the time of many figures, and a library of many panels.

    python -m benchmarks.papers found MICROGRAPHS            # papers of 8 figures with two reuses across, one within
    python -m benchmarks.papers many MICROGRAPHS             # 50 figures with 400 panels
    python -m benchmarks.papers library MICROGRAPHS --panels 100000

MICROGRAPHS is a folder of pristine micrographs.
"""

from common.process import prepare

prepare()  # before torch is imported

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import pypdfium2
import tyro
from PIL import Image
from tqdm import tqdm

from common.data.images import find_images, read_image
from common.figures.panels import find_panels
from common.forensics.jpeg import jpeg
from common.making.drawing import draw_cells
from common.making.figures import ComposedFigure, compose_figure
from common.papers.index import Points, build
from common.papers.library import Library, Source
from common.papers.shots import MOST_KEYPOINTS, take_shots

_LEAST_FIELD, _PER_FIGURE = 200, 7  # pixels; fields of a figure


def found(micrographs: tyro.conf.Positional[Path], papers: int = 6) -> None:
    """Make papers of 8 figures, and print what `explain.py` finds in each.

    Figure 6 shows a part of a field in two of its panels; figure 3 shows a panel of figure 1 mirrored and brighter, and
    figure 7 a part of one of figure 2. Every second paper is JPEG 85.

    Args:
        micrographs: Folder of pristine micrographs.
        papers: Number of papers, each of other seeds and of fields that are drawn anew.
    """
    paths = sorted(find_images(micrographs).values())
    rows = []
    with TemporaryDirectory() as folder:
        for seed in range(papers):
            paper = Path(folder, f"paper_{seed}.pdf")
            wanted = _make_paper(paths, seed, paper)
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "explain.py", paper, "--output", Path(folder, f"out_{seed}")],
                capture_output=True,
                text=True,
            )
            seconds = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(done.stderr)
            table = pd.read_csv(Path(folder, f"out_{seed}", "findings.csv")).query("relation == 'reuse'")
            others = table.other_image.fillna(table.image)
            pairs = [
                tuple(sorted({_number(one), _number(other)})) for one, other in zip(table.image, others, strict=True)
            ]
            hits = [pair in pairs for pair in wanted]
            wrong = [pair for pair in pairs if pair not in wanted]
            rows.append(dict(zip(("mirrored", "part", "within"), hits, strict=True)))
            rows[-1] |= {"others": len(wrong), "seconds": seconds}
            print(seed, rows[-1], wrong)
    print(pd.DataFrame(rows).mean().round(2).to_string())


def _number(name: str) -> int:
    """The number of a figure in its paper, two on a page."""
    page, number = (int(part.split()[-1]) for part in name.split(",")[-2:])
    return 2 * (page - 1) + number


def _make_paper(paths: list[Path], seed: int, file: Path) -> list[tuple[int, ...]]:
    """Write a paper; the numbers of the figures that show the same."""
    rng = np.random.default_rng(seed)
    fields = (read_image(paths[place]) for place in rng.permutation(len(paths)))
    fields = iter([field for field in fields if min(field.shape[:2]) >= _LEAST_FIELD])
    figures: list[ComposedFigure] = []
    while len(figures) < 8:
        some = [next(fields) for _ in range(_PER_FIGURE)]
        relation = "overlap" if len(figures) == 5 else "none"
        figure = compose_figure(some, rng, relation, natural="none")
        if figure.relation == relation and len(figure.panels) >= 2:
            figures.append(figure)
    images = [figure.image.copy() for figure in figures]
    scales = rng.uniform(0.85, 1.2, 2)
    _show_again(figures, images, (0, 2), scales[0], lambda part: np.clip(part[:, ::-1] * 1.1 + 5, 0, 255))
    _show_again(figures, images, (1, 6), scales[1], lambda part: part[part.shape[0] // 4 :, part.shape[1] // 4 :])
    document = pypdfium2.PdfDocument.new()
    for first in range(0, 8, 2):
        page = document.new_page(612, 792)
        for number, low in ((first, 410), (first + 1, 30)):
            picture = jpeg(images[number], 85) if seed % 2 else images[number]
            image = pypdfium2.PdfImage.new(document)
            image.set_bitmap(pypdfium2.PdfBitmap.from_pil(Image.fromarray(picture)))
            scale = min(500 / picture.shape[1], 340 / picture.shape[0])
            matrix = pypdfium2.PdfMatrix().scale(picture.shape[1] * scale, picture.shape[0] * scale)
            image.set_matrix(matrix.translate(50, low))
            page.insert_obj(image)
        page.gen_content()
    document.save(file)
    return [(1, 3), (2, 7), (6,)]


def _show_again(
    figures: list[ComposedFigure],
    images: list[np.ndarray],
    places: tuple[int, int],
    scale: float,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Show the panel of a figure with most contrast, changed and scaled, in the last panel of another one."""
    here, there = places

    def contrast(box: tuple[int, int, int, int]) -> float:
        x, y, wide, high = box
        return float(cv2.GaussianBlur(images[here][y : y + high, x : x + wide], (0, 0), 2).std())

    x, y, wide, high = max(figures[here].panels, key=contrast)
    part = np.ascontiguousarray(change(images[here][y : y + high, x : x + wide]).astype(np.uint8))
    part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    x, y, wide, high = figures[there].panels[-1]
    part = part[:high, :wide]
    images[there][y : y + high, x : x + wide] = 255
    images[there][y : y + len(part), x : x + part.shape[1]] = part


def many(micrographs: tyro.conf.Positional[Path], figures: int = 50) -> None:
    """Print the time of a folder of figures with 8 panels each, every one of another field.

    Where there are too few micrographs, the rest are drawn fields of cells.

    Args:
        micrographs: Folder of pristine micrographs.
        figures: How many.
    """
    rng = np.random.default_rng(0)
    fields = [read_image(path) for path in sorted(find_images(micrographs).values())][: 8 * figures]
    fields += [draw_cells(400, 400, rng) for _ in range(8 * figures - len(fields))]
    order = iter(rng.permutation(len(fields)))
    with TemporaryDirectory() as folder:
        for number in range(figures):
            page = np.full((840, 1640, 3), 255, np.uint8)
            for place in range(8):
                field = fields[next(order)]
                y, x = (int(rng.integers(0, max(length - 380, 0) + 1)) for length in field.shape[:2])
                part = cv2.resize(np.rot90(field[y : y + 380, x : x + 380], int(rng.integers(4))), (390, 390))
                row, column = 20 + 410 * (place // 4), 20 + 405 * (place % 4)
                page[row : row + 390, column : column + 390] = part
            cv2.imwrite(str(Path(folder, f"{number}.png")), page)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "explain.py", folder, "--output", Path(folder, "out")], capture_output=True, text=True
        )
        print(f"{figures} figures, {8 * figures} panels: {time.perf_counter() - start:.0f} s")
        print(done.stdout[-600:], done.stderr[-300:] if done.returncode else "")


def library(micrographs: tyro.conf.Positional[Path], panels: int = 100_000) -> None:
    """Print the size of a library, and the time of a query of 60 panels.

    The descriptors are those of real panels, and of these with noise: as many as `panels` have.

    Args:
        micrographs: Folder of pristine micrographs.
        panels: How many the library holds.
    """
    shots = []
    for number, path in enumerate(tqdm(sorted(find_images(micrographs).values()), "panels", disable=None)):
        image = read_image(path)
        shots += take_shots(image, find_panels(image)[:1], ["a"], f"{number}.pdf, page 1, figure 1")
    rng = np.random.default_rng(0)
    own, total = Points.of(shots), panels * MOST_KEYPOINTS
    start = time.perf_counter()
    descriptor = np.empty((total, 128), np.uint8)
    descriptor[: len(own.panel)] = own.descriptor
    for first in range(len(own.panel), total, 500_000):
        last = min(first + 500_000, total)
        noise = rng.normal(0, 20, (last - first, 128))
        descriptor[first:last] = np.clip(
            own.descriptor[rng.integers(len(own.panel), size=last - first)] + noise, 0, 255
        )
    print(f"{total:,} descriptors made in {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    index = build(descriptor)
    print(f"index built in {time.perf_counter() - start:.0f} s")
    del descriptor
    with TemporaryDirectory() as folder:
        kept = Library(Path(folder, "library"))
        kept.index = index
        more = total - len(own.panel)
        values = rng.integers(len(own.panel), size=more)
        panel = np.concatenate([own.panel, len(shots) + np.arange(more, dtype=np.int32) // MOST_KEYPOINTS])
        joined = [
            np.concatenate([getattr(own, name), getattr(own, name)[values]]) for name in ("place", "angle", "size")
        ]
        kept.points = Points(panel, *joined, own.descriptor[:0])
        kept.sources = [Source("simulated", "0", int(panel.max()) + 1)]
        start = time.perf_counter()
        kept._save()
        print(f"saved in {time.perf_counter() - start:.1f} s")
        size = sum(file.stat().st_size for file in Path(folder, "library").iterdir() if file.is_file())
        pixels = np.mean([len(shot.png) for shot in shots])
        print(f"index and points {size / 1e9:.2f} GB; pixels {pixels * panels / 1e9:.1f} GB")
        start = time.perf_counter()
        again = Library(Path(folder, "library"))
        print(f"opened in {time.perf_counter() - start:.1f} s, {len(again):,} panels")
        start = time.perf_counter()
        candidates = again.candidates(shots[:60])
        print(f"60 panels asked in {time.perf_counter() - start:.1f} s")
        right = {c.one for c in candidates if c.other == c.one}
        textured = sum(len(shot.place) >= 20 for shot in shots[:60])
        print(f"{len(right)} of {textured} find themselves; {len(candidates)} candidates")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"found": found, "many": many, "library": library})

"""Figures that the panel detector learns on, and those that validate it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import sklearn.datasets
import torch
from torch.utils.data import Dataset

from common.data.images import read_image
from common.errors import UserError
from common.figures.kinds import KINDS
from common.figures.panel_network import on_canvas
from common.making.drawing import draw_gel, draw_strip
from common.making.outlined import Outlined, compose_outlined, vary_outlined
from common.making.plots import draw_plot, draw_scheme
from common.suffixes import IMAGE_SUFFIXES

_PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket")
_LEAST_PART = 30  # pixels: least side of a panel whose content other figures show
_SCALES = (0.6, 1.0)  # of a figure on its canvas
_MOST_ENLARGED = 1.5


def read_outlines(outlines: Path, folder: Path) -> dict[str, Outlined]:
    """Read outlined figures, by file name.

    Args:
        outlines: JSON: file name → list of `box` ([x, y, width, height] in pixels) and `kind`.
        folder: Of the images.

    Raises:
        UserError: The file or an image can't be read, or a box or a kind is wrong.
    """
    try:
        table = json.loads(outlines.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{outlines} can't be read as JSON ({error}).") from error
    if not isinstance(table, dict) or not table:
        raise UserError(f"{outlines} must name figures, each with a list of panels.")
    figures = {}
    for name, panels in table.items():
        image = read_image(folder / name)
        height, width = image.shape[:2]
        try:
            boxes = [tuple(int(value) for value in panel["box"]) for panel in panels]
            kinds = [panel["kind"] for panel in panels]
            right = all(x >= 0 <= y and w > 0 < h and x + w <= width and y + h <= height for x, y, w, h in boxes)
        except (TypeError, KeyError, ValueError):
            right, boxes, kinds = False, [], []
        if not right or not set(kinds) <= set(KINDS):
            raise UserError(
                f"{outlines}, {name}: each panel needs a box [x, y, width, height] within {width} × {height} pixels "
                f"and a kind of {', '.join(KINDS)}."
            )
        figures[name] = Outlined(image=image, boxes=boxes, kinds=kinds)
    return figures


def paper_of(name: str) -> str:
    """The paper that a figure is from: its file name up to the first underscore."""
    return name.split("_")[0]


def make_pool(
    figures: Sequence[Outlined], micrographs: Path | None, plots: int, seed: int
) -> dict[str, list[np.ndarray]]:
    """Contents of panels by kind: drawn ones, photographs that packages ship, micrographs, and the figures' own panels.

    Raises:
        UserError: A micrograph can't be read, or neither the folder nor a figure has one.
    """
    pool = {
        "plot": [draw_plot(np.random.default_rng([seed, 1, number])) for number in range(plots)],
        "drawing": [draw_scheme(np.random.default_rng([seed, 2, number])) for number in range(plots // 3)],
        "blot": [_draw_blot(np.random.default_rng([seed, 3, number])) for number in range(plots // 2)],
        "photograph": [_rgb(getattr(skimage.data, name)()) for name in _PHOTOGRAPHS]
        + [_rgb(image) for image in sklearn.datasets.load_sample_images().images],
        "micrograph": [],
    }
    if micrographs is not None:
        paths = sorted(path for path in micrographs.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise UserError(f"{micrographs} has no images.")
        for path in paths:
            image = read_image(path)
            pool["micrograph"] += [image, _tinted(image, np.random.default_rng([seed, 4, len(pool["micrograph"])]))]
    for figure in figures:
        for (x, y, wide, high), kind in zip(figure.boxes, figure.kinds, strict=True):
            if min(wide, high) >= _LEAST_PART:
                pool[kind].append(figure.image[y : y + high, x : x + wide])
    if empty := [kind for kind, contents in pool.items() if not contents]:
        raise UserError(f"no content for panels of kind {', '.join(empty)}; give --micrographs.")
    return pool


def _draw_blot(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.25:
        return draw_gel(int(rng.integers(120, 400)), int(rng.integers(150, 400)), rng)
    return draw_strip(int(rng.integers(24, 110)), int(rng.integers(150, 600)), rng)


def _rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else np.ascontiguousarray(image[..., :3])


def _tinted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As one channel of fluorescence."""
    tinted = np.zeros_like(image)
    tinted[..., rng.integers(3)] = np.clip(image.mean(axis=2) * rng.uniform(1, 3), 0, 255)
    return tinted


class PanelDataset(Dataset):
    """Figures composed or varied anew for each draw: image, boxes and kinds."""

    def __init__(
        self, figures: Sequence[Outlined], pool: dict[str, list[np.ndarray]], count: int, side: int, varied: float
    ) -> None:
        """Hold what figures are made of.

        Args:
            figures: Outlined ones, which a share `varied` of the draws vary.
            pool: From `make_pool`.
            count: Draws of an epoch.
            side: Of the canvas in pixels.
            varied: 0 to 1.
        """
        self.figures, self.pool, self.count, self.side, self.varied = figures, pool, count, side, varied

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """The figure of a draw and its seed (`EpochSampler`)."""
        index, seed = key
        rng = np.random.default_rng(seed)
        if self.figures and rng.random() < self.varied:
            figure = vary_outlined(self.figures[rng.integers(len(self.figures))], self.pool, rng)
        else:
            figure = compose_outlined(self.pool, rng)
        return {"index": index, **self._placed(figure, rng)}

    def _placed(self, figure: Outlined, rng: np.random.Generator) -> dict[str, Any]:
        """On a canvas, somewhere and at some scale."""
        scale = min(self.side * rng.uniform(*_SCALES) / max(figure.image.shape[:2]), _MOST_ENLARGED)
        height, width = (max(16, round(length * scale)) for length in figure.image.shape[:2])
        at = (0, 0) if rng.random() < 0.5 else tuple(rng.integers(0, (self.side - height + 1, self.side - width + 1)))
        canvas = on_canvas(figure.image, (height, width), (self.side, self.side), (int(at[0]), int(at[1])))
        boxes = np.array(figure.boxes, np.float32).reshape(-1, 4) * scale
        boxes[:, 2:] += boxes[:, :2]
        boxes += np.array([at[1], at[0]] * 2, np.float32)
        kinds = [KINDS.index(kind) for kind in figure.kinds]
        image = torch.from_numpy(canvas).permute(2, 0, 1)
        return {"image": image, "boxes": torch.from_numpy(boxes), "kinds": torch.tensor(kinds)}


class OutlinedDataset(Dataset):
    """Positions of outlined figures, for the validation."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        """The position."""
        return index


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: `image` (n, 3, s, s) uint8, `boxes` and `kinds` as lists, `index` (n,)."""
    return {
        "index": torch.tensor([item["index"] for item in items]),
        "image": torch.stack([item["image"] for item in items]),
        "boxes": [item["boxes"] for item in items],
        "kinds": [item["kinds"] for item in items],
    }


def fingerprint(outlines: Path, micrographs: Path | None) -> str:
    """Of the outlines, and of the names of the micrographs."""
    names = sorted(path.name for path in micrographs.rglob("*")) if micrographs is not None else []
    return hashlib.sha256(outlines.read_bytes() + "\n".join(names).encode()).hexdigest()[:16]

"""Measures of how a picture looks, and whether they speak for a blot."""

from typing import Literal

import cv2
import numpy as np

from common.figures.kind_model import BLOT, FEATURES

LARGEST = 20.0
"""Of a measure; the model sees no larger one."""

_SIDE, _LEAST = 128, 8  # longer side in pixels at which all but the grain is measured, and shortest side
_EVEN, _EDGE, _SHARP = 3, 30, 60  # gray levels between the pixels of 3 × 3
_NEUTRAL, _HUE, _VIVID = 6, 12, 40  # chroma in CIELAB: below it gray, above it a hue, vivid
_HUES = 12  # parts of the circle of hues
_NEAR, _APART = 6, 15  # gray levels from the ground: the same, and another


def picture_kind(part: np.ndarray) -> Literal["micrograph", "blot"]:
    """Kind of a solid picture, uint8 (h, w, 3) RGB, by a logistic model (benchmarks/kinds.py).

    Photographs are not told from micrographs: no model recognised those of papers that it was not fitted on.
    """
    measured = measures(part)
    values = np.array([measured[name] for name in FEATURES]).clip(-LARGEST, LARGEST)
    return "blot" if values @ BLOT[:-1] + BLOT[-1] > 0 else "micrograph"


def measures(part: np.ndarray) -> dict[str, float]:
    """Measures of a picture, uint8 (h, w, 3) RGB, by name, none of which knows its size."""
    height, width = part.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(_LEAST, round(width * scale)), max(_LEAST, round(height * scale))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    aspect = float(np.log(width / height))
    return (
        {"aspect": aspect, "elongation": abs(aspect)}
        | _grain(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY))
        | _colours(cv2.cvtColor(small, cv2.COLOR_RGB2LAB))
        | _tones(gray)
        | _profiles(gray.astype(np.float32))
        | _scales(gray.astype(np.float32))
        | _directions(gray.astype(np.float32))
        | _layout(gray.astype(np.float32))
    )


def _grain(gray: np.ndarray) -> dict[str, float]:
    spread = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    counts = np.bincount(spread.ravel(), minlength=256) / spread.size
    return {
        "even": float(counts[:_EVEN].sum()),
        "shaded": float(counts[_EVEN:_EDGE].sum()),
        "sharp": float(counts[_SHARP + 1 :].sum()),
        "spread": float(np.log(counts @ np.arange(256) + 1)),
    }


def _colours(lab: np.ndarray) -> dict[str, float]:
    a, b = (lab[..., channel].astype(np.float32) - 128 for channel in (1, 2))
    chroma = np.hypot(a, b)
    hue = np.arctan2(b, a)[chroma > _HUE]
    parts = np.bincount(((hue + np.pi) / (2 * np.pi) * _HUES).astype(int) % _HUES, minlength=_HUES) / max(len(hue), 1)
    return {
        "chroma": np.log1p(chroma.mean()),
        "red": a.mean() / 20,
        "yellow": b.mean() / 20,
        "red_deviation": np.log1p(a.std()),
        "yellow_deviation": np.log1p(b.std()),
        "vivid": (chroma > _VIVID).mean(),
        "neutral": (chroma < _NEUTRAL).mean(),
        "hues": -(parts[parts > 0] * np.log(parts[parts > 0])).sum(),
        "warm_hues": parts[6:9].sum(),
        "green_hues": parts[9:].sum(),
        "blue_hues": parts[:4].sum(),
    }


def _tones(gray: np.ndarray) -> dict[str, float]:
    counts = np.bincount(gray.ravel(), minlength=256)
    near = np.convolve(counts, np.ones(2 * _NEAR + 1), "same")
    ground = int(near.argmax())
    levels = np.searchsorted(np.cumsum(counts), np.array([0.01, 0.25, 0.5, 0.75, 0.99]) * gray.size)
    deviation = gray.std() + 1
    normal = (gray - gray.mean()) / deviation
    return {
        **{f"level_{n}": float(level) / 255 for n, level in enumerate(levels)},
        "deviation": np.log(deviation),
        "skewness": float(np.clip((normal**3).mean(), -5, 5)),
        "kurtosis": np.log((normal**4).mean() + 0.1),
        "ground": ground / 255,
        "ground_share": near[ground] / gray.size,
        "darker": counts[: max(ground - _APART, 0)].sum() / gray.size,
        "lighter": counts[ground + _APART + 1 :].sum() / gray.size,
    }


def _profiles(gray: np.ndarray) -> dict[str, float]:
    """Of the means of rows and columns: share of the variance, roughness, second peak of the autocorrelation."""
    found = {}
    for name, axis in (("rows", 1), ("columns", 0)):
        profile = gray.mean(axis=axis)
        wide = max(3, len(profile) // 8 | 1)
        detail = profile - cv2.blur(profile.reshape(1, -1), (wide, 1)).ravel()
        detail -= detail.mean()
        lags = np.correlate(detail, detail, "full")[len(detail) - 1 :]
        lags /= lags[0] + 1e-3
        negative = np.flatnonzero(lags < 0)
        found[f"{name}_variance"] = profile.var() / (gray.std() + 1) ** 2
        found[f"{name}_roughness"] = np.log((np.diff(profile).std() + 0.1) / (profile.std() + 0.1))
        found[f"{name}_period"] = (
            lags[negative[0] : max(len(detail) // 2, negative[0] + 1)].max() if len(negative) else 0.0
        )
    return found


def _scales(gray: np.ndarray) -> dict[str, float]:
    """Of the differences of blurs: their share of the contrast, their tails, and rows against columns."""
    found, before, deviation = {}, gray, gray.std() + 1
    for number, sigma in enumerate((1, 2, 4)):
        after = cv2.GaussianBlur(gray, (0, 0), sigma)
        detail, before = before - after, after
        found[f"detail_{number}"] = np.log((detail.std() + 0.2) / deviation)
        found[f"tails_{number}"] = np.log((detail**4).mean() / (detail.var() ** 2 + 1e-3) + 0.1)
        down, across = (np.abs(np.diff(detail, axis=axis)).mean() + 0.01 for axis in (0, 1))
        found[f"bands_{number}"] = np.log(down / across)
    return found | {"detail_3": np.log((before.std() + 0.2) / deviation)}


def _directions(gray: np.ndarray) -> dict[str, float]:
    smooth = cv2.GaussianBlur(gray, (0, 0), 1)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    slope = np.hypot(dx, dy) + 1e-6
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), 3) for product in (dx * dx, dy * dy, dx * dy))
    coherence = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-3)
    return {
        "horizontal": slope[np.abs(dx) < 0.3 * np.abs(dy)].sum() / slope.sum(),
        "vertical": slope[np.abs(dy) < 0.3 * np.abs(dx)].sum() / slope.sum(),
        "coherence": (coherence * slope).sum() / slope.sum(),
        "slopes": np.log(slope.std() / slope.mean() + 0.01),
    }


def _layout(gray: np.ndarray) -> dict[str, float]:
    """Of 4 × 4 blocks, the halves, the middle, the rim and the mirror image."""
    grid = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA)
    deviation = gray.std() + 1
    blocks = grid.reshape(4, 8, 4, 8)
    contrasts = blocks.std(axis=(1, 3)) + 0.5
    rim = np.concatenate([grid[0], grid[-1], grid[:, 0], grid[:, -1]])
    centred = grid - grid.mean()
    return {
        "blocks": blocks.mean(axis=(1, 3)).std() / deviation,
        "block_contrasts": np.log(contrasts).std(),
        "least_contrast": np.log(contrasts.min() / deviation),
        "top": (grid[:16].mean() - grid[16:].mean()) / deviation,
        "middle": (grid[8:24, 8:24].mean() - grid.mean()) / deviation,
        "rim": np.log((rim.std() + 1) / deviation),
        "symmetry": (centred * centred[:, ::-1]).mean() / deviation**2,
    }

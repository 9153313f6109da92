"""Procedural drawing of scientific figures: western blots, gels, fields of fluorescent cells.

Every function returns uint8 (height, width, 3) RGB and takes all randomness from the generator passed in.
"""

from collections.abc import Callable

import cv2
import numpy as np


def draw_blot(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Western blot: strips of dark bands on light, uneven film, one strip a protein, one column a lane."""
    paper = 255 - rng.uniform(0, 3)
    figure = np.full((height, width), paper, np.float32)
    gap = round(height * rng.uniform(0.015, 0.03))
    lanes = int(rng.integers(4, 11))
    centres, lane_width = _lanes(width - 2 * gap, lanes, rng)
    top = gap
    while top < height - gap:
        strip_height = min(round(height * rng.uniform(0.14, 0.34)), height - gap - top)
        if height - gap - (top + strip_height) < 0.12 * height:  # no sliver at the end
            strip_height = height - gap - top
        shape = (strip_height, width - 2 * gap)
        density = np.zeros(shape, np.float32)
        for row in range(1 if strip_height < 0.2 * height else int(rng.integers(1, 4))):
            _draw_bands(density, centres, lane_width, row, rng)
        film = rng.uniform(195, 240) + _clouds(shape, rng, 40) * rng.uniform(4, 14) + _clouds(shape, rng, 9) * 2.5
        strip = film * 10 ** -(density * rng.uniform(0.8, 1.3))
        strip = cv2.GaussianBlur(strip, (0, 0), rng.uniform(0.6, 1.3)) + _grain(shape, rng, rng.uniform(1.5, 4.5))
        figure[top : top + strip_height, gap : gap + shape[1]] = strip
        if rng.random() < 0.6:
            cv2.rectangle(figure, (gap - 1, top - 1), (width - gap, top + strip_height), 40.0, 1)
        top += strip_height + gap
    return _to_rgb(figure)


def draw_gel(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Agarose gel under ultraviolet light: bright bands with smears below the wells, and a ladder at one side."""
    shape = (height, width)
    lanes = int(rng.integers(5, 13))
    centres, lane_width = _lanes(width, lanes, rng)
    glow = np.zeros(shape, np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    wells = height * rng.uniform(0.04, 0.09)
    ladder = 0 if rng.random() < 0.7 else lanes - 1
    for lane, centre in enumerate(centres):
        columns, x = _columns(centre, lane_width, width)
        profile = _box(x, centre, lane_width * 0.42, 1.5)
        light = np.zeros((height, x.shape[1]), np.float32)
        # Bands: strong and evenly weakening in the ladder, few and of any strength elsewhere.
        if lane == ladder:
            distances = np.cumsum(rng.uniform(0.9, 1.1, 9) * np.linspace(0.13, 0.06, 9))
            bands = [(wells + height * d, rng.uniform(0.35, 0.7)) for d in distances if wells + height * d < height]
        else:
            count = rng.integers(0, 5)
            bands = [(height * rng.uniform(0.15, 0.92), rng.lognormal(-0.9, 0.7)) for _ in range(count)]
        for position, strength in bands:
            thickness = height * rng.uniform(0.006, 0.014)
            bend = rng.uniform(-1, 1) * thickness
            bowed = y - np.float32(position) - np.float32(bend) * ((x - centre) / lane_width) ** 2 * 4
            band = np.exp(-0.5 * (bowed / thickness) ** 2)
            tail = np.exp(-np.maximum(bowed, 0) / (thickness * rng.uniform(2, 5))) * (bowed > 0) * 0.15
            light += strength * (band + tail)
        light += rng.uniform(0, 0.12) * np.exp(-0.5 * ((y / height - rng.uniform(0.2, 0.6)) / 0.2) ** 2)  # smear
        light += 0.25 * np.exp(-0.5 * ((y - wells) / (height * 0.005)) ** 2)  # the well's edge
        glow[:, columns] += light * profile
    glow = cv2.GaussianBlur(glow, (0, 0), rng.uniform(0.8, 1.6))
    table = rng.uniform(18, 60) + _clouds(shape, rng, 80) * rng.uniform(3, 10) + 12 * (y / height)
    figure = table + 215 * (1 - np.exp(-1.3 * glow)) + _grain(shape, rng, rng.uniform(2, 6))
    if rng.random() < 0.35:  # printed inverted
        figure = 255 - figure
    return _to_rgb(figure)


def draw_cells(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Fluorescence micrograph: round or elongated cells with nuclei, blurred by the optics, with shot noise."""
    shape = (height, width)
    nuclei, bodies = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    radius = min(shape) * rng.uniform(0.028, 0.07)
    elongation = rng.uniform(1.0, 1.4) if rng.random() < 0.55 else rng.uniform(2.0, 3.5)
    direction = rng.uniform(0, np.pi)  # elongated cells tend to lie alongside each other
    crowd = rng.uniform(0.15, 0.55)
    centres: list[np.ndarray] = []
    for _ in range(int(crowd * height * width / (np.pi * radius**2 * 2))):
        centre = rng.uniform((-radius, -radius), (width + radius, height + radius))
        if any(np.hypot(*(centre - other)) < 1.7 * radius for other in centres):
            continue
        centres.append(centre)
        angle = direction + rng.normal(0, 0.35) if elongation > 1.5 else rng.uniform(0, np.pi)
        size = radius * rng.lognormal(0, 0.15)
        body = _ragged(rng, centre, size * rng.uniform(1.5, 1.9), elongation, angle, 0.09)
        centre = centre + rng.normal(0, 0.1 * size, 2)
        nucleus = _ragged(rng, centre, size * 0.85, 1 + (elongation - 1) * 0.4, angle, 0.03)
        _add_polygon(bodies, body, rng.lognormal(-0.7, 0.35))
        _add_polygon(nuclei, nucleus, rng.lognormal(-0.4, 0.3))
    # Texture within: chromatin in the nuclei, coarser and granular in the bodies.
    nuclei *= (1 + 0.25 * _clouds(shape, rng, radius * 0.3)).clip(0.2)
    fibres = 1 + 0.35 * _clouds(shape, rng, radius * 0.18) + 0.3 * _clouds(shape, rng, radius * 0.8)
    bodies = cv2.GaussianBlur(bodies, (0, 0), radius * 0.15) * fibres.clip(0.05)
    spots = (rng.random(shape) < 0.0006).astype(np.float32) * rng.uniform(2, 10)
    bodies += cv2.GaussianBlur(spots, (0, 0), 1.1) * (bodies > 0.1)
    blur = rng.uniform(0.8, 1.8)
    haze = rng.uniform(0.1, 0.3)  # light from above and below the focus
    light = np.stack([bodies, nuclei])
    light = np.stack([_psf(channel, blur, radius, haze) for channel in light])
    vignette = 1 - rng.uniform(0, 0.25) * _radius2(shape)
    photons = rng.uniform(40, 250)
    light = rng.poisson((light * vignette + rng.uniform(0.01, 0.05)) * photons) / photons
    light = 1 - np.exp(-1.4 * light.astype(np.float32))
    styles = {
        "merge": [[0.05, 1.0, 0.15], [0.15, 0.25, 1.0]],
        "red": [[1.0, 0.12, 0.08], [0.15, 0.3, 1.0]],
        "nuclei": [[0.0, 0.0, 0.0], [0.12, 0.22, 1.0]],
        "gray": [[0.15, 0.15, 0.15], [0.9, 0.9, 0.9]],
        "gray bodies": [[0.9, 0.9, 0.9], [0.1, 0.1, 0.1]],
    }
    colours = np.array(styles[rng.choice(list(styles))], np.float32)
    figure = np.tensordot(light, colours, axes=(0, 0)) * rng.uniform(220, 300)
    offset = rng.uniform(2, 9)
    gray = np.ptp(colours, axis=1).max() == 0
    noise = rng.standard_normal((*shape, 1 if gray else 3), np.float32) * rng.uniform(0.8, 3)
    return _to_rgb(figure + offset + noise)


FIGURES: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "blot": draw_blot,
    "gel": draw_gel,
    "cells": draw_cells,
}
"""The kinds of figures by name."""


def _lanes(width: int, lanes: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Centres of the lanes and their pitch, in pixels."""
    pitch = width / (lanes + rng.uniform(0.2, 0.8))
    first = (width - pitch * (lanes - 1)) / 2
    return first + pitch * np.arange(lanes) + rng.normal(0, 0.03 * pitch, lanes), pitch


def _draw_bands(density: np.ndarray, centres: np.ndarray, lane_width: float, row: int, rng) -> None:
    """Add one row of bands, one a lane, to the optical density of a strip."""
    height, width = density.shape
    y = np.arange(height, dtype=np.float32)[:, None]
    level = height * (rng.uniform(0.35, 0.65) if row == 0 else rng.uniform(0.15, 0.85))
    thickness = min(lane_width * rng.uniform(0.07, 0.16), height * 0.16)
    weakness = 1.0 if row == 0 else rng.uniform(0.15, 0.6)
    slope = rng.normal(0, 0.01)
    steady = rng.random() < 0.4  # a loading control: alike in all lanes
    for centre in centres:
        strength = weakness * (rng.lognormal(-0.1, 0.12) if steady else rng.lognormal(-0.6, 0.9))
        if not steady and rng.random() < 0.12:
            continue
        columns, x = _columns(centre, lane_width, width)
        half = lane_width * rng.uniform(0.32, 0.42) * min(1.0, 0.75 + 0.25 * strength)
        across = _box(x, centre, half, half * rng.uniform(0.12, 0.25))
        smile = rng.uniform(-0.2, 0.5) * thickness * ((x - centre) / half) ** 2
        middle = level + slope * (centre - width / 2) + rng.normal(0, 0.12 * thickness) - smile
        swell = thickness * (0.8 + 0.35 * min(strength, 1.5)) * rng.uniform(0.85, 1.15)
        below = np.where(y > middle, rng.uniform(1.0, 1.5), 1.0)  # bands fade towards the front of the run
        band = np.exp(-(np.abs((y - middle) / (swell * below)) ** 2.4))
        uneven = 1 + 0.08 * _clouds(band.shape, rng, lane_width / 5)
        halo = 0.03 * np.exp(-np.abs(y - middle) / (4 * swell))
        density[:, columns] += strength * (band * uneven + halo) * across


def _columns(centre: float, lane_width: float, width: int) -> tuple[slice, np.ndarray]:
    """The columns that a lane can reach, and their positions, float32 (1, n)."""
    start, stop = max(int(centre - lane_width), 0), min(int(centre + lane_width) + 1, width)
    return slice(start, stop), np.arange(start, stop, dtype=np.float32)[None]


def _box(x: np.ndarray, centre: float, half: float, softness: float) -> np.ndarray:
    """1 within `half` of the centre, 0 beyond, with soft edges."""
    return (1 / (1 + np.exp((np.abs(x - centre) - half) / max(softness / 2, 0.3)).clip(max=1e6))).astype(np.float32)


def _ragged(rng, centre: np.ndarray, radius: float, elongation: float, angle: float, raggedness: float) -> np.ndarray:
    """Outline of a cell, (40, 2) as x, y."""
    theta = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wave = sum(rng.normal(0, raggedness) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5))
    long, short = radius * np.sqrt(elongation), radius / np.sqrt(elongation)
    x, y = long * (1 + wave) * np.cos(theta), short * (1 + wave) * np.sin(theta)
    turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    return turned + centre


def _add_polygon(canvas: np.ndarray, outline: np.ndarray, value: float) -> None:
    cv2.fillPoly(canvas, [np.rint(outline * 16).astype(np.int32)], float(value), cv2.LINE_AA, shift=4)


def _psf(channel: np.ndarray, blur: float, radius: float, haze: float) -> np.ndarray:
    """A sharp core and a wide halo."""
    core = cv2.GaussianBlur(channel, (0, 0), blur)
    return (1 - haze) * core + haze * cv2.GaussianBlur(channel, (0, 0), radius)


def _radius2(shape: tuple[int, int]) -> np.ndarray:
    """Squared distance from the middle, 1 in the corners."""
    y, x = np.linspace(-1, 1, shape[0], dtype=np.float32), np.linspace(-1, 1, shape[1], dtype=np.float32)
    return (y[:, None] ** 2 + x[None] ** 2) / 2


def _clouds(shape: tuple[int, int], rng: np.random.Generator, wavelength: float) -> np.ndarray:
    """Smooth noise with mean 0 and deviation about 1, float32: coarse normal noise, scaled up."""
    step = max(wavelength, 1.0)
    coarse = rng.standard_normal((int(shape[0] / step) + 3, int(shape[1] / step) + 3), np.float32)
    fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    return fine[: shape[0], : shape[1]]


def _grain(shape: tuple[int, int], rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Film grain: fine noise and some that spans two or three pixels."""
    fine = rng.standard_normal(shape, np.float32)
    coarse = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), 1.0) * 2.5
    return (0.7 * fine + 0.7 * coarse) * np.float32(sigma)


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    pixels = np.rint(pixels).clip(0, 255).astype(np.uint8)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

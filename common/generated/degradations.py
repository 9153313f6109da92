"""Degradations of images, as on their way through the web: JPEG, WebP, resizing, blur, noise.

Of fixed strength in evaluation, in random chains in training.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from common.errors import UserError
from common.forensics.jpeg import jpeg

WEBP_SIDE = 16383
"""The format's longest side, in pixels."""


def webp(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress and decompress an image in memory, lossily.

    Args:
        image: uint8 (H, W, 3) RGB.
        quality: libwebp's, 1 to 100.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        UserError: A side is longer than the format allows.
    """
    height, width = image.shape[:2]
    if max(height, width) > WEBP_SIDE:
        raise UserError(f"an image of {height}×{width} can't be a WebP, which has {WEBP_SIDE} px a side at most.")
    _, buffer = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    decoded = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded)[..., ::-1])


def resize(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale both sides of an image (H, W, 3) by a factor.

    It isn't scaled back: the network takes any size, and a second resize would leave one more trace.
    """
    height, width = image.shape[:2]
    return resize_to(image, max(1, round(height * factor)), max(1, round(width * factor)))


def resize_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (H, W, 3): by area where both sides shrink, else bilinearly."""
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of an image (H, W, 3); σ in pixels, 0 for none."""
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise to each channel of an image uint8 (H, W, 3), σ in levels of 255, and clip the sum."""
    return cv2.add(image, sigma * rng.standard_normal(image.shape, np.float32), dtype=cv2.CV_8U)


@dataclass(frozen=True)
class Degradation:
    """An operation and its strengths: the quality of JPEG and WebP, a factor of the sides, a σ."""

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    """Image, strength, randomness → image, both uint8 (H, W, 3) RGB."""
    strength: float
    """In evaluation."""
    strengths: tuple[float, float]
    """Range in training: drawn uniformly, in whole numbers where the bounds are integers."""


DEGRADATIONS = {
    "jpeg": Degradation(lambda image, quality, _: jpeg(image, int(quality)), 70, (50, 100)),  # range: SPAI
    "webp": Degradation(lambda image, quality, _: webp(image, int(quality)), 70, (50, 100)),
    "resize": Degradation(lambda image, factor, _: resize(image, factor), 0.5, (0.5, 1.5)),
    "blur": Degradation(lambda image, sigma, _: blur(image, sigma), 1.0, (0.0, 2.0)),
    "noise": Degradation(noise, 5.0, (0.0, 10.0)),
}


def degrade(image: np.ndarray, name: str) -> np.ndarray:
    """One degradation of the evaluation's strength.

    Args:
        image: uint8 (H, W, 3) RGB.
        name: One of `DEGRADATIONS`, with another strength behind it if it is a whole number: `jpeg90`.

    Returns:
        uint8 (H', W', 3), the same for the same image every time: noise follows from the pixels.

    Raises:
        UserError: There is no such degradation.
    """
    kind = name.rstrip("0123456789")
    if kind not in DEGRADATIONS:
        raise UserError(f"there is no degradation {name!r}; choose from {', '.join(DEGRADATIONS)}.")
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    return DEGRADATIONS[kind].apply(image, float(name[len(kind) :] or DEGRADATIONS[kind].strength), rng)


def random_chain(
    image: np.ndarray, rng: np.random.Generator, *, min_side: int, longest: int = len(DEGRADATIONS)
) -> np.ndarray:
    """One to `longest` different degradations in random order and of random strength.

    It knows no label, so that both classes are degraded alike: where one class is compressed or resized more often than
    the other, the compression is learned instead of the generator. None is repeated, since repeated enlargements could
    make an image fifty times as large.

    Args:
        image: uint8 (H, W, 3) RGB.
        rng: Source of the randomness.
        min_side: Pixels below which no side is shrunk.
        longest: Most degradations of one image.

    Returns:
        uint8 (H', W', 3).
    """
    length = rng.integers(1, longest, endpoint=True)
    for name in rng.permutation(list(DEGRADATIONS))[:length].tolist():
        low, high = DEGRADATIONS[name].strengths
        draw = rng.uniform(low, high) if isinstance(low, float) else rng.integers(low, int(high), endpoint=True)
        strength = float(draw)
        shortest, longest = min(image.shape[:2]), max(image.shape[:2])
        if name == "resize":
            strength = max(strength, min(1.0, min_side / shortest))
        if name != "webp" or longest <= WEBP_SIDE:
            image = DEGRADATIONS[name].apply(image, strength, rng)
    return image

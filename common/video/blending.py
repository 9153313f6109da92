"""Self-blended clips (Shiohara and Yamasaki 2022): fakes made of real clips, for training without any others.

A face is laid over itself after small changes of colour, sharpness and place. What remains is what most face swaps and
reenactments leave: a blending border, and two sides of it that differ in their statistics. Content, person and
compression are those of the real clip, so that they can't tell the classes apart.
"""

import albumentations as A
import cv2
import numpy as np

from common.data.transforms import reseed
from common.video.faces import FACE_MARGIN

# Shift, scale and opacity as in the authors' program, whose masks are hulls of facial landmarks.
MAX_SHIFT = (0.03, 0.015)
"""Largest move of the overlaid face, to the side and up or down, in sides of the crop."""
MAX_SCALE = 1 / 0.95
"""Largest factor by which it grows or shrinks."""
OPACITIES = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
"""Greatest weight of the overlaid face, equally likely."""
WARP, WARP_SIGMA = 0.02, 0.05
"""Standard deviation and smoothness of the mask's elastic deformation, in sides of the crop."""


def self_blended(crops: np.ndarray, seed: int) -> np.ndarray:
    """Blend the face of each crop with a changed copy of itself, by one draw for the whole clip.

    Args:
        crops: RGB, uint8 (n, S, S, 3), of `FACE_MARGIN` times the face's box.
        seed: Decides what is drawn.

    Returns:
        uint8 (n, S, S, 3).
    """
    rng = np.random.default_rng(seed)
    changes = _changes()
    reseed(changes, seed)
    changed = changes(images=crops)["images"]
    over, under = (changed, crops) if rng.random() < 0.5 else (crops, changed)
    side = crops.shape[1]
    place = _placement(side, rng)
    over = np.stack([cv2.warpAffine(crop, place, (side, side), borderMode=cv2.BORDER_REFLECT_101) for crop in over])
    mask = face_mask(side, rng)[None, ..., None]
    return (mask * over + (1 - mask) * under).round().astype(np.uint8)


def face_mask(side: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of an overlaid face: an ellipse over the whole face or a part of it, deformed, with a soft border.

    Args:
        side: Of the crop, in px.
        rng: Draws the ellipse, its deformation, the width of its border and its opacity.

    Returns:
        float32 (side, side) in [0, 1]. The ellipse lies in the face's box, but for its deformation and soft border.
    """
    half = 0.5 / FACE_MARGIN
    axes = half * (rng.uniform(0.65, 1.0, 2) if rng.random() < 0.6 else rng.uniform(0.35, 0.65, 2))
    centre = 0.5 + rng.uniform(-1, 1, 2) * (half - axes)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    for grid in (x, y):
        noise = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), WARP_SIGMA * side)
        grid += WARP * noise / noise.std()
    inside = ((x - centre[0]) / axes[0]) ** 2 + ((y - centre[1]) / axes[1]) ** 2 < 1
    mask = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), rng.uniform(0.01, 0.05) * side)
    return mask * np.float32(rng.choice(OPACITIES))


def _placement(side: int, rng: np.random.Generator) -> np.ndarray:
    """Affine map (2, 3) that scales about the centre of a crop and moves."""
    scale = np.exp(rng.uniform(-1, 1) * np.log(MAX_SCALE))
    shift = rng.uniform(-1, 1, 2) * MAX_SHIFT * side + (1 - scale) * side / 2
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def _changes() -> A.Compose:
    # As in the authors' program, with more saturation, and blur besides scaling down and sharpening.
    return A.Compose(
        [
            A.RGBShift(20, 20, 20, p=0.3),
            A.HueSaturationValue(5, 20, 10, p=0.5),
            A.RandomBrightnessContrast(0.1, 0.1, p=1.0),
            A.OneOf(
                [
                    A.Downscale((0.25, 0.6), {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}),
                    A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.2)),
                    A.Sharpen((0.2, 0.5), (0.5, 1.0)),
                ],
                p=1.0,
            ),
        ]
    )

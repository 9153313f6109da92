"""Preprocessing of images and masks, the same for training and prediction, and the augmentations of training."""

import random

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor

from common.forensics.ela import error_level


def to_channels(image: np.ndarray, in_channels: int) -> np.ndarray:
    """The channels that a network reads, from an image as it was decoded.

    Args:
        image: uint8 (H, W, 3) RGB, not resized: error levels would show the resize.
        in_channels: 3 for RGB; 4 for RGB and error level analysis.

    Returns:
        uint8 (H, W, in_channels).
    """
    if in_channels == 3:
        return image
    return cv2.merge([*cv2.split(image), error_level(image)])  # four times as fast as numpy's dstack


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W, C) or (H, W) to (size, size, ...): area average along sides that shrink, else bilinear."""
    height, width = image.shape[:2]
    # In two steps: OpenCV averages only when no side grows.
    image = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize the union of a mask (N, H, W) of 0 and 1 to (size, size), uint8.

    A pixel is forged where at least half of the area that it covers is. If no pixel were, all that cover a forged pixel
    are, so that no forgery vanishes.
    """
    union = mask.max(axis=0)
    return _by_half(resize_image(union.astype(np.float32), size), union)


def shrink_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrink a mask (H, W) of 0 and 1 to (height, width), uint8, by the rule of `resize_mask`."""
    if mask.shape == (height, width):
        return mask
    return _by_half(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA), mask)


def _by_half(shares: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where the forged share of a pixel is at least half; if nowhere, wherever a pixel covers some of the mask."""
    resized = (shares >= 0.5).astype(np.uint8)
    if not resized.any():
        rows, columns = np.nonzero(mask)
        resized[rows * shares.shape[0] // mask.shape[0], columns * shares.shape[1] // mask.shape[1]] = 1
    return resized


def resize_map(prob: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a probability map (h, w) bilinearly to (height, width)."""
    return prob if prob.shape == (height, width) else cv2.resize(prob, (width, height), interpolation=cv2.INTER_LINEAR)


def to_tensor(image: np.ndarray) -> Tensor:
    """Channels first: (H, W, C) uint8 → (C, H, W) uint8. The network scales and normalises."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def reseed(augmentation: A.Compose, seed: int) -> None:
    """Make what an augmentation draws next depend on a seed alone."""
    # Not `set_random_seed`: it gives every transform its own generator of the same seed, so that all flips and turns
    # would happen together or not at all.
    augmentation.set_random_state(np.random.default_rng(seed), random.Random(seed))


def augment(augmentation: A.Compose, seed: int, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an augmentation to an image (H, W, C), RGB first, and its mask (H, W); `seed` alone decides what is drawn.

    Channels after RGB are moved as the image is, but keep their values: they are measurements, not colours.
    """
    reseed(augmentation, seed)
    result = augmentation(image=np.ascontiguousarray(image[..., :3]), mask=np.dstack([mask, image[..., 3:]]))
    moved = result["mask"]
    return np.dstack([result["image"], moved[..., 1:]]), moved[..., 0]


def basic_augmentation() -> A.Compose:
    """Script 1 of the original recipe: flips, quarter turns, colour jitter, Gaussian blur.

    The recipe leaves strengths and probabilities open: here ±20 % jitter (brightness, contrast, saturation) on every
    second image, and a blur of at most σ 1 on one in ten, since a stronger one erases the traces of a forgery.
    """
    return A.Compose(_basic_transforms(jitter=0.5))


def strong_augmentation() -> A.Compose:
    """Script 4: more jitter, JPEG of quality 70 to 100, and holes cut out of image and mask."""
    holes = {"num_holes_range": (1, 4), "hole_height_range": (0.03, 0.12), "hole_width_range": (0.03, 0.12)}
    return A.Compose(
        [
            *_basic_transforms(jitter=0.7),
            A.ImageCompression(quality_range=(70, 100), p=0.5),
            A.CoarseDropout(**holes, fill_mask=0, p=0.3),
        ]
    )


def _basic_transforms(jitter: float) -> list[A.BasicTransform | A.BaseCompose]:
    """The transforms that both augmentations begin with; `jitter` is the probability of the colour jitter."""
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.RandomRotate90(p=0.5),
        A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(0, 0), p=jitter),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=0.1),
    ]

"""From an image's pixels to the network's input: one path for training, validation and submission."""

import random

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W, C) or (H, W) to (size, size, ...), averaging along the sides that shrink."""
    height, width = image.shape[:2]
    # In two steps: OpenCV averages only when no side grows.
    image = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize the union of a mask (N, H, W) of 0 and 1 to (size, size), uint8.

    A pixel is forged where at least half of what it covers is; a forgery too small for that keeps one pixel for each
    of its own, so that none vanishes.
    """
    union = mask.max(axis=0)
    resized = (resize_image(union.astype(np.float32), size) >= 0.5).astype(np.uint8)
    if not resized.any():
        rows, columns = np.nonzero(union)
        resized[rows * size // union.shape[0], columns * size // union.shape[1]] = 1
    return resized


def to_tensor(image: np.ndarray) -> Tensor:
    """Channels first: (H, W, C) uint8 → (C, H, W) uint8. The network scales and normalises."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def augment(augmentation: A.Compose, seed: int, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an augmentation to an image (H, W, 3) and its mask (H, W); `seed` alone decides what is drawn."""
    # Not `set_random_seed`: it gives every transform its own generator of the same seed, so that all flips and turns
    # would happen together or not at all.
    augmentation.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = augmentation(image=image, mask=mask)
    return result["image"], result["mask"]


def basic_augmentation() -> A.Compose:
    """Seed, script 1: flips, quarter turns, colour jitter (brightness, contrast, saturation), Gaussian blur.

    The seed leaves strengths and probabilities open: ±20 % jitter, every second image; a blur of at most σ 1 for one
    in ten, since a stronger one erases the traces that are looked for.
    """
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomRotate90(p=0.5),
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(0, 0), p=0.5),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=0.1),
        ]
    )

"""Pixels as the networks take them."""

import torch
from torch import Tensor


def unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; those of floats stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images

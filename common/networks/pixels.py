"""Scaling and normalisation constants of the networks' input."""

import torch
from torch import Tensor

# Mean and standard deviation of RGB in [0, 1] that ImageNet's encoders were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def unit_range(images: Tensor) -> Tensor:
    """Images as floats in [0, 1]: uint8 ones are divided by 255, floats are returned as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images

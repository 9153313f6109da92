"""Pixels on their way into the networks, scaled, and out of them, as probabilities."""

import torch
from torch import Tensor

# Mean and standard deviation of RGB in [0, 1] that ImageNet's encoders were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def unit_range(images: Tensor) -> Tensor:
    """Images as floats in [0, 1]: uint8 ones are divided by 255, floats are returned as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def probabilities(logits: Tensor) -> Tensor:
    """The sigmoid of logits, in [0, 1]; nan where a logit is infinite or nan: the network has overflowed there."""
    return torch.where(logits.isfinite(), torch.sigmoid(logits), torch.nan)

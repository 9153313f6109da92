"""A small classifier of the residuals of neighbouring pixels, for round trips that leave the content as it was.

What a generator or an enlargement does to an image shows in how a pixel follows from its neighbours. Each pixel minus
the median of its four neighbours (the idea of FerretNet, Liang et al. 2025) is described by a few moments, in the
colours and, above all, in their differences: a decoder draws brightness better than it draws the grain of colours. The
moments are means over pixels, so those of an image are the means of its patches', whatever its size. It was measured
against a convolutional network on the same residuals, which is blind to the grain of colours (docs/LOG.md).
"""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.generated.mean_of_patches import MeanOfPatches
from common.generated.network import Spai, load_spai
from common.networks.pixels import unit_range
from common.networks.weight_files import load_fitting

LARGE, SMALL = 6.0, 0.75
"""Levels of 255 above and below which the shares of residuals are counted."""
APART = (1, 2, 4)
"""Distances in pixels of which the differences are measured."""
CHANNELS, MOMENTS, STATISTICS = 7, 8, 52
"""Channels of `colours`, moments of each, and statistics of all."""


def median_residual(pixels: Tensor) -> Tensor:
    """Each pixel minus the median of the four beside it: (..., H, W) → (..., H − 2, W − 2), without the border.

    The median of four is the mean of the middle two.
    """
    rows, columns = pixels[..., 1:-1, :], pixels[..., 1:-1]
    beside = torch.stack([rows[..., :-2], rows[..., 2:], columns[..., :-2, :], columns[..., 2:, :]])
    median = (beside.sum(0) - beside.amax(0) - beside.amin(0)) / 2
    return rows[..., 1:-1] - median


def colours(pixels: Tensor) -> Tensor:
    """Red, green, blue, the chroma of JPEG (Cr, Cb), and R − G and B − G, of RGB (..., 3, H, W): (..., 7, H, W)."""
    red, green, blue = pixels.unbind(-3)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [(0.713 * (red - luma)).round(), (0.564 * (blue - luma)).round()]
    return torch.stack([red, green, blue, *chroma, red - green, blue - green], dim=-3)


def moments(patches: Tensor) -> Tensor:
    """Means over the pixels of patches (N, 3, S, S), uint8 or float in [0, 1]: (N, 59), for `statistics`."""
    channels = colours(255 * unit_range(patches))
    residuals = median_residual(channels)
    size = residuals.abs()
    kinds = [size, size > LARGE, size < SMALL, residuals**2, residuals**4]
    found = [kind.float().mean((2, 3)) for kind in kinds]
    for step in APART:
        across, down = channels[..., step:] - channels[..., :-step], channels[..., step:, :] - channels[..., :-step, :]
        found.append(((across**2).mean((2, 3)) + (down**2).mean((2, 3))) / 2)
    red, green, blue = residuals[:, :3].unbind(1)
    products = [(one * other).mean((1, 2)) for one, other in ((red, green), (green, blue), (red, blue))]
    return torch.cat([*found, torch.stack(products, dim=1)], dim=1)


def statistics(means: Tensor) -> Tensor:
    """Logarithms of the moments (B, 59), of the kurtosis, and correlations of the colours' residuals: (B, 52)."""
    each, products = means[:, : CHANNELS * MOMENTS].unflatten(1, (MOMENTS, CHANNELS)), means[:, CHANNELS * MOMENTS :]
    size, large, small, second, fourth, *apart = each.unbind(1)
    kurtosis = (fourth + 1e-3) / (second**2 + 1e-3)
    logs = [size + 1e-2, large + 1e-4, small + 1e-4, kurtosis, *(part + 1e-2 for part in apart)]
    red, green, blue = (second[:, :3] + 1e-3).unbind(1)
    norms = torch.stack([red * green, green * blue, red * blue], dim=1).sqrt()
    return torch.cat([*(part.log() for part in logs), products / norms], dim=1)


class ResidualNetwork(MeanOfPatches):
    """The classifier; it trains and scores through the same code as `Spai`."""

    def __init__(self, *, patch_size: int, patch_stride: int, residual_width: int) -> None:
        """Build it with random weights.

        Args:
            patch_size: Side S of the patches in pixels.
            patch_stride: Pixels from one patch to the next when images are scored.
            residual_width: Width of the first layer; the second is half as wide. With 64, 5,505 parameters.
        """
        super().__init__()
        self.patch_size, self.patch_stride = patch_size, patch_stride
        self.norm = nn.BatchNorm1d(STATISTICS, affine=False)
        self.head = nn.Sequential(
            nn.Linear(STATISTICS, residual_width),
            nn.GELU(),
            nn.Linear(residual_width, residual_width // 2),
            nn.GELU(),
            nn.Linear(residual_width // 2, 1),
        )

    def patch_vectors(self, patches: Tensor) -> Tensor:
        """Moments (N, 59) of patches (N, 3, S, S)."""
        return moments(patches)

    def image_logits(self, means: Tensor) -> Tensor:
        """(B,) for means of the moments (B, 59)."""
        found = statistics(means)
        if len(found) > 1:
            return self.head(self.norm(found))[:, 0]
        # The last batch of an epoch may be of one image, which has no deviation.
        return self.head(F.batch_norm(found, self.norm.running_mean, self.norm.running_var))[:, 0]


RESIDUAL_FIELDS = tuple(inspect.signature(ResidualNetwork).parameters)


def load_network(checkpoint: dict[str, Any], path: Path) -> Spai | ResidualNetwork:
    """Rebuild script 7's trained network, of either kind, from the checkpoint alone, in evaluation mode.

    Raises:
        UserError: The weights do not fit the configuration; the message names `path`.
    """
    config, weights = checkpoint["config"], checkpoint["model_state_dict"]
    if config.get("network", "spai") == "spai":  # checkpoints from before there was a choice
        return load_spai(checkpoint, path)
    arguments = {field: config[field] for field in RESIDUAL_FIELDS}
    return load_fitting(lambda: ResidualNetwork(**arguments), arguments, weights, path)

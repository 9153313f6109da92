"""A small classifier of how neighbouring pixels differ, for round trips that leave the content as it was.

What a generator or an enlargement does to an image shows in how a pixel follows from its neighbours. In rows and
columns, three successive differences of neighbours are counted jointly, each rounded and truncated to five values
(after Pevný, Bas and Fridrich 2010, "Steganalysis by Subtractive Pixel Adjacency Matrix"): in the brightness and, above
all, in R − G and B − G, since a decoder draws brightness better than the grain of colours. An image's shares are the
means of its patches', whatever its size. Moments of residuals, which were here before, and the spectra of blocks of
8 × 8 pixels told less (docs/LOG.md).
"""

import inspect
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.generated.mean_of_patches import MeanOfPatches
from common.generated.network import Spai, load_spai
from common.networks.pixels import unit_range
from common.networks.weight_files import load_fitting

STEPS = (2.0, 1.0, 1.0)
"""Levels of 255 by which differences of the brightness, of R − G and of B − G are rounded."""
MOST = 2
"""Steps at which they are truncated: each difference has one of 2 · 2 + 1 values."""
RARE = 1e-3
"""Added to the shares, whose logarithms are taken: what is rarer tells nothing."""
FARTHEST = 6.0
"""Deviations from the mean at which statistics are cut off, for images like none of the training."""


def _symmetric_classes() -> list[int]:
    """Class of each of the 125 triplets of differences.

    Those are one that a mirrored or an inverted image has instead: the same triplet backwards, of the opposite sign, or
    both.
    """
    values = range(-MOST, MOST + 1)
    classes: dict[tuple[int, ...], int] = {}
    found = []
    for triplet in product(values, repeat=3):
        opposite = tuple(-value for value in triplet)
        first = min(triplet, triplet[::-1], opposite, opposite[::-1])
        found.append(classes.setdefault(first, len(classes)))
    return found


CLASSES = _symmetric_classes()
STATISTICS = len(STEPS) * (max(CLASSES) + 1)
"""117: 39 classes of triplets for each channel."""


def channels(pixels: Tensor) -> Tensor:
    """Brightness (BT.601), R − G and B − G of RGB (..., 3, H, W): (..., 3, H, W)."""
    red, green, blue = pixels.unbind(-3)
    return torch.stack([0.299 * red + 0.587 * green + 0.114 * blue, red - green, blue - green], dim=-3)


def co_occurrences(patches: Tensor) -> Tensor:
    """Share of each class of triplets among those of a patch, rows and columns together, by channel.

    Args:
        patches: (N, 3, S, S) RGB, uint8 or float in [0, 1]; S at least 4.

    Returns:
        (N, 117), which sums to 1 for each channel.
    """
    shown = channels((255 * unit_range(patches)).round())
    steps, classes = shown.new_tensor(STEPS)[:, None, None], torch.tensor(CLASSES, device=shown.device)
    count, values = shown.shape[0] * len(STEPS), 2 * MOST + 1
    # A place of its own for the triplets of each patch and channel.
    start = (len(CLASSES) * torch.arange(count, dtype=torch.int32, device=shown.device))[:, None]
    shares = []
    for lines in (shown, shown.transpose(-2, -1)):
        levels = (lines.diff() / steps).round_().clamp_(-MOST, MOST).int() + MOST
        triplets = values * (values * levels[..., :-2] + levels[..., 1:-1]) + levels[..., 2:]
        triplets = triplets.reshape(count, -1)
        counts = torch.bincount((triplets + start).flatten(), minlength=count * len(CLASSES))
        shares.append(counts.reshape(count, -1) / triplets.shape[1])
    merged = shares[0].new_zeros(count, max(CLASSES) + 1).index_add_(1, classes, (shares[0] + shares[1]) / 2)
    return merged.reshape(-1, STATISTICS)


class ResidualNetwork(MeanOfPatches):
    """The classifier; it trains and scores through the same code as `Spai`."""

    def __init__(self, *, patch_size: int, patch_stride: int, residual_width: int) -> None:
        """Build it with random weights.

        Args:
            patch_size: Side S of the patches in pixels.
            patch_stride: Pixels from one patch to the next when images are scored.
            residual_width: Width of the first layer; the second is half as wide. With 64, 9,665 parameters.
        """
        super().__init__()
        self.patch_size, self.patch_stride = patch_size, patch_stride
        # Its mean and deviation are those of all batches so far, not of the latest: see `image_logits`.
        self.norm = nn.BatchNorm1d(STATISTICS, affine=False, momentum=None)
        self.head = nn.Sequential(
            nn.Linear(STATISTICS, residual_width),
            nn.GELU(),
            nn.Linear(residual_width, residual_width // 2),
            nn.GELU(),
            nn.Linear(residual_width // 2, 1),
        )

    def patch_vectors(self, patches: Tensor) -> Tensor:
        """Shares (N, 117) of patches (N, 3, S, S): see `co_occurrences`."""
        return co_occurrences(patches)

    def image_logits(self, means: Tensor) -> Tensor:
        """(B,) for means of the shares (B, 117).

        Their logarithms are normalised by the training's images, in training by those so far: by the few of one batch
        the same image would have other statistics each time.
        """
        found = (means + RARE).log()
        if self.training and len(found) > 1:  # the last batch of an epoch may be of one image, without a deviation
            self.norm(found)
        normal = F.batch_norm(found, self.norm.running_mean, self.norm.running_var)
        return self.head(normal.clamp(-FARTHEST, FARTHEST))[:, 0]


RESIDUAL_FIELDS = tuple(inspect.signature(ResidualNetwork).parameters)


def load_network(checkpoint: dict[str, Any], path: Path) -> Spai | ResidualNetwork:
    """Rebuild script 7's trained network, of either kind, from the checkpoint alone, in evaluation mode.

    Raises:
        UserError: The weights do not fit the configuration, or are of an earlier version; the message names `path`.
    """
    config, weights = checkpoint["config"], checkpoint["model_state_dict"]
    if config.get("network", "spai") == "spai":  # checkpoints from before there was a choice
        return load_spai(checkpoint, path)
    arguments = {field: config[field] for field in RESIDUAL_FIELDS}
    if (known := weights.get("norm.running_mean")) is not None and len(known) != STATISTICS:
        raise UserError(
            f"{path} is a residual network of an earlier version, with {len(known)} statistics where this one has "
            f"{STATISTICS}. Train it again: script_7_spai_fusion.py --network residual."
        )
    return load_fitting(lambda: ResidualNetwork(**arguments), arguments, weights, path)

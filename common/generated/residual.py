"""A small network on the residuals of neighbouring pixels, for round trips that leave the content as it was.

What a generator or an enlargement does to an image shows in how a pixel follows from its neighbours. So the network
sees nothing but each pixel minus the median of its four neighbours: FerretNet's idea (Liang et al. 2025), whose median
is of all pixels of a window. It reads untouched patches, as SPAI does, and weighs them by an attention (Ilse et al.
2018), since a patch of clear sky has nothing to tell.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.generated.network import ImageScore, Spai, SpaiOutput, Stage, load_spai
from common.generated.patches import pad_to_patch, patch_positions
from common.networks.pixels import unit_range
from common.networks.weight_files import build_fitting

GAIN = 8.0
"""Brings residuals of pixels in [0, 1] near a deviation of 1."""


def median_residual(pixels: Tensor) -> Tensor:
    """Each pixel minus the median of the four beside it: (..., H, W) → (..., H − 2, W − 2), without the border.

    The median of four is the mean of the middle two.
    """
    rows, columns = pixels[..., 1:-1, :], pixels[..., 1:-1]
    beside = torch.stack([rows[..., :-2], rows[..., 2:], columns[..., :-2, :], columns[..., 2:, :]])
    median = (beside.sum(0) - beside.amax(0) - beside.amin(0)) / 2
    return rows[..., 1:-1] - median


class ResidualNetwork(nn.Module):
    """The classifier; it trains and scores through the same code as `Spai`."""

    def __init__(self, *, patch_size: int, patch_stride: int, residual_width: int) -> None:
        """Build it with random weights.

        Args:
            patch_size: Side S of the patches in pixels.
            patch_stride: Pixels from one patch to the next when images are scored.
            residual_width: Channels W at full resolution; 8 W at an eighth of it. With 16, 300,000 parameters.
        """
        super().__init__()
        self.patch_size, self.patch_stride = patch_size, patch_stride
        width = residual_width
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _Block(width, width, stride=1),
            *(_Block(width * 2**step, width * 2 ** (step + 1), stride=2) for step in range(3)),
        )
        self.attention = nn.Linear(8 * width, 1)
        self.head = nn.Linear(8 * width, 1)
        nn.init.zeros_(self.attention.weight)  # all patches alike at first

    @property
    def semantic_tokens(self) -> list[str]:
        """Names of the semantic tokens, of which it has none."""
        return []

    @property
    def whole_size(self) -> int:
        """Side in pixels of the whole images of a data set, which are not used."""
        return self.patch_size

    def set_stage(self, stage: Stage, *, train_backbone: bool = True) -> None:
        """Train all parameters, in every stage."""
        self.requires_grad_()

    def forward(self, views: Tensor, whole: Tensor | None = None) -> SpaiOutput:
        """Logits (B,) of images of P patches each, and weights of the patches (B, 1, P).

        Args:
            views: uint8, or float in [0, 1], (B, P, 3, S, S).
            whole: Not used.
        """
        features = self._patch_features(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return self._pool(features)

    @torch.no_grad()
    def score_images(
        self, images: Sequence[Tensor], whole: Tensor | None = None, batch: int = 400, *, cover_edges: bool = False
    ) -> list[ImageScore]:
        """Score images of any size without resizing them; see `Spai.score_images`.

        Args:
            images: uint8 (3, H, W) each, on any device.
            whole: Not used.
            batch: Number of patches at a time.
            cover_edges: See `patch_positions`.
        """
        device, size, scores = self.head.weight.device, self.patch_size, []
        for image in images:
            image = pad_to_patch(image, size)
            _, height, width = image.shape
            places = patch_positions(height, width, size, self.patch_stride, cover_edges=cover_edges)
            patches = torch.stack([image[:, y : y + size, x : x + size] for y, x in places])
            features = torch.cat([self._patch_features(part.to(device)) for part in patches.split(batch)])
            output = self._pool(features[None])
            scores.append(ImageScore(output.logits.item(), places, output.attention[0, 0].cpu(), None))
        return scores

    def _patch_features(self, patches: Tensor) -> Tensor:
        """Vectors (N, 8 W) of patches (N, 3, S, S)."""
        return self.features(GAIN * median_residual(unit_range(patches))).mean((2, 3))

    def _pool(self, features: Tensor) -> SpaiOutput:
        """The output for patches' vectors (B, P, 8 W)."""
        weights = self.attention(features).softmax(1)
        return SpaiOutput(self.head((weights * features).sum(1))[:, 0], weights.transpose(1, 2))


class _Block(nn.Module):
    """Residual block (He et al. 2016): values (N, I, H, W) → (N, O, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


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
    network = build_fitting(lambda: ResidualNetwork(**arguments), arguments, weights, path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the network of its config ({error!s:.300}).") from error
    return network.eval()

"""Baseline for SPAI: a vision transformer like its backbone that classifies each patch by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.generated.network import ImageScore, SpaiOutput, Stage
from common.generated.patches import pad_to_patch, patch_positions
from common.generated.vit import TokenBackbone
from common.networks.pixels import unit_range


class PatchClassifier(nn.Module):
    """A `TokenBackbone` with a linear layer on its embedding; an image's logit is the mean over its patches.

    No frequencies, no similarities, no attention over patches. It trains and scores through the same code as `Spai`.
    """

    def __init__(
        self, name: str, *, patch_size: int, patch_stride: int, depth: int = 0, width: int = 0, heads: int = 0
    ) -> None:
        """Build it with random weights.

        Args:
            name: ViT of timm; see `TokenBackbone`, also for errors.
            patch_size: Side S of the patches in pixels.
            patch_stride: Pixels from one patch to the next when images are scored.
            depth: Number of blocks. With twice those of SPAI's backbone and all else equal, the quick profile trains
                284,289 parameters, that of plain SPAI 273,477.
            width: Width of the tokens.
            heads: Number of heads of the attention.
        """
        super().__init__()
        self.patch_size, self.patch_stride = patch_size, patch_stride
        self.backbone = TokenBackbone(name, image_size=patch_size, depth=depth, width=width, heads=heads)
        self.head = nn.Linear(self.backbone.embedding_size, 1)

    @property
    def whole_size(self) -> int:
        """Side in pixels of the whole images of a data set, which are not used."""
        return self.patch_size

    def set_stage(self, stage: Stage, *, train_backbone: bool = True) -> None:
        """Train all parameters, in every stage."""
        self.requires_grad_()

    def forward(self, views: Tensor, whole: Tensor | None = None) -> SpaiOutput:
        """Logits (B,) of images of P patches each, and equal weights of the patches as attention (B, 1, P).

        Args:
            views: uint8, or float in [0, 1], (B, P, 3, S, S).
            whole: Not used.
        """
        batch, count = views.shape[:2]
        logits = self._patch_logits(views.flatten(0, 1)).unflatten(0, (batch, count)).mean(1)
        return SpaiOutput(logits, logits.new_full((batch, 1, count), 1 / count))

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
        device, scores = self.head.weight.device, []
        for image in images:
            image = pad_to_patch(image, self.patch_size)
            _, height, width = image.shape
            places = patch_positions(height, width, self.patch_size, self.patch_stride, cover_edges=cover_edges)
            size = self.patch_size
            patches = torch.stack([image[:, y : y + size, x : x + size] for y, x in places])
            logits = torch.cat([self._patch_logits(part.to(device)) for part in patches.split(batch)])
            scores.append(ImageScore(logits.mean().item(), places, torch.full((len(places),), 1 / len(places)), None))
        return scores

    def _patch_logits(self, patches: Tensor) -> Tensor:
        """(N,) for patches (N, 3, S, S)."""
        return self.head(self.backbone.get_image_embedding(unit_range(patches)))[:, 0]

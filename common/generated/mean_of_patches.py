"""Base of the classifiers that weigh all patches of an image the same; they train and score as `Spai` does."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.generated.network import ImageScore, SpaiOutput, Stage
from common.generated.patches import pad_to_patch, patch_positions


class MeanOfPatches(nn.Module, ABC):
    """A classifier of the mean of its patches' vectors, which has no semantic tokens and no attention."""

    patch_size: int
    """Side S of the patches in pixels."""
    patch_stride: int
    """Pixels from one patch to the next when images are scored."""

    @abstractmethod
    def patch_vectors(self, patches: Tensor) -> Tensor:
        """Vectors (N, D) of patches (N, 3, S, S), uint8 or float in [0, 1]."""

    @abstractmethod
    def image_logits(self, means: Tensor) -> Tensor:
        """Logits (B,) of images whose patches have mean vectors (B, D)."""

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
        """Logits (B,) of images of P patches each, and equal weights of the patches as attention (B, 1, P).

        Args:
            views: uint8, or float in [0, 1], (B, P, 3, S, S).
            whole: Not used.
        """
        batch, count = views.shape[:2]
        logits = self.image_logits(self.patch_vectors(views.flatten(0, 1)).unflatten(0, (batch, count)).mean(1))
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
        device, size, scores = next(self.parameters()).device, self.patch_size, []
        for image in images:
            image = pad_to_patch(image, size)
            _, height, width = image.shape
            places = patch_positions(height, width, size, self.patch_stride, cover_edges=cover_edges)
            parts = [places[start : start + batch] for start in range(0, len(places), batch)]
            cut = (torch.stack([image[:, y : y + size, x : x + size] for y, x in part]) for part in parts)
            found = torch.cat([self.patch_vectors(patches.to(device)) for patches in cut])
            logit = self.image_logits(found.mean(0, keepdim=True)).item()
            scores.append(ImageScore(logit, places, torch.full((len(places),), 1 / len(places)), None))
        return scores

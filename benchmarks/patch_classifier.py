"""Baseline for SPAI: a vision transformer like its backbone that classifies each patch by itself."""

from torch import Tensor, nn

from common.generated.mean_of_patches import MeanOfPatches
from common.generated.vit import TokenBackbone
from common.networks.pixels import unit_range


class PatchClassifier(MeanOfPatches):
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

    def patch_vectors(self, patches: Tensor) -> Tensor:
        """Logits (N, 1) of patches (N, 3, S, S)."""
        return self.head(self.backbone.get_image_embedding(unit_range(patches)))

    def image_logits(self, means: Tensor) -> Tensor:
        """The means (B, 1) as logits (B,)."""
        return means[:, 0]

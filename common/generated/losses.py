"""Losses of the training of SPAI: classification, consistency of an image and its degraded twin, image and text."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.generated.network import SpaiOutput
from common.training.losses import FocalLoss


class ConsistencyLoss(nn.Module):
    """Mean of max(0, margin − cos) over pairs of vectors, of an image and of its degraded twin.

    1 − cos is smallest when all images share one vector, and pushes there even where a pair agrees already. With the
    margin such a pair has no gradient, and what tells images apart is left alone. A pair that disagrees is still pushed
    there, up to the margin: the weight must stay small beside the classification, which keeps the images apart.

    Args:
        margin: The cosine in (0, 1] from which a pair agrees.
    """

    def __init__(self, margin: float = 0.9) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, clean: Tensor, degraded: Tensor) -> Tensor:
        """Scalar loss in [0, 1 + margin] of two tensors (..., W) of the same shape.

        Raises:
            ValueError: Different shapes.
        """
        if clean.shape != degraded.shape:
            raise ValueError(f"clean vectors {tuple(clean.shape)} against degraded {tuple(degraded.shape)}")
        return F.relu(self.margin - F.cosine_similarity(clean.float(), degraded.float(), dim=-1)).mean()


class ImageTextLoss(nn.Module):
    """Symmetric InfoNCE of images and their prompts (Radford et al. 2021, fig. 3), over the batch of one process.

    Images with the same prompt are no negatives of each other.

    Args:
        temperature: > 0, of the softmax over cosines.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, image: Tensor, text: Tensor, known: Tensor) -> Tensor:
        """Scalar loss; 0 where fewer than two different prompts are known, since nothing can be contrasted.

        Args:
            image: (B, E), of any length.
            text: (B, E), of any length; equal prompts have equal vectors. Rows that are not known don't count.
            known: bool (B,), whether the image has a prompt.
        """
        image, text = image[known].float(), text[known].float()
        if not len(image):
            return image.sum()  # 0, but with a graph
        _, prompt = torch.unique(text, dim=0, return_inverse=True)
        similarity = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / self.temperature
        pairs = torch.arange(len(prompt), device=prompt.device)
        same = (prompt[:, None] == prompt) & (pairs[:, None] != pairs)
        similarity = similarity.masked_fill(same, -torch.inf)
        return (F.cross_entropy(similarity, pairs) + F.cross_entropy(similarity.T, pairs)) / 2


class SpaiLoss(nn.Module):
    """Classification, plus the weighted consistency and image-text losses where there is something to compare.

    Args:
        classification: Binary cross-entropy (SPAI) or `FocalLoss`.
        alpha: Of the focal loss, the weight of generated images; real ones get 1 − alpha (original recipe: 0.25).
        gamma: Of the focal loss (original recipe: 2).
        semantic_weight: Of the consistency of the fused vectors (original recipe: 0.1).
        frequency_weight: Of the consistency of x, low and high frequencies (original recipe: 0.05). Each is compared
            with itself in the other view, never with another: their distances are what SPAI measures.
        text_weight: Of `ImageTextLoss`.
    """

    def __init__(
        self,
        *,
        classification: Literal["bce", "focal"],
        alpha: float = 0.25,
        gamma: float = 2.0,
        semantic_weight: float = 0.1,
        frequency_weight: float = 0.05,
        text_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.classification = nn.BCEWithLogitsLoss() if classification == "bce" else FocalLoss(alpha, gamma)
        self.consistency, self.image_text = ConsistencyLoss(), ImageTextLoss()
        self.semantic_weight, self.frequency_weight, self.text_weight = semantic_weight, frequency_weight, text_weight
        self._sums: dict[str, Tensor] = {}
        self._calls = 0

    def forward(self, *arguments: Any) -> Tensor:
        """Scalar loss, the sum of `parts`, which has the same arguments; `means` counts them."""
        parts = self.parts(*arguments)
        self._sums |= {name: self._sums.get(name, 0) + part.detach() for name, part in parts.items()}
        self._calls += 1
        return torch.stack(list(parts.values())).sum()

    def means(self) -> dict[str, Tensor]:
        """The means of the summands by name, as scalars, over the calls since the last time; empty without a call."""
        means = {name: total / self._calls for name, total in self._sums.items()}
        self._sums, self._calls = {}, 0
        return means

    def parts(
        self,
        output: SpaiOutput,
        target: Tensor,
        degraded: SpaiOutput | None = None,
        text: Tensor | None = None,
        known: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The summands by name, scalars in 32 bits also under autocast, each with its weight.

        Args:
            output: Of the clean images.
            target: (B,), 1 for generated, 0 for real.
            degraded: Of the same images degraded, in the same order.
            text: Embeddings of the prompts (B, E).
            known: bool (B,), which images have a prompt; all by default.

        Returns:
            `classification`, the mean over the views there are; and `semantic`, `frequency`, `text` where the weight is
            above 0 and the features and their counterpart exist.
        """
        views = [output] if degraded is None else [output, degraded]
        losses = [self.classification(view.logits.float(), target.float()) for view in views]
        parts = {"classification": torch.stack(losses).mean()}
        if degraded is not None:
            for name, weight, clean, other in (
                ("semantic", self.semantic_weight, output.fused, degraded.fused),
                ("frequency", self.frequency_weight, output.frequencies, degraded.frequencies),
            ):
                if weight > 0 and clean is not None and other is not None:
                    parts[name] = weight * self.consistency(clean, other)
        if self.text_weight > 0 and output.text is not None and text is not None:
            known = torch.ones_like(target, dtype=torch.bool) if known is None else known
            parts["text"] = self.text_weight * self.image_text(output.text, text, known)
        return parts

"""Losses of `(logits, target)`, averaged over the batch.

Those of masks take both as (N, 1, H, W), the target 0 or 1; `ClassFocalLoss` takes logits and classes of clips.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FocalLoss(nn.Module):
    """Mean over all pixels of α_t (1 − p_t)^γ · BCE (Lin et al. 2017, eq. 5).

    `torchvision.ops.sigmoid_focal_loss` agrees to 1e-6, but for γ < 1 its gradient is nan wherever p_t rounds to 1.

    Args:
        alpha: Weight of forged pixels in [0, 1]; authentic ones get 1 − alpha.
        gamma: ≥ 0; how strongly easy pixels count less. 0 is weighted cross-entropy.
    """

    def __init__(self, alpha: float = 0.75, gamma: float = 3.0) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss."""
        target = target.to(logits.dtype)
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        # 1 − p_t, exact also where p_t rounds to 1
        wrong = torch.sigmoid(logits * (1 - 2 * target))
        alpha_t = self.alpha * target + (1 - self.alpha) * (1 - target)
        return (alpha_t * wrong**self.gamma * bce).mean()


class DiceLoss(nn.Module):
    """1 − Dice of each image, averaged; for an authentic image the Dice of its *background*.

    With p the probabilities and t the target: 1 − 2 Σpt / (Σp + Σt) (Milletari et al. 2016, without squares).
    An authentic image has no foreground: the quotient is 0, so that the loss is 1 and its gradient 0 whatever is
    predicted; libraries skip it, so that false positives cost nothing. Of its background, which is the whole image,
    1 − Dice is 1 − 2 Σ(1−p) / (Σ(1−p) + n) = p̄ / (2 − p̄) with p̄ the mean probability: 0 only for an empty prediction,
    with a gradient of at least ½, and never undefined. Each image has the same weight, whatever its forgery's size.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss in [0, 1]."""
        probs = torch.sigmoid(logits).flatten(1)
        target = target.to(probs.dtype).flatten(1)
        authentic = target.sum(1, keepdim=True) == 0
        probs = torch.where(authentic, 1 - probs, probs)
        target = torch.where(authentic, 1 - target, target)
        dice = 2 * (probs * target).sum(1) / (probs.sum(1) + target.sum(1))
        return (1 - dice).mean()


class CombinedLoss(nn.Module):
    """focal_weight · focal + dice_weight · Dice (original recipe: 0.7 and 0.3)."""

    def __init__(
        self, *, alpha: float = 0.75, gamma: float = 3.0, focal_weight: float = 0.7, dice_weight: float = 0.3
    ) -> None:
        super().__init__()
        self.focal, self.dice = FocalLoss(alpha, gamma), DiceLoss()
        self.focal_weight, self.dice_weight = focal_weight, dice_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss, computed in 32 bits also under autocast: sums over an image overflow 16."""
        logits = logits.float()
        return self.focal_weight * self.focal(logits, target) + self.dice_weight * self.dice(logits, target)


class ClassFocalLoss(nn.Module):
    """Mean over clips of w_t (1 − p_t)^γ · cross-entropy (Lin et al. 2017, eq. 5), with weights by class.

    Unlike torch's weighted cross-entropy it is not divided by the sum of the weights, which differs between batches:
    accumulated small batches are the same as a large one.

    Args:
        weights: (C,), of the classes.
        gamma: ≥ 0; how strongly easy clips count less.
    """

    def __init__(self, weights: Tensor, gamma: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (N, C) and classes (N,)."""
        return self.each(logits, target).mean()

    def each(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each clip, (N,), computed in 32 bits."""
        ce = F.cross_entropy(logits.float(), target, reduction="none")
        wrong = -torch.expm1(-ce)  # 1 − p_t
        return self.weights.to(ce.device)[target] * wrong**self.gamma * ce

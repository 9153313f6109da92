"""Gradient-weighted class activation maps (Grad-CAM, Selvaraju et al. 2017) of several layers, in one backward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class CamMaps:
    """Class activation maps of N images."""

    fused: Tensor
    """Weighted sum of the layers' maps, float (N, h, w) in [0, 1]."""
    scales: list[Tensor]
    """Map of each layer, not normalised, float (N, h_i, w_i), 0 or more."""


class MultiScaleGradCAM:
    """Grad-CAM of several layers of a network, and their weighted sum.

    The map of a layer with activations A and gradients G of the target is ReLU(Σ_k mean(G_k) · A_k). The layers must
    run once and return one tensor (N, C, H, W). The backward pass ends at the first layer; with frozen parameters, no
    graph is recorded before it, which saves memory.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        weights: Sequence[float] = (0.3, 0.3, 0.4),
        size: tuple[int, int] = (28, 28),
    ) -> None:
        """Choose the layers.

        Args:
            model: In eval mode.
            layers: Modules of the model.
            weights: Weight of each layer in the fused map, 0 or more, with sum 1. The default is for fine, mid and
                semantic.
            size: Height and width of the fused map.
        """
        self.model, self.layers, self.weights, self.size = model, layers, weights, size

    def __call__(self, inputs: Any, *, target: Callable[[Any], Tensor], clips: int | None = None) -> CamMaps:
        """Run the model and explain numbers of its output.

        Args:
            inputs: Argument of the model.
            target: Maps the model's output to the numbers to explain, of any shape, whose sum is differentiated.
            clips: The N images are so many clips of equal length, one after the other. Each scale is divided by its
                maximum over the whole clip, so that a clip's images compare. By default every image is a clip.

        Raises:
            ValueError: A layer ran not at all or more than once, or N is no multiple of `clips`.
        """
        with torch.inference_mode(mode=False), torch.enable_grad():
            output, activations = self._run(inputs)
            gradients = torch.autograd.grad(target(output).sum(), activations)
        scales = [
            (gradient.float().mean((2, 3), keepdim=True) * activation.detach().float()).sum(1).relu()
            for activation, gradient in zip(activations, gradients, strict=True)
        ]
        return CamMaps(self._fuse(scales, clips), scales)

    def _run(self, inputs: Any) -> tuple[Any, list[Tensor]]:
        """The model's output, and the activations of the layers on which it depends."""
        caught: dict[int, list[Tensor]] = {number: [] for number in range(len(self.layers))}

        def catcher(number: int) -> Callable[..., Tensor]:
            def catch(module: nn.Module, arguments: Any, activation: Tensor) -> Tensor:
                # The graph starts at the first activation. With frozen parameters, parallel ones have no graph either.
                if not any(caught.values()) or not activation.requires_grad:
                    activation = activation.detach().requires_grad_()
                caught[number].append(activation)
                return activation.clone()  # later layers may work in place

            return catch

        handles = [layer.register_forward_hook(catcher(number)) for number, layer in enumerate(self.layers)]
        try:
            output = self.model(inputs)
        finally:
            for handle in handles:
                handle.remove()
        times = [len(activations) for activations in caught.values()]
        if any(count != 1 for count in times):
            raise ValueError(f"every layer must run once for a map, but they ran {times} times")
        return output, [activations[0] for activations in caught.values()]

    def _fuse(self, scales: list[Tensor], clips: int | None) -> Tensor:
        images = len(scales[0])
        clips = images if clips is None else clips
        if images % clips:
            raise ValueError(f"{images} images are not {clips} clips of equal length")
        fused = scales[0].new_zeros(images, *self.size)
        for weight, scale in zip(self.weights, scales, strict=True):
            greatest = scale.reshape(clips, -1).amax(1).repeat_interleave(images // clips)[:, None, None]
            relative = torch.where(greatest > 0, scale / greatest, 0)
            fused += weight * F.interpolate(relative[:, None], self.size, mode="bilinear", align_corners=False)[:, 0]
        return fused.clamp(max=1)  # rounding

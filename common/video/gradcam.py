"""Gradient-weighted class activation maps (Grad-CAM, Selvaraju et al. 2017) of several layers, in one backward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class CamMaps:
    """Where a network's output comes from, for N images."""

    output: Any
    """What the network returned, detached."""
    fused: Tensor
    """All scales in one, float (N, h, w) in [0, 1]."""
    scales: list[Tensor]
    """Of each layer, not normalised, float (N, h_i, w_i), 0 or more."""


class MultiScaleGradCAM:
    """Maps of what speaks for a target in several layers of a network, and their weighted sum.

    Of a layer with activations A and gradients G of the target, the map is ReLU(Σ_k mean(G_k) · A_k). Any network and
    any layers that run once and return one tensor (N, C, H, W). Nothing before the first of them is kept for the
    backward pass. All parameters may be frozen, and had better be: then nothing is recorded there to begin with.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        weights: Sequence[float] = (0.3, 0.3, 0.4),
        size: tuple[int, int] = (28, 28),
    ) -> None:
        """Explain a model by its layers.

        Args:
            model: Called as it is: put it in eval mode.
            layers: Modules of it.
            weights: Of the layers in the fused map; 0 or more each, sum 1. The default: fine, mid, semantic.
            size: Height and width of the fused map.

        Raises:
            ValueError: The weights are not one for each layer, or not of that kind.
        """
        if len(weights) != len(layers) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"{len(layers)} layers need as many weights of sum 1, not {tuple(weights)}")
        self.model = model
        self.layers = list(layers)
        self.weights = tuple(weights)
        self.size = size

    def __call__(
        self, *inputs: Any, target: Callable[[Any], Tensor], clips: int | None = None, **kwargs: Any
    ) -> CamMaps:
        """Run the model and explain a number of its output.

        Args:
            *inputs: Of the model.
            target: Gives of the model's output the numbers to explain, of any shape; their sum is what is derived.
            clips: The N images are as many clips of equal length, one after the other; each scale of a clip is
                divided by its greatest value in the whole clip, so that images compare. Default: every image is one.
            **kwargs: Of the model.

        Raises:
            ValueError: A layer ran not at all or more than once, or N is no multiple of `clips`.
        """
        with torch.inference_mode(False), torch.enable_grad():
            output, activations = self._run(*inputs, **kwargs)
            gradients = torch.autograd.grad(target(output).sum(), activations)
        scales = [
            (gradient.float().mean((2, 3), keepdim=True) * activation.detach().float()).sum(1).relu()
            for activation, gradient in zip(activations, gradients, strict=True)
        ]
        return CamMaps(_detached(output), self._fuse(scales, clips), scales)

    def _run(self, *inputs: Any, **kwargs: Any) -> tuple[Any, list[Tensor]]:
        """The model's output and the activations of the layers, which it depends on."""
        caught: dict[int, list[Tensor]] = {number: [] for number in range(len(self.layers))}

        def catcher(number: int) -> Callable[..., Tensor]:
            def catch(module: nn.Module, arguments: Any, activation: Tensor) -> Tensor:
                # The graph begins at the first activation. With frozen parameters one beside it has no graph either.
                if not any(caught.values()) or not activation.requires_grad:
                    activation = activation.detach().requires_grad_()
                caught[number].append(activation)
                return activation.clone()  # what follows may work in place

            return catch

        handles = [layer.register_forward_hook(catcher(number)) for number, layer in enumerate(self.layers)]
        try:
            output = self.model(*inputs, **kwargs)
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


def _detached(output: Any) -> Any:
    """A tensor, or a tuple or list of such, without graph; anything else as it is."""
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, tuple | list):
        parts = [_detached(part) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output

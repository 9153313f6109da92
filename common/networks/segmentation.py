"""The ensemble's segmentation network: encoder, feature pyramid, attention gate, segmentation head."""

from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.networks.attention import AttentionGate
from common.networks.pixels import IMAGENET_MEAN, IMAGENET_STD, unit_range
from common.networks.weight_files import load_fitting

NETWORK_FIELDS = ("encoder_name", "in_channels", "decoder_channels", "segmentation_channels")
"""Fields of a configuration that are arguments of the network."""


class AttentionFPN(nn.Module):
    """FPN (Kirillov et al. 2019) with an attention gate on the decoder's features before the segmentation head.

    The network normalises its input itself: as the pretrained weights of timm's encoders want it, for others by
    ImageNet's mean and deviation.
    """

    def __init__(
        self,
        *,
        encoder_name: str = "tu-efficientnet_b2",
        in_channels: int = 3,
        decoder_channels: int = 256,
        segmentation_channels: int = 128,
    ) -> None:
        """Build the network with random weights.

        Args:
            encoder_name: Encoder of segmentation-models-pytorch; `tu-…` for timm's.
            in_channels: RGB first; further channels are not normalised.
            decoder_channels: Width of the pyramid.
            segmentation_channels: Width of the features that enter the gate; a multiple of 32 (the groups of the
                decoder's normalisation).

        Raises:
            UserError: The encoder does not exist, or an FPN can't use its feature maps.
        """
        super().__init__()
        try:
            timm_name = encoder_name.removeprefix("tu-")
            if timm_name != encoder_name and not timm.is_model(timm_name):  # some names are looked up on the hub
                raise ValueError(f"timm has no model {timm_name!r}")
            fpn = smp.FPN(
                encoder_name,
                encoder_weights=None,
                in_channels=in_channels,
                decoder_pyramid_channels=decoder_channels,
                decoder_segmentation_channels=segmentation_channels,
            )
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"no FPN can be built with encoder {encoder_name!r}, {decoder_channels} decoder and "
                f"{segmentation_channels} segmentation channels ({error!s:.200}). Encoders that work: "
                "tu-efficientnet_b2, tu-mobilenetv3_small_100, mobilenet_v2."
            ) from error
        self.encoder = fpn.encoder
        self.decoder = fpn.decoder
        self.gate = AttentionGate(fpn.decoder.out_channels)
        self.head = fpn.segmentation_head
        mean, std = _normalisation(encoder_name)
        extra = in_channels - 3
        self.register_buffer("mean", torch.tensor([*mean, *[0.0] * extra]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([*std, *[1.0] * extra]).view(1, -1, 1, 1))
        self.to(memory_format=torch.channels_last)  # 1.35 times as fast to train on a CPU (docs/LOG.md)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1, H, W) for images (N, C, H, W): uint8, or float in [0, 1]; H and W are multiples of 32."""
        x = ((unit_range(x) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.decoder(self.encoder(x))
        return self.head(self.gate(features))


def build_network(config: Any) -> AttentionFPN:
    """The network of a configuration (an object, or a dict of plain values), with random weights."""
    values = config if isinstance(config, dict) else vars(config)
    return AttentionFPN(**{field: values[field] for field in NETWORK_FIELDS})


def load_network(checkpoint: dict[str, Any], path: Path) -> AttentionFPN:
    """Rebuild the trained network from the checkpoint alone, in evaluation mode.

    Raises:
        UserError: The weights are not those of the configuration's network; the message names `path`.
    """
    weights = checkpoint["model_state_dict"]
    sizes = {field: checkpoint["config"].get(field) for field in NETWORK_FIELDS}
    return load_fitting(lambda: build_network(sizes), sizes, weights, path)


def _normalisation(encoder_name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in [0, 1] that an encoder's ImageNet weights were trained with.

    Of encoders that are not timm's, ImageNet's own.
    """
    settings = timm.get_pretrained_cfg(encoder_name.removeprefix("tu-")) if encoder_name.startswith("tu-") else None
    return (IMAGENET_MEAN, IMAGENET_STD) if settings is None else (settings.mean, settings.std)

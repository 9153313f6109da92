"""Spotter's network: a CNN on every frame, attention and three scales on its features, a GRU over time.

Everything that joins the backbone is residual and begins as nothing: fresh attention and fusion change no number of
the backbone's features, so that a checkpoint without them loads to exactly the network without them.
"""

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from common.errors import UserError
from common.networks.pixels import unit_range
from common.networks.pretrained import load_complete, obtain_weights

TAP_REDUCTIONS = (8, 16, 32)
# What may be left over in a file of backbone weights.
CLASSIFIER_PREFIXES = ("classifier.", "fc.", "head.")


class SpatialAttentionModule(nn.Module):
    """Which channels, then which places of a feature map count (CBAM, Woo et al. 2018), beginning as the identity.

    CBAM's gates σ(z) halve whatever they see at the start; these are 2σ(z) with z zero at first. Nothing of the
    module is random: the hidden units of the channel branch begin as means of blocks of channels.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        """`channels` / `reduction` hidden units in the channel branch, one at least."""
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, padding=3)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Make it the identity again."""
        first, _, last = self.channel
        for parameter in (first.weight, first.bias, last.weight, last.bias, self.spatial.weight, self.spatial.bias):
            parameter.zero_()
        blocks = torch.arange(first.in_features).tensor_split(first.out_features)
        for unit, block in enumerate(blocks):
            first.weight[unit, block] = 1 / len(block)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features weighed, (N, C, H, W), and the map of places, (N, 1, H, W) in [0, 1]; 0.5 is neutral."""
        channels = self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3)))
        x = x * (2 * channels.sigmoid())[:, :, None, None]
        places = self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)).sigmoid()
        return x * (2 * places), places


class MultiScaleFusion(nn.Module):
    """What three feature maps say together, on the grid of the last; zero at first.

    Each passes a 1×1 convolution, group normalisation and SiLU, and is pooled to the grid by mean and by maximum: a
    mean alone would drown the few strong places that a blending border leaves at the fine scale.
    """

    def __init__(self, in_channels: list[int], out_channels: int, width: int = 128) -> None:
        """`width`: channels of each scale within; a multiple of 8 (the groups of its normalisation)."""
        super().__init__()
        # No batch norm: its statistics would mix clips, of which a batch holds few.
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, kernel_size=1, bias=False), nn.GroupNorm(8, width), nn.SiLU())
            for channels in in_channels
        )
        pooled = 2 * width * len(in_channels)
        self.project = nn.Conv2d(pooled, out_channels, kernel_size=1)
        # Adam moves every weight by the learning rate: the sum of so many would outgrow the backbone's features within
        # some steps, and all that reads them would have to follow.
        self.gain = pooled**-0.5
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make it say nothing again."""
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, taps: list[Tensor]) -> Tensor:
        """(N, out_channels, h, w) for maps (N, C_i, H_i, W_i), the last of them (h, w)."""
        grid = taps[-1].shape[2:]
        pooled = []
        for scale, tap in zip(self.scales, taps, strict=True):
            features = scale(tap)
            pooled += [F.adaptive_avg_pool2d(features, grid), F.adaptive_max_pool2d(features, grid)]
        return self.gain * self.project(torch.cat(pooled, dim=1))


class MultiScaleFeatureExtractor(nn.Module):
    """A backbone of timm, its feature maps at three scales, and their fusion with the last."""

    def __init__(self, encoder_name: str, multi_scale: bool = True, width: int = 128) -> None:
        """Build it with random weights.

        Args:
            encoder_name: Of timm; a CNN with feature maps at 1/8, 1/16 and 1/32 of the image.
            multi_scale: Add the fusion of the three scales; without it the fused map is the backbone's last.
            width: Channels of each scale in the fusion; a multiple of 8.

        Raises:
            UserError: timm has no such encoder, or it has no such feature maps.
        """
        super().__init__()
        self.backbone = _build_backbone(encoder_name)
        levels = self.backbone.feature_info
        self.tap_indices = [i for i, level in enumerate(levels) if level["reduction"] in TAP_REDUCTIONS]
        channels = [levels[i]["num_chs"] for i in self.tap_indices]
        self.out_channels = self.backbone.num_features
        self.fusion = MultiScaleFusion(channels, self.out_channels, width) if multi_scale else None

    @property
    def tap_layers(self) -> list[nn.Module]:
        """The modules whose outputs are the taps, fine to semantic."""
        return [self.backbone.get_submodule(self.backbone.feature_info[i]["module"]) for i in self.tap_indices]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features of normalised images (N, 3, H, W).

        Returns:
            The fused map (N, out_channels, h, w) and the taps, fine, mid and semantic, (N, C_i, H_i, W_i). Sides of
            B0 at 224: 28, 14 and 7 with 40, 112 and 320 channels; of B3 at 300: 38, 19 and 10 with 48, 136 and 384.
        """
        features, taps = self.backbone.forward_intermediates(x, indices=self.tap_indices)
        if self.fusion is not None:
            features = features + self.fusion(taps)
        return features, taps


class TemporalCNNGRU(nn.Module):
    """Is a clip of face crops real or fake?

    The input is normalised inside, as the backbone's pretrained weights want it.

    With B0 it has 16.8 million parameters (backbone 4.0, attention 0.41, fusion 1.0, GRU 10.2, head 1.1), with B3 24.7
    (10.7, 0.59, 1.3, 11.0 and 1.1).
    """

    def __init__(
        self,
        encoder_name: str = "tf_efficientnet_b0",
        *,
        hidden: int = 512,
        layers: int = 2,
        dropout: float = 0.3,
        reduction: int = 8,
        attention: bool = True,
        multi_scale: bool = True,
        temporal: bool = True,
        freeze_batch_norm: bool = False,
    ) -> None:
        """Build the network with random weights; the parts that are switched off have no parameters.

        Args:
            encoder_name: Backbone, as timm spells it.
            hidden: Of the GRU, in each direction.
            layers: Of the GRU.
            dropout: Between the GRU's layers and in the head.
            reduction: Channels per hidden unit of the attention's channel branch.
            attention: Weigh channels and places of the feature map before its mean.
            multi_scale: Add what the finer scales say to the feature map.
            temporal: GRU over time; without it a plain classifier of frames, whose logits are averaged.
            freeze_batch_norm: Keep the statistics of the backbone's batch norm even while the backbone trains (its
                scales and shifts train): for small batches.

        Raises:
            UserError: The encoder can't be used.
        """
        super().__init__()
        self.encoder_name = encoder_name
        self.freeze_batch_norm = freeze_batch_norm
        self.train_backbone = True
        self.features = MultiScaleFeatureExtractor(encoder_name, multi_scale)
        channels = self.features.out_channels
        self.attention = SpatialAttentionModule(channels, reduction) if attention else None
        self.gru = None
        if temporal:
            between = dropout if layers > 1 else 0.0
            self.gru = nn.GRU(channels, hidden, layers, batch_first=True, dropout=between, bidirectional=True)
        self.head = _clip_head(4 * hidden, dropout) if temporal else _frame_head(channels, dropout)
        for name in ("mean", "std"):
            values = torch.tensor(self.features.backbone.pretrained_cfg[name])
            self.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        return_temporal: bool = False,
        return_attention: bool = False,
        return_frames: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Logits of clips.

        Args:
            x: Frames (B, T, 3, S, S): uint8, or float in [0, 1].
            lengths: Number of frames of each clip, (B,), 1 to T; those behind are padding, whatever they hold. None
                for T each.
            return_temporal: Also the features of each time step, (B, T, 2·hidden); without a GRU the frames'
                vectors. Zero for padding.
            return_attention: Also the maps of places, (B, T, 1, h, w) in [0, 1]; 0.5 is neutral. Zero for padding.
            return_frames: Also the logits of each frame, (B, T, 2); see `frame_logits`. Meaningless for padding.

        Returns:
            Logits (B, 2) of real and fake; or a tuple of them and of what else was asked for, in the order above.

        Raises:
            ValueError: A length is not in 1 to T, or there is no attention to return.
        """
        if return_attention and self.attention is None:
            raise ValueError("this network was built without attention")
        valid = _valid_frames(x, lengths)
        # Padding stays out of the backbone: it would spoil the statistics of its batch norm, and costs time.
        vectors, places = self._frame_vectors(x[valid])
        temporal = _by_clip(vectors, valid)
        if self.gru is not None:
            temporal = self._over_time(temporal, valid)
        outputs = [self._clip_logits(temporal, valid)]
        if return_temporal:
            outputs.append(temporal)
        if return_attention:
            outputs.append(_by_clip(places, valid))
        if return_frames:
            outputs.append(self.frame_logits(temporal))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def frame_logits(self, temporal: Tensor) -> Tensor:
        """Logits (B, T, 2) of each time step (B, T, ·): what a clip would get whose every time step were that one.

        A clip of one frame gets the same from `forward`.
        """
        return self.head(temporal if self.gru is None else torch.cat([temporal, temporal], dim=-1))

    def set_stage(self, train_backbone: bool) -> None:
        """Freeze or unfreeze the backbone; attention, fusion, GRU and head always train.

        A frozen backbone also stays in eval mode: its batch norm keeps its statistics.
        """
        self.train_backbone = train_backbone
        self.features.backbone.requires_grad_(train_backbone)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TemporalCNNGRU":
        """As of any module, but for what is frozen."""
        super().train(mode)
        backbone = self.features.backbone
        if not self.train_backbone:
            backbone.eval()
        elif self.freeze_batch_norm:
            for module in backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    @property
    def cam_layers(self) -> list[nn.Module]:
        """The modules whose outputs are the fine, the mid and the semantic scale, for class activation maps."""
        return self.features.tap_layers

    def _frame_vectors(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (N, F) and maps of places (N, 1, h, w) of frames (N, 3, S, S)."""
        frames = ((unit_range(frames) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features, _ = self.features(frames)
        places = None
        if self.attention is not None:
            features, places = self.attention(features)
        return features.float().mean((2, 3)), places

    def _over_time(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """(B, T, 2·hidden) of vectors (B, T, F)."""
        # cuDNN's GRU has no backward pass in eval mode, which activation maps need.
        without_cudnn = vectors.is_cuda and not self.gru.training and torch.is_grad_enabled()
        with torch.backends.cudnn.flags(enabled=False) if without_cudnn else nullcontext():
            if valid.all():
                return self.gru(vectors)[0]
            packed = pack_padded_sequence(vectors, valid.sum(1).cpu(), batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=vectors.shape[1])[0]

    def _clip_logits(self, temporal: Tensor, valid: Tensor) -> Tensor:
        """(B, 2) from time steps (B, T, ·)."""
        if self.gru is None:
            return _masked_mean(self.head(temporal), valid)
        greatest = temporal.masked_fill(~valid[..., None], -torch.inf).amax(1)
        return self.head(torch.cat([_masked_mean(temporal, valid), greatest], dim=-1))


def load_backbone_weights(model: TemporalCNNGRU, source: str) -> str:
    """Load pretrained weights into the backbone, without a gap.

    Args:
        model: Its attention, fusion, GRU and head stay as they are.
        source: `hub` (timm's, or its local cache), `none`, `auto` (`hub`, or `none` with one printed line and its
            reason when that fails), or a file's path: with timm's key names, or for mobilenetv2_100 torchvision's.

    Returns:
        What was loaded: `hub`, `none`, or the path.

    Raises:
        UserError: The hub or the file can't be read, or the weights are those of another backbone.
    """
    name, backbone = model.encoder_name, model.features.backbone
    weights, source = obtain_weights(
        name,
        source,
        lambda: timm.create_model(name, pretrained=True).state_dict(),
        hub_word="hub",
        flag="--encoder-weights",
        without="training from scratch",
    )
    if weights is not None:
        if name == "mobilenetv2_100" and "features.0.0.weight" in weights:
            weights = _from_torchvision(weights, backbone)
        load_complete(backbone, name, weights, source, CLASSIFIER_PREFIXES)
    return source


def load_spotter_weights(model: TemporalCNNGRU, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Load the weights of a whole network, strictly but for attention and fusion: they may be absent as a whole.

    Returns:
        What was absent, `attention` or `fusion`; it is the identity now.

    Raises:
        RuntimeError: Anything else is missing or left over, or has other shapes.
    """
    parts = {"attention": ("attention.", model.attention), "fusion": ("features.fusion.", model.features.fusion)}
    absent = {
        name: (prefix, module)
        for name, (prefix, module) in parts.items()
        if module is not None and not any(key.startswith(prefix) for key in state_dict)
    }
    prefixes = tuple(prefix for prefix, _ in absent.values())
    own = {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)} if absent else {}
    model.load_state_dict({**state_dict, **own})
    for _, module in absent.values():
        module.reset_parameters()
    return list(absent)


def _build_backbone(name: str) -> nn.Module:
    try:
        backbone = timm.create_model(name, num_classes=0, global_pool="")
        reductions = [level["reduction"] for level in backbone.feature_info]
        fault = "" if hasattr(backbone, "forward_intermediates") else "it gives no intermediate feature maps"
        if [r for r in reductions if r in TAP_REDUCTIONS] != list(TAP_REDUCTIONS):
            fault = f"its feature maps are 1/{', 1/'.join(map(str, reductions))} of the image, not 1/8, 1/16, 1/32"
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        fault = f"{error!s:.200}"
    if fault:
        raise UserError(
            f"encoder {name!r} can't be used: {fault}. Encoders that work: tf_efficientnet_b0, tf_efficientnet_b3, "
            "mobilenetv2_100."
        )
    return backbone


def _clip_head(features: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(features, 512), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(512, 128), nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(128, 2),
    )


def _frame_head(features: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, 2))


def _valid_frames(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Which frames are no padding, bool (B, T)."""
    clips, frames = x.shape[:2]
    if lengths is None:
        return torch.ones(clips, frames, dtype=torch.bool, device=x.device)
    if lengths.shape != (clips,) or lengths.min() < 1 or lengths.max() > frames:
        raise ValueError(f"{clips} clips of up to {frames} frames can't have the lengths {lengths.tolist()}")
    return torch.arange(frames, device=x.device) < lengths.to(x.device)[:, None]


def _by_clip(values: Tensor, valid: Tensor) -> Tensor:
    """(B, T, ...) of what belongs to the valid frames, (N, ...); zero for padding."""
    padded = values.new_zeros(*valid.shape, *values.shape[1:])
    padded[valid] = values
    return padded


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """(B, D), means over the valid of values (B, T, D)."""
    weights = valid[..., None].to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1)


def _from_torchvision(weights: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Torchvision's mobilenet_v2 by timm's names: both list the same layers in the same order."""
    layers = [value for key, value in weights.items() if not key.startswith("classifier.")]
    own = list(backbone.state_dict())
    return dict(zip(own, layers, strict=True)) if len(own) == len(layers) else weights


VIDEO_KEYS = ("model_state_dict", "epoch", "best_auc", "config", "metrics", "calibration")
"""Of a checkpoint of script 8."""
SPOTTER_FIELDS = tuple(inspect.signature(TemporalCNNGRU).parameters)


def load_spotter(checkpoint: dict[str, Any], path: Path) -> TemporalCNNGRU:
    """Rebuild script 8's trained network, of the encoder that the checkpoint names, in evaluation mode.

    A checkpoint without attention or fusion, from before they were there, is one in which they change nothing; that
    is printed.

    Raises:
        UserError: Weights and configuration do not belong together; the message names `path`.
    """
    config = checkpoint["config"]
    if missing := {"encoder_name", "image_size", "frames"} - set(config):
        raise UserError(f"{path} is of another version: its config lacks {', '.join(sorted(missing))}. Train it again.")
    network = TemporalCNNGRU(**{field: config[field] for field in SPOTTER_FIELDS if field in config})
    try:
        absent = load_spotter_weights(network, checkpoint["model_state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the network of its config ({error!s:.300}).") from error
    if absent:
        print(f"note: {path} has no {' and no '.join(absent)}; without training they change nothing")
    return network.eval()

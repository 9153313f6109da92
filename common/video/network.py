"""Spotter's network: a CNN per frame, attention and fusion of three scales on its features, and a GRU over time.

Attention and fusion are residual and initialised to the identity, so that a checkpoint without them loads to exactly
the network without them.
"""

import inspect
from collections.abc import Mapping, Sequence
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
from common.networks.weight_files import build_fitting

TAP_REDUCTIONS = (8, 16, 32)
# Keys of a file of backbone weights that may be left over.
CLASSIFIER_PREFIXES = ("classifier.", "fc.", "head.")


class SpatialAttentionModule(nn.Module):
    """Channel attention, then spatial attention (CBAM, Woo et al. 2018), initialised to the identity.

    CBAM's gates σ(z) halve the features at the start; these are 2σ(z) with z initialised to zero. Nothing is random:
    the hidden units of the channel branch are initialised to means of blocks of channels.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        """Make `channels` / `reduction` hidden units in the channel branch, at least one."""
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, padding=3)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the module to the identity."""
        for parameter in self.parameters():
            parameter.zero_()
        first = next(self.channel.parameters())
        for unit, block in enumerate(torch.arange(first.shape[1]).tensor_split(first.shape[0])):
            first[unit, block] = 1 / len(block)

    def forward(self, x: Tensor) -> Tensor:
        """The features, (N, C, H, W), multiplied by the gates of channels and places."""
        channels = self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3)))
        x = x * (2 * channels.sigmoid())[:, :, None, None]
        places = self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1))
        return x * (2 * places.sigmoid())


class MultiScaleFusion(nn.Module):
    """Projection of three feature maps to the grid of the last; zero at first.

    Each map passes a 1×1 convolution, group normalisation and SiLU, and is pooled to the grid by mean and by maximum:
    the mean alone would drown the few strong places that a blending border leaves at the fine scale.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, width: int = 128) -> None:
        """Make the layers; `width` is the number of channels per scale, a multiple of the normalisation's 8 groups."""
        super().__init__()
        # No batch norm: its statistics would mix clips, of which a batch holds few.
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, kernel_size=1, bias=False), nn.GroupNorm(8, width), nn.SiLU())
            for channels in in_channels
        )
        pooled = 2 * width * len(in_channels)
        self.project = nn.Conv2d(pooled, out_channels, kernel_size=1)
        # Adam moves every weight by the learning rate. Without the gain, the sum of so many weights would outgrow the
        # backbone's features within some steps, and all later layers would have to adapt.
        self.gain = pooled**-0.5
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the output to zero."""
        for parameter in self.project.parameters():
            parameter.zero_()

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Fuse maps (N, C_i, H_i, W_i), the last of them (h, w), to (N, out_channels, h, w)."""
        grid = (taps[-1].shape[2], taps[-1].shape[3])
        pooled = []
        for scale, tap in zip(self.scales, taps, strict=True):
            features = scale(tap)
            pooled += [F.adaptive_avg_pool2d(features, grid), F.adaptive_max_pool2d(features, grid)]
        return self.gain * self.project(torch.cat(pooled, dim=1))


class MultiScaleFeatureExtractor(nn.Module):
    """A backbone of timm and the fusion of three of its feature maps with the last."""

    def __init__(self, encoder_name: str, *, multi_scale: bool = True) -> None:
        """Build it with random weights.

        Args:
            encoder_name: CNN of timm with feature maps at 1/8, 1/16 and 1/32 of the image.
            multi_scale: Add the fusion of the three scales; without it the output is the backbone's last map.

        Raises:
            UserError: timm has no such encoder, or it has no such feature maps.
        """
        super().__init__()
        self.backbone = _build_backbone(encoder_name)
        levels = self.backbone.feature_info
        self.tap_indices = [i for i, level in enumerate(levels) if level["reduction"] in TAP_REDUCTIONS]
        self.out_channels: int = self.backbone.num_features
        channels = [levels[i]["num_chs"] for i in self.tap_indices]
        self.fusion = MultiScaleFusion(channels, self.out_channels) if multi_scale else None

    @property
    def tap_layers(self) -> list[nn.Module]:
        """The modules whose outputs are the taps: the fine, the mid and the semantic scale."""
        return [self.backbone.get_submodule(self.backbone.feature_info[i]["module"]) for i in self.tap_indices]

    def forward(self, x: Tensor) -> Tensor:
        """Fused map (N, out_channels, h, w) of normalised images (N, 3, H, W).

        The sides of the fine, mid and semantic taps are 28, 14 and 7 with 40, 112 and 320 channels for B0 at 224 px,
        and 38, 19 and 10 with 48, 136 and 384 channels for B3 at 300 px.
        """
        features, taps = self.backbone.forward_intermediates(x, indices=self.tap_indices)
        return features if self.fusion is None else features + self.fusion(taps)


class TemporalCNNGRU(nn.Module):
    """Classifier of clips of face crops, real or fake.

    The input is normalised inside, as the backbone's pretrained weights expect it.

    With B0 it has 16.8 million parameters (backbone 4.0, attention 0.41, fusion 1.0, GRU 10.2, head 1.1), with B3 24.7
    (10.7, 0.59, 1.3, 11.0 and 1.1).
    """

    mean: Tensor
    std: Tensor

    def __init__(  # noqa: PLR0913 the plain values of a checkpoint
        self,
        encoder_name: str = "tf_efficientnet_b0",
        *,
        hidden: int = 512,
        layers: int = 2,
        dropout: float = 0.3,
        attention: bool = True,
        multi_scale: bool = True,
        temporal: bool = True,
        freeze_batch_norm: bool = False,
        steps: int = 0,
    ) -> None:
        """Build the network with random weights; parts that are switched off have no parameters.

        Args:
            encoder_name: Backbone, a CNN of timm.
            hidden: Width of the GRU in each direction.
            layers: Number of layers of the GRU.
            dropout: Dropout between the GRU's layers and in the head.
            attention: Weight channels and places of the feature map before its mean is taken.
            multi_scale: Add the fusion of the finer scales to the feature map.
            temporal: GRU over time; without it each frame is classified and the logits are averaged.
            freeze_batch_norm: Keep the batch statistics of the backbone even while it trains (scales and shifts train),
                for small batches.
            steps: Time steps of the GRU for every clip, the most frames that a clip may have. A shorter clip's frames
                are each held for several of them, so that a frame has the same probability once and repeated. 0, as
                in checkpoints of earlier versions, is a step a frame, which the number of frames has a part in.

        Raises:
            UserError: The encoder can't be used.
            ValueError: A negative number of steps.
        """
        super().__init__()
        if steps < 0:
            raise ValueError(f"{steps} time steps")
        self.encoder_name = encoder_name
        self.steps = steps
        self.freeze_batch_norm = freeze_batch_norm
        self.train_backbone = True
        self.features = MultiScaleFeatureExtractor(encoder_name, multi_scale=multi_scale)
        channels = self.features.out_channels
        self.attention = SpatialAttentionModule(channels) if attention else None
        self.gru = None
        if temporal:
            between = dropout if layers > 1 else 0.0
            self.gru = nn.GRU(channels, hidden, layers, batch_first=True, dropout=between, bidirectional=True)
            self.head = _clip_head(4 * hidden, dropout)
        else:
            self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, 2))
        for name in ("mean", "std"):
            values = torch.tensor(self.features.backbone.pretrained_cfg[name])
            self.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, *, return_frames: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of clips.

        Args:
            x: Frames (B, T, 3, S, S): uint8, or float in [0, 1].
            lengths: Number of frames of each clip, (B,), 1 to T; frames after them are padding. None for T each.
            return_frames: Also return the logits of each frame.

        Returns:
            Logits (B, 2) of real and fake; with `return_frames` also (B, T, 2), the logits that a clip would get all of
            whose time steps were those of that frame. Those of padding are meaningless; a clip of one frame has the
            same twice.

        Raises:
            ValueError: A length is not in 1 to T, or more than the network's steps.
        """
        valid = _valid_frames(x, lengths)
        temporal = self.time_steps(x, valid)
        if self.gru is None:
            frames = self.head(temporal)
            logits = _masked_mean(frames, valid)
        else:
            shown = _shown_frames(valid, self.steps)
            logits = self.head(_pooled(temporal, shown.any(2)))
            if not return_frames:
                return logits
            frames = self.head(_pooled(temporal[:, None], shown.transpose(1, 2)))
        return (logits, frames) if return_frames else logits

    def time_steps(self, x: Tensor, valid: Tensor) -> Tensor:
        """Features of each time step, (B, `steps` or T, 2·hidden); without a GRU, the frames' vectors (B, T, F).

        Steps of padding are zero.

        Args:
            x: Frames, as of `forward`.
            valid: Which frames are no padding, bool (B, T).
        """
        # Padding does not pass the backbone: it would change the statistics of its batch norm, and costs time.
        vectors = self._frame_vectors(x[valid])
        temporal = vectors.new_zeros(*valid.shape, vectors.shape[1])
        temporal[valid] = vectors
        if self.gru is None:
            return temporal
        shown = _shown_frames(valid, self.steps)
        if self.steps:
            temporal = temporal.gather(1, shown.long().argmax(2)[..., None].expand(-1, -1, temporal.shape[2]))
        return _over_time(self.gru, temporal, shown.any(2))

    def set_stage(self, *, train_backbone: bool) -> None:
        """Freeze or unfreeze the backbone; attention, fusion, GRU and head always train.

        A frozen backbone also stays in eval mode: its batch norm keeps its statistics.
        """
        self.train_backbone = train_backbone
        self.features.backbone.requires_grad_(train_backbone)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TemporalCNNGRU":  # noqa: FBT001, FBT002, as of nn.Module
        """Set the training mode of everything that is not frozen."""
        super().train(mode)
        backbone = self.features.backbone
        if not self.train_backbone:
            backbone.eval()
        elif self.freeze_batch_norm:
            for module in backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _frame_vectors(self, frames: Tensor) -> Tensor:
        """Vectors (N, F) of frames (N, 3, S, S)."""
        frames = ((unit_range(frames) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.features(frames)
        if self.attention is not None:
            features = self.attention(features)
        return features.float().mean((2, 3))


def load_backbone_weights(model: TemporalCNNGRU, source: str) -> str:
    """Load pretrained weights into the backbone, without a gap.

    Args:
        model: Its attention, fusion, GRU and head stay as they are.
        source: `hub` (timm's, or its local cache), `none`, `auto` (`hub`, or `none` with a printed line and the reason
            if that fails), or a file's path: with timm's key names, or for mobilenetv2_100 torchvision's.

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
        role="encoder weights",
        without="training from scratch",
    )
    if weights is not None:
        if name == "mobilenetv2_100" and "features.0.0.weight" in weights:
            weights = _from_torchvision(weights, backbone)
        load_complete(backbone, name, weights, source, CLASSIFIER_PREFIXES)
    return source


def load_spotter_weights(model: TemporalCNNGRU, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Load the weights of a whole network, strictly but for attention and fusion, which may be absent as a whole.

    Returns:
        Which of `attention` and `fusion` were absent and are the identity now.

    Raises:
        RuntimeError: Anything else is missing or left over, or has other shapes.
    """
    parts = {"attention": ("attention.", model.attention), "fusion": ("features.fusion.", model.features.fusion)}
    weights, absent = dict(state_dict), []
    for name, (prefix, module) in parts.items():
        if module is not None and not any(key.startswith(prefix) for key in state_dict):
            module.reset_parameters()
            weights |= {prefix + key: value for key, value in module.state_dict().items()}
            absent.append(name)
    model.load_state_dict(weights)
    return absent


def _build_backbone(name: str) -> Any:  # timm's networks have attributes that `nn.Module` does not declare
    try:
        if not timm.is_model(name):  # some names are looked up on the hub
            raise ValueError("timm has no such model")
        backbone: Any = timm.create_model(name, num_classes=0, global_pool="")
        reductions = [level["reduction"] for level in backbone.feature_info]
        if [r for r in reductions if r in TAP_REDUCTIONS] != list(TAP_REDUCTIONS):
            maps = ", 1/".join(map(str, reductions))
            raise ValueError(f"its feature maps are 1/{maps} of the image, not 1/8, 1/16, 1/32")
        if not hasattr(backbone, "forward_intermediates"):
            raise ValueError("it returns no intermediate feature maps")
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        works = "tf_efficientnet_b0, tf_efficientnet_b3, mobilenetv2_100"
        raise UserError(f"encoder {name!r} can't be used: {error!s:.200}. Encoders that work: {works}.") from error
    return backbone


def _clip_head(features: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(features, 512), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(512, 128), nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(128, 2),
    )


def _valid_frames(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Which frames are no padding, bool (B, T)."""
    clips, frames = x.shape[:2]
    if lengths is None:
        return torch.ones(clips, frames, dtype=torch.bool, device=x.device)
    if lengths.shape != (clips,) or lengths.min() < 1 or lengths.max() > frames:
        raise ValueError(f"{clips} clips of up to {frames} frames can't have the lengths {lengths.tolist()}")
    return torch.arange(frames, device=x.device) < lengths.to(x.device)[:, None]


def _over_time(gru: nn.GRU, vectors: Tensor, valid: Tensor) -> Tensor:
    """Outputs (B, T, 2·hidden) of a GRU for vectors (B, T, F); zero for padding."""
    # cuDNN's GRU has no backward pass in eval mode, which activation maps need.
    without_cudnn = vectors.is_cuda and not gru.training and torch.is_grad_enabled()
    with torch.backends.cudnn.flags(enabled=False) if without_cudnn else nullcontext():
        if valid.all():
            return gru(vectors)[0]
        packed = pack_padded_sequence(vectors, valid.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=vectors.shape[1])[0]


def _shown_frames(valid: Tensor, steps: int) -> Tensor:
    """Which frame each time step shows, bool (B, `steps` or T, T).

    Args:
        valid: Which frames are no padding, bool (B, T).
        steps: For each of which a clip's frames are held for nearly equal times; 0 for a step a frame.

    Raises:
        ValueError: A clip has more frames than steps.
    """
    frames = torch.arange(valid.shape[1], device=valid.device)
    if steps == 0:
        return (frames[:, None] == frames) & valid[:, None]
    lengths = valid.sum(1)
    if lengths.max() > steps:
        raise ValueError(f"a clip has {int(lengths.max())} frames, and the network {steps} time steps")
    position = torch.arange(steps, device=valid.device) * lengths[:, None] // steps
    return position[..., None] == frames


def _pooled(temporal: Tensor, chosen: Tensor) -> Tensor:
    """Mean and maximum (..., 2·D) over the chosen (..., S) of time steps (..., S, D); zero where none is chosen."""
    greatest = temporal.masked_fill(~chosen[..., None], -torch.inf).amax(-2)
    return torch.cat([_masked_mean(temporal, chosen), greatest.masked_fill(~chosen.any(-1)[..., None], 0)], dim=-1)


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Means (..., D) over the valid of values (..., S, D); zero where none is valid."""
    weights = valid[..., None].to(values.dtype)
    return (values * weights).sum(-2) / weights.sum(-2).clamp(min=1)


def _from_torchvision(weights: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The weights of torchvision's mobilenet_v2 by timm's names: both list the same layers in the same order."""
    layers = [value for key, value in weights.items() if not key.startswith("classifier.")]
    own = list(backbone.state_dict())
    return dict(zip(own, layers, strict=True)) if len(own) == len(layers) else weights


VIDEO_KEYS = ("model_state_dict", "epoch", "best_auc", "config", "config.frames", "metrics", "calibration")
"""Required keys of a checkpoint of script 8; after a dot, of its configuration."""
SPOTTER_FIELDS = tuple(inspect.signature(TemporalCNNGRU).parameters)


def load_spotter(checkpoint: dict[str, Any], path: Path) -> TemporalCNNGRU:
    """Rebuild script 8's trained network from its checkpoint, in evaluation mode.

    Attention and fusion that an early checkpoint lacks are the identity; this is printed.

    Raises:
        UserError: Weights and configuration do not fit each other; the message names `path`.
    """
    config = checkpoint["config"]
    if missing := {"encoder_name", "image_size", "frames"} - set(config):
        raise UserError(f"{path} is of another version: its config lacks {', '.join(sorted(missing))}. Train it again.")
    arguments = {field: config[field] for field in SPOTTER_FIELDS if field in config}
    network = build_fitting(lambda: TemporalCNNGRU(**arguments), arguments, checkpoint["model_state_dict"], path)
    try:
        absent = load_spotter_weights(network, checkpoint["model_state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the network of its config ({error!s:.300}).") from error
    if absent:
        print(f"note: {path} has no {' and no '.join(absent)}; without training they change nothing")
    return network.eval()

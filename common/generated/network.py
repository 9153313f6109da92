"""The network of SPAI, a classifier of generated images of any size, with an optional semantic fusion.

Karageorgiou et al., "Any-Resolution AI-Generated Image Detection by Spectral Learning", CVPR 2025: how well the high
frequencies of a patch follow from its low ones, and an attention over all patches. Plain SPAI computes what the
published code does, and loads its weights (`common.generated.published`). The fusion is `common.generated.fusion`.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.fusion import EarlyFusionGate, Fused, SemanticFusion, pyramid_tokens, zero_linear
from common.generated.patches import Position, pad_to_patch, patch_positions
from common.generated.spectrum import FrequencySplit
from common.generated.vit import VITS, TokenBackbone
from common.networks.pixels import unit_range
from common.networks.weight_files import load_fitting

NARROWEST = 768
"""Inputs of the narrowest linear layer of the published network."""
Stage = Literal["semantic", "joint"]
"""What is trained: the semantic parts and the head, or everything but the pretrained towers."""


class SpaiOutput(NamedTuple):
    """Output of the network for B images of P patches each."""

    logits: Tensor
    """Of "generated", (B,)."""
    attention: Tensor
    """Weights of the patches, (B, H, P), sum 1 over P."""
    semantic_attention: Tensor | None = None
    """Weights on the semantic tokens, (B, P, K)."""
    fused: Tensor | None = None
    """The fused vectors, means over the patches, (B, W)."""
    frequencies: Tensor | None = None
    """The vectors of x, low and high, means over the patches, (B, 3, W)."""
    text: Tensor | None = None
    """The fused vectors projected to CLIP's space of embeddings, (B, E)."""


class ImageScore(NamedTuple):
    """Logit of one image, and the attention behind it."""

    logit: float
    """Of "generated"."""
    positions: list[Position]
    """Of the P patches."""
    attention: Tensor
    """Weights of the patches, (P,), sum 1: means over the heads."""
    semantic_attention: Tensor | None
    """Weights of each patch on the semantic tokens, (P, K), in the order of `Spai.semantic_tokens`."""


class Projector(nn.Module):
    """LayerNorm, linear layers with GELU between, LayerNorm; dropout around each.

    As published, those of the tokens (`per_layer`) begin with the first LayerNorm and have no GELU after their last
    layer; those of the context vector have no first LayerNorm, and a GELU after the last layer too.
    """

    def __init__(
        self, in_features: int, out_features: int, layers: int, dropout: float, *, per_layer: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_features) if per_layer else nn.Identity()
        parts: list[nn.Module] = [nn.Dropout(dropout)]
        for layer in range(layers):
            linear = nn.Linear(out_features if layer else in_features, out_features)
            last = per_layer and layer == layers - 1
            parts += [linear, nn.Identity() if last else nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*parts)
        self.norm2 = nn.LayerNorm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., out_features) for (..., in_features)."""
        return self.norm2(self.layers(self.norm1(x)))


def similarity_statistics(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Spectral restoration similarity: statistics of the cosines of a patch's tokens and those of its frequencies.

    Args:
        x, low, high: Tokens (N, T, D) of the patches, of their low and of their high frequencies.

    Returns:
        (N, 12): mean and unbiased standard deviation over the tokens of cos(x, low), cos(x, high), cos(low, high), the
        published six; and the minima and maxima of the three, which the original recipe adds.
    """
    pairs = ((x, low), (x, high), (low, high))
    cosines = torch.stack([F.cosine_similarity(first, second, dim=-1) for first, second in pairs], dim=1)
    moments = torch.stack([cosines.mean(-1), cosines.std(-1)], dim=-1).flatten(1)
    return torch.cat([moments, cosines.amin(-1), cosines.amax(-1)], dim=1)


class SpectralContext(nn.Module):
    """The spectral context vector: means and deviations of each layer's tokens, in a learned weighting of layers."""

    def __init__(self, layers: int, features: int, projection_layers: int, dropout: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(1, layers, features))
        self.first = Projector(2 * features, features, projection_layers, dropout, per_layer=False)
        self.second = Projector(features, features, projection_layers, dropout, per_layer=False)

    def forward(self, summaries: Tensor) -> Tensor:
        """(N, D) for the layers' concatenated means and deviations, (N, L, 2 D)."""
        return self.second((torch.softmax(self.alpha, dim=1) * self.first(summaries)).sum(1))


class PatchAttention(nn.Module):
    """Spectral context attention: one learned query per head over any number of patches of an image."""

    def __init__(self, features: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(heads, 1, width // heads))
        self.to_kv = nn.Linear(features, 2 * width, bias=False)
        self.to_out = nn.Linear(width, features, bias=False)
        self.dropout = nn.Dropout(dropout)
        # Free at quick widths, where a query of 0.02 still gives all patches the same weight after four epochs.
        nn.init.trunc_normal_(self.query, std=0.02 if features >= NARROWEST else 1.0)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) and the weights (B, H, P) for the vectors (B, P, F) of the patches."""
        batch, patches, _ = features.shape
        heads, _, depth = self.query.shape
        keys, values = self.to_kv(features).view(batch, patches, 2, heads, depth).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(self.query @ keys.transpose(-1, -2) * depth**-0.5, dim=-1)
        attended = (self.dropout(weights) @ values).flatten(1)
        return self.dropout(self.to_out(attended)), weights[:, :, 0]


class _FusionParts(nn.Module):
    """The parts of the fusion, under the names that they have in a checkpoint."""

    def __init__(
        self, joint: SemanticFusion, early: nn.ModuleDict, extremes: nn.Linear | None, to_text: nn.Linear | None
    ) -> None:
        super().__init__()
        self.joint, self.early, self.extremes, self.to_text = joint, early, extremes, to_text


class Spai(nn.Module):
    """The classifier; its arguments are plain values, so that a checkpoint can hold them."""

    def __init__(  # noqa: PLR0913 the plain values of a checkpoint
        self,
        *,
        backbone_name: str = "vit_base_patch16_224",
        backbone_depth: int = 0,
        backbone_width: int = 0,
        backbone_heads: int = 0,
        patch_size: int = 224,
        patch_stride: int = 224,
        mask_radius: float = 16.0,
        projection_dim: int = 1024,
        projection_layers: int = 2,
        attention_dim: int = 1536,
        attention_heads: int = 12,
        head_ratio: int = 3,
        dropout: float = 0.5,
        fusion: Literal["none", "semantic"] = "none",
        semantic_name: str = "",
        fusion_width: int = 512,
        fusion_heads: int = 8,
        twelve_statistics: bool = True,
        early_fusion_layers: Sequence[int] = (2, 4, 6, 8),
        frequency_attention: bool = True,
        hierarchical_fusion: bool = True,
        cross_attention: bool = True,
        adaptive_gating: bool = True,
        semantic_scales: Sequence[int] = (2, 4),
        local_semantics: bool = True,
        text_tokens: int = 0,
        text_head: bool = False,
    ) -> None:
        """Build the network with random weights. All arguments after `fusion` belong to the semantic fusion.

        Args:
            backbone_name: A plain ViT of timm (`common.generated.vit`).
            backbone_depth, backbone_width, backbone_heads: Its sizes, as of `build_vit`.
            patch_size: Side of the patches in pixels, an even number.
            patch_stride: Pixels from one patch to the next.
            mask_radius: Frequencies closer than this to the spectrum's centre are low, in steps of the spectrum.
            projection_dim: D, width of the projected tokens.
            projection_layers: Number of linear layers of each projector.
            attention_dim: Width of the attention over the patches.
            attention_heads: Number of heads of that attention; a divisor of its width.
            head_ratio: Hidden width of the head, in widths of a patch's vector.
            dropout: Dropout of the projectors, the attention and the head, in [0, 1).
            fusion: `none` is plain SPAI.
            semantic_name: CLIP image tower of timm; empty shares the backbone, which must then be a CLIP tower.
            fusion_width, fusion_heads: `width` and `heads` of `SemanticFusion`.
            twelve_statistics: Use the minima and maxima of the similarities too.
            early_fusion_layers: Blocks, counted from 1, whose vectors pass an `EarlyFusionGate`.
            frequency_attention, hierarchical_fusion, cross_attention, adaptive_gating: See `SemanticFusion`.
            semantic_scales: Numbers s: the tower's token grid is pooled to s×s semantic tokens for each.
            local_semantics: Add a semantic token of the patch itself to those of the whole image.
            text_tokens: Number of prompts whose embeddings are semantic tokens (`set_text`).
            text_head: Project the fused vector to CLIP's space of embeddings, for the image-text loss.

        Raises:
            UserError: Parts that do not fit each other, or an unknown ViT.
        """
        super().__init__()
        self.patch_size, self.patch_stride = patch_size, patch_stride
        self.backbone = TokenBackbone(
            backbone_name, image_size=patch_size, depth=backbone_depth, width=backbone_width, heads=backbone_heads
        )
        layers = self.backbone.depth
        self.split = FrequencySplit(patch_size, mask_radius)
        self.projectors = nn.ModuleList(
            Projector(self.backbone.width, projection_dim, projection_layers, dropout) for _ in range(layers)
        )
        self.context = SpectralContext(layers, projection_dim, projection_layers, dropout)
        features = 6 * layers + projection_dim
        self.patch_attention = PatchAttention(features, attention_dim, attention_heads, dropout)
        self.norm = nn.LayerNorm(features)
        hidden = head_ratio * features
        self.head = nn.Sequential(
            *(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(hidden, 1),
        )
        for part in (self.projectors, self.context, self.patch_attention, self.norm, self.head):
            part.apply(_initialise)
        if self.backbone.width < NARROWEST:  # timm's 0.02 is made for 768 too
            self.backbone.apply(_initialise)

        self.fusion: _FusionParts | None = None
        self.tower: TokenBackbone | None = None
        if fusion == "semantic":
            if semantic_name:
                self.tower = TokenBackbone(semantic_name)
            tower = self.tower or self.backbone
            if not tower.is_clip:
                raise UserError(
                    f"the semantic fusion needs a CLIP tower, and {backbone_name} is none. Choose {VITS[1]} as "
                    "semantic_name, or a CLIP tower as backbone_name."
                )
            if wrong := [layer for layer in early_fusion_layers if not 1 <= layer <= layers]:
                raise UserError(f"early_fusion_layers has {wrong[0]}, but {backbone_name} has blocks 1 to {layers}.")
            if wrong := [scale for scale in semantic_scales if not 1 <= scale <= tower.grid]:
                raise UserError(f"semantic_scales has {wrong[0]}, but the tower has {tower.grid} tokens a side.")
            self.semantic_scales, self.local_semantics = tuple(semantic_scales), local_semantics
            self.register_buffer("text", torch.zeros(text_tokens, tower.embedding_size))
            if len(self.semantic_tokens) < 2:
                raise UserError(
                    "the semantic fusion needs two semantic tokens or more: add semantic_scales, local_semantics or "
                    "prompts."
                )
            self.fusion = _FusionParts(
                SemanticFusion(
                    spectral_features=projection_dim,
                    semantic_features=tower.embedding_size,
                    layers=layers,
                    width=fusion_width,
                    heads=fusion_heads,
                    dropout=dropout,
                    frequency_attention=frequency_attention,
                    hierarchical_fusion=hierarchical_fusion,
                    cross_attention=cross_attention,
                    adaptive_gating=adaptive_gating,
                ),
                nn.ModuleDict(
                    {
                        str(layer): EarlyFusionGate(2 * projection_dim, tower.embedding_size)
                        for layer in early_fusion_layers
                    }
                ),
                zero_linear(6 * layers, features) if twelve_statistics else None,
                nn.Linear(fusion_width, tower.embedding_size) if text_head else None,
            )
        self.set_stage("joint")

    @property
    def whole_size(self) -> int:
        """Side in pixels of the square that a whole image is resized to for the semantic tower."""
        return (self.tower or self.backbone).image_size

    @property
    def semantic_tokens(self) -> list[str]:
        """Names of the K semantic tokens: `image`; `2:0,1` for row 0, column 1 of scale 2; `patch`; `text 0` …"""
        cells = [f"{s}:{row},{column}" for s in self.semantic_scales for row in range(s) for column in range(s)]
        texts = [f"text {number}" for number in range(len(self.text))]
        return ["image", *cells, *(["patch"] if self.local_semantics else []), *texts]

    def set_text(self, embeddings: Tensor) -> None:
        """Use prompts' embeddings (text_tokens, E) as semantic tokens; they are saved with the weights.

        Raises:
            ValueError: Another shape.
        """
        if embeddings.shape != self.text.shape:
            raise ValueError(f"embeddings of {tuple(embeddings.shape)} for {tuple(self.text.shape)} text tokens")
        self.text.copy_(embeddings)

    def set_stage(self, stage: Stage, *, train_backbone: bool = False) -> None:
        """Choose what is trained: never the semantic tower, the backbone's blocks only in the joint stage and if asked.

        Plain SPAI has no semantic parts: both stages train everything but the backbone.
        """
        parts = [self.fusion, self.head]
        if stage == "joint" or self.fusion is None:
            parts += [self.projectors, self.context, self.patch_attention, self.norm]
            parts += [self.backbone] if train_backbone else []
        self.requires_grad_(requires_grad=False)
        for part in parts:
            if part is not None:
                part.requires_grad_()
        # They make embeddings of the last tokens: no similarity depends on them, and CLIP's space must stay as it is.
        self.backbone.vit.norm.requires_grad_(requires_grad=False)
        self.backbone.vit.head.requires_grad_(requires_grad=False)

    def forward(self, views: Tensor, whole: Tensor | None = None) -> SpaiOutput:
        """Classify images that are given as P patches each.

        Args:
            views: uint8, or float in [0, 1], (B, P, 3, S, S).
            whole: The same images resized to `whole_size`, (B, 3, T, T); only the fusion needs them.
        """
        batch, count = views.shape[:2]
        semantic = self.image_semantics(whole)
        if semantic is not None:
            semantic = semantic.repeat_interleave(count, dim=0)  # the patches of an image follow each other
        features, fused = self.patch_features(views.flatten(0, 1), semantic)
        attended, attention = self.patch_attention(features.unflatten(0, (batch, count)))
        logits = self.head(self.norm(attended))[:, 0]
        if self.fusion is None or fused is None:
            return SpaiOutput(logits, attention)
        vector, frequencies = (part.unflatten(0, (batch, count)).mean(1) for part in (fused.fused, fused.frequencies))
        weights = None if fused.attention is None else fused.attention.unflatten(0, (batch, count))
        text = None if self.fusion.to_text is None else self.fusion.to_text(vector)
        return SpaiOutput(logits, attention, weights, vector, frequencies, text)

    def image_semantics(self, whole: Tensor | None) -> Tensor | None:
        """The semantic tokens of whole images (B, 3, T, T): their embedding and the cells of each scale, (B, k, E).

        Plain SPAI has none: None.

        Raises:
            ValueError: The fusion lacks the whole images.
        """
        if self.fusion is None:
            return None
        if whole is None:
            raise ValueError("the semantic fusion needs the whole images")
        tower = self.tower or self.backbone
        with torch.no_grad():
            *_, sequence = tower.blocks(unit_range(whole))
            cells = pyramid_tokens(tower.token_embeddings(sequence), self.semantic_scales)
            return torch.cat([tower.embed(sequence)[:, None], cells], dim=1)

    def patch_features(self, patches: Tensor, semantic: Tensor | None = None) -> tuple[Tensor, Fused | None]:
        """The vectors of patches (N, 3, S, S): similarities and context, (N, F); and the output of the fusion.

        x, low and high go through the backbone in one pass, and the tokens of a block are reduced to their statistics
        before the next block runs: only those of one block are held at a time.

        Args:
            patches: uint8, or float in [0, 1].
            semantic: `image_semantics` of each patch's image (N, k, E); None without fusion.
        """
        x = unit_range(patches)
        low, high = self.split(x)
        statistics, summaries, spectral, sequence = [], [], [], None
        # Asked of the parameters, not of grad_fn: a frozen backbone keeps no activations.
        trains = any(parameter.requires_grad for parameter in self.backbone.parameters())
        blocks = self.backbone.blocks(torch.cat([x, low.to(x.dtype), high.to(x.dtype)]))
        for layer, sequence in enumerate(_tracked(blocks, trains=trains)):
            tokens = self.projectors[layer](self.backbone.patch_tokens(sequence)).chunk(3)
            statistics.append(similarity_statistics(*tokens))
            summary = torch.cat([tokens[0].mean(1), tokens[0].std(1)], dim=-1)
            if self.fusion is not None and semantic is not None:
                spectral.append(torch.stack([part.mean(1) for part in tokens], dim=1))
                if str(layer + 1) in self.fusion.early:
                    summary = self.fusion.early[str(layer + 1)](summary, semantic[:, 0])
            summaries.append(summary)
        # Ordered by statistic, then by layer, as in the published weights.
        by_statistic = torch.stack(statistics, dim=2)
        context = self.context(torch.stack(summaries, dim=1))
        if self.fusion is None or semantic is None:
            return torch.cat([by_statistic[:, :6].flatten(1), context], dim=1), None
        fused = self.fusion.joint(torch.stack(spectral, dim=2), self._tokens(patches, semantic, sequence))
        features = torch.cat([by_statistic[:, :6].flatten(1), context + fused.delta], dim=1)
        if self.fusion.extremes is not None:
            features = features + self.fusion.extremes(by_statistic[:, 6:].flatten(1))
        return features, fused

    def _tokens(self, patches: Tensor, semantic: Tensor, sequence: Tensor) -> Tensor:
        """All semantic tokens (N, K, E) of patches; `sequence` is the backbone's last of x, low and high."""
        parts = [semantic]
        if self.local_semantics:
            with torch.no_grad():
                if self.tower is None:
                    local = self.backbone.embed(sequence[: len(patches)])
                else:
                    resized = F.interpolate(unit_range(patches), (self.whole_size, self.whole_size), mode="bilinear")
                    *_, own = self.tower.blocks(resized)
                    local = self.tower.embed(own)
            parts.append(local[:, None])
        return torch.cat([*parts, self.text.expand(len(patches), -1, -1)], dim=1)

    @torch.no_grad()
    def score_images(
        self, images: Sequence[Tensor], whole: Tensor | None = None, batch: int = 400, *, cover_edges: bool = False
    ) -> list[ImageScore]:
        """Score images of any size without resizing them.

        Patches, of several images together, are cut and reduced to their vectors `batch` at a time: memory grows with
        `batch`, not with the images. The network must be in evaluation mode.

        Args:
            images: uint8 (3, H, W) each, on any device.
            whole: The same images resized to `whole_size`, uint8 (B, 3, T, T); only the fusion needs them.
            batch: Number of patches at a time (published: 400).
            cover_edges: See `patch_positions`.
        """
        images, size = [pad_to_patch(image, self.patch_size) for image in images], self.patch_size
        places = [
            patch_positions(height, width, size, self.patch_stride, cover_edges=cover_edges)
            for _, height, width in (image.shape for image in images)
        ]
        device = self.norm.weight.device
        semantics = self.image_semantics(None if whole is None else whole.to(device))
        flat = [(number, position) for number, own in enumerate(places) for position in own]
        features, weights = [], []
        for start in range(0, len(flat), batch):
            chunk = flat[start : start + batch]
            patches = torch.stack([images[number][:, y : y + size, x : x + size] for number, (y, x) in chunk])
            semantic = None if semantics is None else semantics[[number for number, _ in chunk]]
            vectors, fused = self.patch_features(patches.to(device), semantic)
            features.append(vectors)
            if fused is not None and fused.attention is not None:
                weights.append(fused.attention.cpu())
        counts, scores = [len(own) for own in places], []
        semantic_weights = torch.cat(weights).split(counts) if weights else [None] * len(images)
        for own, vectors, semantic in zip(places, torch.cat(features).split(counts), semantic_weights, strict=True):
            attended, attention = self.patch_attention(vectors[None])
            logit = self.head(self.norm(attended)).item()
            scores.append(ImageScore(logit, own, attention[0].mean(0).cpu(), semantic))
        return scores


def _tracked(blocks: Iterator[Tensor], *, trains: bool) -> Iterator[Tensor]:
    """The blocks' outputs, computed without a graph if the backbone isn't trained."""
    while True:
        with nullcontext() if trains else torch.no_grad():
            sequence = next(blocks, None)
        if sequence is None:
            return
        yield sequence


def _initialise(module: nn.Module) -> None:
    """As published: linear layers from a normal distribution of deviation 0.02 cut at ±2, biases 0.

    No published layer has fewer than 768 inputs. A narrower one gets the deviation by fan-in that gives its output the
    scale of one with 768: with 0.02, three layers of 64 shrink their input until LayerNorm's ε keeps the result at 0.
    """
    if isinstance(module, nn.Linear):
        narrower = max(1.0, NARROWEST / module.in_features)
        nn.init.trunc_normal_(module.weight, std=0.02 * narrower**0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


SPAI_KEYS = (
    *("model_state_dict", "epoch", "best_auc", "config", "metrics"),
    *("calibration", "validation", "target_fpr", "prompts", "config.backbone_name"),
)
"""Keys of a checkpoint of script 7; after a dot, of its configuration."""
SPAI_FIELDS = tuple(inspect.signature(Spai).parameters)


def architecture(config: SpaiConfig) -> dict[str, Any]:
    """The arguments of `Spai` that a configuration gives."""
    return {name: getattr(config, name) for name in SPAI_FIELDS if hasattr(config, name)}


def load_spai(checkpoint: dict[str, Any], path: Path) -> Spai:
    """Rebuild script 7's trained network from the checkpoint alone, in evaluation mode.

    Raises:
        UserError: The weights do not fit the configuration; the message names `path`.
    """
    config, weights = checkpoint["config"], checkpoint["model_state_dict"]
    learned = {"text_tokens": len(weights.get("text", ())), "text_head": "fusion.to_text.weight" in weights}
    if missing := set(SPAI_FIELDS) - set(config) - set(learned):
        raise UserError(f"{path} is of another version: its config lacks {', '.join(sorted(missing))}. Train it again.")
    arguments: dict[str, Any] = {field: config[field] for field in SPAI_FIELDS if field not in learned} | learned
    return load_fitting(lambda: Spai(**arguments), arguments, weights, path)

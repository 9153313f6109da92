"""Semantic fusion: layers that add CLIP's embedding of the image to the spectral features of SPAI.

Every part is residual with a last layer that is zero at first, so that a fresh fused network computes exactly what
plain SPAI does. SPAI's similarities are taken before any of this, of unchanged features (`common.generated.network`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fused(NamedTuple):
    """Output of the fusion for N patches."""

    delta: Tensor
    """What is added to the spectral context vector, (N, D)."""
    fused: Tensor
    """The fused vector that `delta` is computed from, (N, W)."""
    frequencies: Tensor
    """The vectors of x, low and high after their attention, means over the layers, (N, 3, W)."""
    attention: Tensor | None
    """Weights on the semantic tokens, (N, K), sum 1: means over heads and layers; None without cross-attention."""


def pyramid_tokens(grid: Tensor, scales: tuple[int, ...]) -> Tensor:
    """Means of a token grid (B, G, G, E) over s×s cells for each scale s: (B, Σ s², E), row by row.

    Raises:
        ValueError: A scale exceeds the grid.
    """
    if scales and max(scales) > grid.shape[1]:
        raise ValueError(f"a grid of {grid.shape[1]} tokens a side has no {max(scales)}×{max(scales)} cells")
    channels_first = grid.permute(0, 3, 1, 2)
    cells = [F.adaptive_avg_pool2d(channels_first, scale).flatten(2).transpose(1, 2) for scale in scales]
    return torch.cat(cells, dim=1) if cells else grid.new_zeros(len(grid), 0, grid.shape[-1])


class EarlyFusionGate(nn.Module):
    """c + σ(gate(LN(c), s)) · V s: a gated addition of the image's embedding s to a layer's vector c.

    Original recipe: gates at early layers, with residual connection and layer norm.
    """

    def __init__(self, features: int, semantic_features: int, hidden: int = 128) -> None:
        """Build a gate for vectors of `features` numbers, with one hidden layer of width `hidden`."""
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.gate = nn.Sequential(
            nn.Linear(features + semantic_features, hidden), nn.GELU(), nn.Linear(hidden, features), nn.Sigmoid()
        )
        self.gate.apply(scaled_by_fan_in)
        self.value = zero_linear(semantic_features, features)

    def forward(self, context: Tensor, semantic: Tensor) -> Tensor:
        """(N, features) for a layer's vectors (N, features) and the images' embeddings (N, semantic_features)."""
        gate = self.gate(torch.cat([self.norm(context), semantic], dim=-1))
        return context + gate * self.value(semantic)


class Attend(nn.Module):
    """Pre-norm residual multi-head attention (Vaswani et al. 2017) from queries (N, L, W) to tokens (N, K, W)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """`heads` must divide `width`."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The queries plus the attended values, (N, L, W), and the weights (N, L, K), means over the heads."""
        found, weights = self.attention(self.norm(queries), tokens, tokens)
        return queries + found, weights


class SemanticFusion(nn.Module):
    """Fuses a patch's spectral vectors with the semantic tokens into an addition to its context vector.

    1. Frequency-aware attention: x, low and high each attend to the semantic tokens, with weights of their own.
    2. Hierarchical fusion: low and high are merged, then the result and x; without it their mean.
    3. Cross-attention: the result, one token per layer, attends to the semantic tokens.
    4. Adaptive gating: spectral r and semantic s become g·r + (1 − g)·s, g = σ(W[r, s]); without it their mean.
    5. A linear layer, zero at first, maps the result to the width of the context vector.

    No gradient goes back to the projectors, of whose outputs the similarities are taken: no loss on the fusion can pull
    x, low and high together.
    """

    def __init__(  # noqa: PLR0913 the plain values of a checkpoint
        self,
        *,
        spectral_features: int,
        semantic_features: int,
        layers: int,
        width: int = 512,
        heads: int = 8,
        dropout: float = 0.3,
        frequency_attention: bool = True,
        hierarchical_fusion: bool = True,
        cross_attention: bool = True,
        adaptive_gating: bool = True,
    ) -> None:
        """Build the parts that are switched on; the others have no parameters.

        Args:
            spectral_features: D, width of the projected tokens.
            semantic_features: E, width of the semantic tokens.
            layers: L, of the backbone.
            width: W, of the fusion's vectors (original recipe: SEMANTIC_DIM 512).
            heads: Number of heads of each attention; a divisor of W (original recipe: 8).
            dropout: Of the attention's weights and of the fused vector.
            frequency_attention, hierarchical_fusion, cross_attention, adaptive_gating: Parts 1 to 4.
        """
        super().__init__()
        self.spectral = nn.Sequential(nn.LayerNorm(spectral_features), nn.Linear(spectral_features, width))
        self.semantic = nn.Sequential(nn.Linear(semantic_features, width), nn.LayerNorm(width))
        self.layer_embedding = nn.Parameter(torch.randn(layers, width) * 0.02)
        self.by_frequency = None
        if frequency_attention:
            self.by_frequency = nn.ModuleList(Attend(width, heads, dropout) for _ in range(3))
        self.hierarchy = nn.ModuleList([_merge(width), _merge(width)]) if hierarchical_fusion else None
        self.across = Attend(width, heads, dropout) if cross_attention else None
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.Sigmoid()) if adaptive_gating else None
        self.apply(scaled_by_fan_in)
        self.join = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), zero_linear(width, spectral_features))

    def forward(self, spectral: Tensor, semantic: Tensor) -> Fused:
        """Fuse mean tokens (N, 3, L, D) of x, low and high by layer with semantic tokens (N, K, E).

        Raises:
            ValueError: K is below 2: the weight on a single token is always 1, so that neither queries nor keys would
                ever learn.
        """
        if semantic.shape[1] < 2:
            raise ValueError("attention needs two semantic tokens or more")
        tokens = self.semantic(semantic)
        components = self.spectral(spectral.detach()) + self.layer_embedding
        x, low, high = components.unbind(1)
        if self.by_frequency is not None:
            x, low, high = (
                attend(part, tokens)[0] for attend, part in zip(self.by_frequency, (x, low, high), strict=True)
            )
        frequencies = torch.stack([x, low, high], dim=1).mean(2)
        if self.hierarchy is not None:
            low_high, whole = self.hierarchy
            joined = whole(torch.cat([x, low_high(torch.cat([low, high], dim=-1))], dim=-1))
        else:
            joined = (x + low + high) / 3
        attention = None
        if self.across is not None:
            joined, weights = self.across(joined, tokens)
            attention = weights.mean(1)
        spectral_vector, semantic_vector = joined.mean(1), tokens.mean(1)
        if self.gate is not None:
            gate = self.gate(torch.cat([spectral_vector, semantic_vector], dim=-1))
            fused = gate * spectral_vector + (1 - gate) * semantic_vector
        else:
            fused = (spectral_vector + semantic_vector) / 2
        return Fused(self.join(fused), fused, frequencies, attention)


def _merge(width: int) -> nn.Module:
    """Merges two concatenated vectors of that width into one."""
    return nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))


def scaled_by_fan_in(module: nn.Module) -> None:
    """Give a linear layer weights of deviation 1/√inputs and no bias: its output is as large as its input (LeCun 1998).

    torch's defaults have 0.58 of that, 0.71 in attentions: two merges shrink the spectral vectors to a twentieth of the
    semantic ones, and the attentions weigh all tokens nearly alike.
    """
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.kaiming_normal_(module.in_proj_weight, nonlinearity="linear")


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer whose weights and biases are zero at first."""
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

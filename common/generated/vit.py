"""Pretrained vision transformers (Dosovitskiy et al. 2021) of timm, with the tokens after each block."""

from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.networks.pixels import IMAGENET_MEAN, IMAGENET_STD
from common.networks.pretrained import load_complete, obtain_weights

# That of MFM and the published SPAI; CLIP's, with its own activation and OpenAI's weights; DINOv2's.
VITS = ("vit_base_patch16_224", "vit_base_patch16_clip_quickgelu_224.openai", "vit_base_patch14_dinov2")
IMAGENET_CLASSES = 1000
# Weights of masked pretraining alone; those that SPAI's own ViT has and its forward pass does not use; and those that
# only a CLIP tower keeps.
PRETRAINING_PREFIXES = ("mask_token", "decoder.")
SPAI_PREFIXES = ("cls_pos_embed", "actual_cls_token", "cls_blocks.", "intermediate_fc_norm.")
HEAD_PREFIXES = ("norm.", "fc_norm.", "head.")


def build_vit(name: str, *, image_size: int = 0, depth: int = 0, width: int = 0, heads: int = 0) -> VisionTransformer:
    """Build a plain vision transformer with random weights.

    A CLIP tower keeps its final norm and its `head`, the projection to the space shared with texts. They are removed
    from any other ViT, since its tokens are used and parameters without use would never get a gradient.

    Args:
        name: As timm spells it, such as those of `VITS`; the part behind a dot names one of its pretrainings.
        image_size: Side of the square images in pixels, a multiple of the patch size; 0 for the model's own.
        depth: Number of transformer blocks; 0 for the model's own.
        width: Width of the tokens, a multiple of `heads`; 0 for the model's own.
        heads: Number of heads of the attention; 0 for the model's own.

    Raises:
        UserError: No such model, none of this plain kind, or numbers that do not fit each other.
    """
    given = {"img_size": image_size, "depth": depth, "embed_dim": width, "num_heads": heads}
    sizes: dict[str, Any] = {key: value for key, value in given.items() if value}
    if not timm.is_model(name):  # checked first: create_model would look some names up on the hub
        raise UserError(f"timm has no model {name!r}. Vision transformers that work: {', '.join(VITS)}.")
    try:
        vit = timm.create_model(name, pretrained=False, **sizes)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"no vision transformer can be built of {name!r} with {sizes} ({error!s:.200}). Those that work: "
            f"{', '.join(VITS)}; the width must be a multiple of the heads."
        ) from error
    if type(vit) is not VisionTransformer or vit.global_pool != "token":
        raise UserError(f"{name!r} is no plain vision transformer with a class token. Some are: {', '.join(VITS)}.")
    side, patch = vit.patch_embed.img_size[0], vit.patch_embed.patch_size[0]
    if side % patch:
        fitting = max(side // patch, 1) * patch
        raise UserError(f"images of {side} px can't be cut into {name}'s patches of {patch} px. Take {fitting} px.")
    if not _is_clip(name):
        vit.norm = vit.fc_norm = nn.Identity()
        vit.reset_classifier(0)
    elif vit.num_classes in (0, IMAGENET_CLASSES):
        raise UserError(f"{name!r} has no projection to the space of texts. A CLIP tower that has: {VITS[1]}.")
    return vit


class TokenBackbone(nn.Module):
    """A vision transformer that gives the tokens after each block, and their embeddings.

    It normalises its input itself: CLIP towers by timm's numbers for them, all others by ImageNet's mean and deviation,
    as in the training of MFM, MAE and DINOv2.
    """

    def __init__(self, name: str, *, image_size: int = 0, depth: int = 0, width: int = 0, heads: int = 0) -> None:
        """Build it with random weights; the arguments and errors are those of `build_vit`."""
        super().__init__()
        self.vit = build_vit(name, image_size=image_size, depth=depth, width=width, heads=heads)
        self.is_clip = _is_clip(name)
        vit: Any = self.vit  # timm's parts have no types
        self.image_size: int = vit.patch_embed.img_size[0]
        self.grid: int = vit.patch_embed.grid_size[0]  # tokens a side
        self.n_prefix: int = vit.num_prefix_tokens  # the class token, and registers
        self.depth, self.width = len(vit.blocks), vit.embed_dim
        self.heads: int = vit.blocks[0].attn.num_heads
        self.embedding_size: int = vit.num_classes if self.is_clip else self.width
        own = vit.pretrained_cfg
        mean, std = (own["mean"], own["std"]) if self.is_clip else (IMAGENET_MEAN, IMAGENET_STD)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def set_drop_path(self, share: float) -> None:
        """Leave out branches of the blocks at random in training (stochastic depth, Huang et al. 2016).

        Args:
            share: Of the last block, in [0, 1); it grows from 0 in the first one, linearly (MFM and SPAI: 0.1).
        """
        for block, own in zip(self.vit.blocks, torch.linspace(0, share, self.depth).tolist(), strict=True):
            block.drop_path1, block.drop_path2 = (DropPath(own) if own else nn.Identity() for _ in range(2))
            block.train(block.training)  # the new parts too

    def blocks(self, images: Tensor) -> Iterator[Tensor]:
        """The whole sequence (N, n_prefix + T, width) after each block in turn; no reference to it is kept here.

        Args:
            images: Float in [0, 1], (N, 3, S, S) with S the `image_size`.
        """
        vit = self.vit
        # timm's forward_intermediates takes these steps, but holds the tokens of all blocks.
        x = vit.patch_embed((images - self.mean) / self.std)
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(x)))
        for block in vit.blocks:
            x = block(x)
            yield x

    def patch_tokens(self, sequence: Tensor) -> Tensor:
        """The T = grid² patches' tokens (N, T, width) of a sequence, row by row."""
        return sequence[:, self.n_prefix :]

    def embed(self, sequence: Tensor) -> Tensor:
        """The images' embeddings (N, embedding_size), from the last block's sequence.

        Those of a CLIP tower are in the space shared with texts, not normalised. Another ViT's is its class token with
        mean 0 and deviation 1, without learned scales, which a linear layer on top can have.
        """
        return self._project(sequence[:, 0])

    def token_embeddings(self, sequence: Tensor) -> Tensor:
        """As `embed`, but of each patch: (N, grid, grid, embedding_size)."""
        return self._project(self.patch_tokens(sequence)).unflatten(1, (self.grid, self.grid))

    def get_image_embedding(self, images: Tensor) -> Tensor:
        """The embeddings (N, embedding_size) of images as `blocks` takes them; see `embed`."""
        *_, sequence = self.blocks(images)
        return self.embed(sequence)

    def _project(self, tokens: Tensor) -> Tensor:
        if self.is_clip:
            return self.vit.head(self.vit.norm(tokens))
        return F.layer_norm(tokens, (self.width,), eps=1e-6)


def load_vit_weights(backbone: TokenBackbone, name: str, source: str, role: str = "backbone weights") -> str:
    """Load pretrained weights into a backbone; position embeddings of other image sizes are resampled as timm does.

    Args:
        backbone: Built of the same name; for the hub's weights with the name's own depth, width and heads.
        name: As timm spells it. Without the part behind the dot, the hub's weights are those that timm prefers, which
            are not OpenAI's for CLIP.
        source: `hub` (or its local cache), `none`, `auto` (`hub`, or `none` with one printed line and its reason when
            that fails), or a file's path: a state dict with the names of timm, of open_clip's or DINOv2's release, or
            of BEiT, which MFM's and SPAI's own files have (their ViT below `encoder.`, `vit.` or `mfvit.vit.`);
            OpenAI's TorchScript archive of CLIP.
        role: What the weights are for, for messages.

    Returns:
        What was loaded: `hub`, `none`, or the path.

    Raises:
        UserError: The hub or the file can't be read, or the weights are those of another network.
    """
    weights, source = obtain_weights(
        name,
        source,
        lambda: _download(backbone, name),
        hub_word="hub",
        role=role,
        without="its random ones stay",
    )
    if weights is not None:
        leftovers = PRETRAINING_PREFIXES
        leftovers += () if backbone.is_clip else (*SPAI_PREFIXES, *HEAD_PREFIXES)
        load_complete(backbone.vit, name, _timm_weights(weights, backbone.vit, name, source), source, leftovers)
    return source


def fuse_qkv_bias(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace each `….q_bias` and `….v_bias` of BEiT by timm's `….qkv.bias`.

    BEiT's keys have no bias (Bao et al. 2022): it would shift all weights of a query by the same number.

    Raises:
        UserError: One of the two is missing.
    """
    fused = {key: value for key, value in weights.items() if not key.endswith((".q_bias", ".v_bias"))}
    for stem in {key.rpartition(".")[0] for key in weights.keys() - fused.keys()}:
        if missing := {f"{stem}.q_bias", f"{stem}.v_bias"} - weights.keys():
            raise UserError(f"the weights are incomplete: 1 missing {sorted(missing)}.")
        q_bias, v_bias = weights[f"{stem}.q_bias"], weights[f"{stem}.v_bias"]
        fused[f"{stem}.qkv.bias"] = torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])
    return fused


def _is_clip(name: str) -> bool:
    return "clip" in name


def _download(backbone: TokenBackbone, name: str) -> dict[str, Tensor]:
    published: Any = timm.create_model(name, device="meta")
    sizes = len(published.blocks), published.embed_dim, published.blocks[0].attn.num_heads
    # Checked before the download; and a wrong number of heads would change no shape.
    if sizes != (backbone.depth, backbone.width, backbone.heads):
        raise UserError(
            f"the hub's has depth {sizes[0]}, width {sizes[1]} and {sizes[2]} heads, this one "
            f"{backbone.depth}, {backbone.width} and {backbone.heads}"
        )
    return timm.create_model(name, pretrained=True, img_size=backbone.image_size).state_dict()


def _timm_weights(weights: dict[str, Tensor], vit: VisionTransformer, name: str, source: str) -> dict[str, Tensor]:
    """A file's weights under timm's names and with the network's number of positions."""
    if any(key.startswith("encoder.") for key in weights):  # MFM's pretraining, with its decoder
        weights = {key.removeprefix("encoder."): value for key, value in weights.items()}
    patch = vit.patch_embed.patch_size
    kernels = [
        value for key, value in weights.items() if key.endswith(("patch_embed.proj.weight", "visual.conv1.weight"))
    ]
    if any(kernel.shape[-2:] != patch for kernel in kernels):  # timm would resample them, which harms the features
        raise UserError(f"the weights of {source} do not fit {name}: its patches have {patch[0]} px.")
    try:
        return checkpoint_filter_fn(fuse_qkv_bias(weights), vit)
    except (AssertionError, RuntimeError, ValueError) as error:  # positions that form no grid
        raise UserError(f"the weights of {source} do not fit {name} ({error!s:.200}).") from error

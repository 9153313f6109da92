"""What the training of script 7 is told, and what it does besides training."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from common.config.run import RunConfig

# The architecture of MFM's ViT, whose weights come from a file; the hub's are MAE's, pretrained by masking pixels.
MFM_TOWER = "vit_base_patch16_224.mae"
CLIP_TOWER = "vit_base_patch16_clip_quickgelu_224.openai"


@dataclass(frozen=True, kw_only=True)
class SpaiConfig(RunConfig):
    """Training, evaluation or conversion of a SPAI classifier. Defaults are the seed's fusion; `--fusion none` changes
    them to those of the published plain SPAI."""

    FREE: ClassVar[frozenset[str]] = RunConfig.FREE | {
        *("csv", "real", "fake", "convert", "output", "evaluate", "degrade", "feature_batch", "backbone_weights"),
        *("semantic_weights", "text_weights", "table", "clip_score", "cache", "target_fpr"),
    }
    RECIPES: ClassVar[dict[tuple[str, str], str]] = {("fusion", "none"): "published"} | RunConfig.RECIPES
    INHERITED: ClassVar[frozenset[str]] = frozenset({"backbone_weights", "semantic_weights"})

    csv: Path | None = None
    """Table of images: image,class,split (class 1 is generated; split train, val or test), and optionally generator and
    prompt. Paths are relative to it."""
    real: Path | None = None
    """Instead of a table: folder of real images ..."""
    fake: Path | None = None
    """... and of generated ones, in subfolders by generator if there are several; splits are drawn by --seed."""
    holdout_generator: str = ""
    """Leave one generator out: its images are only tested on."""
    evaluate: bool = False
    """Don't train: test models/<name>_best.pth on the test split."""
    degrade: str = ""
    """Test after these too, comma-separated: jpeg, webp, resize, blur, noise."""
    clip_score: bool = False
    """Test how well images fit their prompts, by CLIP, too; needs open_clip_torch."""
    table: Path | None = None
    """Write the test's figures here as CSV."""
    convert: Path | None = None
    """Don't train: read the published checkpoint (spai.pth) and write it as one of ours ..."""
    output: Path | None = None
    """... here; by default models/spai_best.pth."""

    fusion: Literal["none", "semantic"] = "semantic"
    """semantic: SPAI with CLIP's semantics; none: plain SPAI, with the published defaults."""
    init: Path | None = None
    """Checkpoint of plain SPAI that the fusion starts from; the network's sizes are then its."""
    backbone_name: str = CLIP_TOWER
    """ViT of timm whose tokens are compared: CLIP's; vit_base_patch16_224.mae, of which MFM's published weights are a
    kind too; vit_base_patch14_dinov2."""
    backbone_weights: str = "hub"
    """hub (timm's; MAE's for plain SPAI), none, auto (hub, or none when it can't be reached), or a file (timm's key
    names, or MFM's)."""
    backbone_depth: int = 0
    """Blocks of the backbone; 0 for the name's own, as for the next two."""
    backbone_width: int = 0
    """Width of its tokens."""
    backbone_heads: int = 0
    """Heads of its attention."""
    train_backbone: bool = False
    """Train the backbone too, in the second stage, with --layer-decay. The seed and the paper keep it frozen."""
    patch_size: int = 224
    """Side of the patches in pixels."""
    patch_stride: int = 112
    """From patch to patch where images are scored (seed: 112; published: 224)."""
    cover_edges: bool = False
    """Where images are scored, add patches that end with the image. Published: the remainder is dropped."""
    mask_radius: float = 16.0
    """Frequencies closer than this to the centre of a patch's spectrum are low."""
    projection_dim: int = 1024
    """Width of the projected tokens."""
    projection_layers: int = 3
    """Linear layers of each projector."""
    attention_dim: int = 1024
    """Width of the attention over the patches."""
    attention_heads: int = 16
    """Its heads."""
    head_ratio: int = 4
    """Hidden width of the classification head, in widths of a patch's vector."""
    dropout: float = 0.3
    """Of projectors, attention and head."""

    semantic_name: str = ""
    """CLIP image tower of timm for the semantics; empty shares the backbone, which must then be CLIP's."""
    semantic_weights: str = "hub"
    """Its weights, as --backbone-weights."""
    fusion_width: int = 512
    """Width that the fusion works in."""
    fusion_heads: int = 8
    """Heads of its attentions."""
    twelve_statistics: bool = True
    """Minima and maxima of the similarities beside their means and deviations."""
    early_fusion_layers: tuple[int, ...] = (2, 4, 6, 8)
    """Blocks, counted from 1, whose vectors the image's meaning joins through a gate."""
    frequency_attention: bool = True
    """x, low and high frequencies each look at the semantic tokens by an attention of their own."""
    hierarchical_fusion: bool = True
    """Low and high frequencies are joined first, then with x."""
    cross_attention: bool = True
    """The joined spectral tokens look at the semantic tokens."""
    adaptive_gating: bool = True
    """A gate weighs spectral against semantic."""
    semantic_scales: tuple[int, ...] = (2, 4)
    """The whole image's token grid is pooled to s×s semantic tokens for each of these."""
    local_semantics: bool = True
    """A semantic token of each patch itself (the plan's approach 2); without it, of the whole image alone (1)."""
    prompts: str = ""
    """File of prompts, one a line, that become semantic tokens; default for a list of what pictures show. --prompts,
    --text-weight and --clip-score need open_clip_torch."""
    text_name: str = "ViT-B-16-quickgelu"
    """CLIP text tower of open_clip_torch, or local-dir:FOLDER; of the same CLIP as the image tower."""
    text_weights: str = "openai"
    """Its weights: a name of open_clip's or a file."""

    classification: Literal["bce", "focal"] = "focal"
    """Loss of the classification (published: bce)."""
    focal_alpha: float = 0.25
    """Weight of generated images in the focal loss; real ones get the rest."""
    focal_gamma: float = 2.0
    """How strongly easy images are weighed down."""
    semantic_weight: float = 0.1
    """Of the semantic consistency of an image and its degraded twin."""
    frequency_weight: float = 0.05
    """Of the same consistency within x, low and high frequencies."""
    text_weight: float = 0.0
    """Of the image-text loss, for tables with prompts (plan: 0.5)."""

    batch_size: int = 32
    """Images a step and process."""
    epochs: int = 15
    """Passes over the training images."""
    stage_one_epochs: int = 5
    """Of them the first train the semantic parts and the head alone; without fusion there is no such stage."""
    lr: float = 3e-4
    """Peak of the learning rate."""
    schedule: Literal["constant", "one_cycle", "cosine"] = "cosine"
    """As published, after a warm-up."""
    warmup_epochs: float = 3.0
    """Epochs in which the rate rises to --lr."""
    weight_decay: float = 0.03
    """Of AdamW."""
    layer_decay: float = 0.85
    """With --train-backbone: each block learns at this share of the next one's rate."""
    clip_grad: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    views: int = 6
    """Augmented crops of an image that stand for its patches in training."""
    native_crops: bool = False
    """Cut the views out as they are, as patches are where images are scored. Published: crops of 20 to 100 % of the
    area, resized to the patch size."""
    degradation_probability: float = 0.5
    """Share of the training images that go through one to five of jpeg, webp, resize, blur and noise. With a
    consistency loss every image has a degraded twin instead."""
    color_jitter: float = 0.1
    """Largest change of brightness, contrast and saturation in augmentation, as a share."""
    mixup: float = 0.0
    """Mixup's α (seed: 0.2); off, because blending images blends the traces that are looked for."""
    cutmix: float = 0.0
    """CutMix's α (seed: 0.3); off for the same reason."""
    cache: bool = False
    """Keep the decoded training images in the memory of each process."""

    feature_batch: int = 400
    """Patches at a time where images are scored: memory grows with it, not with the image."""
    target_fpr: float = 0.05
    """False-positive rate that calling an image generated may have."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {
            "patch_size": (self.patch_size > 0 and self.patch_size % 2 == 0, "a positive even number"),
            "patch_stride": (0 < self.patch_stride <= self.patch_size, "from 1 to --patch-size"),
            "attention_heads": (
                self.attention_heads > 0 and self.attention_dim % self.attention_heads == 0,
                "1 or more and a divisor of --attention-dim",
            ),
            "fusion_heads": (
                self.fusion_heads > 0 and self.fusion_width % self.fusion_heads == 0,
                "1 or more and a divisor of --fusion-width",
            ),
            "projection_layers": (self.projection_layers > 0, "1 or more"),
            "dropout": (0 <= self.dropout < 1, "from 0 to less than 1"),
            "prompts": (not self.prompts or self.fusion != "none", "empty: plain SPAI has no semantic tokens"),
            "text_weight": (
                self.text_weight == 0 or (self.fusion != "none" and self.mixup == self.cutmix == 0 < self.text_weight),
                "0 or more, and 0 without fusion or with --mixup or --cutmix: no prompt describes a mixed image",
            ),
            **{
                name: (getattr(self, name) > 0, "above 0")
                for name in ("mask_radius", "projection_dim", "attention_dim", "head_ratio", "fusion_width")
            },
            **{
                name: (getattr(self, name) >= 0, "0 or more")
                for name in ("semantic_weight", "frequency_weight", "focal_gamma")
            },
            "focal_alpha": (0 <= self.focal_alpha <= 1, "from 0 to 1"),
            "layer_decay": (0 < self.layer_decay <= 1, "above 0, at most 1"),
            "views": (self.views > 0, "1 or more"),
            "degradation_probability": (0 <= self.degradation_probability <= 1, "from 0 to 1"),
            "color_jitter": (0 <= self.color_jitter < 1, "from 0 to less than 1"),
            "mixup": (self.mixup >= 0, "0 or more"),
            "cutmix": (self.cutmix >= 0, "0 or more"),
            "feature_batch": (self.feature_batch > 0, "1 or more"),
            "target_fpr": (0 < self.target_fpr < 1, "above 0 and below 1"),
            "stage_one_epochs": (
                0 <= self.stage_one_epochs < self.epochs or self.epochs == 0,
                f"0 or more and below --epochs ({self.epochs}): what it leaves out has to learn too",
            ),
        }

    @property
    def degradations(self) -> list[str]:
        """The names in `degrade`."""
        return [name.strip() for name in self.degrade.split(",") if name.strip()]

    def published(self) -> Self:
        """Plain SPAI as published: MFM's backbone, binary cross-entropy, 35 epochs; four views, nothing clipped."""
        return dataclasses.replace(
            self,
            fusion="none",
            name="spai_plain" if self.name == "spai_fusion" else self.name,
            backbone_name=MFM_TOWER,
            patch_stride=224,
            projection_layers=2,
            attention_dim=1536,
            attention_heads=12,
            head_ratio=3,
            dropout=0.5,
            classification="bce",
            semantic_weight=0.0,
            frequency_weight=0.0,
            epochs=35,
            stage_one_epochs=0,
            lr=5e-4,
            warmup_epochs=5.0,
            weight_decay=0.05,
            layer_decay=0.8,
            clip_grad=0.0,
            views=4,
            degradation_probability=0.0,
            color_jitter=0.0,
        )

    def quick(self) -> Self:
        """The recipe for two CPU cores: a ViT of two blocks, 64-px patches, everything else narrower in proportion.

        No weights are published for such a ViT. A random one that stays frozen says little, so it trains. Views of 64
        px are cut out, not shrunk from most of the image, and layers of 64 numbers bear less dropout (docs/LOG.md).
        """
        return dataclasses.replace(
            super().quick(),
            backbone_name=CLIP_TOWER,
            backbone_weights="none",
            backbone_depth=2,
            backbone_width=64,
            backbone_heads=4,
            train_backbone=True,
            patch_size=64,
            patch_stride=64,
            mask_radius=16 * 64 / 224,
            projection_dim=64,
            attention_dim=64,
            attention_heads=4,
            fusion_width=64,
            fusion_heads=4,
            early_fusion_layers=(1, 2),
            epochs=12,
            stage_one_epochs=2 if self.stage_one_epochs else 0,
            warmup_epochs=1.0,
            lr=2e-3,
            layer_decay=1.0,
            dropout=0.1,
            views=4,
            native_crops=True,
            batch_size=16,
            cache=True,
        )

"""Configurations of script 7: training, test, and conversion of the published weights."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from tyro.conf import Positional, Suppress, arg

from common.config.run import Count, Natural, NonNegative, Positive, Range, RunConfig, Seed, Share
from common.errors import UserError

# The architecture of MFM's ViT, whose weights come from a file; the hub's are MAE's, pretrained by masking pixels.
MFM_TOWER = "vit_base_patch16_224.mae"
CLIP_TOWER = "vit_base_patch16_clip_quickgelu_224.openai"

Rate = Annotated[float, Range(lambda value: 0 < value < 1, "above 0 and below 1"), arg(metavar="FLOAT(0,1)")]
Dropout = Annotated[float, Range(lambda value: 0 <= value < 1, "0 or more and below 1"), arg(metavar="FLOAT[0,1)")]


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """What training and test have in common: the images, and how they are scored."""

    data_dir: Path = Path("data")
    """Folder of images: real/ and fake/ (or fake/<generator>/), or these two in each of train/, val/ and test/."""
    csv: Path | None = None
    """Table of images to use instead: file,label[,split][,generator][,prompt]; labels are real or fake."""
    holdout_generator: str = ""
    """Generator whose images are tested on alone; the other generators' images are trained on."""
    name: str = "spai_fusion"
    """Name of the detector: its checkpoint is <name>_best.pth in --models-dir."""
    models_dir: Path = Path("models")
    """Folder of the checkpoints."""
    seed: Seed = 0
    """Random seed of splits that are not given (70 % train, 15 % val, 15 % test); the same as in training."""
    workers: Natural = 4
    """Processes that load images; 0 loads them in the main process."""
    skip_bad_files: bool = False
    """Leave out images that can't be read, after listing them, instead of stopping."""
    feature_batch: Count = 400
    """Patches that are scored at a time: memory grows with it, not with the image."""
    text_name: str = "ViT-B-16-quickgelu"
    """CLIP text tower of open_clip_torch, or local-dir:FOLDER; it must be of the same CLIP as the image tower."""
    text_weights: str = "openai"
    """Weights of the text tower: the name of an open_clip pretraining, or a file."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(ScoringConfig):
    """Test a trained detector on the test split."""

    degrade: tuple[Literal["jpeg", "jpeg90", "jpeg50", "webp", "resize", "blur", "noise"], ...] = ()
    """Degradations that the images are also tested after, each by itself; jpeg has quality 70."""
    clip_score: bool = False
    """Also test how well the generated images fit their prompts, by CLIP; needs open_clip_torch."""
    table: Path | None = None
    """CSV file that the results are written to."""
    target_fpr: Rate | None = None
    """False-positive rate that the verdict "generated" may have; by default that of the checkpoint."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        if self.target_fpr is not None and not 0 < self.target_fpr < 1:
            raise UserError(f"--target-fpr is {self.target_fpr}; it must be above 0 and below 1.")
        if self.feature_batch < 1:
            raise UserError(f"--feature-batch is {self.feature_batch}; it must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """Convert the published weights of SPAI to a checkpoint of plain SPAI that is not calibrated."""

    published: Positional[Path]
    """The published file, spai.pth."""
    output: Path = Path("models/spai_best.pth")
    """Checkpoint to write."""


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Bound the false-positive rate of a trained detector by photographs alone; no generated image is needed."""

    checkpoint: Positional[Path]
    """Checkpoint of script 7, which is rewritten."""
    real: Path
    """Folder of real photographs that it was not trained on, such as those to be judged later; with subfolders."""
    target_fpr: Rate | None = None
    """False-positive rate that the verdict "generated" may have; by default that of its training."""
    workers: Natural = 4
    """Processes that load images; 0 loads them in the main process."""
    feature_batch: Count = 400
    """Patches that are scored at a time: memory grows with it, not with the image."""
    skip_bad_files: bool = False
    """Leave out images that can't be read, after listing them, instead of stopping."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        if self.target_fpr is not None and not 0 < self.target_fpr < 1:
            raise UserError(f"--target-fpr is {self.target_fpr}; it must be above 0 and below 1.")
        if self.feature_batch < 1:
            raise UserError(f"--feature-batch is {self.feature_batch}; it must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class SpaiConfig(RunConfig, ScoringConfig):
    """Train a detector and test it. The defaults are the original recipe's fusion; `--fusion none` changes them to
    those of the published plain SPAI, `--profile quick` shrinks either for two CPU cores."""

    FREE: ClassVar[frozenset[str]] = RunConfig.FREE | {
        *("csv", "data_dir", "feature_batch", "backbone_weights", "semantic_weights", "text_weights", "cache"),
        "target_fpr",
    }
    RECIPES: ClassVar[dict[tuple[str, str], str]] = {
        ("fusion", "none"): "published",
        ("network", "residual"): "residual",
    } | RunConfig.RECIPES
    INHERITED: ClassVar[frozenset[str]] = frozenset({"backbone_weights", "semantic_weights"})

    network: Literal["spai", "residual"] = "spai"
    """residual is a small network on what sets neighbouring pixels apart, which trains on two CPU cores."""
    target_fpr: Rate = 0.05
    """False-positive rate that the verdict "generated" may have."""
    fusion: Literal["none", "semantic"] = "semantic"
    """semantic is SPAI with CLIP's semantics; none is plain SPAI with the published defaults."""
    init: Path | None = None
    """Checkpoint of plain SPAI whose weights and sizes the network starts from."""
    backbone_name: str = CLIP_TOWER
    """Vision transformer of timm: a CLIP tower, vit_base_patch16_224.mae (also for MFM) or vit_base_patch14_dinov2."""
    backbone_weights: str = "hub"
    """Weights of the backbone: hub (timm's), none (random), auto (hub, else none), or a file of timm's or MFM's."""
    train_backbone: bool = False
    """Train the backbone too, after the first stage. The original recipe and the paper keep it frozen."""
    patch_stride: Count = 112
    """Pixels from one patch to the next when images are scored, at most the patch size of 224 (published: 224)."""
    cover_edges: bool = False
    """Score patches that end with the image too; the published grid leaves out what remains right and below."""
    dropout: Dropout = 0.3
    """Dropout of the projectors, the attention and the head."""
    semantic_name: str = ""
    """CLIP image tower of timm for the semantics; empty shares the backbone, which must then be a CLIP tower."""
    semantic_weights: str = "hub"
    """Weights of the semantic tower, as --backbone-weights."""
    prompts: str = ""
    """File of prompts, one per line, that become semantic tokens, or default for a list; needs open_clip_torch."""
    text_weight: NonNegative = 0.0
    """Weight of the image-text loss (original recipe: 0.5), for tables with prompts; needs open_clip_torch."""

    batch_size: Count = 32
    """Images per step and process."""
    epochs: Natural = 15
    """Passes over the training images; 0 saves and scores the untrained network."""
    stage_one_epochs: Natural = 5
    """Epochs, fewer than --epochs, of a first stage that trains only fusion and head; plain SPAI has none."""
    lr: Positive = 3e-4
    """Peak of the learning rate; a cosine follows the warm-up."""
    warmup_epochs: NonNegative = 3.0
    """Epochs, fewer than --epochs, in which the learning rate rises to --lr."""
    weight_decay: NonNegative = 0.03
    """Weight decay of AdamW."""
    views: Count = 6
    """Augmented crops of each image that stand for its patches in training."""
    degradation_probability: Share = 0.5
    """Share of the training images that are degraded; without effect with fusion, where each has a degraded twin."""
    cache: bool = False
    """Keep the decoded training images in the memory of each process, up to 4 GB."""

    # Set by recipes, not by flags. First the sizes and parts of the network: see `common.generated.network.Spai`.
    backbone_depth: Suppress[int] = 0
    backbone_width: Suppress[int] = 0
    backbone_heads: Suppress[int] = 0
    patch_size: Suppress[int] = 224
    mask_radius: Suppress[float] = 16.0
    projection_dim: Suppress[int] = 1024
    projection_layers: Suppress[int] = 3
    attention_dim: Suppress[int] = 1024
    attention_heads: Suppress[int] = 16
    head_ratio: Suppress[int] = 4
    residual_width: Suppress[int] = 64
    fusion_width: Suppress[int] = 512
    fusion_heads: Suppress[int] = 8
    twelve_statistics: Suppress[bool] = True
    early_fusion_layers: Suppress[tuple[int, ...]] = (2, 4, 6, 8)
    frequency_attention: Suppress[bool] = True
    hierarchical_fusion: Suppress[bool] = True
    cross_attention: Suppress[bool] = True
    adaptive_gating: Suppress[bool] = True
    semantic_scales: Suppress[tuple[int, ...]] = (2, 4)
    local_semantics: Suppress[bool] = True
    # The losses: see `common.generated.losses.SpaiLoss`.
    classification: Suppress[Literal["bce", "focal"]] = "focal"
    focal_alpha: Suppress[float] = 0.25
    focal_gamma: Suppress[float] = 2.0
    semantic_weight: Suppress[float] = 0.1
    frequency_weight: Suppress[float] = 0.05
    # The views: see `common.generated.dataset.GeneratedTrainSet` and `view_augmentation`.
    longest_chain: Suppress[int] = 5
    native_crops: Suppress[bool] = False
    color_jitter: Suppress[float] = 0.1
    degraded_views: Suppress[float] = 0.5
    rotation: Suppress[float] = 0.0
    blur: Suppress[tuple[float, float]] = (0.1, 1.0)
    # Share of the blocks' branches that are left out in training, in the last block: see `TokenBackbone.set_drop_path`.
    drop_path: Suppress[float] = 0.0
    # The optimiser: see `common.training.optimizing`.
    layer_decay: Suppress[float] = 0.85
    clip_grad: Suppress[float] = 1.0
    schedule: Suppress[Literal["cosine"]] = "cosine"

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {
            "patch_stride": (self.patch_stride <= self.patch_size, f"from 1 to {self.patch_size}, the patch size"),
            "prompts": (not self.prompts or self.fusion != "none", "empty: plain SPAI has no semantic tokens"),
            "fusion": (self.network == "spai" or self.fusion == "none", "none with --network residual"),
            "init": (self.network == "spai" or self.init is None, "left out: --network residual starts from nothing"),
            "text_weight": (self.text_weight == 0 or self.fusion != "none", "0 without fusion"),
            "stage_one_epochs": (
                self.stage_one_epochs < self.epochs or self.epochs == 0,
                f"0 or more and below --epochs ({self.epochs}): what it leaves out has to learn too",
            ),
        }

    def evaluation(self) -> EvaluationConfig:
        """The test of this training's checkpoint on the same images."""
        names = (field.name for field in dataclasses.fields(ScoringConfig))
        return EvaluationConfig(**{name: getattr(self, name) for name in names}, target_fpr=self.target_fpr)

    def published(self) -> Self:
        """Plain SPAI as published: MFM's backbone, binary cross-entropy, 35 epochs; four views, nothing clipped.

        The frozen backbone drops paths in training, as in the published code, and views are turned by up to ±90°.
        """
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
            batch_size=72,
            degradation_probability=0.0,
            color_jitter=0.0,
            rotation=90.0,
            blur=(0.01, 0.5),
            drop_path=0.1,
        )

    def residual(self) -> Self:
        """The classifier of residuals. Views are cut out, not resized; half of the images are degraded, in one way."""
        return dataclasses.replace(
            self.published(),
            network="residual",
            name="residual" if self.name in ("spai_fusion", "spai_plain") else self.name,
            backbone_weights="none",
            patch_size=64,
            patch_stride=64,
            cover_edges=True,
            native_crops=True,
            views=8,
            batch_size=32,
            epochs=60,
            warmup_epochs=1.0,
            lr=5e-3,
            weight_decay=0.03,
            layer_decay=1.0,
            degradation_probability=0.5,
            longest_chain=1,
            degraded_views=0.0,
            rotation=0.0,
            blur=(0.1, 1.0),
            drop_path=0.0,
        )

    def quick(self) -> Self:
        """The recipe for two CPU cores. SPAI: a ViT of two blocks, 64-px patches, all else narrower in proportion.

        No weights are published for such a ViT, and frozen random ones are of little use: it is trained. Views of 64 px
        are cut out, not shrunk from most of the image, and turned by quarters, which resamples nothing. Layers 64 wide
        get less dropout (docs/LOG.md), and of two blocks none is left out.
        """
        if self.network == "residual":
            return dataclasses.replace(super().quick(), epochs=24, cache=True)
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
            rotation=0.0,
            blur=(0.1, 1.0),
            drop_path=0.0,
            batch_size=16,
            cache=True,
        )

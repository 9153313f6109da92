"""Configurations of the segmentation scripts 1 to 6: the recipes, with what differs in subclasses."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from tyro.conf import Suppress, arg

from common.config.run import Count, Natural, NonNegative, Positive, Range, RunConfig, Seed, Share

Multiple = Annotated[
    int, Range(lambda value: value > 0 and value % 32 == 0, "a positive multiple of 32"), arg(metavar="INT=32·n")
]
# The encoder's last feature map has a 32nd of the side: of one pixel there is no batch norm.
Side = Annotated[
    int, Range(lambda value: value >= 64 and value % 32 == 0, "a multiple of 32 from 64 on"), arg(metavar="INT=32·n")
]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A segmentation member of the ensemble. The defaults are those of script 1 in the original recipe."""

    FREE: ClassVar[frozenset[str]] = RunConfig.FREE | {"data_dir", "encoder_weights", "cache_gb", "cache_dir"}
    # A continuation loads no encoder weights: only the checkpoint knows which ones the run began with.
    INHERITED: ClassVar[frozenset[str]] = frozenset({"encoder_weights"})

    data_dir: Path = Path("data")
    """Data folder, in the layout that data/README.md shows."""
    cache_gb: NonNegative = 4.0
    """Gigabytes of disk for decoded images, shared with other runs; 0 decodes all images in every epoch."""
    cache_dir: Path | None = None
    """Folder of the decoded images, which may be deleted; by default cache in --models-dir (all folds share one)."""
    profile: Literal["full", "quick"] = "full"
    """quick shrinks the recipe for two CPU cores: lighter encoder, 256 px, fewer epochs; other flags win over it."""

    init: str = "none"
    """Member, or file of a checkpoint (.pth, .safetensors), that gives network, framing, image size and first weights;
    none starts from --encoder-weights."""
    encoder_name: str = "tu-efficientnet_b2"
    """Encoder of segmentation-models-pytorch; tu-NAME takes timm's NAME."""
    encoder_weights: str = "imagenet"
    """First weights of the encoder: imagenet (package or hub), none (random), auto (imagenet, else none), or a file."""
    in_channels: Suppress[int] = 3
    """Channels of the network's input: 3 for RGB, 4 for RGB and error level analysis (script 5)."""
    decoder_channels: Count = 256
    """Channels of the feature pyramid."""
    segmentation_channels: Multiple = 128
    """Channels of the features that enter the attention gate and the segmentation head."""

    framing: Literal["squeeze", "crop"] = "squeeze"
    """squeeze resizes each image to a square (original recipe); crop trains on squares of its own pixels."""
    image_size: Side = 512
    """Side in pixels of the square that the network sees."""
    schedule: Literal["constant", "one_cycle", "cosine"] = "constant"
    """Learning rate schedule: constant (original recipe), one_cycle (Smith and Topin 2018, few epochs) or cosine."""

    focal_alpha: Share = 0.75
    """Weight of forged pixels in the focal loss; authentic ones get the rest of 1."""
    focal_gamma: NonNegative = 3.0
    """Exponent of the focal loss, which weighs down easy pixels; 0 is weighted cross-entropy."""
    focal_weight: NonNegative = 0.7
    """Weight of the focal loss."""
    dice_weight: NonNegative = 0.3
    """Weight of the Dice loss."""
    recall_weight: Suppress[Share] = 0.0
    """Weight of pixel recall in the score that selects the best epoch; Dice gets the rest of 1."""

    folds: Annotated[int, Range(lambda value: value >= 2, "2 or more"), arg(metavar="INT≥2")] = 5
    """Number of folds, one of which validates while the others train; images of one source stay in one fold."""
    fold: Natural = 0
    """Fold that validates, from 0 to --folds - 1."""
    fold_seed: Seed = 0
    """Random seed of the folds; networks that are blended or start from one another need the same."""
    seed: Seed = 0
    """Random seed of the initial weights, the draws and the augmentation."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {"fold": (self.fold < self.folds, f"from 0 to {self.folds - 1}")}

    @property
    def cache_folder(self) -> Path:
        """Where decoded images are kept."""
        one_of_several = self.models_dir.name.startswith("fold_")
        return self.cache_dir or (self.models_dir.parent if one_of_several else self.models_dir) / "cache"

    def quick(self) -> Self:
        """The recipe for two CPU cores.

        EfficientNet-Lite0, whose ImageNet weights a package carries, with a narrow decoder, on squares of the images'
        own pixels. Two fifths of the epochs need a learning rate that rises, to more than three times the full
        recipe's, and falls. Weighted cross-entropy flags less that is authentic than the focal loss (docs/LOG.md).
        """
        return dataclasses.replace(
            super().quick(),
            encoder_name="tu-tf_efficientnet_lite0",
            encoder_weights="auto" if self.encoder_weights == "imagenet" else self.encoder_weights,
            decoder_channels=64,
            segmentation_channels=32,
            framing="crop",
            image_size=256,
            batch_size=8,
            epochs=self.epochs * 2 // 5,
            lr=round(self.lr * 10 / 3, 6),
            schedule="one_cycle",
            weight_decay=1e-2,
            focal_gamma=0.0,
            focal_weight=4.0,  # with --focal-alpha 0.75 forged pixels weigh 3, authentic ones 1
            dice_weight=1.0,
        )


@dataclass(frozen=True, kw_only=True)
class OversamplingConfig(TrainConfig):
    """Training on all images, small forgeries more often (scripts 1, 4 and 5)."""

    small_forgery_threshold: Share = 0.03
    """Share of the image below which a forgery is small, and drawn more often."""
    oversample_factor: Positive = 3.0
    """Weight of an image with a small forgery in the draws; others have 1."""


@dataclass(frozen=True, kw_only=True)
class ElaConfig(OversamplingConfig):
    """Training on RGB and error level analysis (script 5)."""

    in_channels: Suppress[int] = 4


@dataclass(frozen=True, kw_only=True)
class NewForgeriesConfig(OversamplingConfig):
    """Training with new forgeries (script 4)."""

    paste_probability: Share = 0.3
    """Share of the images that get one more forgery."""
    paste_scales: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest scale, above 0, of the pasted parts that are transformed, about half of them."""
    paste_kinds: tuple[Literal["copymove", "splice", "inpaint", "redraw"], ...] = ("copymove", "splice")
    """Kinds of the new forgeries, each as likely as the others; inpaint fills a region, redraw takes its grain away."""
    vary_images: bool = False
    """Crop, gray, invert, blur in part, compress, scale and print on images at random; for few untouched images."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        low, high = self.paste_scales
        return super()._rules() | {
            "paste_scales": (0 < low <= high, "two numbers above 0, the smaller one first"),
            "paste_kinds": (len(self.paste_kinds) > 0, "one kind or more"),
            "vary_images": (not self.vary_images or self.framing == "crop", "left out, or with --framing crop"),
        }


@dataclass(frozen=True, kw_only=True)
class MiningConfig(TrainConfig):
    """Fine-tuning on what a trained member gets wrong (scripts 2 and 3). Defaults are the original recipe's."""

    init: str = "highres_no_ela"
    """Member, or file of a checkpoint, whose network, image size and weights the first scan and the training start
    from; none starts anew."""
    lr: Positive = 1e-4
    """Learning rate, for one_cycle and cosine the peak."""
    focal_gamma: NonNegative = 2.0
    """Exponent of the focal loss, which weighs down easy pixels; 0 is weighted cross-entropy."""
    rounds: Count = 1
    """Rounds of mining; each scans with the newest weights and then trains for --epochs."""
    hard_weight: Positive = 2.0
    """Weight of a hard example in the draws; an easy authentic image has 1."""

    def quick(self) -> Self:
        """The recipe for two CPU cores: what has been trained before needs few epochs, and no warm-up."""
        return dataclasses.replace(super().quick(), epochs=self.epochs * 2 // 15, lr=self.lr, schedule="constant")


@dataclass(frozen=True, kw_only=True)
class HardNegativeConfig(MiningConfig):
    """Fine-tuning on authentic images that were called forged (script 2)."""

    most: Count = 500
    """Largest number of hard negatives per round; the worst ones are taken."""
    extra_authentic: Path | None = None
    """Folder of more authentic images to mine, such as known false alarms; --resume needs the same one."""


@dataclass(frozen=True, kw_only=True)
class HardFalseNegativeConfig(MiningConfig):
    """Fine-tuning on forgeries that were missed (script 3)."""

    hard_weight: Positive = 5.0
    """Weight of a hard example in the draws; an easy authentic image has 1."""
    recall_weight: Share = 0.6
    """Weight of pixel recall in the score that selects the best epoch; Dice gets the rest of 1."""


@dataclass(frozen=True, kw_only=True)
class SpecialistConfig(TrainConfig):
    """Training on crops around small forgeries (script 6). Defaults are the original recipe's."""

    framing: Suppress[Literal["squeeze"]] = "squeeze"
    epochs: Natural = 40
    """Passes over the training images; 0 saves and scores the untrained network."""
    lr: Positive = 1e-4
    """Learning rate, for one_cycle and cosine the peak."""
    focal_alpha: Share = 0.85
    """Weight of forged pixels in the focal loss; authentic ones get the rest of 1."""
    focal_gamma: NonNegative = 4.0
    """Exponent of the focal loss, which weighs down easy pixels; 0 is weighted cross-entropy."""
    max_area_share: Share = 0.02
    """Share of the image below which a forgery is trained on, above 0."""
    tiny_weight: Positive = 5.0
    """Weight of forgeries below 0.5 % of their image in the draws."""
    small_weight: Positive = 2.0
    """Weight of the other forgeries in the draws."""
    crop_factors: tuple[float, float] = (2.0, 4.0)
    """Smallest and largest side of a crop in sizes of the forgery, 1 or more."""
    min_crop: Count = 128
    """Smallest side of a crop in pixels."""

    def quick(self) -> Self:
        """The recipe for two CPU cores, on this script's own crops and with its own loss."""
        own = {name: getattr(self, name) for name in ("framing", "focal_gamma", "focal_weight", "dice_weight")}
        return dataclasses.replace(super().quick(), **own)

    def _rules(self) -> dict[str, tuple[bool, str]]:
        low, high = self.crop_factors
        return super()._rules() | {
            "max_area_share": (self.max_area_share > 0, "above 0, at most 1"),
            "crop_factors": (1 <= low <= high, "two numbers of 1 or more, the smaller one first"),
        }

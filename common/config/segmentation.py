"""The configurations of the segmentation scripts."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from common.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A segmentation member of the ensemble. Defaults are those of the seed's script 1.

    What only some of the scripts need is in the subclasses below, so that no script has a flag without effect.
    """

    FREE: ClassVar[frozenset[str]] = RunConfig.FREE | {"data_dir", "encoder_weights", "cache_gb", "cache_dir"}
    # A continuation loads no encoder weights: only the checkpoint knows which ones the run began with.
    INHERITED: ClassVar[frozenset[str]] = frozenset({"encoder_weights"})

    data_dir: Path = Path("data")
    """Data folder (data/README.md shows the layout)."""
    cache_gb: float = 4.0
    """Gigabytes that decoded images may take on disk, those of other runs included; 0 decodes in every epoch."""
    cache_dir: Path | None = None
    """Where they are kept; by default the folder cache in --models-dir (of models/fold_1: in models, for all folds). It
    can be deleted at any time."""
    profile: Literal["full", "quick"] = "full"
    """quick is the same recipe shrunk for two CPU cores: lighter encoder, 256 px, fewer epochs. Other flags win."""

    init: str = "none"
    """Member whose checkpoint in --models-dir gives network, image size and first weights, whatever the flags for them
    say; none starts from --encoder-weights."""
    encoder_name: str = "tu-efficientnet_b2"
    """Encoder of segmentation-models-pytorch; tu-NAME takes timm's NAME."""
    encoder_weights: str = "imagenet"
    """imagenet (from the hub), none, auto (imagenet, or none when the hub can't be reached), or a file."""
    in_channels: int = 3
    """Channels of the network's input: 3 for RGB; 4, of script 5 alone, for RGB and error level analysis."""
    decoder_channels: int = 256
    """Width of the feature pyramid."""
    segmentation_channels: int = 128
    """Width of the features that the attention gate and the segmentation head see; a multiple of 32."""

    image_size: int = 512
    """Side of the square that images are resized to, in pixels; a multiple of 32."""
    reduced_decode: bool = False
    """Decode a JPEG at a half, a quarter or an eighth of its sides, as long as both keep --image-size: faster, and
    slightly other pixels. A submission always decodes fully: it looks at large images through tiles too."""

    focal_alpha: float = 0.75
    """Weight of forged pixels in the focal loss; authentic ones get the rest."""
    focal_gamma: float = 3.0
    """How strongly easy pixels are weighed down."""
    focal_weight: float = 0.7
    """Share of the focal loss."""
    dice_weight: float = 0.3
    """Share of the Dice loss."""
    recall_weight: float = 0.0
    """Share of pixel recall in the score that picks the best epoch; the rest is Dice."""

    folds: int = 5
    """Parts of the data; one validates, the others train. Images of one source stay in one fold."""
    fold: int = 0
    """The fold that validates."""
    seed: int = 0
    """Decides the folds, the initial weights, the draws and the augmentation."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {
            "in_channels": (self.in_channels == 3, "3; script_5_ela.py reads 4"),
            "image_size": (self.image_size > 0 and self.image_size % 32 == 0, "a positive multiple of 32"),
            "folds": (self.folds > 1, "2 or more"),
            "fold": (0 <= self.fold < self.folds, f"from 0 to {self.folds - 1}"),
            "recall_weight": (0 <= self.recall_weight <= 1, "from 0 to 1"),
            "cache_gb": (self.cache_gb >= 0, "0 or more"),
        }

    @property
    def cache_folder(self) -> Path:
        """Where decoded images are kept."""
        one_of_several = self.models_dir.name.startswith("fold_")
        return self.cache_dir or (self.models_dir.parent if one_of_several else self.models_dir) / "cache"

    def quick(self) -> Self:
        """The recipe for two CPU cores.

        A MobileNet with a narrow decoder trains 7 to 8 times faster than EfficientNet-B2 with the wide one; two fifths
        of the epochs want a learning rate that rises, to more than three times the full recipe's, and falls.
        """
        return dataclasses.replace(
            super().quick(),
            encoder_name="tu-mobilenetv3_small_100",
            encoder_weights="auto" if self.encoder_weights == "imagenet" else self.encoder_weights,
            decoder_channels=64,
            segmentation_channels=32,
            image_size=256,
            batch_size=8,
            epochs=self.epochs * 2 // 5,
            lr=round(self.lr * 10 / 3, 6),
            schedule="one_cycle",
            weight_decay=1e-2,
        )


@dataclass(frozen=True, kw_only=True)
class OversamplingConfig(TrainConfig):
    """Training on all images, small forgeries more often (scripts 1, 4 and 5)."""

    small_forgery_threshold: float = 0.03
    """Forgeries that cover less than this share of their image are drawn more often."""
    oversample_factor: float = 3.0
    """How many times as often."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {"oversample_factor": (self.oversample_factor > 0, "above 0")}


@dataclass(frozen=True, kw_only=True)
class ElaConfig(OversamplingConfig):
    """Training on RGB and error level analysis (script 5)."""

    in_channels: int = 4
    """Channels of the network's input: RGB and error level analysis."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {
            "in_channels": (self.in_channels == 4, "4"),
            "reduced_decode": (not self.reduced_decode, "False: error levels are those of the untouched pixels"),
        }


@dataclass(frozen=True, kw_only=True)
class CopyPasteConfig(OversamplingConfig):
    """Training with new forgeries (script 4)."""

    paste_probability: float = 0.3
    """Share of the images that get one more forgery."""
    paste_scales: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest scale of what is not pasted as it is (about half)."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        low, high = self.paste_scales
        return super()._rules() | {
            "paste_probability": (0 <= self.paste_probability <= 1, "from 0 to 1"),
            "paste_scales": (0 < low <= high, "two numbers above 0, the smaller one first"),
            "reduced_decode": (not self.reduced_decode, "False: parts are moved at their image's own size"),
        }


@dataclass(frozen=True, kw_only=True)
class MiningConfig(TrainConfig):
    """Fine-tuning on what a trained member gets wrong (scripts 2 and 3). Defaults are the ensemble's known recipe."""

    init: str = "highres_no_ela"
    """Member whose checkpoint in --models-dir gives network, image size and first weights, whatever the flags for them
    say, and which is mined first; none starts from --encoder-weights."""
    lr: float = 1e-4
    """Learning rate (of one_cycle and cosine: its peak)."""
    focal_gamma: float = 2.0
    """How strongly easy pixels are weighed down."""
    rounds: int = 1
    """How often to mine; each round looks with the newest weights, and then trains for --epochs."""
    hard_weight: float = 2.0
    """How many times as often the hard examples are drawn as an easy authentic image."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {
            "rounds": (self.rounds > 0, "1 or more"),
            "hard_weight": (self.hard_weight > 0, "above 0"),
        }

    def quick(self) -> Self:
        """The recipe for two CPU cores: what has been trained before needs few epochs, and no warm-up."""
        return dataclasses.replace(super().quick(), epochs=self.epochs * 2 // 15, lr=self.lr, schedule="constant")


@dataclass(frozen=True, kw_only=True)
class HardNegativeConfig(MiningConfig):
    """Fine-tuning on authentic images that were called forged (script 2)."""

    most: int = 500
    """At most so many hard negatives a round, the worst first."""
    extra_authentic: Path | None = None
    """Folder of more authentic images to mine, of the kind that raises false alarms; the same on --resume."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {"most": (self.most > 0, "1 or more")}


@dataclass(frozen=True, kw_only=True)
class SpecialistConfig(TrainConfig):
    """Training on crops around small forgeries (script 6). Defaults are the ensemble's known recipe."""

    epochs: int = 40
    """Passes over the training images; 0 saves and scores the untrained network."""
    lr: float = 1e-4
    """Learning rate (of one_cycle and cosine: its peak)."""
    focal_alpha: float = 0.85
    """Weight of forged pixels in the focal loss; authentic ones get the rest."""
    focal_gamma: float = 4.0
    """How strongly easy pixels are weighed down."""
    max_area_share: float = 0.02
    """Only forgeries below this share of their image are trained on."""
    tiny_weight: float = 5.0
    """How often those below 0.5 % are drawn ..."""
    small_weight: float = 2.0
    """... and the others, relative to each other."""
    crop_factors: tuple[float, float] = (2.0, 4.0)
    """Smallest and largest side of a crop, in sizes of the forgery."""
    min_crop: int = 128
    """Smallest side of a crop, in pixels."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        low, high = self.crop_factors
        return super()._rules() | {
            "max_area_share": (0 < self.max_area_share <= 1, "above 0, at most 1"),
            "tiny_weight": (self.tiny_weight > 0, "above 0"),
            "small_weight": (self.small_weight > 0, "above 0"),
            "crop_factors": (1 <= low <= high, "two numbers of 1 or more, the smaller one first"),
            "min_crop": (self.min_crop > 0, "1 or more"),
            "reduced_decode": (not self.reduced_decode, "False: crops are cut at their image's own size"),
        }

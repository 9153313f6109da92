"""The configuration of a training run. Its fields are the command line of every training script."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError

import tyro


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A segmentation member of the ensemble. Defaults are those of the seed's script 1."""

    name: str
    """Of the member: writes models/<name>_best.pth."""
    data_dir: Path = Path("data")
    """Data folder (data/README.md shows the layout)."""
    models_dir: Path = Path("models")
    """Where checkpoints, metrics and the tracker's logs go."""
    profile: Literal["full", "quick"] = "full"
    """quick is the same recipe shrunk for two CPU cores: lighter encoder, 256 px, fewer epochs. Other flags win."""

    encoder_name: str = "tu-efficientnet_b2"
    """Encoder of segmentation-models-pytorch; tu-NAME takes timm's NAME."""
    encoder_weights: str = "imagenet"
    """imagenet (from the hub), none, auto (imagenet, or none when the hub can't be reached), or a file."""
    in_channels: int = 3
    """Channels of the network's input, RGB first."""
    decoder_channels: int = 256
    """Width of the feature pyramid."""
    segmentation_channels: int = 128
    """Width of the features that the attention gate and the segmentation head see; a multiple of 32."""

    image_size: int = 512
    """Side of the square that images are resized to, in pixels; a multiple of 32."""
    batch_size: int = 4
    """Images a step and process."""
    accumulation: int = 1
    """Steps whose gradients are added up before the weights change."""
    epochs: int = 30
    """Passes over the training images; 0 saves and scores the untrained network."""
    lr: float = 3e-4
    """Learning rate (of one_cycle: its peak)."""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """constant as in the seed; one_cycle (Smith and Topin 2018) reaches more in few epochs."""
    weight_decay: float = 0.0
    """Of AdamW; 0 makes it the seed's Adam."""

    focal_alpha: float = 0.75
    """Weight of forged pixels in the focal loss; authentic ones get the rest."""
    focal_gamma: float = 3.0
    """How strongly easy pixels are weighed down."""
    focal_weight: float = 0.7
    """Share of the focal loss."""
    dice_weight: float = 0.3
    """Share of the Dice loss."""
    small_forgery_threshold: float = 0.03
    """Forgeries that cover less than this share of their image are drawn more often."""
    oversample_factor: float = 3.0
    """How many times as often."""

    folds: int = 5
    """Parts of the data; one validates, the others train. Images of one source stay in one fold."""
    fold: int = 0
    """The fold that validates."""
    seed: int = 0
    """Decides the folds, the initial weights, the draws and the augmentation."""
    workers: int = 4
    """Processes that load images, 0 for none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network's arithmetic; auto is bf16 on a GPU that has it, else fp32."""
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    """Where the metrics of each epoch go (logs in models/runs; wandb and mlflow must be installed)."""
    resume: bool = False
    """Go on from models/<name>_last.pth."""
    skip_bad_files: bool = False
    """Train without the files that can't be read, naming each, instead of stopping."""

    def __post_init__(self) -> None:
        """Refuse values that no run can have.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        rules = {
            "image_size": (self.image_size > 0 and self.image_size % 32 == 0, "a positive multiple of 32"),
            "batch_size": (self.batch_size > 0, "1 or more"),
            "accumulation": (self.accumulation > 0, "1 or more"),
            "epochs": (self.epochs >= 0, "0 or more"),
            "lr": (self.lr > 0, "above 0"),
            "folds": (self.folds > 1, "2 or more"),
            "fold": (0 <= self.fold < self.folds, f"from 0 to {self.folds - 1}"),
            "workers": (self.workers >= 0, "0 or more"),
            "oversample_factor": (self.oversample_factor > 0, "above 0"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be {wanted}.")

    def quick(self) -> "TrainConfig":
        """The recipe for two CPU cores.

        A MobileNet with a narrow decoder trains 7 to 8 times faster than EfficientNet-B2 with the wide one; few epochs
        want a learning rate that rises and falls.
        """
        return dataclasses.replace(
            self,
            profile="quick",
            encoder_name="tu-mobilenetv3_small_100",
            encoder_weights="auto" if self.encoder_weights == "imagenet" else self.encoder_weights,
            decoder_channels=64,
            segmentation_channels=32,
            image_size=256,
            batch_size=8,
            epochs=12,
            lr=1e-3,
            schedule="one_cycle",
            weight_decay=1e-2,
            workers=0,
        )

    def plain(self) -> dict[str, str | int | float | bool]:
        """The fields as plain values, for checkpoints and trackers."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


def parse_config(config: TrainConfig) -> TrainConfig:
    """Read the command line over a script's configuration; `--profile quick` changes the defaults first."""
    description = sys.modules["__main__"].__doc__
    parsed = tyro.cli(TrainConfig, default=config, description=description)
    if parsed.profile == "quick":
        parsed = tyro.cli(TrainConfig, default=config.quick(), description=description)
    return parsed

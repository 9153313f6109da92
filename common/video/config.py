"""Configurations of script 8: training and test."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from tyro.conf import Suppress, arg

from common.config.run import Count, Natural, NonNegative, Positive, Range, RunConfig, Seed, Share
from common.errors import UserError

FaceKind = Literal["auto", "mtcnn", "yunet", "boxes", "crops", "centre"]
"""How faces are found, see `ClipsConfig.faces`."""
MOST_FRAMES = 4096
"""Frames per clip: a checkpoint of more would be refused as broken (`common.networks.weight_files.LARGEST`)."""
Side = Annotated[int, Range(lambda value: value >= 64, "64 or more"), arg(metavar="INT≥64")]


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """What training and test have in common: the clips, their faces, and how they are loaded."""

    data_dir: Path = Path("data")
    """Folder of clips: {train,val,test}/{real,fake}/, or {real,fake}/, whose splits are drawn by the seed. Clips are
    videos, folders of frames, and images, which count as clips of one frame."""
    csv: Path | None = None
    """Table of clips, instead of --data-dir: columns file and label (real or fake), and optionally split (train, val or
    test) and identity. Paths are relative to the table's folder."""
    cache_dir: Path = Path("data/clip_cache")
    """Folder for the face crops of the clips, which are decoded once."""
    faces: FaceKind = "auto"
    """Face detector: mtcnn (facenet-pytorch), yunet (OpenCV, with --face-model), boxes (of a table, with --boxes),
    crops (each frame is a face), centre (a central crop, which counts as no face), or auto (mtcnn if it is installed,
    else centre)."""
    face_model: Path | None = None
    """ONNX file of YuNet."""
    boxes: Path | None = None
    """Table of face boxes: columns file, frame, left, top, right and bottom, in pixels."""
    batch_size: Count = 8
    """Clips per step and process."""
    workers: Natural = 4
    """Processes that load clips; 0 loads them in the main process."""
    skip_bad_files: bool = False
    """Leave out the clips that can't be decoded, after listing them, instead of stopping."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(ClipsConfig):
    """Test a trained detector on the test split, which is drawn as for the training."""

    checkpoint: Path = Path("models/deepfake_video_best.pth")
    """Checkpoint to test."""
    threshold: float | None = None
    """Calibrated probability, above 0 and below 1, from which a clip counts as fake; by default the checkpoint's."""

    def __post_init__(self) -> None:
        """Check the range of the threshold.

        Raises:
            UserError: It is out of range.
        """
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(f"--threshold is {self.threshold}; it must be above 0 and below 1.")


@dataclass(frozen=True, kw_only=True)
class VideoConfig(ClipsConfig, RunConfig):
    """Train a detector of deepfake clips and test it. The defaults are the original recipe's for EfficientNet-B0;
    `--encoder-name tf_efficientnet_b3` changes them to those for B3, `--profile quick` shrinks them for two CPU cores.
    """

    FREE: ClassVar[frozenset[str]] = RunConfig.FREE | {
        *("data_dir", "csv", "cache_dir", "face_model", "boxes", "encoder_weights", "threshold", "min_coverage")
    }
    INHERITED: ClassVar[frozenset[str]] = frozenset({"encoder_weights"})
    RECIPES: ClassVar[dict[tuple[str, str], str]] = {
        ("encoder_name", "tf_efficientnet_b3"): "b3",
        ("profile", "quick"): "quick",
    }

    name: Suppress[str] = "deepfake_video"
    """Name of the detector: its checkpoint is <name>_best.pth in --models-dir."""
    identity: str = ""
    """Regular expression that is searched in a clip's path; its groups (or the whole match) name the people in the
    clip, such as ([0-9]{3})(?:_([0-9]{3}))? for FaceForensics++. All clips of a person are in one split."""
    encoder_name: str = "tf_efficientnet_b0"
    """Network of timm that encodes each frame: tf_efficientnet_b0, tf_efficientnet_b3 (which sets image size, batch,
    learning rate and accumulation too), or another CNN with features at strides 8, 16 and 32."""
    encoder_weights: str = "hub"
    """Weights of the encoder: hub (timm's), none (random), auto (hub, or none if it can't be reached), or a file with
    timm's key names (for mobilenetv2_100 also torchvision's)."""
    image_size: Side = 224
    """Side of the face crops in pixels."""
    frames: Count = 24
    """Frames per clip, evenly spaced in time; a shorter clip gives all it has."""
    frozen_epochs: Natural = 10
    """Epochs at the start, below --epochs, in which the encoder does not train."""

    epochs: Natural = 25
    """Passes over the training clips; 0 saves and scores the untrained network."""
    lr: Positive = 1e-4
    """Learning rate at the start of each cycle of the cosine schedule."""
    seed: Seed = 0
    """Random seed of the splits, the initial weights, the order of the clips and the augmentation."""

    # Set by recipes, not by flags. First the parts and sizes of the network: see `common.video.network.TemporalCNNGRU`.
    hidden: Suppress[Count] = 512
    layers: Suppress[Count] = 2
    dropout: Suppress[Share] = 0.3
    attention: Suppress[bool] = True
    multi_scale: Suppress[bool] = True
    temporal: Suppress[bool] = True
    freeze_batch_norm: Suppress[bool] = False
    steps: Suppress[Natural] = 0  # of the GRU; `start_spotter` sets the number of frames. Earlier versions had none.
    # The loss: see `common.video.training.ClipStep`.
    focal_gamma: Suppress[NonNegative] = 2.0
    frame_weight: Suppress[NonNegative] = 0.2
    augment: Suppress[bool] = True
    # The optimiser: see `common.training.optimizing`.
    schedule: Suppress[Literal["warm_restarts"]] = "warm_restarts"
    weight_decay: Suppress[NonNegative] = 1e-4
    clip_grad: Suppress[NonNegative] = 1.0
    patience: Suppress[Natural] = 7  # counted from when the encoder trains
    # What the checkpoint decides with: see `common.video.detector.VideoDetector`.
    threshold: Suppress[Share] = 0.5
    min_coverage: Suppress[Share] = 0.3

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {
            "frames": (self.frames <= MOST_FRAMES, f"at most {MOST_FRAMES}"),
            "frozen_epochs": (
                self.frozen_epochs < self.epochs or self.epochs == 0,
                f"0 or more and below --epochs ({self.epochs}): the encoder has to train too",
            ),
        }

    def evaluation(self) -> EvaluationConfig:
        """The test of this training's checkpoint on the same clips."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(ClipsConfig)}
        return EvaluationConfig(checkpoint=self.models_dir / f"{self.name}_best.pth", **shared)

    def b3(self) -> Self:
        """EfficientNet-B3 as in the original recipe."""
        return dataclasses.replace(
            self, encoder_name="tf_efficientnet_b3", image_size=300, batch_size=4, lr=5e-5, accumulation=2
        )

    def quick(self) -> Self:
        """The recipe for two CPU cores: MobileNetV2 at 128 px, 8 frames, a narrower GRU, fewer epochs."""
        return dataclasses.replace(
            super().quick(),
            encoder_name="mobilenetv2_100",
            encoder_weights="auto",
            image_size=128,
            frames=8,
            hidden=128,
            batch_size=8,
            accumulation=1,
            epochs=8,
            frozen_epochs=2,
            restart_epochs=8,
            lr=5e-4,
        )

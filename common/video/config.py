"""What the training of script 8 is told, and what it does besides training."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from common.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class VideoConfig(RunConfig):
    """Training or use of a detector of deepfake clips. Defaults are the seed's for EfficientNet-B0."""

    FREE: ClassVar[frozenset[str]] = RunConfig.FREE | {
        *("predict", "output", "checkpoint", "evaluate", "pictures", "threshold", "min_coverage"),
        *("cache_dir", "data_dir", "csv", "face_model", "boxes", "encoder_weights"),
    }
    INHERITED: ClassVar[frozenset[str]] = frozenset({"encoder_weights"})
    RECIPES: ClassVar[dict[tuple[str, str], str]] = {
        ("encoder_name", "tf_efficientnet_b3"): "b3",
        ("profile", "quick"): "quick",
    }

    data_dir: Path = Path("data")
    """Holds {train,val,test}/{real,fake}/, or {real,fake}/, whose splits are drawn by --seed: videos (MP4, MOV, AVI,
    WEBM, MKV), folders of frames, and images, which count as clips of one frame."""
    csv: Path | None = None
    """Instead of the folders' names a table: file,label[,identity][,split]; label is real or fake, paths are relative
    to the table. Without a split it is drawn."""
    identity: str = ""
    """Regular expression whose groups (or whole match) in a clip's path name the people in it, such as
    ([0-9]{3})(?:_([0-9]{3}))? for FaceForensics++: nobody is in two splits."""
    cache_dir: Path = Path("data/clip_cache")
    """Where the face crops of the clips are kept, decoded once."""
    faces: Literal["auto", "mtcnn", "yunet", "boxes", "crops", "centre"] = "auto"
    """Where the faces are: found by mtcnn (facenet-pytorch; auto, where it is installed) or yunet (OpenCV, with
    --face-model); given as --boxes; the frames themselves (crops); or a crop of the centre, which counts as none."""
    face_model: Path | None = None
    """ONNX file of YuNet."""
    boxes: Path | None = None
    """Table of faces: file,frame,left,top,right,bottom."""

    predict: Path | None = None
    """Don't train: score this video, image, or everything in this folder, where subfolders of nothing but images are
    clips ..."""
    output: Path = Path("outputs/videos")
    """... and write results.csv and a folder a video here."""
    checkpoint: Path | None = None
    """Score or test with this one; by default models/<name>_best.pth."""
    pictures: bool = True
    """Draw contact sheet, timeline, heatmaps and an annotated video of what is scored."""
    threshold: float | None = None
    """Calibrated probability from which a clip is called fake; by default the training's, there 0.5."""
    min_coverage: float | None = None
    """The verdict is inconclusive where a face was found in a smaller share of the sampled frames; by default the
    training's, there 0.3."""
    evaluate: bool = False
    """Don't train: test the checkpoint on the test split."""

    encoder_name: str = "tf_efficientnet_b0"
    """Network of timm that sees each frame: tf_efficientnet_b0, tf_efficientnet_b3 (its own input size, batch, rate and
    accumulation then), or another with features at strides 8, 16 and 32."""
    encoder_weights: str = "hub"
    """hub (timm's), none, auto (hub, or none when it can't be reached), or a file with timm's key names (of
    mobilenetv2_100 also torchvision's)."""
    image_size: int = 224
    """Side of the face crops in pixels."""
    frames: int = 24
    """Frames of a clip, evenly spaced in time; all of a shorter one."""
    hidden: int = 512
    """Width of the GRU, each way."""
    layers: int = 2
    """Of the GRU."""
    dropout: float = 0.3
    """Between the GRU's layers, and in the head."""
    attention: bool = True
    """Weigh channels and places of the frames' features."""
    multi_scale: bool = True
    """Add what the network sees at strides 8 and 16."""
    temporal: bool = True
    """The GRU; without it the mean over the frames' own logits, as of a plain classifier."""
    freeze_batch_norm: bool = False
    """Keep the encoder's batch statistics as pretrained: the frames of a clip resemble each other too much to make new
    ones of a small batch."""
    frozen_epochs: int = 10
    """The encoder learns from this epoch on (counted from 0)."""

    focal_gamma: float = 2.0
    """How strongly easy clips are weighed down."""
    frame_weight: float = 0.2
    """Of the loss of each frame's own score, beside the clip's. The seed has none: its frames' scores say nothing."""
    augment: bool = True
    """Flips, brightness, contrast, compression, resizing, blur: one draw for all frames of a clip."""

    batch_size: int = 8
    """Clips a step and process."""
    epochs: int = 25
    """Passes over the training clips."""
    lr: float = 1e-4
    """Learning rate at the beginning of each cycle."""
    schedule: Literal["constant", "one_cycle", "cosine", "warm_restarts"] = "warm_restarts"
    """As in the seed."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip_grad: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    patience: int = 7
    """Epochs without a better score after which the training ends, counted from when the encoder learns; 0 never."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return super()._rules() | {
            **{name: (getattr(self, name) > 0, "1 or more") for name in ("frames", "hidden", "layers")},
            "image_size": (self.image_size >= 64, "64 or more"),
            "dropout": (0 <= self.dropout < 1, "from 0 to less than 1"),
            "frozen_epochs": (
                0 <= self.frozen_epochs < self.epochs or self.epochs == 0,
                f"0 or more and below --epochs ({self.epochs}): the encoder has to learn too",
            ),
            "focal_gamma": (self.focal_gamma >= 0, "0 or more"),
            "frame_weight": (self.frame_weight >= 0, "0 or more"),
            "threshold": (self.threshold is None or 0 < self.threshold < 1, "above 0 and below 1"),
            "min_coverage": (self.min_coverage is None or 0 <= self.min_coverage <= 1, "from 0 to 1"),
            "predict": (self.predict is None or not self.evaluate, "left out beside --evaluate"),
            "face_model": (self.face_model is None or self.faces == "yunet", "left out, or beside --faces yunet"),
            "boxes": (self.boxes is None or self.faces == "boxes", "left out, or beside --faces boxes"),
            "faces": (
                (self.faces != "yunet" or self.face_model is not None)
                and (self.faces != "boxes" or self.boxes is not None),
                "beside --face-model ONNX (yunet) or --boxes TABLE (boxes)",
            ),
            "identity": (_is_pattern(self.identity), "a regular expression"),
        }

    def b3(self) -> Self:
        """EfficientNet-B3 as in the seed."""
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


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True

"""Is the face in a clip fake: the checkpoints of script 8, asked about videos, images and folders of frames."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.clip_faces import ClipFaces, FaceTrack, extract_faces
from common.data.faces import FaceDetector
from common.errors import UserError
from common.evaluation.calibration import calibrated
from common.networks.gradcam import MultiScaleGradCAM
from common.networks.spotter import TemporalCNNGRU
from common.training.checkpoint import VIDEO_KEYS, load_checkpoint, load_spotter

import numpy as np
import torch
from torch import Tensor

NAME = "deepfake_video"
"""A checkpoint is called models/deepfake_video*_best.pth."""
HEAT_SIZE = (28, 28)
"""Of the heatmaps: the finest scale of EfficientNet-B0 at 224 px."""


@dataclass(frozen=True, eq=False)
class TrackScore:
    """What a detector says of one face, n frames."""

    number: int
    """Among the clip's, from 1, the most prominent first."""
    probability: float
    """That it is fake, calibrated, in (0, 1): of its frames together, in their order."""
    frame_scores: np.ndarray
    """That of each frame, beside those around it: float64 (n,), calibrated alike. Without a GRU, by itself."""
    heatmaps: np.ndarray | None
    """What speaks for fake, float32 (n, 28, 28) in [0, 1], 1 where all scales are at their most in this clip; each
    covers its whole crop. None where none were asked for."""
    faces: FaceTrack


@dataclass(frozen=True, eq=False)
class VideoScore:
    """What a detector says of one clip."""

    path: Path
    probability: float
    """That it is fake, calibrated, in (0, 1): its deciding face's."""
    verdict: str
    """`fake`, `real`, or `inconclusive`: no face was found in enough of its frames."""
    threshold: float
    """Probability from which it is called fake."""
    checkpoint: str
    """First 16 hex digits of the checkpoint's SHA-256."""
    track: TrackScore
    """The deciding face: of those that were found often enough the most suspicious; without any, the most
    prominent."""
    tracks: tuple[TrackScore, ...]
    faces: ClipFaces
    warnings: tuple[str, ...]
    """What one should know of it, those of `faces` first."""
    seconds: float
    """That reading and scoring took."""


class VideoDetector:
    """A trained network of script 8, with its calibration, threshold, and the faces it looks at."""

    def __init__(
        self,
        model: TemporalCNNGRU,
        checkpoint: dict[str, Any],
        checkpoint_hash: str,
        device: torch.device,
        faces: FaceDetector,
        *,
        threshold: float | None = None,
        min_coverage: float | None = None,
    ) -> None:
        """Hold them.

        Args:
            model: In evaluation mode; its parameters are frozen here, so that maps of it need little memory.
            checkpoint: Its `calibration` and `config`.
            checkpoint_hash: See `VideoScore.checkpoint`.
            device: Where the network runs.
            faces: Finds the faces.
            threshold: Calibrated probability from which a clip is called fake; None for the checkpoint's.
            min_coverage: Share of the sampled frames in which a face must be found to decide; likewise.
        """
        config = checkpoint["config"]
        self.model = model.to(device).requires_grad_(False)
        self.calibration, self.hash, self.device, self.faces = checkpoint["calibration"], checkpoint_hash, device, faces
        self.frames, self.size = config["frames"], config["image_size"]
        self.threshold = config["threshold"] if threshold is None else threshold
        self.min_coverage = config["min_coverage"] if min_coverage is None else min_coverage
        self._explain = MultiScaleGradCAM(self.model, self.model.cam_layers, size=HEAT_SIZE)

    def predict(self, path: Path, *, explain: bool = True) -> VideoScore:
        """Score a clip.

        The more faces it has, the likelier it is that the most suspicious of them is called fake by mistake.

        Args:
            path: A video, an image, or a folder of frames.
            explain: Make heatmaps, which takes a backward pass besides.

        Raises:
            UserError: As `extract_faces`.
        """
        start = time.perf_counter()
        faces = extract_faces(path, self.faces, frames=self.frames, size=self.size)
        tracks = tuple(self._score(number, faces, explain) for number in range(1, len(faces.tracks) + 1))
        covered = [track for track in tracks if track.faces.coverage >= self.min_coverage]
        warnings = faces.warnings
        if covered:
            track = max(covered, key=lambda track: track.probability)
            verdict = "fake" if track.probability >= self.threshold else "real"
        else:
            track, verdict = tracks[0], "inconclusive"
            most = max(track.faces.coverage for track in tracks)
            wanted = f"a verdict needs {self.min_coverage:.0%}"
            warnings = (*warnings, f"inconclusive: a face was found in {most:.0%} of the sampled frames, {wanted}")
        seconds = time.perf_counter() - start
        return VideoScore(
            path, track.probability, verdict, self.threshold, self.hash, track, tracks, faces, warnings, seconds
        )

    def _score(self, number: int, clip: ClipFaces, explain: bool) -> TrackScore:
        """One face of a clip."""
        faces = clip.tracks[number - 1]
        crops = torch.from_numpy(faces.crops).permute(0, 3, 1, 2)[None].to(self.device)
        heatmaps = None
        if explain:
            maps = self._explain(crops, target=_fake_logit, clips=1, return_temporal=True)
            (logits, temporal), heatmaps = maps.output, maps.fused.float().cpu().numpy()
        else:
            with torch.inference_mode():
                logits, temporal = self.model(crops, return_temporal=True)
        with torch.inference_mode():
            frame_logits = self.model.frame_logits(temporal)
        (probability,), frame_scores = self._calibrated(logits), self._calibrated(frame_logits[0])
        return TrackScore(number, float(probability), frame_scores, heatmaps, faces)

    def _calibrated(self, logits: Tensor) -> np.ndarray:
        """Probabilities (n,) of logits (n, 2)."""
        raw = (logits[:, 1] - logits[:, 0]).double().sigmoid()
        return np.array([calibrated(value, **self.calibration) for value in raw.tolist()])


def _fake_logit(output: tuple[Tensor, Tensor]) -> Tensor:
    """Logit of fake against real, (B,): whatever the verdict, maps of it show what speaks for fake."""
    logits, _ = output
    return logits[:, 1] - logits[:, 0]


def find_video_detector(models_dir: Path) -> Path | None:
    """The checkpoint models/deepfake_video*_best.pth; None where there is none.

    Raises:
        UserError: There are several.
    """
    found = sorted(models_dir.glob(f"{NAME}*_best.pth"))
    if len(found) > 1:
        listing = ", ".join(path.name for path in found)
        raise UserError(
            f"{models_dir} has several detectors of deepfake videos: {listing}. Keep one there, or leave the videos "
            "out: --no-videos."
        )
    return found[0] if found else None


def load_video_detector(
    path: Path,
    device: torch.device,
    faces: FaceDetector,
    *,
    threshold: float | None = None,
    min_coverage: float | None = None,
) -> VideoDetector:
    """Load a checkpoint of script 8; for the rest see `VideoDetector`.

    Raises:
        UserError: It can't be read, or is of another kind.
    """
    checkpoint = load_checkpoint(path, VIDEO_KEYS)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    model = load_spotter(checkpoint, path)
    return VideoDetector(model, checkpoint, digest, device, faces, threshold=threshold, min_coverage=min_coverage)

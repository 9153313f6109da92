"""Is the face in a clip fake: the checkpoints of script 8, asked about videos, images and folders of frames."""

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.metrics.calibration import calibrated
from common.training.checkpoint import find_checkpoint, load_checkpoint
from common.video.clip_faces import ClipFaces, FaceTrack, extract_faces
from common.video.faces import FaceDetector
from common.video.gradcam import MultiScaleGradCAM
from common.video.network import VIDEO_KEYS, TemporalCNNGRU, load_spotter

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
    faces: FaceTrack
    heatmaps: np.ndarray | None = None
    """What speaks for fake, float32 (n, 28, 28) in [0, 1], 1 where all scales are at their most in this clip; each
    covers its whole crop. None but for the deciding face, and where none were asked for."""


@dataclass(frozen=True, eq=False)
class VideoScore:
    """What a detector says of one clip."""

    path: Path
    probability: float
    """That it is fake, calibrated, in (0, 1): its deciding face's."""
    verdict: str
    """`fake`, `real`, or `inconclusive`: faces were found in too few of its frames, or none of them in enough to be
    sure that it is one."""
    threshold: float
    """Probability from which it is called fake."""
    checkpoint: str
    """First 16 hex digits of the checkpoint's SHA-256."""
    track: TrackScore
    """The deciding face: of those that may decide the most suspicious; without a verdict, the most prominent."""
    tracks: tuple[TrackScore, ...]
    faces: ClipFaces
    warnings: tuple[str, ...]
    """What one should know of it, those of `faces` first."""
    seconds: float
    """That reading and scoring took."""

    @property
    def coverage(self) -> float:
        """Share of the clip's sampled frames in which any face was found, in [0, 1]."""
        return self.faces.coverage


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
            checkpoint: Its `calibration`, `config`, and, if it has it, `face_detector`: the name of the one whose faces
                it was trained on.
            checkpoint_hash: See `VideoScore.checkpoint`.
            device: Where the network runs.
            faces: Finds the faces.
            threshold: Calibrated probability from which a clip is called fake; None for the checkpoint's.
            min_coverage: Share of the sampled frames in which a face, whichever, must be found for a verdict; likewise.
        """
        config = checkpoint["config"]
        self.model = model.to(device).requires_grad_(False)
        self.calibration, self.hash, self.device, self.faces = checkpoint["calibration"], checkpoint_hash, device, faces
        self.frames, self.size = config["frames"], config["image_size"]
        self.threshold = config["threshold"] if threshold is None else threshold
        self.min_coverage = config["min_coverage"] if min_coverage is None else min_coverage
        self._explain = MultiScaleGradCAM(self.model, self.model.cam_layers, size=HEAT_SIZE)
        self._warnings = _warnings(checkpoint, faces)

    def predict(self, path: Path, *, explain: bool = True) -> VideoScore:
        """Score a clip.

        The more faces it has, the likelier it is that the most suspicious of them is called fake by mistake.

        Args:
            path: A video, an image, or a folder of frames.
            explain: Make heatmaps of the deciding face, which takes a forward and a backward pass besides.

        Raises:
            UserError: As `extract_faces`.
        """
        start = time.perf_counter()
        faces = extract_faces(path, self.faces, frames=self.frames, size=self.size)
        tracks = [self._score(number, track) for number, track in enumerate(faces.tracks, 1)]
        warnings = (*faces.warnings, *self._warnings)
        if (reason := self._undecided(faces)) is None:
            track = max((t for t in tracks if faces.may_decide(t.faces)), key=lambda track: track.probability)
            verdict = "fake" if track.probability >= self.threshold else "real"
        else:
            track, verdict = tracks[0], "inconclusive"
            warnings = (*warnings, f"inconclusive: {reason}")
        if explain:
            track = replace(track, heatmaps=self._heatmaps(track.faces))
            tracks[track.number - 1] = track
        seconds = time.perf_counter() - start
        return VideoScore(
            path, track.probability, verdict, self.threshold, self.hash, track, tuple(tracks), faces, warnings, seconds
        )

    def _undecided(self, faces: ClipFaces) -> str | None:
        """Why there is no verdict on a clip; None if there is one."""
        sampled = len(faces.indices)
        if faces.coverage < self.min_coverage:
            wanted = f"a verdict needs {100 * self.min_coverage:.3g}% of them"
            return f"a face was found in {faces.found.sum()} of {sampled} sampled frames, {wanted}"
        most = max(track.found.sum() for track in faces.tracks)
        if most < faces.min_found:
            wanted = f"a verdict needs {faces.min_found}"
            return f"no face that was followed was found in more than {most} of {sampled} sampled frames, {wanted}"
        return None

    def _score(self, number: int, faces: FaceTrack) -> TrackScore:
        with torch.inference_mode():
            logits, temporal = self.model(self._crops(faces), return_temporal=True)
            frame_logits = self.model.frame_logits(temporal)
        (probability,), frame_scores = self._calibrated(logits), self._calibrated(frame_logits[0])
        return TrackScore(number, float(probability), frame_scores, faces)

    def _heatmaps(self, faces: FaceTrack) -> np.ndarray:
        maps = self._explain(self._crops(faces), target=_fake_logit, clips=1)
        return maps.fused.float().cpu().numpy()

    def _crops(self, faces: FaceTrack) -> Tensor:
        """As the network takes them: uint8 (1, n, 3, size, size)."""
        return torch.from_numpy(faces.crops).permute(0, 3, 1, 2)[None].to(self.device)

    def _calibrated(self, logits: Tensor) -> np.ndarray:
        """Probabilities (n,) of logits (n, 2)."""
        raw = (logits[:, 1] - logits[:, 0]).double().sigmoid()
        return np.array([calibrated(value, **self.calibration) for value in raw.tolist()])


def _fake_logit(logits: Tensor) -> Tensor:
    """Logit of fake against real, (B,): whatever the verdict, maps of it show what speaks for fake."""
    return logits[:, 1] - logits[:, 0]


def _warnings(checkpoint: dict[str, Any], faces: FaceDetector) -> list[str]:
    """What one should know of every score."""
    warnings = []
    if (trained := checkpoint.get("face_detector", faces.name)) != faces.name:
        warnings.append(f"the faces of the training came from: {trained}; these from: {faces.name}")
    if checkpoint["calibration"]["slope"] == 0:
        warnings.append("the network told nothing apart in its validation: every clip gets the same probability")
    return warnings


def find_video_detector(models_dir: Path) -> Path | None:
    """The checkpoint models/deepfake_video*_best.pth; None where there is none.

    Raises:
        UserError: There are several.
    """
    return find_checkpoint(models_dir, NAME, "deepfake videos", "leave the videos out: --no-videos")


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
    if not path.is_file():
        raise UserError(f"{path} does not exist. Train it with script_8_deepfake_video.py, or name another checkpoint.")
    checkpoint = load_checkpoint(path, VIDEO_KEYS)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    model = load_spotter(checkpoint, path)
    return VideoDetector(model, checkpoint, digest, device, faces, threshold=threshold, min_coverage=min_coverage)

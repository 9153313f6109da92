"""Detector of fake faces in videos, images and folders of frames, from a checkpoint of script 8."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.files import file_hash
from common.metrics.calibration import calibrated
from common.networks.pixels import probabilities
from common.training.checkpoint import find_checkpoint, load_checkpoint
from common.video.clip_faces import ClipFaces, FaceTrack, extract_faces
from common.video.config import FaceKind
from common.video.faces import FaceDetector, make_face_detector
from common.video.gradcam import MultiScaleGradCAM
from common.video.network import VIDEO_KEYS, TemporalCNNGRU, load_spotter

NAME = "deepfake_video"
"""Checkpoints are called models/deepfake_video*_best.pth."""
HEAT_SIZE = (28, 28)
"""Height and width of the heatmaps: the finest scale of EfficientNet-B0 at 224 px."""


@dataclass(frozen=True, eq=False)
class TrackScore:
    """Scores of one face, n frames."""

    number: int
    """Number among the clip's faces, from 1, the most prominent first."""
    probability: float
    """Calibrated probability, in (0, 1), that the face is fake: of its frames together, in their order."""
    frame_scores: np.ndarray
    """Calibrated probability of each frame in the context of the others: float64 (n,). Without a GRU, on its own."""
    faces: FaceTrack
    heatmaps: np.ndarray | None = None
    """Class activation maps of fake, float32 (n, 28, 28) in [0, 1], each of its whole crop: 1 where all scales have
    their maximum in this clip, 0 outside the face's box. None for faces that don't decide, and where no maps were
    requested."""
    heat_outside: float = 0.0
    """Share of the maps that lay outside the boxes and was removed, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class VideoScore:
    """Score and verdict of one clip."""

    path: Path
    probability: float
    """Calibrated probability, in (0, 1), that the clip is fake: that of its deciding face."""
    verdict: str
    """`fake`, `real`, or `inconclusive`: faces were found in too few of the frames, or none of them in enough, or the
    network knows single images alone."""
    reason: str
    """Why the verdict is `inconclusive`, which is the last of the warnings too; empty if it is not."""
    threshold: float
    """Probability from which the verdict is fake."""
    checkpoint: str
    """First 16 hex digits of the checkpoint's SHA-256."""
    track: TrackScore
    """The deciding face: the most suspicious one that may decide; without a verdict, the most prominent one."""
    tracks: tuple[TrackScore, ...]
    faces: ClipFaces
    warnings: tuple[str, ...]
    """The warnings of `faces`, then those of the detector."""
    seconds: float
    """Time that reading and scoring took."""


class VideoDetector:
    """A trained network of script 8 with its calibration, its threshold and a face detector."""

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
        """Put them together.

        Args:
            model: In evaluation mode. Its parameters are frozen here, so that heatmaps need little memory.
            checkpoint: Its `calibration`, `config` and, if present, `face_detector`, the name of the training's,
                `stills_only` and `self_blended` (`common.video.training.train_spotter`).
            checkpoint_hash: See `VideoScore.checkpoint`.
            device: Device of the network.
            faces: Detects the faces.
            threshold: Calibrated probability from which a clip is fake; None for the checkpoint's.
            min_coverage: Share of the sampled frames in which some face must be found for a verdict; None for the
                checkpoint's.
        """
        config = checkpoint["config"]
        self.model = model.to(device).requires_grad_(requires_grad=False)
        self.calibration, self.hash, self.device, self.faces = checkpoint["calibration"], checkpoint_hash, device, faces
        self.frames, self.size = config["frames"], config["image_size"]
        self.threshold = config["threshold"] if threshold is None else threshold
        self.min_coverage = config["min_coverage"] if min_coverage is None else min_coverage
        self.stills_only = checkpoint.get("stills_only")  # None: of an earlier version, which did not note it
        self._explain = MultiScaleGradCAM(self.model, self.model.features.tap_layers, size=HEAT_SIZE)
        self._warnings = []
        if (trained := checkpoint.get("face_detector", faces.name)) != faces.name:
            self._warnings.append(f"the faces of the training came from: {trained}; these from: {faces.name}")
        if checkpoint.get("self_blended"):
            made_of = "real faces blended with themselves, not deepfakes"
            self._warnings.append(f"trained and calibrated on {made_of}: the network knows traces of blending alone")
        if self.calibration["slope"] == 0:
            reason = "the network did not separate the classes in its validation"
            self._warnings.append(f"{reason}: every clip gets the same probability")

    def predict(self, path: Path, *, explain: bool = True) -> VideoScore:
        """Score a clip.

        Each additional face makes it likelier that the most suspicious one is called fake by mistake.

        Args:
            path: A video, an image, or a folder of frames.
            explain: Make heatmaps of the deciding face, which takes another forward pass and a backward pass.

        Raises:
            UserError: As `extract_faces`.
        """
        start = time.perf_counter()
        faces = extract_faces(path, self.faces, frames=self.frames, size=self.size)
        tracks = [self._score(number, track) for number, track in enumerate(faces.tracks, 1)]
        warnings = (*faces.warnings, *self._warnings)
        if self.stills_only is None and len(faces.indices) > 1:
            what = "whether it was trained on clips or on single images"
            warnings = (*warnings, f"the checkpoint does not say {what}: if on images, the probability is wrong")
        if reason := self._undecided(faces):
            track, verdict = tracks[0], "inconclusive"
            warnings = (*warnings, f"inconclusive: {reason}")
        else:
            track = max((t for t in tracks if faces.may_decide(t.faces)), key=lambda track: track.probability)
            verdict = "fake" if track.probability >= self.threshold else "real"
        if explain:
            maps = self._explain(self._crops(track.faces), target=_fake_logit, clips=1).fused.float().cpu().numpy()
            inside = maps * box_shares(track.faces.boxes, track.faces.areas)
            outside = 1 - float(inside.sum() / maps.sum()) if maps.any() else 0.0
            track = replace(track, heatmaps=inside, heat_outside=outside)
            tracks[track.number - 1] = track
        return VideoScore(
            path=path,
            probability=track.probability,
            verdict=verdict,
            reason=reason,
            threshold=self.threshold,
            checkpoint=self.hash,
            track=track,
            tracks=tuple(tracks),
            faces=faces,
            warnings=warnings,
            seconds=time.perf_counter() - start,
        )

    def _undecided(self, faces: ClipFaces) -> str:
        """Why there is no verdict on a clip; empty if there is one."""
        sampled = len(faces.indices)
        if self.stills_only and sampled > 1:
            return f"the network was trained or calibrated on single images, and this clip has {sampled} sampled frames"
        if faces.coverage < self.min_coverage:
            wanted = f"a verdict needs {100 * self.min_coverage:.3g}% of them"
            return f"a face was found in {faces.found.sum()} of {sampled} sampled frames, {wanted}"
        most = max(track.found.sum() for track in faces.tracks)
        if most < faces.min_found:
            wanted = f"a verdict needs {faces.min_found}"
            return f"no tracked face was found in more than {most} of {sampled} sampled frames, {wanted}"
        return ""

    def _score(self, number: int, faces: FaceTrack) -> TrackScore:
        with torch.inference_mode():
            logits, frame_logits = self.model(self._crops(faces), return_frames=True)
        (probability,), frame_scores = self._calibrated(logits), self._calibrated(frame_logits[0])
        return TrackScore(number, float(probability), frame_scores, faces)

    def _crops(self, faces: FaceTrack) -> Tensor:
        """The network's input, uint8 (1, n, 3, size, size)."""
        return torch.from_numpy(faces.crops).permute(0, 3, 1, 2)[None].to(self.device)

    def _calibrated(self, logits: Tensor) -> np.ndarray:
        """Probabilities (n,) of logits (n, 2)."""
        raw = probabilities(_fake_logit(logits).double())
        if not raw.isfinite().all():
            raise UserError("the network's result is not finite. Train it again (script_8_deepfake_video.py).")
        return np.array([calibrated(value, **self.calibration) for value in raw.tolist()])


def box_shares(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Share of each cell of a heatmap that lies in the face's box.

    Args:
        boxes: Left, top, right, bottom of the faces, (n, 4).
        areas: Those of the crops that the heatmaps cover, in the same unit, (n, 4).

    Returns:
        float32 (n, 28, 28) in [0, 1].
    """
    shares = []
    for start, cells in ((1, HEAT_SIZE[0]), (0, HEAT_SIZE[1])):
        first, last = areas[:, start, None], areas[:, start + 2, None]
        edges = first + (last - first) * np.arange(cells + 1) / cells
        within = edges.clip(boxes[:, start, None], boxes[:, start + 2, None])
        shares.append(np.diff(within) / np.diff(edges))
    return (shares[0][:, :, None] * shares[1][:, None]).astype(np.float32)


def _fake_logit(logits: Tensor) -> Tensor:
    """Logit of fake against real, (B,); heatmaps are of it even if the verdict is real."""
    return logits[:, 1] - logits[:, 0]


def find_video_detector(models_dir: Path) -> Path | None:
    """The checkpoint models/deepfake_video*_best.pth; None if there is none.

    Raises:
        UserError: There are several.
    """
    return find_checkpoint(models_dir, NAME, "deepfake videos", "leave the videos out")


def load_video_detector(
    path: Path,
    device: torch.device,
    *,
    faces: FaceKind = "auto",
    face_model: Path | None = None,
    boxes: Path | None = None,
    threshold: float | None = None,
    min_coverage: float | None = None,
) -> VideoDetector:
    """Load a checkpoint of script 8 and make its face detector.

    Args:
        path: The checkpoint.
        device: Device of the network.
        faces: Kind of face detector, see `make_face_detector`.
        face_model: ONNX file of YuNet, for `yunet`.
        boxes: Table of face boxes, for `boxes`.
        threshold: See `VideoDetector`.
        min_coverage: See `VideoDetector`.

    Raises:
        UserError: The checkpoint can't be read or is of another kind, or as `make_face_detector`.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Train it with script_8_deepfake_video.py, or name another checkpoint.")
    checkpoint = load_checkpoint(path, VIDEO_KEYS)
    digest = file_hash(path)[:16]
    model, finder = load_spotter(checkpoint, path), make_face_detector(faces, model=face_model, boxes=boxes)
    return VideoDetector(model, checkpoint, digest, device, finder, threshold=threshold, min_coverage=min_coverage)

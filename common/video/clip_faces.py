"""From a clip's file to the crops of its faces: the one path, for training's cache and for prediction."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.video.faces import FACE_MARGIN, FaceDetector, WholeFrame, crop_area, face_area
from common.video.files import Frame, Video, open_video, read_frames, uniform_indices
from common.video.tracks import Track, link_faces

MAX_SPACING = 2.0
"""Sampled frames farther apart than so many seconds are warned of: what happens between them is not seen."""
MIN_FOUND = 3
"""A face found in fewer frames decides nothing, but in a clip of fewer frames: detectors err in single ones."""


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """One face of a clip, from the first to the last sampled frame in which it was found; n frames."""

    crops: np.ndarray
    """RGB, uint8 (n, size, size, 3)."""
    positions: np.ndarray
    """Which of the clip's sampled frames: int64 (n,), consecutive."""
    indices: np.ndarray
    """Their numbers in the clip: int64 (n,)."""
    times: np.ndarray
    """Seconds since the clip's first frame: float64 (n,)."""
    boxes: np.ndarray
    """Left, top, right, bottom of the face in px of the upright frame, not enlarged: float64 (n, 4)."""
    areas: np.ndarray
    """Likewise of what each crop shows; it may reach beyond the frame: int64 (n, 4)."""
    found: np.ndarray
    """Whether the detector found it there: bool (n,). Elsewhere its box is interpolated."""
    coverage: float
    """Share of all the clip's sampled frames in which it was found, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class ClipFaces:
    """The faces of one clip in m sampled frames."""

    video: Video
    indices: np.ndarray
    """Numbers of the sampled frames that could be decoded: int64 (m,)."""
    times: np.ndarray
    """Their times: float64 (m,)."""
    tracks: tuple[FaceTrack, ...]
    """The most prominent first, by coverage × mean area. Where no face was found it is one of centre crops, with
    `found` false everywhere and coverage 0."""
    warnings: tuple[str, ...]
    """What one should know of it, the video's own warnings first."""

    @property
    def found(self) -> np.ndarray:
        """In which of the sampled frames any of these faces was found: bool (m,)."""
        found = np.zeros(len(self.indices), bool)
        for track in self.tracks:
            found[track.positions] |= track.found
        return found

    @property
    def coverage(self) -> float:
        """Share of the sampled frames in which any of these faces was found, in [0, 1]."""
        return float(self.found.mean())

    @property
    def min_found(self) -> int:
        """In how many sampled frames a face must be found to decide."""
        return min(MIN_FOUND, len(self.indices))

    def may_decide(self, track: FaceTrack) -> bool:
        """Whether one of these faces was found often enough to decide what the clip is."""
        return int(track.found.sum()) >= self.min_found


def extract_faces(path: Path, detector: FaceDetector, *, frames: int, size: int) -> ClipFaces:
    """Sample a clip, find its faces, follow and crop them.

    A face found in one frame only is dropped if another was found in more: detectors err in single frames. All sampled
    frames are held in memory at once, because a box that is interpolated is known only at the end.

    Args:
        path: A video, an image, or a folder of frames.
        detector: Finds the faces.
        frames: How many frames are sampled, evenly over the clip's time; fewer where it has fewer.
        size: Side of the crops in px.

    Raises:
        UserError: The file can't be decoded, or the detector's model or table is at fault.
    """
    video = open_video(path)
    wanted = uniform_indices(video.times, frames)
    decoded = list(read_frames(video, wanted))
    tracks = _prominent(link_faces([detector.find(frame.image, path, frame.index) for frame in decoded]))

    def area_of(box: np.ndarray) -> np.ndarray:
        if isinstance(detector, WholeFrame):
            return np.array([0, 0, video.width, video.height])
        return face_area(box, margin=FACE_MARGIN if tracks else 1.0)

    return ClipFaces(
        video,
        np.array([frame.index for frame in decoded]),
        np.array([frame.time for frame in decoded]),
        tuple(_face_track(track, decoded, area_of, size) for track in tracks or [_centre_track(decoded)]),
        (*video.warnings, *_warnings(video, wanted, decoded, len(tracks))),
    )


def _prominent(tracks: list[Track]) -> list[Track]:
    """The most prominent first, without those of a single frame if there are others."""
    lasting = [track for track in tracks if track.found.sum() > 1] or tracks
    return sorted(lasting, key=lambda track: _areas(track.boxes[track.found]).sum(), reverse=True)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _centre_track(decoded: list[Frame]) -> Track:
    """The largest central square of each frame."""
    boxes = []
    for frame in decoded:
        height, width = frame.image.shape[:2]
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        boxes.append([left, top, left + side, top + side])
    return Track(np.arange(len(decoded)), np.array(boxes), np.zeros(len(decoded), bool), 0.0)


def _face_track(
    track: Track, decoded: list[Frame], area_of: Callable[[np.ndarray], np.ndarray], size: int
) -> FaceTrack:
    frames = [decoded[position] for position in track.positions]
    areas = np.stack([area_of(box) for box in track.boxes])
    return FaceTrack(
        np.stack([crop_area(frame.image, area, size) for frame, area in zip(frames, areas, strict=True)]),
        track.positions,
        np.array([frame.index for frame in frames]),
        np.array([frame.time for frame in frames]),
        track.boxes,
        areas,
        track.found,
        float(track.found.sum() / len(decoded)),
    )


def _warnings(video: Video, wanted: list[int], decoded: list[Frame], faces: int) -> list[str]:
    warnings = []
    lost = f"{len(wanted) - len(decoded)} of {len(wanted)} sampled frames"
    if decoded[-1].index < wanted[-1]:
        warnings.append(f"decoding broke off after frame {decoded[-1].index} of {len(video.times)}: {lost} are missing")
    elif len(decoded) < len(wanted):
        warnings.append(f"{lost} are broken")
    if faces != 1:
        several = f"{faces} faces (one that was lost, as at a cut, counts anew)"
        warnings.append(several if faces else "no face found: centre crop")
    spacing = np.median(np.diff(video.times[wanted])) if len(wanted) > 1 else 0.0
    if spacing > MAX_SPACING:
        warnings.append(f"sampled frames lie {spacing:.1f} s apart")
    return warnings

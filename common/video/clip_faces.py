"""Extraction of face crops from a clip's file, the same for training and prediction."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.video.faces import FACE_MARGIN, FaceDetector, WholeFrame, crop_area, face_area
from common.video.files import Frame, Video, open_video, read_frames, uniform_indices
from common.video.tracks import Track, link_faces

MAX_SPACING = 2.0
"""Seconds between sampled frames above which a warning is given: what happens between them is not seen."""
MIN_FOUND = 3
"""Frames, or all of a shorter clip, in which a face must be found to decide: detectors err in single frames."""


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """One face of a clip, from the first to the last sampled frame in which it was found; n frames."""

    crops: np.ndarray
    """RGB, uint8 (n, size, size, 3)."""
    positions: np.ndarray
    """Positions among the clip's sampled frames: int64 (n,), consecutive."""
    indices: np.ndarray
    """Frame numbers in the clip, from 0: int64 (n,)."""
    times: np.ndarray
    """Seconds since the clip's first frame: float64 (n,)."""
    boxes: np.ndarray
    """Left, top, right, bottom of the face in px of the upright frame, not enlarged: float64 (n, 4)."""
    areas: np.ndarray
    """Left, top, right, bottom of what each crop shows, in the same px; may reach beyond the frame: int64 (n, 4)."""
    found: np.ndarray
    """Whether the detector found the face: bool (n,). Its box is interpolated where it did not."""
    coverage: float
    """Share of all the clip's sampled frames in which the face was found, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class ClipFaces:
    """The faces of one clip in m sampled frames."""

    video: Video
    indices: np.ndarray
    """Numbers of the sampled frames that could be decoded: int64 (m,)."""
    times: np.ndarray
    """Seconds since the clip's first frame: float64 (m,)."""
    tracks: tuple[FaceTrack, ...]
    """The most prominent first, by coverage × mean area. If no face was found, one track of centre crops with `found`
    false everywhere and coverage 0."""
    warnings: tuple[str, ...]
    """The video's own warnings, then those about its faces."""

    @property
    def found(self) -> np.ndarray:
        """Whether any of the faces was found in a sampled frame: bool (m,)."""
        found = np.zeros(len(self.indices), bool)
        for track in self.tracks:
            found[track.positions] |= track.found
        return found

    @property
    def coverage(self) -> float:
        """Share of the sampled frames in which any of the faces was found, in [0, 1]."""
        return float(self.found.mean())

    @property
    def min_found(self) -> int:
        """Number of sampled frames in which a face must be found to decide."""
        return min(MIN_FOUND, len(self.indices))

    def may_decide(self, track: FaceTrack) -> bool:
        """Whether a face was found in enough frames to decide what the clip is."""
        return int(track.found.sum()) >= self.min_found


def extract_faces(path: Path, detector: FaceDetector, *, frames: int, size: int) -> ClipFaces:
    """Sample a clip's frames, and find, track and crop its faces.

    A face found in one frame only is dropped if another was found in more: detectors err in single frames. All sampled
    frames are in memory at once, because boxes are interpolated after the last.

    Args:
        path: A video, an image, or a folder of frames.
        detector: Finds the faces.
        frames: Number of frames sampled, evenly over the clip's time; all of a shorter clip.
        size: Side of the crops in px.

    Raises:
        UserError: The file can't be decoded, or as the detector.
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
    return sorted(lasting, key=lambda track: _area(track.boxes[track.found]), reverse=True)


def _area(boxes: np.ndarray) -> float:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).sum()


def _centre_track(decoded: list[Frame]) -> Track:
    """The largest central square of each frame."""
    sizes = np.array([frame.image.shape[1::-1] for frame in decoded])
    corners = (sizes - sizes.min(axis=1, keepdims=True)) / 2
    return Track(np.arange(len(decoded)), np.hstack([corners, sizes - corners]), np.zeros(len(decoded), bool))


def _face_track(
    track: Track, decoded: list[Frame], area_of: Callable[[np.ndarray], np.ndarray], size: int
) -> FaceTrack:
    frames = [decoded[position] for position in track.positions]
    areas = np.stack([area_of(box) for box in track.boxes])
    return FaceTrack(
        crops=np.stack([crop_area(frame.image, area, size) for frame, area in zip(frames, areas, strict=True)]),
        positions=track.positions,
        indices=np.array([frame.index for frame in frames]),
        times=np.array([frame.time for frame in frames]),
        boxes=track.boxes,
        areas=areas,
        found=track.found,
        coverage=float(track.found.sum() / len(decoded)),
    )


def _warnings(video: Video, wanted: list[int], decoded: list[Frame], faces: int) -> list[str]:
    warnings = []
    lost = f"{len(wanted) - len(decoded)} of {len(wanted)} sampled frames"
    if decoded[-1].index < wanted[-1]:
        warnings.append(f"decoding broke off after frame {decoded[-1].index} of {len(video.times)}: {lost} are missing")
    elif len(decoded) < len(wanted):
        warnings.append(f"{lost} are broken")
    if faces != 1:
        several = f"{faces} faces (one that was lost, as at a cut, counts again)"
        warnings.append(several if faces else "no face found: centre crop")
    spacing = np.median(np.diff(video.times[wanted])) if len(wanted) > 1 else 0.0
    if spacing > MAX_SPACING:
        warnings.append(f"sampled frames lie {spacing:.1f} s apart")
    return warnings

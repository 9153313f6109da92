"""Faces over time: detections in single frames, linked to one track for each face by place and size alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

MAX_MISSED = 5
"""A track goes on over at most so many sampled frames without it; after more, a face is another face."""
MAX_SHIFT = 1.0
"""How far a face moves between two sampled frames at most, in sides of its box: two faces side by side lie farther."""
MAX_GROWTH = 2.0
"""By what factor its side changes at most."""


@dataclass(frozen=True, eq=False)
class Track:
    """One face, from the first to the last sampled frame in which it was found."""

    positions: np.ndarray
    """Which sampled frames: int (n,), consecutive."""
    boxes: np.ndarray
    """Left, top, right, bottom in px: float64 (n, 4); interpolated linearly where it was not found."""
    found: np.ndarray
    """Whether the detector found it there: bool (n,), true at both ends."""
    confidence: float
    """The detector's, in [0, 1]: mean over the frames in which it was found."""


def link_faces(found: Sequence[np.ndarray]) -> list[Track]:
    """Link the detections of a clip's sampled frames to tracks.

    From frame to frame, those tracks and detections are paired that together moved and grew least (Hungarian method;
    moves in sides of the box, growth as logarithm), as far as the bounds above allow. Nothing is known of looks:
    faces that change places between two samples change tracks.

    Args:
        found: For each sampled frame (n, 5): left, top, right, bottom in px, confidence.

    Returns:
        Every detection in exactly one track; tracks in the order of their first frames.
    """
    tracks: list[list[tuple[int, np.ndarray]]] = []
    for position, faces in enumerate(found):
        active = [track for track in tracks if position - track[-1][0] <= MAX_MISSED + 1]
        pairs = _pairs(np.array([track[-1][1] for track in active]).reshape(-1, 5), faces)
        for track, face in pairs:
            active[track].append((position, faces[face]))
        new = sorted(set(range(len(faces))) - {face for _, face in pairs})
        tracks += [[(position, faces[face])] for face in new]
    return [_track(track) for track in tracks]


def _pairs(last: np.ndarray, faces: np.ndarray) -> list[tuple[int, int]]:
    """Which of the tracks' last boxes (m, 5) and detections (n, 5) are the same face."""
    (centres, sides), (new_centres, new_sides) = _places(last), _places(faces)
    mean_side = (sides[:, None] + new_sides) / 2
    shift = np.linalg.norm(centres[:, None] - new_centres, axis=2) / mean_side
    growth = np.abs(np.log(sides[:, None] / new_sides))
    possible = (shift <= MAX_SHIFT) & (growth <= np.log(MAX_GROWTH))
    # Not to link two costs as much as the farthest link: no face is handed on to the next so that more are linked.
    cost = np.where(possible, shift + growth, MAX_SHIFT + np.log(MAX_GROWTH))
    return [(i, j) for i, j in zip(*linear_sum_assignment(cost), strict=True) if possible[i, j]]


def _places(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2) and sides (n,), the geometric means of width and height."""
    extent = np.maximum(faces[:, 2:4] - faces[:, :2], 1e-6)
    return (faces[:, :2] + faces[:, 2:4]) / 2, np.sqrt(extent.prod(axis=1))


def _track(seen: list[tuple[int, np.ndarray]]) -> Track:
    at, faces = np.array([position for position, _ in seen]), np.stack([face for _, face in seen])
    positions = np.arange(at[0], at[-1] + 1)
    boxes = np.stack([np.interp(positions, at, faces[:, side]) for side in range(4)], axis=1)
    return Track(positions, boxes, np.isin(positions, at), float(faces[:, 4].mean()))

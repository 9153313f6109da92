"""Tracking of faces: detections in single frames, linked to one track per face by position and size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

MAX_MISSED = 5
"""Consecutive sampled frames in which a tracked face may be missed; after more, a detection starts another track."""
MAX_SHIFT = 1.0
"""Largest move between two sampled frames, in sides of the box: two faces side by side are farther apart."""
MAX_GROWTH = 2.0
"""Largest factor by which the side of the box changes between two sampled frames."""


@dataclass(frozen=True, eq=False)
class Track:
    """One face, from the first to the last sampled frame in which it was found."""

    positions: np.ndarray
    """Positions among the sampled frames: int (n,), consecutive."""
    boxes: np.ndarray
    """Left, top, right, bottom in px: float64 (n, 4); interpolated linearly where the face was not found."""
    found: np.ndarray
    """Whether the detector found the face: bool (n,), true at both ends."""


def link_faces(found: Sequence[np.ndarray]) -> list[Track]:
    """Link the detections of a clip's sampled frames to tracks.

    From frame to frame, tracks and detections are paired so that the sum of their moves (in sides of the box) and
    growths (as logarithms) is least, within the bounds above (Hungarian method). Appearance is not compared: faces that
    change places between two samples change tracks.

    Args:
        found: Per sampled frame (n, 5): left, top, right, bottom in px, confidence.

    Returns:
        Tracks in the order of their first frames; every detection is in exactly one.
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
    """Indices of the tracks' last boxes (m, 5) and of the detections (n, 5) that are the same face."""
    (centres, sides), (new_centres, new_sides) = _centres_and_sides(last), _centres_and_sides(faces)
    mean_side = (sides[:, None] + new_sides) / 2
    shift = np.linalg.norm(centres[:, None] - new_centres, axis=2) / mean_side
    growth = np.abs(np.log(sides[:, None] / new_sides))
    possible = (shift <= MAX_SHIFT) & (growth <= np.log(MAX_GROWTH))
    # A pair that is not possible costs as much as the farthest one: no face changes tracks so that more are paired.
    cost = np.where(possible, shift + growth, MAX_SHIFT + np.log(MAX_GROWTH))
    return [(i, j) for i, j in zip(*linear_sum_assignment(cost), strict=True) if possible[i, j]]


def _centres_and_sides(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2), and sides (n,), which are the geometric means of width and height."""
    extent = np.maximum(faces[:, 2:4] - faces[:, :2], 1e-6)
    return (faces[:, :2] + faces[:, 2:4]) / 2, np.sqrt(extent.prod(axis=1))


def _track(seen: list[tuple[int, np.ndarray]]) -> Track:
    at, faces = np.array([position for position, _ in seen]), np.stack([face for _, face in seen])
    positions = np.arange(at[0], at[-1] + 1)
    boxes = np.stack([np.interp(positions, at, faces[:, side]) for side in range(4)], axis=1)
    return Track(positions, boxes, np.isin(positions, at))

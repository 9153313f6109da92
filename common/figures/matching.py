"""Matching of a figure's pictures: each with itself and with every other one, at its own contrast and resolution."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from common.figures.annotations import find_print, without_print
from common.figures.panels import Panel
from common.forensics.copy_move import WORKING_PIXELS, Copy, Group, Matcher, search
from common.forensics.gray import to_gray
from common.forensics.keypoints import (
    ENLARGED,
    ENLARGED_MANY,
    Keypoints,
    concatenated,
    find_keypoints,
    match_between,
    match_within,
)
from common.forensics.matches import Matches

MOST_PICTURES = 64
"""Pictures that are matched in pairs; of more, as of one picture, all key points are matched at once."""
MOST_KEYPOINTS = 8000
"""Of a figure, shared by its pictures according to their areas, and at least `LEAST_KEYPOINTS` of each."""
LEAST_KEYPOINTS = 250
_CLOSE_PIXELS, _CLOSE_KEYPOINTS = 700_000, 2500  # of a picture of a large figure that is searched by itself
_CLOSER, _MOST_CLOSER = 1.2, 16  # factor on the figure's working scale from which that shows more; number of these
_RIM = 3  # pixels of a panel: frames, and borders that scaling and JPEG have mixed with the ground
_PICTURES_PIXELS, _FIGURE_PIXELS = 2_000_000, 4_000_000  # of the working scale of a figure with several pictures


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureSearch:
    """What `search` compares of a figure, and how."""

    gray: np.ndarray
    """uint8 (H, W)"""
    valid: np.ndarray
    """uint8 (H, W), 0 between pictures and under print."""
    scale: float
    """Factor on lengths to the size at which pictures are matched."""
    matcher: Matcher
    closer: list[tuple[tuple[slice, slice], float]]
    """Rows and columns of the pictures that `scale` shrinks most, and the larger scale at which each is searched by
    itself."""


def picture_search(image: np.ndarray, panels: Sequence[Panel], *, between: bool = False) -> PictureSearch:
    """What to compare in a figure: its pictures, or all of it if it has none.

    Args:
        image: uint8 (H, W, 3) RGB.
        panels: Of the figure.
        between: Whether to match the pictures with one another alone, not with themselves.
    """
    height, width = image.shape[:2]
    pictures = [panel for panel in panels if not panel.drawn] or [Panel(0, 0, width, height, "micrograph")]
    scale = working_scale((height, width), pictures)
    gray, valid = picture_gray(image, pictures)
    largest = [] if between else sorted(pictures, key=lambda panel: -panel.width * panel.height)[:_MOST_CLOSER]
    own = [min(1.0, (_CLOSE_PIXELS / (panel.width * panel.height)) ** 0.5) for panel in largest]
    closer = [
        (_without_rim(panel.window), larger)
        for panel, larger in zip(largest, own, strict=True)
        if larger >= _CLOSER * scale
    ]
    # Pictures that are all searched by themselves are matched with one another alone.
    matcher = panel_matcher(pictures, scale, between=between or len(closer) == len(pictures))
    return PictureSearch(gray=gray, valid=valid, scale=scale, matcher=matcher, closer=closer)


def search_pictures(compared: PictureSearch, matchers: Sequence[Matcher] = ()) -> list[Group]:
    """Find what pictures show twice: all of them together, and large ones by themselves at a larger scale.

    In a large figure, at its working scale, small copies are blurred, and the pictures compete for the clusters of
    matches that are aligned.

    Args:
        compared: From `picture_search`.
        matchers: Beside the key points of the pictures.

    Returns:
        The groups by descending score, in pixels of the figure. What is found both ways is there twice.
    """
    gray, valid = compared.gray, compared.valid
    groups = search(gray, (compared.matcher, *matchers), compared.scale, valid)
    for window, scale in compared.closer:
        found = search(np.ascontiguousarray(gray[window]), (_match_closer,), scale, np.ascontiguousarray(valid[window]))
        groups += [Group(copies=tuple(_in_figure(copy, window, gray.shape) for copy in one.copies)) for one in found]
    return sorted(groups, key=lambda group: -group.score)


def _match_closer(gray: np.ndarray) -> Matches:
    return match_within(find_keypoints(gray, _CLOSE_KEYPOINTS))


def _in_figure(copy: Copy, window: tuple[slice, slice], shape: tuple[int, ...]) -> Copy:
    """A copy found in a window, in pixels of the figure."""
    source, target = np.zeros((2, *shape), bool)
    source[window], target[window] = copy.source, copy.target
    corner = np.array([window[1].start, window[0].start])
    linear = copy.matrix[:, :2]
    matrix = np.column_stack([linear, copy.matrix[:, 2] + corner - linear @ corner])
    return replace(copy, source=source, target=target, matrix=matrix, points=copy.points + corner.astype(np.float32))


def picture_gray(image: np.ndarray, pictures: Sequence[Panel]) -> tuple[np.ndarray, np.ndarray]:
    """Gray levels of the pictures, each converted by itself, without print, and where there are any.

    Args:
        image: uint8 (H, W, 3) RGB.
        pictures: Of the figure.

    Returns:
        The gray levels, uint8 (H, W), 0 outside of the pictures, and uint8 (H, W), 1 in the pictures where nothing is
        printed.
    """
    gray, valid = np.zeros((2, *image.shape[:2]), np.uint8)
    for panel in pictures:
        picture = image[panel.window]
        gray[panel.window], valid[panel.window] = gray_without_print(picture, rim=picture.shape != image.shape)
    return gray, valid


def gray_without_print(picture: np.ndarray, *, rim: bool) -> tuple[np.ndarray, np.ndarray]:
    """Gray levels of a picture without print, uint8 (h, w), and where nothing is printed, bool (h, w).

    Args:
        picture: uint8 (h, w, 3) RGB.
        rim: Whether it has neighbours, so that its rim does not count.
    """
    printed = find_print(picture)
    free = ~printed
    if rim:
        free[:_RIM] = free[-_RIM:] = free[:, :_RIM] = free[:, -_RIM:] = False
    return without_print(to_gray(picture), printed), free


def working_scale(shape: tuple[int, int], pictures: Sequence[Panel]) -> float:
    """Factor on lengths, above 0 and at most 1, to the size at which pictures are matched."""
    whole = shape[0] * shape[1]
    if len(pictures) == 1:
        return min(1.0, (WORKING_PIXELS / whole) ** 0.5)
    area = sum(panel.width * panel.height for panel in pictures)
    return min(1.0, (_PICTURES_PIXELS / area) ** 0.5, (_FIGURE_PIXELS / whole) ** 0.5)


def panel_matcher(pictures: Sequence[Panel], scale: float, *, between: bool = False) -> Matcher:
    """A matcher of the key points of each picture with its own and with those of every other one.

    Args:
        pictures: Of the figure, in its own pixels.
        scale: From `working_scale`.
        between: Whether to leave out matches of a picture with itself.
    """
    windows = []
    for panel in pictures:
        rows, columns = (slice(round(s.start * scale), round(s.stop * scale)) for s in panel.window)
        windows.append((rows, columns))

    def match(gray: np.ndarray) -> Matches:
        area = sum(gray[window].size for window in windows)
        enlarged = ENLARGED if len(windows) == 1 else ENLARGED_MANY
        least = min(LEAST_KEYPOINTS, MOST_KEYPOINTS // len(windows))
        shares = [max(round(MOST_KEYPOINTS * gray[window].size / area), least) for window in windows]
        inner = windows if len(windows) == 1 else [_without_rim(window) for window in windows]
        points = [_points(gray, window, share, enlarged) for window, share in zip(inner, shares, strict=True)]
        if len(points) > MOST_PICTURES:
            return match_within(concatenated(points))
        found = [] if between else [match_within(own) for own in points]
        found += [match_between(one, other) for one, other in combinations(points, 2)]
        return Matches.concatenated([Matches.none(), *found])

    return match


def _without_rim(window: tuple[slice, slice]) -> tuple[slice, slice]:
    """A picture's rows and columns without its rim, unless it is tiny.

    Of a bright ground left there even a little passes for the contrast of a dim picture, which then has no key points.
    """
    rows, columns = (slice(s.start + _RIM, s.stop - _RIM) if s.stop - s.start > 8 * _RIM else s for s in window)
    return rows, columns


def _points(gray: np.ndarray, window: tuple[slice, slice], most: int, enlarged: int) -> Keypoints:
    """Key points of a window, in pixels of the image."""
    points = find_keypoints(np.ascontiguousarray(gray[window]), most, enlarged)
    corner = np.array([window[1].start, window[0].start], np.float32)
    return Keypoints(points.place + corner, points.size, points.angle, points.descriptor)

"""Copy-move detection: regions of an image that duplicate another region of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import cv2
import numpy as np

from common.components import connected
from common.forensics.alignment import Aligned, align, cluster_matches, complete_masks, fit_transforms
from common.forensics.blocks import match_blocks
from common.forensics.gray import to_gray
from common.forensics.keypoints import match_keypoints
from common.forensics.matches import Matches
from common.forensics.resemblance import resemblance

VERSION = 8
"""Version of the detector, raised with every change of its results: an ensemble fitted on earlier ones is stale."""
Matcher = Callable[[np.ndarray], Matches]
"""A function from a gray image, uint8 (h, w), to pairs of points that may be copies."""
MATCHERS: tuple[Matcher, ...] = (match_keypoints, match_blocks)
"""Key points for textured regions, blocks for smooth ones."""
WORKING_PIXELS = 1_200_000
"""A picture with more is scaled down to it: memory and time are bounded."""
LEAST_SCORE = 0.02
"""Smallest score of a copy that is returned."""

_MOST_REALIGNED = 1_000_000  # pixels of a region that is aligned again at the image's own size: larger ones are exact
_REALIGNED = 0.3, 2.0  # how much smaller or larger it may become
_MOST_ALIGNED = 24  # transforms that are aligned, those of the largest clusters first: bounds the time
_MOST_COPIES = 12
_SHARED = 0.3  # share of the smaller of two regions from which they are one place


@dataclass(frozen=True, kw_only=True, eq=False)
class Copy:
    """Two regions of an image that match. Which of the two is the original is unknown: the names are arbitrary."""

    source: np.ndarray
    """bool (H, W)"""
    target: np.ndarray
    """bool (H, W): `source` mapped by `matrix`."""
    matrix: np.ndarray
    """float64 (2, 3): x, y of the source ↦ x, y of the target, in pixels; (0, 0) is the centre of the first pixel."""
    points: np.ndarray
    """float32 (n, 2, 2): the matches that `matrix` was first fitted to, x, y of source and target."""
    correlation: float
    """Mean local correlation of the two regions under `matrix`, in [-1, 1]."""
    score: float
    """Calibrated probability in [0, 1] that it is a copy, not a natural repetition."""

    @property
    def mirrored(self) -> bool:
        """Whether the target is a mirror image."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    @property
    def scale(self) -> float:
        """Scale of the target relative to the source, a factor on lengths."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @property
    def rotation(self) -> float:
        """Rotation of the target, clockwise, in degrees within (-180, 180]; of a mirrored one after x ↦ −x."""
        column = self.matrix[:, 0] * (-1 if self.mirrored else 1)
        return float(np.degrees(np.arctan2(column[1], column[0])))


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Regions that match each other, one instance of the metric: two for a single copy, more for several."""

    copies: tuple[Copy, ...]
    """At least one, sorted by descending score."""

    @property
    def mask(self) -> np.ndarray:
        """Union of its regions, bool (H, W)."""
        return np.any([region for copy in self.copies for region in (copy.source, copy.target)], axis=0)

    @property
    def score(self) -> float:
        """Highest score of its copies, in [0, 1]."""
        return self.copies[0].score

    @property
    def inliers(self) -> int:
        """Number of matches that agree with the copies' transforms."""
        return sum(len(copy.points) for copy in self.copies)


def find_copies(image: np.ndarray, matchers: Sequence[Matcher] = MATCHERS) -> list[Group]:
    """Find duplicated regions by matching an image against itself.

    Args:
        image: uint8 (H, W, 3) RGB of any size. Above 1.2 megapixels it is scaled down to that.
        matchers: See `search`.

    Returns:
        The groups by descending score; an empty list where nothing is duplicated.
    """
    height, width = image.shape[:2]
    return search(to_gray(image), matchers, min(1.0, (WORKING_PIXELS / (height * width)) ** 0.5))


def search(
    gray: np.ndarray, matchers: Sequence[Matcher], shrink: float, valid: np.ndarray | None = None
) -> list[Group]:
    """Find duplicated regions of a gray image.

    Matchers propose pairs of points; transforms are fitted to pairs that agree (`common.forensics.alignment`); a region
    is where the pixels correlate under a transform; a logistic model of the region gives the probability that it was
    copied (`common.forensics.resemblance`).

    Args:
        gray: uint8 (H, W).
        matchers: Functions from a gray image, uint8 (h, w), to `Matches`.
        shrink: Factor on lengths, above 0 and at most 1, to the size that matchers see: it bounds memory and time.
        valid: uint8 (H, W), 0 where the image has nothing to compare: between panels, under print. All by default.

    Returns:
        The groups by descending score.
    """
    whole = gray
    gray, small_valid = shrunk(gray, valid, shrink)
    found = candidates(gray, matchers, small_valid)
    pixels = gray.astype(np.float32)
    scores = resemblance(pixels, found)
    best = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= LEAST_SCORE][:_MOST_COPIES]
    groups = _groups([found[i] for i in best], scores[best])
    full = pixels if shrink == 1 else whole.astype(np.float32)
    copies = [_at_size(found[i], float(scores[i]), pixels, full, valid) for i in best]
    members = [[copy for copy, group in zip(copies, groups, strict=True) if group == number] for number in set(groups)]
    return sorted((Group(copies=tuple(group)) for group in members), key=lambda group: -group.score)


def shrunk(gray: np.ndarray, valid: np.ndarray | None, shrink: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Gray levels and valid places, as `search` takes them, at the size that matchers see."""
    if shrink == 1:
        return gray, valid
    size = max(round(gray.shape[1] * shrink), 1), max(round(gray.shape[0] * shrink), 1)
    small = None if valid is None else cv2.resize(valid, size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA), small


def candidates(
    gray: np.ndarray, matchers: Sequence[Matcher] = MATCHERS, valid: np.ndarray | None = None
) -> list[Aligned]:
    """Pairs of similar regions of a gray image, uint8 (H, W), copied or alike by nature; `valid` as for `search`."""
    both = _both_ways(Matches.concatenated([matcher(gray) for matcher in matchers]))
    pixels, found, n_aligned = gray.astype(np.float32), [], 0
    sets = cluster_matches(both, float(np.hypot(*gray.shape)))
    for matrix, points in chain.from_iterable(fit_transforms(both, chosen) for chosen in sets):
        if any(earlier.explains(points) for earlier in found):
            continue
        if n_aligned == _MOST_ALIGNED:
            break
        n_aligned += 1
        if (aligned := align(pixels, matrix, points, valid)) is None:
            continue
        # Its refined transform may equal an earlier one: the one with the larger weight is kept.
        same = [e for e in found if e.explains(aligned.sample) or aligned.explains(e.sample)]
        if all(aligned.weight > earlier.weight for earlier in same):
            found = [earlier for earlier in found if earlier not in same] + [aligned]
    return found


def _both_ways(matches: Matches) -> Matches:
    """All matches in both directions, so that those of one copy share a direction."""
    sound = np.abs(np.linalg.det(matches.linear)) > 1e-2  # else there is no inverse
    source, target, linear = matches.source[sound], matches.target[sound], matches.linear[sound]
    return Matches(
        np.concatenate([source, target]),
        np.concatenate([target, source]),
        np.concatenate([linear, np.linalg.inv(linear)]),
    )


def _groups(found: list[Aligned], scores: np.ndarray) -> list[int]:
    """Group number of each region: regions that share a place are joined, those with a score below 0.5 are not."""
    sure = np.flatnonzero(scores >= 0.5)
    pairs = [(i, j) for i, j in combinations(sure, 2) if share_a_place(found[i], found[j])]
    return connected(np.array(pairs), len(found)).tolist()


def share_a_place(one: Aligned | Copy, other: Aligned | Copy) -> bool:
    """Whether a region of one overlaps a region of the other by more than 30 % of the smaller."""
    regions = [(a, b) for a in (one.source, one.target) for b in (other.source, other.target)]
    return any(np.count_nonzero(a & b) > _SHARED * min(np.count_nonzero(a), np.count_nonzero(b)) for a, b in regions)


def _at_size(aligned: Aligned, score: float, gray: np.ndarray, full: np.ndarray, valid: np.ndarray | None) -> Copy:
    """Convert a result from the working scale to the pixels of the image.

    A region of a scaled-down image is aligned again in the image's own pixels, where a small one is not blurred into
    its surroundings; where that fails, its mask is enlarged.

    Args:
        aligned: At the working scale.
        score: Of the region.
        gray: float32 (h, w), gray levels at the working scale.
        full: float32 (H, W), those of the image.
        valid: uint8 (H, W), as for `search`.
    """
    matrix, points = aligned.matrix, aligned.points
    if gray.shape == full.shape:
        masks = complete_masks(gray, aligned)
        return _copy(matrix, points, masks, aligned.correlation, score)
    factor = np.array(full.shape[::-1]) / gray.shape[::-1]
    shift = (factor - 1) / 2  # corners lie on corners, and centres of pixels half a pixel inside
    linear = factor[:, None] * matrix[:, :2] / factor
    matrix = np.column_stack([linear, factor * matrix[:, 2] + shift - linear @ shift])
    points = (points * factor + shift).astype(np.float32)
    area = np.count_nonzero(aligned.source) * factor.prod()
    again = align(full, matrix, points, valid) if area <= _MOST_REALIGNED else None
    if again is not None and _REALIGNED[0] * area <= np.count_nonzero(again.source) <= _REALIGNED[1] * area:
        return _copy(again.matrix, points, complete_masks(full, again), again.correlation, score)
    height, width = full.shape
    masks = [
        cv2.resize(255 * mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR) > 127
        for mask in complete_masks(gray, aligned)
    ]
    return _copy(matrix, points, masks, aligned.correlation, score)


def _copy(
    matrix: np.ndarray, points: np.ndarray, masks: Sequence[np.ndarray], correlation: float, score: float
) -> Copy:
    source, target = masks
    return Copy(source=source, target=target, matrix=matrix, points=points, correlation=correlation, score=score)

"""From a probability map to the instances of a submission: threshold, morphology, minimum area, grouping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.ensemble.choices import Grouping
from common.ensemble.lookalikes import join_lookalikes, label_runs, relabel
from common.forensics.holes import fill_holes

MIN_AREA_SHARE = 0.0005
"""Default share of the image below which regions are dropped: half of what the smallest forgeries cover."""


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """Morphology of the thresholded mask before its components are measured, in this order; none by default."""

    opening: float = 0.0
    """Radius of the disk that opens the mask, as a share of the image's diagonal: what is thinner vanishes."""
    closing: float = 0.0
    """Radius of the disk that closes the mask, as a share of the diagonal: narrower gaps are bridged."""
    fill_holes: bool = False
    """Whether holes that don't touch the image's edge are filled."""

    def __post_init__(self):
        if not 0 <= min(self.opening, self.closing) <= max(self.opening, self.closing) < 1:
            raise ValueError(f"opening and closing are shares of the diagonal in [0, 1); {self} given")


def find_instances(
    prob: np.ndarray,
    threshold: float,
    min_area_share: float = 0.0,
    grouping: Grouping = "merge",
    image: np.ndarray | None = None,
    cleanup: Cleanup = Cleanup(),
    groups: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Label the forged regions of a map.

    Args:
        prob: Probabilities (H, W).
        threshold: Pixels of at least this are forged.
        min_area_share: Connected components (8 neighbours) below this share of the image are dropped.
        grouping: `merge` makes all regions one instance, which scores best where source and copy belong together;
            `components` makes each connected component one; `groups` joins components with matching content and those
            of one of `groups` (`join_lookalikes`), as the truth of a copy-move does.
        image: uint8 (H, W, 3) RGB, needed for `groups` only.
        cleanup: Morphology of the mask.
        groups: Masks, bool (H, W), of regions with equal content, used for the grouping `groups` only.

    Returns:
        int32 (H, W): 0 authentic, 1 … n the instances.

    Raises:
        ValueError: `groups` without an image, or with one of another size than the map's.
    """
    if grouping == "groups" and (image is None or image.shape != (*prob.shape, 3)):
        given = "none" if image is None else f"one of shape {image.shape}"
        raise ValueError(f"`groups` compares the content of an image {(*prob.shape, 3)}; {given} given")
    mask = _clean((prob >= threshold).view(np.uint8), cleanup)
    # Not with statistics, nor with labels of 16 bits: neither is spread over the cores.
    count, labels = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S)
    runs = label_runs(labels)
    keep = np.bincount(*runs, minlength=count) >= min_area_share * mask.size
    keep[0] = False
    numbers = keep.astype(np.int32) if grouping == "merge" else np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    labels = relabel(runs, numbers, mask.shape)
    return labels if image is None or grouping != "groups" else join_lookalikes(image, labels, groups)


def _clean(mask: np.ndarray, cleanup: Cleanup) -> np.ndarray:
    """The mask, uint8 (H, W) of 0 and 1, after the steps of `cleanup`. Beyond the edge nothing is known, so nothing
    grows from there and nothing is worn away."""
    diagonal = math.hypot(*mask.shape)
    if cleanup.opening:
        mask = _dilate(_erode(mask, cleanup.opening * diagonal), cleanup.opening * diagonal)
    if cleanup.closing:
        mask = _erode(_dilate(mask, cleanup.closing * diagonal), cleanup.closing * diagonal)
    return fill_holes(mask) if cleanup.fill_holes else mask


def _dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    # By distances, which cost the same for every radius: closing 4000×3000 pixels takes 0.6 s, and with a disk of
    # 50 pixels as the structuring element 4 s.
    return (cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius).astype(np.uint8)


def _erode(mask: np.ndarray, radius: float) -> np.ndarray:
    return 1 - _dilate(1 - mask, radius)

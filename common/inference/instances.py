"""From a probability map to the instances that a submission lists."""

from typing import Literal

import cv2
import numpy as np

Grouping = Literal["merge", "components"]


def find_instances(
    prob: np.ndarray, threshold: float, min_area_share: float = 0.0, grouping: Grouping = "merge"
) -> np.ndarray:
    """Label the forged regions of a map.

    Args:
        prob: Probabilities (H, W).
        threshold: Pixels of at least this are forged.
        min_area_share: Connected components (8 neighbours) below this share of the image are dropped.
        grouping: `merge` makes all regions one instance, which the metric pays for when source and copy belong
            together; `components` makes each connected component one.

    Returns:
        int32 (H, W): 0 authentic, 1 … n the instances.
    """
    mask = (prob >= threshold).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area_share * mask.size
    keep[0] = False
    numbers = keep.astype(np.int32) if grouping == "merge" else np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return numbers[labels]

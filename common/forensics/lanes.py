"""Lanes of blots and gels, found from the profile of their bands."""

from itertools import pairwise

import cv2
import numpy as np

_GROUND = 85  # percentile of the contrast's sign: bands are the exception
_SMOOTH = 0.06  # of the height: sigma of the profile's blur
_APART = 0.2  # of the height: least distance of two lanes
_PROMINENT = 0.12  # of the profile's range
_LEAST = 3.0  # gray levels: least range of a profile with bands


def band_strength(gray: np.ndarray) -> np.ndarray:
    """How far each pixel stands out from the ground towards the bands, float32 (H, W), 0 or more.

    Args:
        gray: uint8 or float32 (H, W), dark bands on light ground or the reverse.
    """
    picture = gray.astype(np.float32)
    middle, low, high = np.percentile(picture, (50, 1, 99))
    if middle - low >= high - middle:
        return np.maximum(np.percentile(picture, _GROUND) - picture, 0)
    return np.maximum(picture - np.percentile(picture, 100 - _GROUND), 0)


def find_lanes(gray: np.ndarray) -> list[tuple[int, int]]:
    """First and last column (exclusive) of each lane, from left to right; neighbours share a border.

    Args:
        gray: uint8 (H, W), a blot whose lanes run downwards.

    Returns:
        The lanes, parted where the profile of the bands is lowest; an empty list where no band stands out.
    """
    height, width = gray.shape
    profile = band_strength(gray).mean(axis=0)
    profile = cv2.GaussianBlur(profile[None], (0, 0), max(_SMOOTH * height, 1.0), borderType=cv2.BORDER_REPLICATE)[0]
    reach = float(np.ptp(profile))
    if reach < _LEAST:
        return []
    # Imported here: it takes most of a second, and most figures have no lanes.
    from scipy.signal import find_peaks

    padded = np.pad(profile, 1, constant_values=profile.min())
    peaks, _ = find_peaks(padded, prominence=_PROMINENT * reach, distance=max(_APART * height, 2))
    peaks = peaks - 1
    if not len(peaks):
        return []
    cuts = [int(first + profile[first : second + 1].argmin()) for first, second in pairwise(peaks)]
    borders = [0, *cuts, width]
    return [(start, end) for start, end in pairwise(borders) if end > start]

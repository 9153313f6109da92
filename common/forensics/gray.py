"""The gray image that copies are searched in: what a picture shows, whatever its colour."""

import cv2
import numpy as np

_BRIGHTEST = 1.5
"""Factor on the contrast of the luminance from which the brightest channel is said to show more."""


def to_gray(image: np.ndarray) -> np.ndarray:
    """Convert a picture to gray for matching: its luminance, or the brightest channel if that has far more contrast.

    Of fluorescence in one colour on black, luminance keeps little: 11 % of blue. Coloured ink on white is brightest
    everywhere, and keeps its luminance.

    Args:
        image: uint8 (H, W, 3) RGB.

    Returns:
        uint8 (H, W).
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    brightest = cv2.extractChannel(image, 0)
    for channel in (1, 2):
        cv2.max(brightest, cv2.extractChannel(image, channel), dst=brightest)
    # OpenCV's deviation, since numpy's makes doubles of a large image.
    (_, deviation), (_, deviation_gray) = cv2.meanStdDev(brightest), cv2.meanStdDev(gray)
    return brightest if deviation.item() > _BRIGHTEST * deviation_gray.item() else gray

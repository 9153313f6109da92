"""Error level analysis: the amplified difference between an image and its JPEG."""

import cv2
import numpy as np

from common.forensics.jpeg import jpeg

QUALITY, AMPLIFICATION = 90, 10
"""Settings of the ensemble's fourth channel: a network is trained on one codec, quality and channel order."""


def error_level(image: np.ndarray, quality: int = QUALITY, amplification: float = AMPLIFICATION) -> np.ndarray:
    """Error level analysis (Krawetz 2007): the amplified difference between an image and its JPEG.

    Args:
        image: uint8 (H, W, 3) RGB as decoded from its file, before any resize.
        quality: Quality of the JPEG, 1 to 100.
        amplification: Factor on the differences.

    Returns:
        uint8 (H, W): the largest difference among the channels of each pixel, amplified, at most 255.
    """
    difference = cv2.absdiff(image, jpeg(image, quality))
    red, green, blue = cv2.split(difference)  # 3.5 times as fast as numpy's maximum over the channels
    return cv2.convertScaleAbs(cv2.max(cv2.max(red, green), blue), alpha=amplification)

"""Gray levels of a picture for matching, the strength of their detail, and their noise."""

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


def local_strength(detail: np.ndarray, sigma: float) -> np.ndarray:
    """Root mean square of detail, float32 (H, W), in a Gaussian window of `sigma` pixels."""
    return np.sqrt(np.maximum(cv2.GaussianBlur(detail * detail, (0, 0), sigma), 0))


def noise_level(gray: np.ndarray) -> float:
    """Standard deviation of the noise, robustly: the median response of a Laplacian (Immerkær 1996).

    Args:
        gray: uint8 or float32 (H, W).

    Returns:
        In gray levels.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return float(np.median(np.abs(cv2.filter2D(gray, cv2.CV_32F, kernel)))) / (0.6745 * 6)

"""JPEG compression in memory."""

import cv2
import numpy as np


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress and decompress an image in memory.

    Args:
        image: uint8 (H, W, 3) RGB.
        quality: libjpeg's, 1 to 100.

    Returns:
        uint8 (H, W, 3) RGB. A gray image stays gray.
    """
    _, buffer = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(buffer, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(decoded[..., ::-1])

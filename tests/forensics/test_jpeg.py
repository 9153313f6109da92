import cv2
import numpy as np

from common.forensics.jpeg import jpeg


def test_jpeg_keeps_colours_in_place_and_loses_with_quality():
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.float32)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    image[..., 0] = 220  # swapped channels would show
    errors = [np.abs(jpeg(image, q).astype(int) - image).mean() for q in (100, 90, 60, 20)]
    assert errors == sorted(errors) and errors[0] < 4 and errors[-1] > errors[0] + 1
    assert jpeg(image, 90)[..., 0].mean() > 200
    gray = np.repeat(image[..., 1:2], 3, axis=2)
    assert (np.ptp(jpeg(gray, 70), axis=2) == 0).all()

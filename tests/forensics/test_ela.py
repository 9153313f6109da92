import numpy as np

from common.forensics.ela import error_level
from common.forensics.jpeg import jpeg


def noise(height=64, width=96):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_constant_image_has_no_error():
    assert (error_level(np.full((32, 48, 3), 128, np.uint8)) == 0).all()


def test_it_is_the_amplified_largest_difference_of_a_pixel():
    image = noise()
    difference = np.abs(image.astype(int) - jpeg(image, 90)).max(axis=2)
    assert difference.max() > 30  # so that amplification clips
    assert (error_level(image) == np.minimum(10 * difference, 255)).all()
    assert (error_level(image, amplification=1) == difference).all()


def test_what_was_compressed_before_changes_less_than_what_was_not():
    image = jpeg(noise(128, 128), 90)
    fresh = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image[48:80, 48:80] = fresh
    levels = error_level(image, amplification=1)
    assert levels[48:80, 48:80].mean() > 2 * levels[:40].mean()

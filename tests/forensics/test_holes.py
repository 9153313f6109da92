import numpy as np

from common.forensics.holes import fill_holes


def test_a_hole_is_filled_and_a_bay_is_not():
    ring = np.zeros((7, 9), np.uint8)
    ring[1:6, 1:6] = 1
    ring[3, 3] = 0
    bay = ring.copy()
    bay[3, 3:6] = 0  # opens to the right
    assert fill_holes(ring)[1:6, 1:6].all() and fill_holes(ring).sum() == 25
    assert (fill_holes(bay) == bay).all()


def test_a_mask_at_the_edge():
    mask = np.ones((4, 4), np.uint8)
    mask[0, 1] = 0
    assert (fill_holes(mask) == mask).all()

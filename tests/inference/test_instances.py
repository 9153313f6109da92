from common.inference.instances import find_instances

import numpy as np
import pytest


@pytest.fixture
def prob():
    """10×10: a block of 6, one of 4 that touches another pixel by a corner, one lone pixel."""
    prob = np.zeros((10, 10), np.float32)
    prob[0:2, 0:3] = 0.9
    prob[5:7, 5:7] = 0.7
    prob[7, 7] = 0.7
    prob[9, 0] = 0.6
    return prob


def test_merge_makes_one_instance(prob):
    labels = find_instances(prob, 0.5)
    assert labels.dtype == np.int32
    assert (labels == (prob >= 0.5)).all()


def test_components_are_numbered_from_one(prob):
    labels = find_instances(prob, 0.5, grouping="components")
    assert labels[0, 0] == 1
    assert labels[5, 5] == labels[7, 7] == 2  # corners connect
    assert labels[9, 0] == 3
    assert labels.max() == 3


@pytest.mark.parametrize("grouping", ["merge", "components"])
def test_small_components_are_dropped_by_their_share(prob, grouping):
    assert np.count_nonzero(find_instances(prob, 0.5, 0.05, grouping)) == 6 + 5  # five pixels of a hundred stay
    assert np.count_nonzero(find_instances(prob, 0.5, 0.051, grouping)) == 6
    assert not find_instances(prob, 0.5, 0.07, grouping).any()


def test_the_threshold_belongs_to_the_region(prob):
    assert np.count_nonzero(find_instances(prob, float(prob[5, 5]))) == 6 + 5
    assert not find_instances(prob, 0.95).any()

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.ensemble.label_runs import relabel, row_runs

LABELS = hnp.arrays(np.int32, st.tuples(st.integers(0, 7), st.integers(0, 7)), elements=st.integers(0, 3))


def test_runs_hand_computed():
    values, lengths = row_runs(np.array([[0, 1, 1], [1, 2, 0]], np.int32))
    assert values.tolist() == [0, 1, 2, 0]
    assert lengths.tolist() == [1, 3, 1, 1]  # the second one goes on in the next row


@given(LABELS)
def test_runs_measure_and_relabel_the_image(labels):
    runs = row_runs(labels)
    assert np.bincount(*runs, minlength=4).tolist() == np.bincount(labels.ravel(), minlength=4).tolist()
    numbers = np.array([0, 7, 0, 5], np.int32)
    relabelled = relabel(runs, numbers, labels.shape)
    assert relabelled.dtype == np.int32
    assert (relabelled == numbers[labels]).all()

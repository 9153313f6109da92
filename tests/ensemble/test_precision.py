import numpy as np
import pytest

from common.ensemble.precision import to_half, to_single


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4)])
def test_rounding_is_numpys(shape):
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    half = to_half(values)
    assert half.dtype == np.float16
    assert (half == values.astype(np.float16)).all()
    single = to_single(half)
    assert single.dtype == np.float32
    assert (single == half.astype(np.float32)).all()
    assert to_single(values) is values


def test_parts_and_mapped_arrays_are_taken_too():
    half = np.random.default_rng(0).random((4, 6)).astype(np.float16)
    assert (to_single(half[:, ::2]) == half[:, ::2]).all()
    assert (to_half(half.astype(np.float32).T) == half.T).all()
    half.flags.writeable = False
    assert (to_single(half) == half).all()

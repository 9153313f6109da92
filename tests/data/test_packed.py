"""A packed list is the list that it was made of."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.packed import PackedList
from common.data.samples import Sample


@given(st.lists(st.one_of(st.text(), st.integers(), st.none(), st.tuples(st.floats(allow_nan=False), st.binary()))))
def test_the_items_come_back_in_order(items):
    packed = PackedList(items)
    assert len(packed) == len(items) and list(packed) == items
    assert list(packed + items) == items * 2
    assert [packed[i] for i in range(-len(items), len(items))] == items * 2


@pytest.mark.parametrize("index", [2, -3])
def test_there_is_nothing_beyond_its_ends(index):
    with pytest.raises(IndexError):
        PackedList(["a", "b"])[index]


def test_a_worker_that_is_not_forked_gets_it_too():
    samples = [Sample(case_id=str(i), image=Path(f"{i}.png"), mask=None, group="g") for i in range(3)]
    assert list(pickle.loads(pickle.dumps(PackedList(samples)))) == samples

"""What holds for all inputs of the run lengths and of the competition's score."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import UserError
from common.metrics import forgery, rle

NUMBERS = st.one_of(st.integers(-3, 40), st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none())
LISTS = st.lists(NUMBERS, max_size=8)
PIECES = st.sampled_from(
    ["[", "]", "1", "12", ", ", ";", "authentic", "1e9", "-", ".", "NaN", "{}", '"', "\0", "９", " "]
)
MASKS = st.integers(0, 4).flatmap(lambda count: hnp.arrays(bool, (count, 4, 5)))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=20).map("".join)))
def test_any_text_is_an_annotation_or_an_error(text):
    try:
        instances = rle.parse_runs(text, 4, 5)
    except UserError:
        return
    again = rle.format_annotation(instances)
    assert rle.parse_runs(again, 4, 5) == [runs for runs in instances if runs]
    assert all(rle.encode(rle.decode(runs, 4, 5)) == _joined(runs) for runs in instances)


@settings(max_examples=200, deadline=None)
@given(LISTS)
def test_any_list_is_runs_inside_the_image_or_an_error(values):
    try:
        mask = rle.decode(values, 4, 5)
    except UserError:
        return
    assert mask.shape == (4, 5) and mask.sum() == sum(values[1::2])
    assert np.flatnonzero(mask.T.ravel()).tolist() == [
        start - 1 + step for start, length in zip(values[::2], values[1::2], strict=True) for step in range(length)
    ]


def _joined(runs: list[int]) -> list[int]:
    """Runs that touch as one."""
    joined: list[int] = []
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if joined and joined[-2] + joined[-1] == start:
            joined[-1] += length
        else:
            joined += [start, length]
    return joined


@settings(max_examples=100, deadline=None)
@given(MASKS, MASKS, st.randoms(use_true_random=False))
def test_the_score_knows_no_order_and_no_sides(predicted, truth, random):
    score = forgery.of1(predicted, truth)
    assert 0 <= score <= 1
    assert np.isclose(forgery.of1(truth, predicted), score)
    order = list(range(len(predicted)))
    random.shuffle(order)
    assert np.isclose(forgery.of1(predicted[order], truth), score)
    turned = forgery.of1(predicted[:, ::-1, ::-1], truth[:, ::-1, ::-1])
    assert np.isclose(turned, score)
    if len(truth) and truth.any(axis=(1, 2)).all():
        assert forgery.of1(truth, truth) == 1


@settings(max_examples=60, deadline=None)
@given(MASKS, MASKS)
def test_one_more_instance_that_is_wrong_lowers_the_score(predicted, truth):
    nowhere = np.zeros((1, 4, 5), bool)
    more = np.concatenate([predicted, nowhere])
    assert (
        forgery.of1(more, truth) <= forgery.of1(predicted, truth) + 1e-12
        or len(predicted) < len(truth)
        or not len(predicted)
    )

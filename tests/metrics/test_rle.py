import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import UserError
from common.metrics import rle

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)

# Pixels of the 3 × 4 image are numbered 1 2 3 down the first column, 4 5 6 down the second, and so on.
HAND_COMPUTED = [
    ([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], []),
    ([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], [1, 1]),
    ([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], [4, 1]),
    ([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], [2, 1]),
    ([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], [12, 1]),
    ([[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]], [2, 3, 12, 1]),
    ([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], [1, 1, 4, 1, 7, 1, 10, 1]),
    ([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], [1, 12]),
]


@pytest.mark.parametrize(("mask", "runs"), HAND_COMPUTED)
@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_encode_and_decode_hand_computed(mask, runs, kind):
    mask = np.array(mask, kind)
    encoded = rle.encode(mask)
    assert encoded == runs
    assert all(type(value) is int for value in encoded)  # json and str() write them plainly
    decoded = rle.decode(runs, 3, 4)
    assert decoded.dtype == bool
    assert np.array_equal(decoded, mask != 0)


def test_encode_takes_255_and_views_that_are_not_contiguous():
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 2] = 255
    assert rle.encode(mask[::2, ::2]) == [5, 1]


@given(hnp.arrays(bool, SHAPES))
def test_round_trip(mask):
    runs = rle.encode(mask)
    assert np.array_equal(rle.decode(runs, *mask.shape), mask)
    flat = np.concatenate([[0], mask.flatten(order="F"), [0]])
    assert runs[::2] == (np.flatnonzero(np.diff(flat) == 1) + 1).tolist()


@given(st.data())
def test_encode_labels_is_encode_per_label(data):
    kind = data.draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
    labels = data.draw(hnp.arrays(kind, SHAPES, elements=st.sampled_from([0, 0, 1, 2, 3, 200])))
    expected = [rle.encode(labels == label) for label in np.unique(labels) if label]
    assert rle.encode_labels(labels) == expected


def test_encode_labels_refuses_what_is_no_label():
    for wrong in (np.array([[-1]]), np.array([[0.5]]), np.array([[2**31]])):
        with pytest.raises(ValueError, match="labels"):
            rle.encode_labels(wrong)


def test_images_without_pixels():
    assert rle.encode(np.zeros((0, 5), bool)) == []
    assert rle.encode_labels(np.zeros((5, 0), np.int32)) == []
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        rle.encode(np.zeros((2, 3, 4), bool))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([1, 2, 3], "3 numbers"),
        ([0, 2], "count from 1"),
        ([2, 0], "at least 1"),
        ([5, 2, 1, 1], "run 2 .* begins before run 1 ends at 6"),
        ([1, 3, 3, 1], "don't overlap"),
        ([1, 1, 1, 1], "don't overlap"),
        ([11, 3], "ends at 13, outside an image of 3×4 = 12"),
        ([1.0, 2], "not an integer"),
        ([True, 2], "not an integer"),
        (["1", 2], "not an integer"),
        ([[1, 2]], "not an integer"),
    ],
)
def test_broken_lists_are_refused(runs, message):
    with pytest.raises(UserError, match=message):
        rle.decode(runs, 3, 4)


def test_runs_that_touch_are_allowed():
    assert rle.decode([1, 2, 3, 1], 3, 4)[:, 0].all()


def test_annotation_format():
    assert rle.format_annotation([]) == "authentic"
    assert rle.format_annotation([[]]) == "authentic"  # never `[]`
    assert rle.format_annotation([[123, 4, 567, 8], [], [1653, 98]]) == "[123, 4, 567, 8];[1653, 98]"
    assert rle.format_annotation([np.array([1, 2])]) == "[1, 2]"


@given(hnp.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9))))
def test_annotation_round_trip(masks):
    masks = masks[masks.any(axis=(1, 2))]  # instances may overlap, but not be empty
    text = rle.format_annotation([rle.encode(mask) for mask in masks])
    assert np.array_equal(rle.parse_annotation(text, *masks.shape[1:]), masks)


def test_parse_keeps_an_empty_instance_for_the_metric_to_punish():
    masks = rle.parse_annotation("[];[1,1]", 3, 4)
    assert masks.sum(axis=(1, 2)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list 1 is ''"),
        ("Authentic", "an annotation is `authentic` or lists"),
        ("forged", "list 1"),
        ("[1, 2];", "list 2 is ''"),
        ("[1, 2], [3, 4]", "joined by `;`"),
        ("{}", "not a list of numbers"),
        ("[1, 2];[3]", "list 2: 1 numbers"),
        ("[1, 2];[12, 2]", "list 2: run 1 .* outside"),
        ("[1, NaN]", "not an integer"),
        ("[" * 10**5, "list 1"),
        ("9" * 5000, "list 1 is '9"),
        (f"[1, {'9' * 5000}]", "list 1 is .*not a list of numbers"),
        (f"[{'9' * 4300}, {'9' * 4300}]", "list 1: a number has more than 18 digits"),
        (f"[1, -{'9' * 40}]", "list 1: a number has more than 18 digits"),
        ("[1, 2, 3, null]", "list 1: null is not an integer"),
        ("[[[[1]]], 2]", "list 1: a list is not an integer"),
        ('["\\u001b[31m", 2]', r'list 1: "\\u001b\[31m" is not an integer'),
    ],
)
def test_broken_annotations_are_refused(text, message):
    with pytest.raises(UserError, match=message) as caught:
        rle.parse_annotation(text, 3, 4)
    assert len(str(caught.value)) < 300


@given(hnp.arrays(bool, st.tuples(st.integers(2, 4), st.integers(1, 9), st.integers(1, 9))))
def test_pixels_inside_is_the_intersection(masks):
    inside = rle.pixels_inside([rle.encode(mask) for mask in masks[1:]], masks[0])
    assert inside.tolist() == [(mask & masks[0]).sum() for mask in masks[1:]]

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.ensemble.instances import Cleanup, find_instances
from common.metrics.forgery import of1


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


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 0.5, 1])),
    st.sampled_from([0, 0.02, 0.1]),
)
def test_instances_are_what_a_mask_for_each_component_makes(prob, min_area_share):
    _, labels = cv2.connectedComponents((prob >= 0.5).astype(np.uint8), connectivity=8)
    masks = [labels == number for number in range(1, labels.max() + 1)]
    kept = [mask for mask in masks if mask.sum() >= min_area_share * mask.size]
    components, union = np.zeros(prob.shape, np.int32), np.zeros(prob.shape, bool)
    for number, mask in enumerate(kept, 1):
        components[mask] = number
        union |= mask
    assert (find_instances(prob, 0.5, min_area_share, "components") == components).all()
    assert (find_instances(prob, 0.5, min_area_share) == union).all()


@pytest.fixture
def figure():
    """An image whose first and third squares of four are the source and a mirrored copy, and a map of the squares."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (100, 220, 3), dtype=np.uint8), (0, 0), 1.2)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    image[30:70, 115:155] = image[30:70, 10:50][:, ::-1]
    prob = np.zeros((100, 220), np.float32)
    for x in (10, 60, 115, 170):
        prob[30:70, x : x + 40] = 0.9
    return image, prob


def test_groups_join_source_and_copy(figure):
    image, prob = figure
    labels = find_instances(prob, 0.5, grouping="groups", image=image)
    assert [labels[50, x] for x in (30, 80, 135, 190)] == [1, 2, 1, 3]
    assert labels.dtype == np.int32
    assert ((labels > 0) == (prob > 0)).all()


def test_groups_score_in_full_where_components_and_merge_do_not(figure):
    image, prob = figure
    prob[:, 165:] = 0
    truth = np.zeros((2, *prob.shape), bool)
    truth[0, 30:70, 10:50] = truth[0, 30:70, 115:155] = truth[1, 30:70, 60:100] = True

    def score(grouping):
        labels = find_instances(prob, 0.5, grouping=grouping, image=image)
        return of1(labels == np.arange(1, labels.max() + 1)[:, None, None], truth)

    assert score("groups") == 1.0
    assert score("components") == pytest.approx((2 / 3 + 1) / 3)
    assert score("merge") == pytest.approx(4 / 5 / 2)


def test_groups_leave_out_what_is_too_small(figure):
    image, prob = figure
    prob[0:2, 0:2] = 0.9
    assert find_instances(prob, 0.5, 0.01, "groups", image).max() == 3


def squares(*numbers):
    """A mask of those of the four squares."""
    mask = np.zeros((100, 220), bool)
    for number in numbers:
        x = (10, 60, 115, 170)[number]
        mask[30:70, x : x + 40] = True
    return mask


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([squares(1, 3)], [1, 2, 1, 2]),  # beside the first and third, which look alike
        ([squares(1, 2)], [1, 1, 1, 2]),  # through the third, with the first
        ([squares(0, 3), squares(1, 3)], [1, 1, 1, 1]),
        ([squares(0)], [1, 2, 1, 3]),
        ([np.zeros((100, 220), bool)], [1, 2, 1, 3]),
    ],
)
def test_known_groups_are_joined_too(figure, groups, expected):
    image, prob = figure
    labels = find_instances(prob, 0.5, grouping="groups", image=image, groups=groups)
    assert [labels[50, x] for x in (30, 80, 135, 190)] == expected
    assert ((labels > 0) == (prob > 0)).all()


@pytest.mark.parametrize(
    ("rows", "belongs"),
    [
        (20, True),  # half of the square lies in the group, which is much larger
        (19, False),
    ],
)
def test_half_of_a_region_makes_it_belong(figure, rows, belongs):
    """A group of the fourth square and, beside `rows` rows of the second, thirteen times as much of the background."""
    image, prob = figure
    group = squares(3)
    group[30 : 30 + rows, 60:100] = True
    group[:25] = group[75:] = True
    labels = find_instances(prob, 0.5, grouping="groups", image=image, groups=[group])
    assert (labels[50, 80] == labels[50, 190]) == belongs


@pytest.mark.parametrize(("side", "belongs"), [(14, False), (16, True)])
def test_a_large_region_that_holds_a_part_of_the_group_belongs(figure, side, belongs):
    """14² of 14² + 1600 are a ninth of the group, 16² of 16² + 1600 more than an eighth; of the square, little."""
    image, prob = figure
    group = squares(3)
    group[40 : 40 + side, 70 : 70 + side] = True
    labels = find_instances(prob, 0.5, grouping="groups", image=image, groups=[group])
    assert (labels[50, 80] == labels[50, 190]) == belongs


def test_groups_need_an_image_of_the_maps_size(figure):
    image, prob = figure
    with pytest.raises(ValueError, match=r"image \(100, 220, 3\); none given"):
        find_instances(prob, 0.5, grouping="groups")
    with pytest.raises(ValueError, match=r"one of shape \(99, 220, 3\) given"):
        find_instances(prob, 0.5, grouping="groups", image=image[1:])


@pytest.fixture
def ragged():
    """30×40, so that a share of 0.02 is a radius of one pixel: two blocks two pixels apart, a ring, a speck."""
    prob = np.zeros((30, 40), np.float32)
    prob[2:10, 2:10] = prob[2:10, 12:20] = 1
    prob[15:25, 5:15] = 1
    prob[18:22, 8:12] = 0
    prob[20, 30] = 1
    return prob


def test_nothing_is_cleaned_up_by_default(ragged):
    assert (find_instances(ragged, 0.5) == ragged).all()
    assert Cleanup() == Cleanup(opening=0.0, closing=0.0, fill_holes=False)


def test_closing_bridges_a_gap(ragged):
    assert find_instances(ragged, 0.5, grouping="components").max() == 4
    labels = find_instances(ragged, 0.5, grouping="components", cleanup=Cleanup(closing=0.02))
    assert labels.max() == 3
    assert labels[5, 5] == labels[5, 10] == labels[5, 11] == labels[5, 15]
    assert (labels[ragged > 0] > 0).all()
    assert labels[20, 10] == 0  # the hole of four pixels is too wide


def test_opening_removes_a_speck(ragged):
    labels = find_instances(ragged, 0.5, cleanup=Cleanup(opening=0.02))
    assert labels[20, 30] == 0
    assert labels[2:10, 3:9].all()
    assert (labels <= ragged).all()


def test_holes_are_filled(ragged):
    expected = ragged.copy()
    expected[18:22, 8:12] = 1
    assert (find_instances(ragged, 0.5, cleanup=Cleanup(fill_holes=True)) == expected).all()


def test_a_bay_at_the_edge_is_no_hole():
    prob = np.ones((10, 10), np.float32)
    prob[0:5, 4:6] = 0
    assert (find_instances(prob, 0.5, cleanup=Cleanup(fill_holes=True)) == prob).all()


@pytest.mark.parametrize("value", [0, 1])
def test_an_even_mask_stays_even(value):
    """The edge of the image wears nothing away, and nothing grows in from there."""
    prob = np.full((30, 40), value, np.float32)
    cleanup = Cleanup(opening=0.1, closing=0.1, fill_holes=True)
    assert (find_instances(prob, 0.5, cleanup=cleanup) == value).all()


def test_components_are_measured_after_the_cleanup(ragged):
    share = 100 / ragged.size  # the ring has 84 pixels, with its hole 100
    assert find_instances(ragged, 0.5, share)[16, 6] == 0
    assert find_instances(ragged, 0.5, share, cleanup=Cleanup(fill_holes=True))[16, 6] == 1


def test_sizes_of_the_cleanup_are_shares():
    with pytest.raises(ValueError, match="shares of the diagonal"):
        Cleanup(closing=5)

import numpy as np
import pytest

from common.ensemble.blending import blend, join_evidence, to_half, to_single

ROLES = ("average", "average", "union")


@pytest.fixture
def maps():
    """Three members on 1×2 pixels."""
    return np.array([[[0.8, 0.2]], [[0.4, 0.0]], [[0.5, 1.0]]], np.float16)


def test_mean_and_union_by_hand(maps):
    """(1.5·0.8 + 0.5·0.4) / 2 = 0.7 against 0.8·0.5 = 0.4; (1.5·0.2) / 2 = 0.15 against 0.8·1."""
    blended = blend(maps, ROLES, (1.5, 0.5, 0.8))
    assert blended.dtype == np.float32
    assert blended == pytest.approx(np.array([[0.7, 0.8]]), abs=1e-3)  # float16 in


def test_the_order_of_the_members_does_not_matter(maps):
    turned = blend(maps[::-1], ROLES[::-1], (0.8, 0.5, 1.5))
    assert turned == pytest.approx(blend(maps, ROLES, (1.5, 0.5, 0.8)))


def test_weight_0_leaves_a_member_out(maps):
    assert blend(maps, ROLES, (2, 0, 0)) == pytest.approx(maps[0].astype(np.float32))
    assert blend(maps, ROLES, (0, 3, 0)) == pytest.approx(maps[1].astype(np.float32))


def test_several_images_at_once(maps):
    images = np.stack([maps, maps[:, :, ::-1]])
    blended = blend(images, ROLES, (1.5, 0.5, 0.8))
    assert blended.shape == (2, 1, 2)
    assert (blended[1] == blended[0][:, ::-1]).all()


def test_only_the_ratio_of_the_averaged_weights_counts_and_ones_stay_one():
    ones = np.ones((3, 2, 2), np.float32)
    assert (blend(ones, ("average",) * 3, (0.1, 0.1, 0.3)) <= 1).all()
    assert blend(ones, ("average",) * 3, (0.1, 0.1, 0.3)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("roles", "weights", "message"),
    [
        (ROLES, (0, 0, 0.8), "no averaged member"),
        (ROLES, (1, -1, 0.8), "at least 0"),
        (ROLES, (1, 1, 1.2), "at most 1"),
        (ROLES, (1, 1), "3 maps, 3 roles and 2 weights"),
        (("average", "average", "evidence"), (1, 1, 1), "role evidence"),
    ],
)
def test_what_can_not_be_blended(maps, roles, weights, message):
    with pytest.raises(ValueError, match=message):
        blend(maps, roles, weights)


def test_evidence_joins_by_the_maximum_at_its_own_size():
    """A blend of 0.2 and 0.9, and evidence of twice the size: 0.5 · 0.8 where that is more."""
    evidence = np.zeros((2, 4), np.float16)
    evidence[0, :2] = evidence[1, 3] = 0.8
    joined = join_evidence(np.float32([[0.2, 0.2], [0.9, 0.9]]), evidence, 0.5)
    assert joined.dtype == np.float32
    assert joined == pytest.approx(np.array([[0.4, 0.4, 0.2, 0.2], [0.9, 0.9, 0.9, 0.9]]), abs=1e-3)


def test_no_evidence_and_none_that_is_trusted_change_nothing():
    blended = np.float32([[0.2, 0.7]])
    assert (join_evidence(blended, np.zeros((1, 1), np.float16), 1.0) == blended).all()
    assert (join_evidence(blended, np.ones((4, 8), np.float16), 0.0) == blended).all()


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_evidence_stays_a_probability(weight):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        join_evidence(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float16), weight)


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

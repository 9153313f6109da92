import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ensemble.decision import (
    COPY_FEATURES,
    FEATURE_SIZE,
    FEATURES,
    MODE_THRESHOLDS,
    Decision,
    copy_features,
    feature_maps,
    generated_features,
    is_forged,
    map_features,
)


def test_the_original_recipes_thresholds():
    assert list(MODE_THRESHOLDS.items()) == [
        ("high-precision", 0.80),
        ("balanced", 0.70),
        ("default", 0.65),
        ("high-recall", 0.60),
        ("max-recall", 0.55),
    ]


@pytest.mark.parametrize("mode", MODE_THRESHOLDS)
def test_the_threshold_itself_is_forged(mode):
    assert is_forged(MODE_THRESHOLDS[mode], mode)
    assert not is_forged(MODE_THRESHOLDS[mode] - 1e-9, mode)


def features(members, pixel_threshold=0.5):
    members = np.asarray(members, np.float32)
    named = {f"m{number}": prob for number, prob in enumerate(members)}
    found = map_features(members.mean(axis=0), named, pixel_threshold)
    assert tuple(found) == (*FEATURES, *(f"soft_max_{name}" for name in named))
    return found


def test_features_by_hand():
    """A quarter of the map says 0.8, the rest 0.2; the two members differ by ± 0.1 where the blend is highest."""
    blend = np.full((256, 256), 0.2)
    blend[:128, :128] = 0.8
    found = features([blend + 0.1 * (blend > 0.5), blend - 0.1 * (blend > 0.5)])
    for name in ("quantile_99", "quantile_999", "maximum"):
        assert found[name] == pytest.approx(math.log(4), abs=1e-5)
    assert found["log_area_share"] == pytest.approx(math.log((128 * 128 + 1) / 65536))
    attention = math.exp(-0.6 / 0.1)  # of a pixel of the rest, for 1 of one in the quarter
    pooled = (0.8 + 3 * 0.2 * attention) / (1 + 3 * attention)
    assert found["soft_max"] == pytest.approx(math.log(pooled / (1 - pooled)), abs=1e-4)
    assert found["disagreement"] == pytest.approx(0.1, abs=1e-5)
    attention = math.exp(-0.7 / 0.1)  # of the first member's own map: a quarter 0.9, the rest 0.2
    pooled = (0.9 + 3 * 0.2 * attention) / (1 + 3 * attention)
    assert found["soft_max_m0"] == pytest.approx(math.log(pooled / (1 - pooled)), abs=1e-4)


def test_one_member_does_not_disagree_and_extremes_stay_finite():
    for value in (0.0, 1.0):
        found = features(np.full((1, 20, 30), value))
        assert found["disagreement"] == 0
        assert all(map(math.isfinite, found.values()))


def test_features_do_not_depend_on_the_size_of_the_map():
    small = np.random.default_rng(0).random((2, FEATURE_SIZE, FEATURE_SIZE), dtype=np.float32)
    large = small.repeat(2, axis=1).repeat(3, axis=2)  # 512×768
    assert features(large) == pytest.approx(features(small), abs=1e-3)


def test_maps_stored_as_float16_have_the_same_features():
    prob = np.full((1, FEATURE_SIZE, FEATURE_SIZE), 0.99999, np.float32)
    assert features(prob) == features(prob.astype(np.float16))


def test_features_of_copies_by_hand():
    """Four fifths sure, 20 inliers, 255 of the 65536 pixels of the features' maps and one more."""
    found = copy_features(0.8, 20, 255 / 65536)
    assert found == pytest.approx(
        {"copy_score": math.log(4), "copy_inliers": math.log(21), "copy_area": -8 * math.log(2)}
    )
    assert tuple(found) == COPY_FEATURES


def test_no_copies_are_as_good_as_hopeless_ones():
    none = copy_features(0.0, 0, 0.0)
    assert none == {"copy_score": pytest.approx(math.log(1 / 49)), "copy_inliers": 0, "copy_area": -16 * math.log(2)}
    assert copy_features(0.01, 0, 0.0) == none
    assert all(map(math.isfinite, copy_features(1.0, 10**6, 1.0).values()))


@pytest.mark.parametrize(("probability", "expected"), [(0.8, math.log(4)), (0.5, 0), (0.2, 0), (0.0, 0)])
def test_feature_of_a_generated_image_by_hand(probability, expected):
    assert generated_features(probability) == {"generated": pytest.approx(expected)}
    assert math.isfinite(generated_features(1.0)["generated"])


DECISION = Decision(
    features=("maximum", "disagreement"),
    mean=(1.0, 0.1),
    scale=(2.0, 0.05),
    coefficients=(1.5, -1.0),
    intercept=0.5,
    calibration={"slope": 2.0, "intercept": -1.0},
)


def test_probability_by_hand():
    """Standardised 1 and 2: 1.5 − 2 + 0.5 = 0; calibrated 2·0 − 1 = −1. The other features are not read."""
    row = dict.fromkeys(FEATURES, math.nan) | {"maximum": 3.0, "disagreement": 0.2}
    assert DECISION.probability(row) == pytest.approx(1 / (1 + math.e))


WITH_DETECTOR = replace(
    DECISION,
    features=("maximum", "generated"),
    mean=(1.0, 0.0),
    scale=(2.0, 0.5),
    coefficients=(1.5, 0.25),
)


def test_probability_of_a_generated_image_by_hand():
    """Standardised 1 and ln 4 / 0.5: 1.5 + 0.5 ln 4 + 0.5 = 2 + ln 2; calibrated 2 (2 + ln 2) − 1 = 3 + ln 4."""
    probability = WITH_DETECTOR.probability({"maximum": 3.0} | generated_features(0.8))
    assert probability == pytest.approx(1 / (1 + math.exp(-3) / 4))
    assert (WITH_DETECTOR.reads_generated, DECISION.reads_generated) == (True, False)


@given(
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    maximum=st.floats(-8, 8),
    scale=st.floats(0.01, 10),
    coefficient=st.floats(0, 10),
    slope=st.floats(0, 5),
)
def test_a_low_score_never_speaks_against_a_forgery(low, high, maximum, scale, coefficient, slope):
    low, high = sorted((low, high))
    calibration = {"slope": slope, "intercept": 0.3}
    decision = replace(WITH_DETECTOR, scale=(2.0, scale), coefficients=(1.5, coefficient), calibration=calibration)
    zero, lower, higher = (
        decision.probability({"maximum": maximum} | generated_features(value)) for value in (0.0, low, high)
    )
    assert zero <= lower <= higher
    if low <= 0.5:
        assert lower == zero
    alone = replace(decision, features=("maximum",), mean=(1.0,), scale=(2.0,), coefficients=(1.5,))
    assert zero == pytest.approx(alone.probability({"maximum": maximum}))


@pytest.mark.parametrize("change", [{"coefficients": (1.5, -0.1)}, {"mean": (1.0, 0.2)}])
def test_a_decision_that_lets_it_speak_against_one_is_refused(change):
    with pytest.raises(ValueError, match="generated may not count against a forgery"):
        replace(WITH_DETECTOR, **change)


def test_far_features_do_not_overflow():
    assert 0 < DECISION.probability(dict.fromkeys(FEATURES, -1e9)) < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ("maximum", "colour")}, "no feature colour"),
        ({"mean": (1.0,)}, "differ in length"),
        ({"calibration": {"slope": 1.0}}, "slope and intercept"),
    ],
)
def test_values_that_do_not_belong_together(change, message):
    with pytest.raises(ValueError, match=message):
        replace(DECISION, **change)


def test_the_calibration_is_applied():
    row = dict.fromkeys(FEATURES, 0.0)
    steeper = replace(DECISION, calibration={"slope": 2.0, "intercept": 1.0})
    assert steeper.probability(row) > DECISION.probability(row)


@pytest.mark.parametrize("levels", [2, 50, None])
def test_the_quantiles_are_numpys(levels):
    """With ties and without."""
    blend = np.random.default_rng(0).random((FEATURE_SIZE, FEATURE_SIZE), dtype=np.float32)
    blend = blend if levels is None else (blend * levels).round() / np.float32(levels)
    found = map_features(blend, {"a": blend}, 0.5)
    for name, level in (("quantile_99", 0.99), ("quantile_999", 0.999)):
        p = min(float(np.quantile(blend.astype(np.float64), level)), 1 - 2**-11)
        assert found[name] == pytest.approx(math.log(p / (1 - p)), abs=1e-5)


def test_maps_that_have_the_features_size_and_type_are_not_copied():
    maps = np.zeros((2, FEATURE_SIZE, FEATURE_SIZE), np.float16)
    assert feature_maps(maps) is maps
    assert feature_maps(maps.astype(np.float32)).dtype == np.float16

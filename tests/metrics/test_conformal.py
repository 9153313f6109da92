import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics.calibration import calibrated, fit_calibration
from common.metrics.conformal import fit_bounds

UNSURE = "insufficient evidence"
OPEN = {UNSURE, "not calibrated"}
RATES = st.floats(0.01, 0.99)
# Few values, so that ties are common.
SCORES = st.lists(st.integers(0, 20), min_size=1, max_size=60)


def bounds_of(real, generated, rate):
    return fit_bounds([*real, *generated], [False] * len(real) + [True] * len(generated), rate)


def test_by_hand():
    """Ten of each class at 20 %: ⌊11 · 0.2⌋ = 2, the second highest and the second lowest."""
    real, generated = np.arange(10) / 20, np.arange(10) / 20 + 0.2
    bounds = bounds_of(real, generated, 0.2)
    assert (bounds.lower, bounds.upper) == (0.25, 0.4)
    assert [bounds.verdict(p) for p in (0.24, 0.25, 0.4, 0.41)] == ["real", UNSURE, UNSURE, "generated"]


def test_nineteen_images_are_needed_for_five_percent():
    real = np.arange(19) / 100
    assert bounds_of(real, [], 0.05).upper == 0.18
    bounds = bounds_of(real[:18], [], 0.05)
    assert bounds.upper == math.inf
    assert bounds.verdict(1.0) == "not calibrated"


def test_real_images_alone_bound_the_false_positive_rate():
    bounds = bounds_of(np.arange(19) / 100, [], 0.05)
    assert (bounds.lower, bounds.upper) == (-math.inf, 0.18)
    assert [bounds.verdict(p) for p in (0.0, 0.18, 0.19)] == [UNSURE, UNSURE, "generated"]


def test_the_worst_condition_bounds():
    """Ten of each class at 20 %, clean and where they overlap: the second highest and lowest of each condition."""
    real, generated = np.arange(10) / 40, np.arange(10) / 40 + 0.5
    probs = np.concatenate([real, generated, real + 0.3, generated - 0.2])
    labels, conditions = np.tile(np.repeat([False, True], 10), 2), np.repeat(["none", "jpeg"], 20)
    bounds = fit_bounds(probs, labels, 0.2, conditions)
    assert (bounds.lower, bounds.upper) == pytest.approx((0.325, 0.5))
    alone = fit_bounds(probs[20:], labels[20:], 0.2)
    assert bounds == alone
    # A condition without images of a class says nothing about it.
    partly = fit_bounds(probs[:30], labels[:30], 0.2, conditions[:30])
    assert (partly.lower, partly.upper) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.05, 19), (0.01, 99), (0.1, 9), (0.29, 3), (0.03, 33), (0.5, 1), (0.9, 1), (1 / 49, 48)],
)
def test_a_bound_needs_so_many_images(rate, expected):
    assert bounds_of([0.5] * expected, [], rate).upper == 0.5
    assert bounds_of([0.5] * (expected - 1), [], rate).upper == math.inf
    assert bounds_of([], [0.5] * expected, rate).lower == 0.5
    assert bounds_of([], [0.5] * (expected - 1), rate).lower == -math.inf


def test_rounding_does_not_cost_an_image():
    """100 · 0.29 is 28.999… in floats; the 29th highest of 99 is meant."""
    assert bounds_of(range(1, 100), [], 0.29).upper == 71


def test_classes_apart_leave_no_band():
    bounds = bounds_of(np.linspace(0, 0.3, 19), np.linspace(0.7, 1, 19), 0.05)
    assert bounds.lower == bounds.upper == 0.3
    assert (bounds.verdict(0.29), bounds.verdict(0.31)) == ("real", "generated")


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_impossible_rates(rate):
    with pytest.raises(ValueError, match="not between"):
        bounds_of([0.1], [0.9], rate)


def test_nan_is_no_score():
    with pytest.raises(ValueError, match="nan"):
        bounds_of([0.1, math.nan], [0.9], 0.5)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [10, 19, 50, 64])
def test_error_rates_of_new_images_hold_on_average(n, ties):
    """4,000 draws of n images a class, 20 new ones each; without ties, the rate is not much below either."""
    rng, rate = np.random.default_rng(n), 0.1
    false_positives = misses = 0.0
    for _ in range(4000):
        real, generated = rng.normal(0, 1, n + 20), rng.normal(1, 1, n + 20)
        if ties:
            real, generated = real.round(), generated.round()
        bounds = bounds_of(real[:n], generated[:n], rate)
        false_positives += (real[n:] > bounds.upper).mean() / 4000
        misses += (generated[n:] < bounds.lower).mean() / 4000
    exact = math.floor((n + 1) * rate) / (n + 1)
    assert max(false_positives, misses) < exact + 0.005
    if not ties:
        assert min(false_positives, misses) > exact - 0.005


@given(SCORES, SCORES, RATES)
def test_images_it_was_fitted_on_keep_the_rates_too(real, generated, rate):
    bounds = bounds_of(real, generated, rate)
    assert sum(bounds.verdict(p) == "generated" for p in real) <= rate * (len(real) + 1)
    assert sum(bounds.verdict(p) == "real" for p in generated) <= rate * (len(generated) + 1)


@given(SCORES, SCORES, RATES, RATES)
def test_more_errors_allowed_leave_less_undecided(real, generated, rate, other):
    strict, loose = (bounds_of(real, generated, r) for r in sorted((rate, other)))
    assert loose.upper <= strict.upper
    assert {p for p in range(21) if loose.verdict(p) in OPEN and strict.verdict(p) not in OPEN} <= {loose.upper}


@given(SCORES, SCORES, RATES)
def test_verdicts_rise_with_the_probability(real, generated, rate):
    bounds = bounds_of(real, generated, rate)
    assert bounds.lower <= bounds.upper
    verdicts = [bounds.verdict(p) for p in range(-1, 22)]
    ranks = [1 if verdict in OPEN else 2 * (verdict == "generated") for verdict in verdicts]
    assert ranks == sorted(ranks)
    assert ("not calibrated" in verdicts) == (len({*verdicts}) == 1 and bounds.upper == -bounds.lower == math.inf)


@given(SCORES, SCORES, RATES)
def test_only_the_order_of_scores_counts(real, generated, rate):
    plain = bounds_of(real, generated, rate)
    cubed = bounds_of([(p - 7) ** 3 for p in real], [(p - 7) ** 3 for p in generated], rate)
    assert [plain.verdict(p) for p in range(21)] == [cubed.verdict((p - 7) ** 3) for p in range(21)]


def test_calibration_on_the_same_images_changes_no_verdict():
    rng = np.random.default_rng(0)
    generated = rng.random(300) < 0.5
    scores = 1 / (1 + np.exp(-rng.normal(2 * generated, 1.5)))
    fitted = fit_calibration(scores, generated)
    assert fitted["slope"] > 0
    probs = [calibrated(score, **fitted) for score in scores]
    raw, after = fit_bounds(scores, generated, 0.05), fit_bounds(probs, generated, 0.05)
    verdicts = [raw.verdict(score) for score in scores]
    assert verdicts == [after.verdict(prob) for prob in probs]
    assert set(verdicts) == {"real", UNSURE, "generated"}


def test_scores_that_calibration_ties_decide_nothing():
    """Scores against the truth have slope 0: one probability for all, which must not become 100 % errors."""
    scores, generated = np.r_[np.linspace(0.6, 0.9, 40), np.linspace(0.1, 0.4, 40)], np.arange(80) >= 40
    fitted = fit_calibration(scores, generated)
    assert fitted["slope"] == 0
    probs = [calibrated(score, **fitted) for score in scores]
    bounds = fit_bounds(probs, generated, 0.05)
    assert {bounds.verdict(calibrated(score, **fitted)) for score in (0.0, 0.3, 0.5, 1.0)} == {UNSURE}


def test_fitted_bounds_are_plain_floats():
    values = vars(bounds_of(np.arange(40.0), np.arange(40.0), 0.1))
    assert {name: type(value) for name, value in values.items()} == {"lower": float, "upper": float}

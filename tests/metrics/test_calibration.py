import math

import numpy as np
import pytest

from common.metrics.calibration import calibrated, fit_calibration


def test_calibrated_by_hand():
    """A score of 0.8 has log-odds ln 4; slope 2 and intercept −ln 4 leave ln 4."""
    assert calibrated(0.8, slope=2.0, intercept=-math.log(4)) == pytest.approx(0.8)
    assert calibrated(0.5, slope=3.0, intercept=0.0) == 0.5


def test_extreme_scores_stay_finite():
    assert 0 < calibrated(0.0, 1.0, 0.0) < 1e-5
    assert 1 - 1e-5 < calibrated(1.0, 1.0, 0.0) < 1


def test_fitted_probabilities_are_those_of_the_data():
    """Scores that are over-confident by a factor of three in log-odds."""
    rng = np.random.default_rng(0)
    truth_log_odds = rng.normal(0, 1.5, 4000)
    forged = rng.random(4000) < 1 / (1 + np.exp(-truth_log_odds))
    scores = 1 / (1 + np.exp(-3 * truth_log_odds))
    fitted = fit_calibration(scores, forged)
    assert fitted["slope"] == pytest.approx(1 / 3, abs=0.05)
    assert fitted["intercept"] == pytest.approx(0, abs=0.1)
    assert np.mean([calibrated(s, **fitted) for s in scores]) == pytest.approx(forged.mean(), abs=0.01)


@pytest.mark.parametrize("forged", [[True, True], [False, False]])
def test_one_class_gives_the_identity(forged):
    assert fit_calibration([0.2, 0.9], forged) == {"slope": 1.0, "intercept": 0.0}


def test_scores_against_the_truth_say_nothing():
    fitted = fit_calibration([0.9, 0.8, 0.1, 0.2], [False, False, True, True])
    assert fitted["slope"] == 0.0
    assert calibrated(0.99, **fitted) == pytest.approx(0.5)

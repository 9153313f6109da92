from common.inference.gate import THRESHOLDS, is_forged

import pytest


def test_the_seeds_thresholds():
    assert list(THRESHOLDS.items()) == [
        ("high-precision", 0.80),
        ("balanced", 0.70),
        ("default", 0.65),
        ("high-recall", 0.60),
        ("max-recall", 0.55),
    ]


@pytest.mark.parametrize("mode", THRESHOLDS)
def test_the_threshold_itself_is_forged(mode):
    assert is_forged(THRESHOLDS[mode], mode)
    assert not is_forged(THRESHOLDS[mode] - 1e-9, mode)

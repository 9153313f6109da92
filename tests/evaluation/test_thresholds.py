import math

import pandas as pd

from common.evaluation.thresholds import at_thresholds


def test_verdicts_at_other_thresholds():
    """Submitted at 0.65: two found; one whose mask was empty; one missed; of the authentic ones, one unrated."""
    rows = pd.DataFrame(
        [
            *((1, 1, 1.0, 0.9), (1, 2, 0.2, 0.7), (1, 0, 0.0, 0.8), (1, 0, 0.0, 0.6)),
            *((0, 1, 0.0, 0.75), (0, 0, 1.0, 0.58), (0, 0, 1.0, 0.1), (0, 0, 1.0, math.nan)),
        ],
        columns=["n_truth", "n_predicted", "of1", "probability"],
    )
    found = at_thresholds(rows, (0.5, 0.6, 0.65, 0.72, 0.8, 1.0), 0.65)
    assert found["image_recall"].tolist() == [0.75, 0.75, 0.5, 0.25, 0.25, 0.0]
    assert found["image_fpr"].tolist() == [0.5, 0.25, 0.25, 0.25, 0.0, 0.0]
    assert found["image_precision"].tolist()[:5] == [3 / 5, 3 / 4, 2 / 3, 1 / 2, 1]
    assert math.isnan(found["image_precision"][5])
    assert found["of1"].isna().tolist() == [True, True, False, False, False, False]
    assert found["of1"].tolist()[2:] == [(1 + 0.2 + 3) / 8, (1 + 3) / 8, (1 + 4) / 8, 4 / 8]


def test_the_submissions_own_threshold_gives_its_own_figures():
    rows = pd.DataFrame({"n_truth": [1, 0], "n_predicted": [0, 0], "of1": [0.0, 1.0], "probability": [0.65, 0.65]})
    (row,) = at_thresholds(rows, [0.65], 0.65).to_dict("records")
    assert (row["image_recall"], row["image_fpr"], row["of1"]) == (0.0, 0.0, 0.5)

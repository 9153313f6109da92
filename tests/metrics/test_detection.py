import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from common.metrics.detection import by_generator, calibration_error, clip_score, detection_metrics, format_table


def test_metrics_by_hand():
    figures = detection_metrics([0.1, 0.6, 0.4, 0.9], [False, False, True, True])
    assert figures == {
        "auc": 0.75,  # three of four pairs
        "ap": pytest.approx((1 + 2 / 3) / 2),
        "accuracy": 0.5,
        "tpr_at_5_fpr": 0.5,
        "calibration_error": pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4),
        "n_real": 2,
        "n_generated": 2,
    }


def test_accuracy_is_at_the_threshold_and_reaching_it_is_enough():
    probs, generated = [0.1, 0.6, 0.4, 0.9], [False, False, True, True]
    assert detection_metrics(probs, generated, threshold=0.9)["accuracy"] == 0.75
    assert detection_metrics(probs, generated, threshold=0.95)["accuracy"] == 0.5


def test_auc_is_sklearns_with_ties():
    rng = np.random.default_rng(0)
    probs, generated = rng.integers(0, 11, 200) / 10, rng.random(200) < 0.4
    assert detection_metrics(probs, generated)["auc"] == pytest.approx(roc_auc_score(generated, probs))


def test_tpr_at_exactly_five_percent_even_on_a_straight_part_of_the_curve():
    """Two of 40 real images may lie above. Each ties with a generated one, so that the curve is a straight line."""
    probs = np.repeat(np.arange(40) / 40, 2)
    generated = np.tile([False, True], 40)
    assert detection_metrics(probs, generated)["tpr_at_5_fpr"] == pytest.approx(2 / 40)


@pytest.mark.parametrize(("n_real", "expected"), [(20, 1.0), (19, 0.0)])
def test_one_false_positive_is_too_many_below_twenty_real_images(n_real, expected):
    probs = np.r_[0.9, np.full(n_real - 1, 0.1), 0.5, 0.5]
    assert detection_metrics(probs, np.r_[np.zeros(n_real), 1, 1])["tpr_at_5_fpr"] == expected


@pytest.mark.parametrize("generated", [True, False])
def test_one_class_leaves_what_compares_both_undefined(generated):
    figures = detection_metrics([0.2, 0.7], [generated, generated])
    assert all(math.isnan(figures[name]) for name in ("auc", "ap", "tpr_at_5_fpr"))
    assert figures["accuracy"] == 0.5
    assert figures["calibration_error"] == pytest.approx((0.8 + 0.3) / 2 if generated else (0.2 + 0.7) / 2)


def test_no_images():
    figures = detection_metrics([], [])
    assert (figures.pop("n_real"), figures.pop("n_generated")) == (0, 0)
    assert all(math.isnan(value) for value in figures.values())


@pytest.mark.parametrize("prob", [-0.1, 1.1, math.nan])
def test_no_probability(prob):
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        detection_metrics([0.5, prob], [True, False])


def test_calibration_error_by_hand():
    """Three in the bin from 4/15 on, one of them generated; two in the last, 1 included, one generated."""
    probs, generated = [0.28, 0.3, 0.32, 0.95, 1.0], [True, False, False, True, False]
    assert calibration_error(probs, generated) == pytest.approx((abs(0.9 - 1) + abs(1.95 - 1)) / 5)


def test_calibration_error_sees_a_bias_to_one_side():
    """0.2 too high on both sides of 0.5; as confidence in the answer given, this is 0.7 right in 0.7 of cases."""
    probs = np.repeat([0.3, 0.7], 10)
    generated = np.r_[np.arange(10) < 1, np.arange(10) < 5]
    assert calibration_error(probs, generated) == pytest.approx(0.2)


def test_calibration_error_of_calibrated_probabilities_vanishes():
    rng = np.random.default_rng(0)
    probs = rng.random(200_000)
    generated = rng.random(200_000) < probs
    assert calibration_error(probs, generated) < 0.01
    assert calibration_error(probs**3, generated) > 0.1


@pytest.fixture
def table():
    """Two real images; `easy` above both, `hard` with one of three above both and two below."""
    return pd.DataFrame(
        {
            "prob": [0.2, 0.4, 0.9, 0.1, 0.1, 0.8],
            "generated": [False, False, True, True, True, True],
            "generator": ["", "camera", "easy", "hard", "hard", "hard"],
        }
    )


def test_generator_by_hand(table):
    easy, hard, average = by_generator(table).to_dict("records")
    assert [row["generator"] for row in (easy, hard, average)] == ["easy", "hard", "average"]
    assert [(row["n_real"], row["n_generated"]) for row in (easy, hard, average)] == [(2, 1), (2, 3), (2, 4)]
    assert (easy["auc"], hard["auc"]) == (1.0, pytest.approx(1 / 3))
    assert (easy["accuracy"], hard["accuracy"]) == (1.0, 0.6)


def test_average_counts_every_generator_the_same(table):
    average = by_generator(table).iloc[-1]
    assert average["auc"] == pytest.approx((1 + 1 / 3) / 2)
    assert average["auc"] != pytest.approx(detection_metrics(table["prob"], table["generated"])["auc"])
    assert average["accuracy"] == pytest.approx(0.8)


def test_unnamed_generators_are_not_lost(table):
    table.loc[2, "generator"], table.loc[3, "generator"] = None, ""
    rows = by_generator(table).set_index("generator")
    assert rows["n_generated"].to_dict() == {"hard": 2, "unknown": 2, "average": 4}


def test_without_generated_or_real_images(table):
    (only,) = by_generator(table[~table["generated"]]).to_dict("records")
    assert (only["generator"], only["n_real"], only["n_generated"]) == ("average", 2, 0)
    assert math.isnan(only["auc"])
    assert math.isnan(only["accuracy"])
    fakes = by_generator(table[table["generated"]])
    assert fakes["auc"].isna().all()
    assert fakes["accuracy"].iloc[-1] == pytest.approx((1 + 1 / 3) / 2)


def test_markdown(table):
    rows = by_generator(table[table["generator"] != "hard"])
    rows.insert(1, "degradation", "none")
    head, _, easy, average = format_table(rows).splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "generator",
        "degradation",
        "AUC",
        "AP",
        "accuracy",
        "TPR at 5 % FPR",
        "calibration error",
        "real",
        "generated",
    ]
    expected = ["none", "1.0000", "1.0000", "1.0000", "1.0000", "0.2333", "2", "1"]
    assert [cell.strip() for cell in easy.split("|")[1:-1]] == ["easy", *expected]
    assert [cell.strip() for cell in average.split("|")[1:-1]] == ["average", *expected]


def test_markdown_of_what_is_undefined(table):
    rows = by_generator(table[table["generated"]])
    assert "–" in format_table(rows)
    assert "nan" not in format_table(rows)


def test_clip_score_by_hand():
    """Cosines 0.6, −1 and 1; what points away counts as 0."""
    images = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    texts = np.array([[3.0, 4.0], [-1.0, 0.0], [0.0, 1.0]])
    assert clip_score(images, texts) == pytest.approx((60 + 0 + 100) / 3)


def test_clip_score_of_nothing_and_of_a_mismatch():
    assert math.isnan(clip_score(np.zeros((0, 4)), np.zeros((0, 4))))
    with pytest.raises(ValueError, match="against"):
        clip_score(np.ones((3, 4)), np.ones((1, 4)))

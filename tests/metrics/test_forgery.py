import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, matthews_corrcoef, precision_recall_curve, roc_auc_score

from common.metrics import forgery as metrics
from common.metrics import rle

H, W = 720, 960
NONE = np.zeros((0, H, W), bool)


def boxes(*corners, size=40):
    """One mask with a square at each of the corners."""
    mask = np.zeros((H, W), bool)
    for y, x in corners:
        mask[y : y + size, x : x + size] = True
    return mask


A, B, C, D = (10, 10), (10, 500), (300, 10), (300, 500)


def test_of1_of_the_formats_table():
    one_of_two_blobs = boxes(A, B)[None]
    two = np.stack([boxes(A), boxes(B)])
    assert metrics.of1(one_of_two_blobs, one_of_two_blobs) == 1.0
    assert metrics.of1(np.stack([boxes(A), boxes(B)]), one_of_two_blobs) == pytest.approx(1 / 3)
    assert metrics.of1(boxes(A)[None], one_of_two_blobs) == pytest.approx(2 / 3)
    assert metrics.of1(boxes(A, B)[None], two) == pytest.approx(1 / 3)
    assert metrics.of1(np.stack([boxes(A, B)] * 2), one_of_two_blobs) == 0.5
    assert metrics.of1(np.stack([boxes(A), boxes(C), boxes(B), boxes(D)]), two) == 0.5


@pytest.mark.parametrize(
    ("annotation", "mean_of_three"),
    [("[101, 103]", 0.9983739837398374), ("[101, 102];[300, 100]", 0.8333333333333334)],
)
def test_of1_of_the_formats_table_in_run_lengths(annotation, mean_of_three):
    truth = rle.parse_annotation("[101, 102]", H, W)
    score = metrics.of1(rle.parse_annotation(annotation, H, W), truth)
    assert np.mean([score, metrics.of1(NONE, NONE), metrics.of1(NONE, NONE)]) == mean_of_three


def test_of1_of_verdicts():
    assert metrics.of1(NONE, NONE) == 1.0
    assert metrics.of1(boxes(A)[None], NONE) == 0.0
    assert metrics.of1(NONE, boxes(A)[None]) == 0.0
    assert metrics.of1(NONE, np.zeros((0, 5, 5), bool)) == 1.0


def test_of1_counts_an_empty_instance_against_the_prediction():
    assert metrics.of1(np.stack([boxes(A), boxes()]), boxes(A)[None]) == 0.5
    assert metrics.of1(boxes()[None], boxes()[None]) == 0.0  # F1 of nothing and nothing is undefined: 0


def test_of1_refuses_another_size():
    with pytest.raises(ValueError, match="against"):
        metrics.of1(boxes(A)[None], np.ones((1, 5, 5), bool))


INSTANCES = st.integers(1, 4)


@given(st.data(), INSTANCES, INSTANCES)
def test_of1_is_the_best_assignment(data, n, m):
    from itertools import permutations

    predicted = data.draw(hnp.arrays(bool, (n, 4, 3)))
    truth = data.draw(hnp.arrays(bool, (m, 4, 3)))
    f1 = np.array([[metrics.pixel_f1(p, t) if p.any() or t.any() else 0.0 for t in truth] for p in predicted])
    f1 = f1 if n <= m else f1.T
    best = max(sum(f1[i, j] for i, j in enumerate(order)) for order in permutations(range(max(n, m)), min(n, m)))
    assert metrics.of1(predicted, truth) == pytest.approx(best / max(n, m))
    # The way that never draws a mask gives the same.
    runs = [rle.encode(mask) for mask in predicted]
    inter = np.array([rle.pixels_inside(runs, mask) for mask in truth]).T
    counted = metrics.of1_from_counts(inter, predicted.sum(axis=(1, 2)), truth.sum(axis=(1, 2)))
    assert counted == pytest.approx(metrics.of1(predicted, truth))


def test_pixel_level():
    pred, truth = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 1]], bool)
    assert metrics.pixel_f1(pred, truth) == pytest.approx(2 / 5)
    assert metrics.pixel_iou(pred, truth) == pytest.approx(1 / 4)
    assert metrics.pixel_recall(pred, truth) == pytest.approx(1 / 3)
    empty = np.zeros_like(truth)
    assert metrics.pixel_f1(empty, empty) == metrics.pixel_iou(empty, empty) == 1.0
    assert metrics.pixel_f1(empty, truth) == metrics.pixel_iou(pred, empty) == metrics.pixel_recall(empty, truth) == 0.0
    assert math.isnan(metrics.pixel_recall(pred, empty))
    with pytest.raises(ValueError, match="against"):
        metrics.pixel_f1(pred, truth.T)


def test_thresholds_are_the_float16_values():
    assert metrics.PIXEL_THRESHOLDS[[0, 0x3800, -2]].tolist() == [0, 0.5, 1]
    assert (np.diff(metrics.PIXEL_THRESHOLDS) > 0).all() and metrics.PIXEL_THRESHOLDS[-1] > 1


def made_map(seed, kind):
    rng = np.random.default_rng(seed)
    truth = np.zeros((128, 96), bool)
    truth[20:50, 30:70] = True
    probs = 1 / (1 + np.exp(-(2.0 * truth + rng.normal(size=truth.shape) - 6)))  # most of it near 0, as real maps
    if kind == "8 bits":
        return np.round(255 * probs).astype(np.float32) / np.float32(255), truth
    return probs.astype(kind), truth


@pytest.mark.parametrize(("kind", "error"), [(np.float16, 1e-12), ("8 bits", 1e-12), (np.float32, 1e-4)])
def test_pixel_auc_and_best_f1_against_sklearn(kind, error):
    probs, truth = made_map(0, kind)
    exact = probs.astype(np.float64).ravel()
    assert metrics.pixel_auc(probs, truth) == pytest.approx(roc_auc_score(truth.ravel(), exact), abs=error)
    f1, threshold = metrics.best_threshold(metrics.pixel_f1_curve(probs, truth))
    precision, recall, _ = precision_recall_curve(truth.ravel(), exact)
    assert f1 == pytest.approx(np.max(2 * precision * recall / (precision + recall + 1e-30)), abs=max(error, 1e-3))
    assert f1 == pytest.approx(metrics.pixel_f1(probs.astype(np.float16) >= threshold, truth), abs=1e-12)


def test_threshold_free_hand_known():
    probs, truth = np.array([[0.1, 0.4, 0.4, 0.8]], np.float16), np.array([[0, 0, 1, 1]], bool)
    assert metrics.pixel_auc(probs, truth) == (1 + 0.5 + 1 + 1) / 4  # the tie counts half
    f1, threshold = metrics.best_threshold(metrics.pixel_f1_curve(probs, truth))
    assert (f1, threshold) == (pytest.approx(4 / 5), float(np.float16(0.4)))
    curve = metrics.pixel_f1_curve(probs, truth)
    for value, expected in [(0, 2 / 3), (0.25, 4 / 5), (0.5, 2 / 3), (1, 0)]:
        assert curve[value == metrics.PIXEL_THRESHOLDS].item() == pytest.approx(expected)


def test_threshold_free_edges():
    probs = np.array([[-0.0, 0.5, 1.0]], np.float32)
    nothing, everything = np.zeros((1, 3), bool), np.ones((1, 3), bool)
    assert math.isnan(metrics.pixel_auc(probs, nothing)) and math.isnan(metrics.pixel_auc(probs, everything))
    assert metrics.best_threshold(metrics.pixel_f1_curve(probs, everything)) == (1.0, 0.0)
    f1, threshold = metrics.best_threshold(metrics.pixel_f1_curve(probs, nothing))
    assert f1 == 1.0 and threshold > 1  # nothing is to be predicted
    for wrong in (1.5, -0.5, np.nan, np.inf, 1e9):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            metrics.pixel_auc(np.full((1, 3), wrong, np.float32), everything)


def test_image_score_is_not_moved_by_single_pixels():
    probs = np.full((100, 100), 0.1, np.float16)
    probs[0, :5] = 1  # 0.05 % of the image
    assert metrics.image_score(probs) == pytest.approx(0.1, abs=1e-3)
    probs[0, :12] = 1
    assert metrics.image_score(probs) == 1.0


def test_image_metrics_hand_known():
    pred, truth = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool), np.array([1, 1, 0, 1, 0, 0, 0, 0], bool)
    found = metrics.image_metrics(pred, truth)
    assert found == pytest.approx(
        {
            "image_precision": 2 / 3,
            "image_recall": 2 / 3,
            "image_f1": f1_score(truth, pred),
            "image_fpr": 1 / 5,
            "image_mcc": matthews_corrcoef(truth, pred),
        }
    )


def test_image_metrics_without_a_class():
    none = np.zeros(3, bool)
    found = metrics.image_metrics(none, none)
    assert [name for name, value in found.items() if math.isnan(value)] == [
        "image_precision",
        "image_recall",
        "image_f1",
    ]
    assert found["image_fpr"] == found["image_mcc"] == 0
    assert math.isnan(metrics.image_metrics(none, ~none)["image_fpr"])


def test_image_auc_against_sklearn():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 20, 200) / 20, rng.random(200) < 0.3
    assert metrics.image_auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    assert math.isnan(metrics.image_auc(scores, np.ones(200, bool)))
    assert math.isnan(metrics.image_auc(np.zeros(0), np.zeros(0, bool)))


def test_recall_at_a_false_positive_rate_by_hand():
    authentic, forged = list(range(20)), [18, 18.5, 19, 25]
    scores, truth = [*authentic, *forged], [False] * 20 + [True] * 4
    assert metrics.recall_at_fpr(scores, truth, 0.05) == 3 / 4  # one of 20 may lie above 18
    assert metrics.recall_at_fpr(scores, truth, 0.0) == 1 / 4
    assert metrics.recall_at_fpr(scores, truth, 0.049) == 1 / 4
    assert metrics.recall_at_fpr(scores, truth, 1.0) == 1
    assert metrics.recall_at_fpr([0.5] * 24, truth) == 0  # equal scores tell nothing
    assert math.isnan(metrics.recall_at_fpr(scores[:20], truth[:20]))
    assert math.isnan(metrics.recall_at_fpr(scores[20:], truth[20:]))

"""Figures of merit: arrays in, plain numbers out.

Three levels, told apart by name: `pixel_*` compares maps of one image, `image_*` verdicts over many images, and
`of1` is the competition's metric, which matches whole instances. What is undefined is nan, never 0.

The threshold-free figures count the pixels of each value that a float16 can take in [0, 1] (`THRESHOLDS`). For maps
stored as float16 or in 8 bits this is exact; float32 probabilities are rounded to 11 significant bits, which moved no
AUC by more than 1e-4 in the tests and costs one pass instead of a sort.
"""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLDS = np.arange(0x3C02, dtype=np.uint16).view(np.float16).astype(np.float64)
"""The thresholds that are tried, ascending, (15362,): every float16 from 0 to 1, and one above 1 that nothing
reaches. A pixel counts as forged when its probability is at least the threshold."""

IMAGE_SCORE_QUANTILE = 0.999


def pixel_f1(pred: np.ndarray, truth: np.ndarray) -> float:
    """2TP / (2TP + FP + FN) of two masks (H, W), in [0, 1]; 1 when both are empty."""
    inter, n_pred, n_truth = _counts(pred, truth)
    return 2 * inter / (n_pred + n_truth) if n_pred + n_truth else 1.0


def pixel_iou(pred: np.ndarray, truth: np.ndarray) -> float:
    """TP / (TP + FP + FN) of two masks (H, W), in [0, 1]; 1 when both are empty."""
    inter, n_pred, n_truth = _counts(pred, truth)
    union = n_pred + n_truth - inter
    return inter / union if union else 1.0


def pixel_recall(pred: np.ndarray, truth: np.ndarray) -> float:
    """TP / (TP + FN) of two masks (H, W), in [0, 1]; nan when the truth is empty."""
    inter, _, n_truth = _counts(pred, truth)
    return inter / n_truth if n_truth else math.nan


def pixel_auc(probs: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve of one image's pixels, in [0, 1]; nan when the truth has one class only.

    Args:
        probs: Probabilities (H, W) in [0, 1].
        truth: Mask (H, W).

    Raises:
        ValueError: Different shapes, or probabilities outside [0, 1].
    """
    return _auc(*_value_counts(probs, truth))


def pixel_f1_curve(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`pixel_f1` of one image at each of `THRESHOLDS`, float64 (15362,). Arguments and errors as `pixel_auc`."""
    forged, authentic = _value_counts(probs, truth)
    inter, n_pred = np.cumsum(forged[::-1])[::-1], np.cumsum((forged + authentic)[::-1])[::-1]
    total = n_pred + forged.sum()
    return np.where(total > 0, 2 * inter / np.maximum(total, 1), 1.0)


def best_threshold(curve: np.ndarray) -> tuple[float, float]:
    """Maximum of a curve over `THRESHOLDS`, and the highest threshold where it is reached.

    Of one image's `pixel_f1_curve` that is an oracle's threshold; to compare models, take the one that is best for the
    mean curve of all images.
    """
    index = len(curve) - 1 - int(np.argmax(curve[::-1]))
    return float(curve[index]), float(THRESHOLDS[index])


def image_score(probs: np.ndarray) -> float:
    """How forged an image looks: the 99.9 % quantile of its map (H, W).

    Not the maximum, which a single noisy pixel decides and which grows with the size of the image; one pixel in a
    thousand must agree, so that forgeries down to 0.1 % of the image still count in full.
    """
    return float(np.quantile(probs.astype(np.float32, copy=False), IMAGE_SCORE_QUANTILE))


def image_metrics(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Verdicts on images, forged being the positive class.

    Args:
        pred: bool (n,), True where forged was predicted.
        truth: bool (n,).

    Returns:
        image_precision, image_recall, image_f1, image_fpr in [0, 1], nan where the denominator is 0, and
        image_mcc (Matthews 1975) in [-1, 1], 0 where a row or column of the confusion matrix is empty.
    """
    pred, truth = np.asarray(pred, bool), np.asarray(truth, bool)
    tp, fp = int((pred & truth).sum()), int((pred & ~truth).sum())
    fn, tn = int((~pred & truth).sum()), int((~pred & ~truth).sum())
    margins = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "image_precision": _ratio(tp, tp + fp),
        "image_recall": _ratio(tp, tp + fn),
        "image_f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "image_fpr": _ratio(fp, fp + tn),
        "image_mcc": (tp * tn - fp * fn) / margins if margins else 0.0,
    }


def image_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve of image scores (n,) against bool (n,); nan when there is one class only."""
    values, index = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    truth = np.asarray(truth, bool)
    return _auc(np.bincount(index[truth], minlength=len(values)), np.bincount(index[~truth], minlength=len(values)))


def of1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The competition's score of one image, in [0, 1].

    Args:
        predicted: Masks (n, H, W), one an instance; n = 0 says authentic.
        truth: Masks (m, H, W); m = 0 is an authentic image, whose H and W need not agree with the prediction's.

    Raises:
        ValueError: Both have instances, of different sizes.
    """
    if not len(predicted) or not len(truth):
        return float(len(predicted) == len(truth))
    if predicted.shape[1:] != truth.shape[1:]:
        raise ValueError(f"predicted masks of {predicted.shape[1:]} against a truth of {truth.shape[1:]}")
    predicted, truth = (masks.astype(bool, copy=False).reshape(len(masks), -1) for masks in (predicted, truth))
    inter = np.zeros((len(predicted), len(truth)))
    inside = np.flatnonzero(truth.any(axis=0))  # only pixels of the truth can lie in both
    for start in range(0, len(inside), 2**16):  # in parts, so that float32 counts exactly and memory stays flat
        part = inside[start : start + 2**16]
        inter += predicted[:, part].astype(np.float32) @ truth[:, part].T.astype(np.float32)
    return of1_from_counts(inter, np.count_nonzero(predicted, axis=1), np.count_nonzero(truth, axis=1))


def of1_from_counts(inter: np.ndarray, n_pred: np.ndarray, n_truth: np.ndarray) -> float:
    """`of1` of one image from counted pixels, for callers that need no masks (run lengths).

    Args:
        inter: Pixels that predicted instance i and true instance j share, (n, m).
        n_pred: Pixels of each predicted instance, (n,).
        n_truth: Pixels of each true instance, (m,).
    """
    n, m = inter.shape
    if not n or not m:
        return float(n == m)
    # An instance without pixels scores 0 with everything, another empty one included.
    f1 = 2 * inter / np.maximum(n_pred[:, None] + n_truth[None, :], 1)
    rows, columns = linear_sum_assignment(f1, maximize=True)
    return float(f1[rows, columns].sum() / max(n, m))


def _counts(pred: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Pixels in both, in `pred`, in `truth`."""
    if pred.shape != truth.shape:
        raise ValueError(f"a mask of {pred.shape} against a truth of {truth.shape}")
    pred, truth = pred.astype(bool, copy=False), truth.astype(bool, copy=False)
    return np.count_nonzero(pred & truth), np.count_nonzero(pred), np.count_nonzero(truth)


def _value_counts(probs: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many forged and how many authentic pixels have each value of `THRESHOLDS`, int64 (15362,) each."""
    if probs.shape != truth.shape:
        raise ValueError(f"a map of {probs.shape} against a truth of {truth.shape}")
    # Bit patterns of floats from 0 up ascend with their values, and nan, infinity and everything negative lie above
    # them. Adding 0 turns -0 into 0.
    with np.errstate(over="ignore"):
        levels = (probs.astype(np.float16) + np.float16(0)).view(np.uint16).ravel()
    if levels.max(initial=0) >= len(THRESHOLDS) - 1:
        raise ValueError("probabilities must lie in [0, 1]")
    inside = truth.astype(bool, copy=False).ravel()
    forged = np.bincount(levels[inside], minlength=len(THRESHOLDS))
    return forged, np.bincount(levels, minlength=len(THRESHOLDS)) - forged


def _auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Probability that a positive ranks above a negative, ties counting half, from counts by ascending value."""
    # In floats: the product of two counts of a large image leaves int64 when summed.
    below = np.cumsum(negatives) - 0.5 * negatives
    pairs = float(positives.sum()) * float(negatives.sum())
    return float((positives * below).sum() / pairs) if pairs else math.nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan

"""Metrics of forgery detection: arrays in, plain numbers out.

Three levels, told apart by name: `pixel_*` compares maps of one image, `image_*` verdicts over many images, and
`of1` is the competition's metric, which matches whole instances. What is undefined is nan, never 0.

The threshold-free pixel metrics count the pixels of each value that a float16 can take in [0, 1] (`PIXEL_THRESHOLDS`).
For maps stored as float16 or in 8 bits this is exact; float32 probabilities are rounded to 11 significant bits, which
moved no AUC by more than 1e-4 in the tests and costs one pass instead of a sort.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

PIXEL_THRESHOLDS = np.arange(0x3C02, dtype=np.uint16).view(np.float16).astype(np.float64)
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
    forged, authentic = _value_counts(probs, truth)
    below = np.cumsum(authentic) - 0.5 * authentic  # ties count half
    # In floats: the product of two counts of a large image leaves int64 when summed.
    pairs = float(forged.sum()) * float(authentic.sum())
    return float((forged * below).sum() / pairs) if pairs else math.nan


def pixel_f1_curve(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`pixel_f1` of one image at each of `PIXEL_THRESHOLDS`, float64 (15362,). Arguments and errors as `pixel_auc`."""
    forged, authentic = _value_counts(probs, truth)
    inter, n_pred = np.cumsum(forged[::-1])[::-1], np.cumsum((forged + authentic)[::-1])[::-1]
    total = n_pred + forged.sum()
    return np.where(total > 0, 2 * inter / np.maximum(total, 1), 1.0)


def best_threshold(curve: np.ndarray) -> tuple[float, float]:
    """Maximum of a curve over `PIXEL_THRESHOLDS`, and the highest threshold where it is reached.

    To compare models, take the threshold that is best for the mean curve of all images, not each image's own.
    """
    index = len(curve) - 1 - int(np.argmax(curve[::-1]))
    return float(curve[index]), float(PIXEL_THRESHOLDS[index])


def image_score(probs: np.ndarray) -> float:
    """The 99.9 % quantile of a map (H, W): an uncalibrated score that the image is forged.

    Unlike the maximum it neither depends on single noisy pixels nor grows with the size of the image, and forgeries
    down to 0.1 % of the image still count in full.
    """
    return float(np.quantile(probs.astype(np.float32, copy=False), IMAGE_SCORE_QUANTILE))


def recall_at_fpr(scores: ArrayLike, truth: ArrayLike, fpr: float = 0.05) -> float:
    """Share of the forged images above the score that at most the share `fpr` of the authentic ones exceeds.

    Args:
        scores: (n,), the higher the more likely forged.
        truth: bool (n,), True where forged.
        fpr: In [0, 1].

    Returns:
        In [0, 1]; nan without images of both classes.
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, bool)
    forged, authentic = scores[truth], np.sort(scores[~truth])[::-1]
    if not len(forged) or not len(authentic):
        return math.nan
    allowed = math.floor(fpr * len(authentic) + 1e-9)  # authentic images that may lie above the score
    return 1.0 if allowed >= len(authentic) else float((forged > authentic[allowed]).mean())


def image_metrics(pred: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Metrics of image-level verdicts, forged being the positive class.

    Args:
        pred: bool (n,), True where forged was predicted.
        truth: bool (n,).

    Returns:
        image_precision, image_recall, image_f1, image_fpr in [0, 1], nan where the denominator is 0, and
        image_mcc (Matthews 1975) in [-1, 1], 0 where a row or column of the confusion matrix is empty.
    """
    # Imported here and below because it takes half as long as torch, and a submission does not need it.
    from sklearn.metrics import matthews_corrcoef

    pred, truth = np.asarray(pred, bool), np.asarray(truth, bool)
    tp, fp, fn = (int(np.count_nonzero(both)) for both in (pred & truth, pred & ~truth, ~pred & truth))
    return {
        "image_precision": _ratio(tp, tp + fp),
        "image_recall": _ratio(tp, tp + fn),
        "image_f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "image_fpr": _ratio(fp, int(np.count_nonzero(~truth))),
        "image_mcc": float(matthews_corrcoef(truth, pred)) if truth.any() and not truth.all() else 0.0,
    }


def image_auc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Area under the ROC curve of image scores (n,) against bool (n,); nan when there is one class only."""
    from sklearn.metrics import roc_auc_score

    truth = np.asarray(truth, bool)
    if truth.all() or not truth.any():
        return math.nan
    return float(roc_auc_score(truth, np.asarray(scores, np.float64)))


def of1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The competition's score of one image, in [0, 1].

    Args:
        predicted: Masks (n, H, W), one per instance; n = 0 means authentic.
        truth: Masks (m, H, W); m = 0 means authentic, and H and W need not agree with the prediction's.

    Raises:
        ValueError: Both have instances, of different sizes.
    """
    if not len(predicted) or not len(truth):
        return float(len(predicted) == len(truth))
    if predicted.shape[1:] != truth.shape[1:]:
        raise ValueError(f"predicted masks of {predicted.shape[1:]} against a truth of {truth.shape[1:]}")
    predicted, truth = (masks.astype(bool, copy=False).reshape(len(masks), -1) for masks in (predicted, truth))
    inter = np.array([np.count_nonzero(mask & truth, axis=1) for mask in predicted])
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
    """How many pixels are in both, in `pred`, in `truth`."""
    if pred.shape != truth.shape:
        raise ValueError(f"a mask of {pred.shape} against a truth of {truth.shape}")
    pred, truth = pred.astype(bool, copy=False), truth.astype(bool, copy=False)
    return int(np.count_nonzero(pred & truth)), int(np.count_nonzero(pred)), int(np.count_nonzero(truth))


def _value_counts(probs: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many forged and how many authentic pixels have each value of `PIXEL_THRESHOLDS`, int64 (15362,) each."""
    if probs.shape != truth.shape:
        raise ValueError(f"a map of {probs.shape} against a truth of {truth.shape}")
    # Bit patterns of floats from 0 up ascend with their values, and nan, infinity and everything negative lie above
    # them. Adding 0 turns -0 into 0.
    with np.errstate(over="ignore"):
        levels = (probs.astype(np.float16) + np.float16(0)).view(np.uint16).ravel()
    if levels.max(initial=0) >= len(PIXEL_THRESHOLDS) - 1:
        raise ValueError("probabilities must lie in [0, 1]")
    inside = truth.astype(bool, copy=False).ravel()
    forged = np.bincount(levels[inside], minlength=len(PIXEL_THRESHOLDS))
    return forged, np.bincount(levels, minlength=len(PIXEL_THRESHOLDS)) - forged


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan

"""The image-level decision, forged or authentic: a calibrated logistic model on features of the maps.

Calling an image forged for any pixel above a threshold flags most authentic images. Here the probability must reach the
mode's threshold. Under oF1 an image is worth calling forged when p · F1 > 1 − p, with F1 what its mask will score: at
p = 0.65 for an expected F1 of 0.54.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from common.data.transforms import resize_image
from common.ensemble.blending import to_half, to_single
from common.ensemble.choices import MODE_THRESHOLDS, Mode
from common.errors import UserError
from common.forensics.copy_move import LEAST_SCORE
from common.metrics.calibration import calibrated, log_odds
from common.metrics.forgery import IMAGE_SCORE_QUANTILE

FEATURES = ("quantile_99", "quantile_999", "maximum", "soft_max", "log_area_share", "disagreement")
"""Of the networks' blend, see `map_features`."""

COPY_FEATURES = ("copy_score", "copy_inliers", "copy_area")
"""Of the copy-move evidence, see `copy_features`."""

GENERATED_FEATURES = ("generated",)
"""Of the detector of generated images, see `generated_features`."""

FEATURE_SIZE = 256
"""Side in pixels of the maps that features are computed on: a maximum or a quantile grows with their number."""

TEMPERATURE = 0.1
"""Of the soft-max pooling: a region of 0.9 outweighs a background of 0.1 from e⁻⁸ = 0.03 % of the image on."""

_TOP_PIXELS = round(0.001 * FEATURE_SIZE**2)
# The last float16 below 1: maps that were stored as float16 and maps that were not have the same log-odds.
_HIGHEST = 1 - 2**-11


def is_forged(forged_probability: float, mode: Mode) -> bool:
    """Whether an image with this calibrated probability in [0, 1] is called forged.

    Raises:
        UserError: The probability is nan.
    """
    if math.isnan(forged_probability):
        raise UserError("there is no verdict: a network's result is not finite. Train it again, or leave it out.")
    return forged_probability >= MODE_THRESHOLDS[mode]


def feature_maps(maps: np.ndarray) -> np.ndarray:
    """The members' maps (M, h, w) at `FEATURE_SIZE` squared, float16: what decisions are fitted on and applied to."""
    if maps.dtype == np.float16 and maps.shape[1:] == (FEATURE_SIZE, FEATURE_SIZE):
        return maps
    return to_half(np.stack([to_single(_resized(prob)) for prob in maps]))


def map_features(blend: np.ndarray, members: Mapping[str, np.ndarray], pixel_threshold: float) -> dict[str, float]:
    """Features of one image's maps, computed at `FEATURE_SIZE` squared.

    Args:
        blend: The networks' blend (h, w), probabilities.
        members: The map (h, w) of each network by name, at least one, also of those without a weight in the blend.
        pixel_threshold: Pixels of at least this are forged.

    Returns:
        `FEATURES`: the log-odds of the blend's 99 % and 99.9 % quantile, maximum, and soft-max pooling
        Σ p · softmax(p / `TEMPERATURE`); the logarithm of the share of forged pixels, one added to their count so
        that it is finite; and the standard deviation between the members, in [0, 0.5], as its mean over the 0.1 % of
        the pixels where the blend is highest (0 for one member). And `soft_max_<name>` of each member's own map: a
        model of these is a stacking (Wolpert 1992).
    """
    values = to_single(_resized(blend)).ravel()
    own = {name: to_single(_resized(prob)).ravel() for name, prob in members.items()}
    top = np.argpartition(values, -_TOP_PIXELS)[-_TOP_PIXELS:]
    quantile_99, quantile_999 = _upper_quantiles(values, (0.99, IMAGE_SCORE_QUANTILE))
    return {
        "quantile_99": _log_odds(quantile_99),
        "quantile_999": _log_odds(quantile_999),
        "maximum": _log_odds(values.max()),
        "soft_max": _log_odds(_soft_max(values)),
        "log_area_share": math.log((np.count_nonzero(values >= pixel_threshold) + 1) / values.size),
        "disagreement": float(np.stack([prob[top] for prob in own.values()]).std(axis=0).mean()),
    } | {f"soft_max_{name}": _log_odds(_soft_max(prob)) for name, prob in own.items()}


def copy_features(score: float, inliers: float, area_share: float) -> dict[str, float]:
    """Features of one image's best group of copies; zeros stand for none.

    Returns:
        `COPY_FEATURES`: the log-odds of its score, at least `LEAST_SCORE`; ln(1 + inliers); and the logarithm of its
        area share, to which a pixel of the features' maps is added so that it is finite.
    """
    return {
        "copy_score": _log_odds(max(score, LEAST_SCORE)),
        "copy_inliers": math.log1p(inliers),
        "copy_area": math.log(area_share + FEATURE_SIZE**-2),
    }


def with_copies(probability: float, decision: "Decision", score: float) -> float:
    """An image's probability of being forged, with copies of a calibrated score that its decision may not have read.

    A decision of the networks alone knows nothing of them, and they are independent of it: the higher one counts.
    """
    return probability if decision.reads_copies else max(probability, score)


def generated_features(probability: float) -> dict[str, float]:
    """Feature of the probability, in [0, 1], that the image as a whole is generated.

    Returns:
        `GENERATED_FEATURES`: its log-odds, and 0 for all of 0.5 or less. The detector is for whole-image synthesis:
        something may be pasted into a photograph too, so a low probability must change nothing.
    """
    return {"generated": float(np.maximum(0.0, log_odds(probability)))}  # nan stays nan


def _upper_quantiles(values: np.ndarray, levels: Sequence[float]) -> list[float]:
    """`np.quantile` for ascending, high levels at a sixth of its cost, since it sorts the highest values alone."""
    places = [level * (values.size - 1) for level in levels]
    least = int(places[0])
    highest = np.sort(np.partition(values, least)[least:]).astype(np.float64)
    return [float(np.interp(place - least, np.arange(highest.size), highest)) for place in places]


def _soft_max(values: np.ndarray) -> float:
    values = values.astype(np.float64)  # in single precision the sums depend on the machine
    attention = np.exp((values - values.max()) / TEMPERATURE)
    return (values @ attention) / attention.sum()


def _log_odds(probability: float) -> float:
    return log_odds(min(float(probability), _HIGHEST))


def _resized(prob: np.ndarray) -> np.ndarray:
    """The map at `FEATURE_SIZE` squared; one that has this size is not copied."""
    size = (FEATURE_SIZE, FEATURE_SIZE)
    return prob if prob.shape == size else resize_image(to_single(prob), FEATURE_SIZE)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A logistic model on features, and the calibration of its score. Made by `common.ensemble.fitting`."""

    features: tuple[str, ...]
    """Names from `map_features`, `copy_features` and `generated_features`. `quantile_999` alone is Platt scaling of the
    image's score."""
    mean: tuple[float, ...]
    """Of each feature in the images it was fitted on, but 0 for `GENERATED_FEATURES`; subtracted."""
    scale: tuple[float, ...]
    """Root mean square of the difference, there; divided by."""
    coefficients: tuple[float, ...]
    """Of the standardised features; of `GENERATED_FEATURES` at least 0, so that they only ever add."""
    intercept: float
    calibration: dict[str, float]
    """`slope` and `intercept` from the model's score to a probability (see `common.metrics.calibration`)."""

    def __post_init__(self) -> None:
        known = (*FEATURES, *COPY_FEATURES, *GENERATED_FEATURES)
        if unknown := [name for name in self.features if name not in known and not name.startswith("soft_max_")]:
            raise ValueError(f"there is no feature {', '.join(unknown)}")
        if not len(self.features) == len(self.mean) == len(self.scale) == len(self.coefficients):
            raise ValueError("features, mean, scale and coefficients differ in length")
        if set(self.calibration) != {"slope", "intercept"}:
            raise ValueError("calibration needs slope and intercept")
        if any(scale <= 0 for scale in self.scale):
            raise ValueError("each scale must be above 0")
        for name, mean, coefficient in zip(self.features, self.mean, self.coefficients, strict=True):
            if name in GENERATED_FEATURES and (mean != 0 or coefficient < 0):
                raise ValueError(f"{name} may not count against a forgery: mean 0, coefficient at least 0")

    @property
    def reads_generated(self) -> bool:
        """Whether it reads the detector of generated images."""
        return not set(GENERATED_FEATURES).isdisjoint(self.features)

    @property
    def reads_copies(self) -> bool:
        """Whether it reads the copy-move evidence."""
        return not set(COPY_FEATURES).isdisjoint(self.features)

    def probability(self, features: Mapping[str, float]) -> float:
        """Probability in (0, 1) that the image with these features is forged."""
        chosen = np.array([features[name] for name in self.features])
        logit = (chosen - self.mean) / self.scale @ np.array(self.coefficients) + self.intercept
        return calibrated(float(expit(logit)), **self.calibration)

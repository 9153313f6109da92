"""Fit of the ensemble's settings on out-of-fold predictions of the members.

In order: the members' weights, the pixel threshold, the minimum area and clean-up of the mask, and the image-level
decision on features of the resulting maps. `common.ensemble.variants` measures such a fit on held-out images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold

from common.ensemble.blending import blend, join_evidence
from common.ensemble.choices import Role
from common.ensemble.decision import COPY_FEATURES, GENERATED_FEATURES, Decision, generated_features, map_features
from common.ensemble.instances import MIN_AREA_SHARE, Cleanup, find_instances
from common.ensemble.settings import WeightSource
from common.errors import UserError
from common.generated import DETECTOR
from common.metrics.calibration import fit_calibration
from common.metrics.forgery import best_threshold, pixel_f1, pixel_f1_curve

MOST_FORGED = 300
"""Forged images that weights, threshold and mask are fitted on: the mean F1 of 300 is known to about 0.02, differences
of candidates on the same images more precisely."""

MIN_GAIN = 0.002
"""Mean pixel F1 that another weight, minimum area or clean-up must gain over the simpler choice."""

_SEARCH_SIDE = 128  # of the maps that weights are searched on
_PICKS = 10  # of averaged members: weights in steps of a tenth
_UNION_FACTORS = (0.4, 0.6, 0.8, 1.0)
_AREA_SHARES = (0.0, 0.0002, 0.001, 0.002, 0.005)
_CLEANUPS: tuple[dict[str, Any], ...] = (
    {"closing": 0.005},
    {"closing": 0.01},
    {"opening": 0.005},
    {"fill_holes": True},
)
LEAST_COPIES = 10
"""Images with copies of a probability above 0.5 that a decision must have seen to read the evidence."""
_PENALTIES = (0.01, 0.1, 1.0)  # scikit-learn's C: for standardised features, strong to weak


@dataclass(frozen=True, kw_only=True)
class Oof:
    """The members' out-of-fold maps of n images, and the truth."""

    names: tuple[str, ...]
    """Of the M members: K networks, and after them the evidence if there is any."""
    roles: tuple[Role, ...]
    """(M,)"""
    original_weights: tuple[float, ...]
    """The hand-set weights, (M,)."""
    maps: np.ndarray
    """Of the networks, float16 (n, K, S, S), in memory or memory-mapped: it is read image by image."""
    evidence: np.ndarray | None = None
    """Map of the evidence, float16 (n, S, S), in memory or memory-mapped."""
    copies: np.ndarray | None = None
    """`COPY_FEATURES`, float64 (n, 3), if there is evidence."""
    generated: np.ndarray | None = None
    """Probability that each image is generated, float64 (n,), if there is a detector. It has no map and no weight, and
    is not in `names`."""
    truths: list[np.ndarray]
    """uint8 (k, S, S) of each image, one channel a forged group; k = 0 for an authentic image."""
    groups: np.ndarray
    """Source of each image, (n,) strings: images of one source are never on both sides of a split."""
    sizes: np.ndarray
    """`authentic`, or the size of the forgery, (n,) strings."""

    @property
    def forged(self) -> np.ndarray:
        """Whether each image is forged, bool (n,)."""
        return np.array([len(truth) > 0 for truth in self.truths])

    def only(self, members: Sequence[str]) -> "Oof":
        """The same images with some of the members; `DETECTOR` is the detector of generated images.

        A single network is averaged, whatever its role.
        """
        weights = [w if name in members else 0.0 for name, w in zip(self.names, self.original_weights, strict=True)]
        roles = self.roles
        if len(members) == 1:
            roles = tuple("evidence" if role == "evidence" else "average" for role in roles)
        generated = self.generated if DETECTOR in members else None
        return replace(self, roles=roles, original_weights=tuple(weights), generated=generated)

    @property
    def joins_evidence(self) -> bool:
        """Whether copy-move evidence is one of the members."""
        return self.evidence is not None and self.roles[-1] == "evidence" and self.original_weights[-1] > 0

    def networks(self, image: int, weights: Sequence[float]) -> np.ndarray:
        """The networks' blend of one image, float16 (S, S), for which the curves of F1 are exact."""
        maps = self.maps[image]
        count = len(maps)
        if not any(weights[:count]):  # the evidence alone
            return np.zeros(maps.shape[1:], np.float16)
        return blend(maps, self.roles[:count], weights[:count]).astype(np.float16)

    def join(self, image: int, prob: np.ndarray, weights: Sequence[float]) -> np.ndarray:
        """The networks' blend of one image, `prob`, joined with the evidence, float16 (S, S)."""
        if self.evidence is None:
            return prob
        return join_evidence(prob, self.evidence[image], weights[-1]).astype(np.float16)

    def blended(self, image: int, weights: Sequence[float]) -> np.ndarray:
        """All members' blend of one image, float16 (S, S)."""
        return self.join(image, self.networks(image, weights), weights)

    def features(self, image: int, prob: np.ndarray, pixel_threshold: float) -> dict[str, float]:
        """All features of one image, whose blend of the networks is `prob` (S, S)."""
        used = dict(zip(self.names, self.original_weights, strict=True))
        networks = {name: own for name, own in zip(self.names, self.maps[image], strict=False) if used[name]}
        features = map_features(prob, networks, pixel_threshold) if networks else {}
        if self.copies is not None and self.original_weights[-1]:
            features |= dict(zip(COPY_FEATURES, self.copies[image].tolist(), strict=True))
        if self.generated is not None:
            features |= generated_features(float(self.generated[image]))
        return features


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The result of a fit, with the fields of `common.ensemble.settings.Settings`."""

    weights: dict[str, float]
    pixel_threshold: float
    min_area_share: float = MIN_AREA_SHARE
    cleanup: Cleanup = field(default_factory=Cleanup)
    decision: Decision | None = None


def fit_settings(
    oof: Oof,
    images: np.ndarray | None = None,
    *,
    weights: WeightSource = "fitted",
    fit_mask: bool = True,
    features: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit weights, pixel threshold, mask and decision.

    Args:
        oof: Out-of-fold maps and truth.
        images: Positions of the images to fit on, (m,); all by default.
        weights: Whether the members' weights are the original ones or fitted.
        fit_mask: Whether minimum area and clean-up are fitted, or stay `MIN_AREA_SHARE` and off.
        features: Those that the decision may read, None for all; with an empty tuple, no decision is fitted.
        seed: Of the inner folds and the choice of images.

    Raises:
        UserError: Fewer than two groups with forged or with authentic images.
    """
    images = np.arange(len(oof.truths)) if images is None else images
    forged = images[oof.forged[images]]
    # Sorted, so that a memory-mapped file is read from front to back.
    some = np.sort(np.random.default_rng(seed).permutation(forged)[:MOST_FORGED])
    if not len(some):
        raise UserError("none of the images is forged: nothing can be fitted. Add forged images to the data folder.")
    members = fit_weights(oof, some).tolist() if weights == "fitted" else oof.original_weights
    networks = {image: oof.networks(image, members) for image in some.tolist()}
    maps = {image: oof.join(image, prob, members) for image, prob in networks.items()}
    unions = {image: oof.truths[image].max(axis=0) for image in networks}
    threshold = best_threshold(np.sum([pixel_f1_curve(maps[image], unions[image]) for image in networks], axis=0))[1]
    fitted = Fitted(weights=dict(zip(oof.names, members, strict=True)), pixel_threshold=threshold)
    if fit_mask:
        min_area_share, cleanup = fit_regions(list(maps.values()), list(unions.values()), threshold)
        fitted = replace(fitted, min_area_share=min_area_share, cleanup=cleanup)
    if features != ():
        blends = ((i, networks[i] if i in networks else oof.networks(i, members)) for i in images.tolist())
        table = pd.DataFrame([oof.features(i, prob, threshold) for i, prob in blends])
        read = table if features is None else table[list(features)]
        decision = fit_decision(read, oof.forged[images], oof.groups[images], seed)
        fitted = replace(fitted, decision=decision)
    return fitted


def fit_weights(oof: Oof, images: np.ndarray) -> np.ndarray:
    """Weights of the members (M,) by ensemble selection (Caruana et al. 2004).

    Averaged members are picked one at a time, with repetition; the weight is how often each was picked. Then factors
    are tried for the members of the union and the evidence. Maximised is the mean pixel F1 of forged images at the
    threshold that is best for it. The averaged weights are scaled to the sum of the original ones, for comparison.

    Args:
        oof: Out-of-fold maps and truth.
        images: Positions of forged images.
    """
    # Every n-th row and column of map and truth alike: F1 counted on a part of the pixels, without a bias.
    step = max(1, oof.maps.shape[-1] // _SEARCH_SIDE)
    visible = [image for image in images.tolist() if oof.truths[image][:, ::step, ::step].any()]
    if not visible:
        return np.array(oof.original_weights)
    small = replace(
        oof,
        maps=np.stack([oof.maps[image, :, ::step, ::step] for image in visible]),
        evidence=None if oof.evidence is None else np.stack([oof.evidence[i, ::step, ::step] for i in visible]),
    )
    truths = [oof.truths[image][:, ::step, ::step].max(axis=0) for image in visible]

    def f1(weights: np.ndarray) -> float:
        curves = [pixel_f1_curve(small.blended(k, weights.tolist()), truth) for k, truth in enumerate(truths)]
        return best_threshold(np.mean(curves, axis=0))[0]

    original, averaged = np.array(oof.original_weights), np.array(oof.roles) == "average"
    picked, weights, best = np.zeros(len(original)), original, -np.inf
    for _ in range(_PICKS):
        scores = {m: f1(picked + np.eye(len(original))[m]) for m in np.flatnonzero(original * averaged)}
        chosen = max(scores, key=scores.__getitem__)
        picked[chosen] += 1
        if scores[chosen] > best + MIN_GAIN:
            weights, best = picked * original[averaged].sum() / picked.sum(), scores[chosen]
    for member in np.flatnonzero(original * ~averaged):
        for factor in _UNION_FACTORS:
            candidate = weights.copy()
            candidate[member] = factor
            if (score := f1(candidate)) > best + MIN_GAIN:
                weights, best = candidate, score
    return weights


def fit_regions(maps: list[np.ndarray], truths: list[np.ndarray], threshold: float) -> tuple[float, Cleanup]:
    """Minimum area share and clean-up with the best mean pixel F1, the defaults unless `MIN_GAIN` is gained.

    Args:
        maps: Blends (S, S) of forged images.
        truths: Their masks (S, S).
        threshold: Pixels of at least this are forged.
    """

    def f1(min_area_share: float, cleanup: Cleanup) -> float:
        masks = (find_instances(prob, threshold, min_area_share, cleanup=cleanup) > 0 for prob in maps)
        return float(np.mean([pixel_f1(mask, truth) for mask, truth in zip(masks, truths, strict=True)]))

    area, cleanup = MIN_AREA_SHARE, Cleanup()
    best = f1(area, cleanup)
    for share in _AREA_SHARES:
        if (score := f1(share, cleanup)) > best + MIN_GAIN:
            area, best = share, score
    for change in _CLEANUPS:
        candidate = replace(cleanup, **change)
        if (score := f1(area, candidate)) > best + MIN_GAIN:
            cleanup, best = candidate, score
    return area, cleanup


def fit_decision(features: pd.DataFrame, forged: np.ndarray, groups: np.ndarray, seed: int = 0) -> Decision:
    """Logistic regression with an L2 penalty on standardised features, calibrated on scores of inner folds.

    The penalty is the one with the lowest logarithmic loss on the inner folds; Platt scaling of the same scores
    corrects the effect of over-fitting or of the penalty on the probabilities.

    `GENERATED_FEATURES` may only raise the probability. They are not centred, so that the 0 of an image that is
    probably not generated contributes nothing, and are left out if their coefficient would be negative, or if they are
    equal for all images.

    `COPY_FEATURES` are left out, and the evidence counts by itself (`with_copies`), if fewer than `LEAST_COPIES` of the
    images show copies that pass, or if a higher score would lower the probability: else a fit that has hardly seen
    copies would call the plainest one authentic.

    Args:
        features: A row an image, a column for each of its features that may be read.
        forged: The truth, bool (n,).
        groups: Source of each image, (n,).
        seed: Of the inner folds.

    Raises:
        UserError: Fewer than two groups with forged or with authentic images.
    """
    features = features.drop(columns=[n for n in features if n in GENERATED_FEATURES and features[n].nunique() == 1])
    copies = [name for name in COPY_FEATURES if name in features]
    others = features.columns.difference(copies)
    if len(others) and "copy_score" in copies and (features["copy_score"] > 0).sum() < LEAST_COPIES:
        features = features.drop(columns=copies)
    chosen = features.to_numpy()
    mean = np.where(features.columns.isin(GENERATED_FEATURES), 0.0, chosen.mean(axis=0))
    scale = np.sqrt(((chosen - mean) ** 2).mean(axis=0))
    scale[scale == 0] = 1.0
    standard = (chosen - mean) / scale
    fold_of = grouped_folds(forged, groups, 5, seed)
    held = {}
    for penalty in _PENALTIES:
        held[penalty] = np.empty(len(forged))
        for fold in range(fold_of.max() + 1):
            inside = fold_of != fold
            model = _logistic(penalty).fit(standard[inside], forged[inside])
            held[penalty][~inside] = model.predict_proba(standard[~inside])[:, 1]
    penalty = min(held, key=lambda penalty: log_loss(forged, held[penalty]))
    model = _logistic(penalty).fit(standard, forged)
    coefficients = dict(zip(map(str, features), model.coef_[0].tolist(), strict=True))
    if len(others) and coefficients.get("copy_score", 0) < 0:
        return fit_decision(features.drop(columns=copies), forged, groups, seed)
    if against := [name for name in GENERATED_FEATURES if coefficients.get(name, 0) < 0]:
        return fit_decision(features.drop(columns=against), forged, groups, seed)
    return Decision(
        features=tuple(coefficients),
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        coefficients=tuple(coefficients.values()),
        intercept=float(model.intercept_[0]),
        calibration=fit_calibration(held[penalty].tolist(), forged.tolist()),
    )


def _logistic(penalty: float) -> LogisticRegression:
    # Newton's method: its Hessian is small for few features, and it needs a tenth of the default's steps.
    return LogisticRegression(C=penalty, solver="newton-cholesky")


def grouped_folds(forged: np.ndarray, groups: np.ndarray, folds: int, seed: int, left: int = 1) -> np.ndarray:
    """Fold of each image, (n,), 0 … at most folds − 1: no group is split, and both labels are in each fold.

    The folds are alike in the number of images and the share of forged ones where the groups allow that; else the
    groups are dealt out one by one.

    Args:
        forged: The truth, bool (n,).
        groups: Source of each image, (n,).
        folds: Number of folds, of which each has a group with forged and one with authentic images; at least 2.
        seed: Of the draw.
        left: Number of groups with forged and with authentic images that are left outside each fold: 2 if those images
            are to be split again.

    Raises:
        UserError: There are fewer groups with forged or with authentic images than that takes.
    """
    sources = len(set(groups[forged])), len(set(groups[~forged]))
    least = left + ceil(left / (folds - 1))
    if min(sources) < least:
        raise UserError(
            f"the decision is fitted on forged and authentic images of at least {least} sources each; the forged ones "
            f"are of {sources[0]}, the authentic ones of {sources[1]}. Add images of other sources to the data folder."
        )
    folds = min(folds, *sources)
    fold_of = np.empty(len(forged), np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, members) in enumerate(splitter.split(forged, forged, groups)):
        fold_of[members] = fold
    for fold in range(folds):
        inside = fold_of == fold
        outside = [len(set(groups[~inside & (forged == label)])) for label in (False, True)]
        if len(set(forged[inside])) < 2 or min(outside) < left:
            return _dealt(forged, groups, folds, seed)
    return fold_of


def _dealt(forged: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """As `grouped_folds`, by the labels of the groups alone: those with both are dealt out first, like cards.

    With those of one label it goes on from there, so that the folds' numbers of groups with a label differ by at most
    one.
    """
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    labels = {name: set(forged[groups == name].tolist()) for name in names}
    both = [name for name in names if len(labels[name]) == 2]
    fold_of = np.empty(len(forged), np.int64)
    for label in (False, True):
        alone = [name for name in names if labels[name] == {label}]
        for place, name in enumerate([*both, *alone]):
            fold_of[groups == name] = place % folds
    return fold_of

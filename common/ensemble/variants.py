"""Nested cross-validation of variants of the ensemble: the table by which `models/ensemble.json` is chosen.

The members' maps are out of fold already. The images are split once more by groups, everything is fitted on all folds
but one, and that one is scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from common.ensemble.choices import COMPLETE, FEW, FITTED, MODE_THRESHOLDS, ORIGINAL, Mode
from common.ensemble.decision import GENERATED_FEATURES, is_forged, with_copies
from common.ensemble.fitting import Fitted, Oof, fit_settings, grouped_folds
from common.ensemble.instances import find_instances
from common.ensemble.settings import WeightSource
from common.generated import DETECTOR
from common.metrics.forgery import image_auc, image_metrics, of1, pixel_f1, pixel_recall
from common.sizes import SIZES


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Members and settings to fit."""

    name: str
    members: tuple[str, ...]
    """As in `Oof.only`."""
    weights: WeightSource = "original"
    features: tuple[str, ...] | None = ("quantile_999",)
    """Features of the image-level decision, None for all. Without any, an image is forged if any pixel is."""
    fit_mask: bool = False
    """Whether minimum area and clean-up of the mask are fitted."""


def variants(oof: Oof) -> list[Variant]:
    """The rows of the table: each member, the ensemble step by step, and ablations. All fit a pixel threshold.

    `FEW` decides by one feature of each kind, which a small data set suffices for. The ablations leave out the evidence
    and the detector of generated images, if there are any.
    """
    averaged = tuple(name for name, role in zip(oof.names, oof.roles, strict=True) if role == "average")
    networks = tuple(name for name, role in zip(oof.names, oof.roles, strict=True) if role != "evidence")
    evidence = oof.names[len(networks) :]
    detector = () if oof.generated is None else (DETECTOR,)
    everyone = (*oof.names, *detector)
    union = [Variant(name="+ union", members=networks)] if averaged != networks else []
    both = Variant(name="+ copy-move", members=oof.names, features=("quantile_999", "copy_score"))
    few = ("quantile_999", *(["copy_score"] if evidence else []), *(GENERATED_FEATURES if detector else ()))
    full = Variant(name=FITTED, members=everyone, features=None, fit_mask=True, weights="fitted")
    return [
        *(Variant(name=name, members=(name,)) for name in networks),
        *(Variant(name=name, members=(name,), features=("copy_score",)) for name in evidence),
        Variant(name="any pixel", members=oof.names, features=()),
        Variant(name="average", members=averaged),
        *union,
        *([both] if evidence else []),
        Variant(name=FEW, members=everyone, features=few, fit_mask=True),
        Variant(name="+ decision", members=everyone, features=None),
        Variant(name=ORIGINAL, members=everyone, features=None, fit_mask=True),
        full,
        *([replace(full, name="without copy-move", members=(*networks, *detector))] if evidence else []),
        *([replace(full, name=f"without {DETECTOR}", members=oof.names)] if detector else []),
    ]


def nested(oof: Oof, variant: Variant, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Decide every image with settings fitted on the other folds. Variants with the same seed share their folds.

    Returns:
        One row an image, in order: `fold`, `forged` (the truth), `size`, `forged_probability`; `called_<mode>`,
        whether it is reported as forged: probable enough, and with a region left; and of its regions, whether
        reported or not: `mask_of1` (as one instance), and `pixel_f1`, `pixel_recall` (nan for authentic images, and for
        forgeries without a pixel at the maps' size).

    Raises:
        UserError: Fewer than three groups with forged or with authentic images; with two folds, fewer than four.
    """
    oof = oof.only(variant.members)
    fold_of = grouped_folds(oof.forged, oof.groups, folds, seed, left=2)  # the decision's own folds split them again
    rows: dict[int, dict[str, Any]] = {}
    for fold in range(fold_of.max() + 1):
        fitted = fit_settings(
            oof,
            np.flatnonzero(fold_of != fold),
            weights=variant.weights,
            fit_mask=variant.fit_mask,
            features=variant.features,
            seed=seed,
        )
        for image in np.flatnonzero(fold_of == fold):
            rows[int(image)] = {"fold": fold} | _outcome(oof, int(image), fitted)
    return pd.DataFrame([rows[image] for image in range(len(rows))])


def _outcome(oof: Oof, image: int, fitted: Fitted) -> dict[str, Any]:
    """One image's row of `nested`."""
    weights = tuple(fitted.weights.values())
    networks, truth = oof.networks(image, weights), oof.truths[image]
    prob = oof.join(image, networks, weights)
    # Without a decision, a single pixel makes an image forged.
    min_area_share = fitted.min_area_share if fitted.decision else 0.0
    mask = find_instances(prob, fitted.pixel_threshold, min_area_share, cleanup=fitted.cleanup) > 0
    found = bool(mask.any())
    probability = float(found)
    if fitted.decision:
        features = oof.features(image, networks, fitted.pixel_threshold)
        probability = fitted.decision.probability(features)
        if oof.joins_evidence:
            probability = with_copies(probability, fitted.decision, float(expit(features["copy_score"])))
    union = np.asarray(truth.any(axis=0))  # all False without a channel
    return {
        "forged": len(truth) > 0,
        "size": oof.sizes[image],
        "forged_probability": probability,
        **{f"called_{mode}": found and is_forged(probability, mode) for mode in MODE_THRESHOLDS},
        "mask_of1": of1(mask[None] if found else mask[None][:0], truth),
        "pixel_f1": pixel_f1(mask, union) if union.any() else np.nan,
        "pixel_recall": pixel_recall(mask, union),
    }


def summary(table: pd.DataFrame, mode: Mode = "default") -> dict[str, Any]:
    """Metrics of a table of `nested`, at one mode.

    Returns:
        of1, of1_all_authentic, lift (their difference); image_recall, image_fpr; image_auc of the probability; and of
        the masks before the decision: pixel_f1 (mean over forged images), pixel_recall_<size>, n_<size>. nan if there
        is no image to average over.
    """
    forged, called = table["forged"].to_numpy(), table[f"called_{mode}"].to_numpy()
    scored = float(_of1s(table, mode).mean())
    verdicts = image_metrics(called, forged)
    figures = {
        "of1": scored,
        "of1_all_authentic": float((~forged).mean()),
        "lift": scored - float((~forged).mean()),
        "image_recall": verdicts["image_recall"],
        "image_fpr": verdicts["image_fpr"],
        "image_auc": image_auc(table["forged_probability"].to_numpy(), forged),
        "pixel_f1": float(table["pixel_f1"].mean()),
    }
    for size in SIZES:
        of_size = table[table["size"] == size]
        figures |= {f"pixel_recall_{size}": float(of_size["pixel_recall"].mean()), f"n_{size}": len(of_size)}
    return figures


def _of1s(table: pd.DataFrame, mode: Mode) -> np.ndarray:
    """oF1 of each image of a table of `nested` (one instance), at one mode, (n,)."""
    return np.where(table[f"called_{mode}"], table["mask_of1"], ~table["forged"])


def gains(
    outcomes: Mapping[str, pd.DataFrame], best: str, groups: np.ndarray, *, draws: int = 1000
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """How far one variant is above each other on the same images, and how far on other images of the kind.

    That `best` was chosen on these images is not accounted for.

    Args:
        outcomes: Tables of `nested` of the same images, by the variants' names.
        best: Name of the one that is compared.
        groups: Source of each image, (n,): whole sources are drawn, as images of one source are alike.
        draws: Bootstraps.

    Returns:
        For each other variant the difference in `of1`, `image_auc` and `pixel_f1` (`summary`, default mode), and the
        2.5 % and 97.5 % quantiles of that difference over the bootstraps; nan where a metric is.
    """
    _, source = np.unique(groups, return_inverse=True)
    rng, count = np.random.default_rng(0), source.max() + 1
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count)[source] for _ in range(draws))
    weights = np.stack([np.ones(len(source)), *drawn])
    found = {name: _weighted(table, weights) for name, table in outcomes.items()}
    above: dict[str, dict[str, tuple[float, float, float]]] = {}
    for name in outcomes:
        if name != best:
            above[name] = {}
            for metric, values in found[name].items():
                difference = found[best][metric] - values
                low, high = np.nanquantile(difference[1:], (0.025, 0.975))
                above[name][metric] = float(difference[0]), float(low), float(high)
    return above


def _weighted(table: pd.DataFrame, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of a table of `nested` whose images count as often as each row of `weights` (B, n) says, (B,) each."""
    forged, pixels = table["forged"].to_numpy(), table["pixel_f1"].to_numpy()
    measured = np.isfinite(pixels)
    with np.errstate(invalid="ignore"):  # nan where no image is left to average over
        return {
            "of1": weights @ _of1s(table, "default") / weights.sum(axis=1),
            "image_auc": _weighted_auc(table["forged_probability"].to_numpy(), forged, weights),
            "pixel_f1": weights[:, measured] @ pixels[measured] / weights[:, measured].sum(axis=1),
        }


def _weighted_auc(scores: np.ndarray, forged: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`image_auc` of images that count as often as each row of `weights` (B, n) says, (B,)."""
    distinct, place = np.unique(scores, return_inverse=True)
    aucs = np.empty(len(weights))
    for number, weight in enumerate(weights):
        of_forged = np.bincount(place, weight * forged, len(distinct))
        of_others = np.bincount(place, weight * ~forged, len(distinct))
        below = np.cumsum(of_others) - of_others / 2  # equal scores count half
        aucs[number] = of_forged @ below / (of_forged.sum() * of_others.sum())
    return aucs


def choose(summaries: dict[str, dict[str, Any]]) -> str:
    """The name of the complete variant with the best oF1.

    Args:
        summaries: `summary` by the variants' names: those that begin with one of `COMPLETE` are compared. Of equal ones
            the first is taken: more features, fitted weights and further views must be better to be used.
    """
    return max((name for name in summaries if name.startswith(COMPLETE)), key=lambda name: summaries[name]["of1"])

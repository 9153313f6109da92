"""How the members' maps become one: this is the one place that blends."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from common.data.transforms import resize_map
from common.ensemble.precision import to_single

Role = Literal["average", "union", "evidence", "gate"]
"""In the weighted mean; joined by the maximum; no network: joined after those (`join_evidence`); without a map: read by
the image-level decision alone."""


def blend(maps: np.ndarray, roles: Sequence[Role], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of the networks that are averaged, joined with the others by the maximum.

    max(Σ w·p / Σ w over `average`, w·p of each member of `union`), pixel by pixel: a specialist adds what the mean of
    the others overlooks, and takes nothing away.

    Args:
        maps: Probabilities (..., M, h, w), of one image or several.
        roles: Of the members, (M,).
        weights: Of the members, (M,), at least 0; 0 leaves a member out. A union member's is at most 1: it is the
            factor that its probabilities are trusted with (seed: 0.8).

    Returns:
        Probabilities, float32 (..., h, w).

    Raises:
        ValueError: Other counts of maps, roles and weights, another role, a weight out of its range, or no averaged
            member with a weight above 0.
    """
    if not maps.shape[-3] == len(roles) == len(weights):
        raise ValueError(f"{maps.shape[-3]} maps, {len(roles)} roles and {len(weights)} weights")
    if foreign := set(roles) - {"average", "union"}:
        raise ValueError(f"members of the role {', '.join(sorted(foreign))} are not blended")
    if min(weights) < 0 or any(w > 1 for w, role in zip(weights, roles, strict=True) if role == "union"):
        raise ValueError(f"weights must be at least 0, and of a union at most 1: {list(weights)}")
    total = sum(weight for weight, role in zip(weights, roles, strict=True) if role == "average")
    if total == 0:
        raise ValueError("no averaged member has a weight above 0")
    blended = np.zeros(maps.shape[:-3] + maps.shape[-2:], np.float32)
    # One member after the other, the averaged ones first: float16 maps are never all float32 at once.
    for member in sorted(np.flatnonzero(weights), key=lambda member: roles[member]):
        prob = to_single(maps[..., member, :, :])
        if roles[member] == "average":
            blended += np.float32(weights[member] / total) * prob
        else:
            np.maximum(blended, np.float32(weights[member]) * prob, out=blended)
    # The shares of the weights add up to 1 but for rounding.
    return np.minimum(blended, 1, out=blended)


def join_evidence(blended: np.ndarray, evidence: np.ndarray, weight: float) -> np.ndarray:
    """The blend of the networks and the map of classical evidence, by the maximum.

    Args:
        blended: Probabilities (h, w).
        evidence: Probabilities (H, W) of what passed as evidence, (1, 1) where nothing did.
        weight: The factor that they are trusted with, in [0, 1]; 0 leaves them out.

    Returns:
        Probabilities, float32: (H, W) where there is evidence, so that thin regions stay as they were drawn, else
        (h, w).

    Raises:
        ValueError: The weight is out of its range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of evidence must be in [0, 1]: {weight}")
    blended = blended.astype(np.float32, copy=False)
    if weight == 0 or not evidence.any():
        return blended
    return np.maximum(resize_map(blended, *evidence.shape), np.float32(weight) * evidence.astype(np.float32))

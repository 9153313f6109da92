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

from common.figures.annotations import find_print
from common.figures.panels import Panel

if TYPE_CHECKING:
    from common.ensemble.ensemble import Ensemble

MIN_REGION = 64
"""Pixels of the map: smaller regions are noise."""
PEAK_QUANTILE = 0.9
"""Of the probabilities in a region, that is its score: its edge is blurred."""
LEAST_SCORE = 0.9
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
        if len(panels) > 1:
            rim = round(_RIM * min(inside.shape))
            framed = np.ones(inside.shape, bool)
            framed[rim : inside.shape[0] - rim, rim : inside.shape[1] - rim] = False
            inside[framed | find_print(image[panel.window])] = 0
        count, labels, stats, _ = cv2.connectedComponentsWithStats((inside >= threshold).astype(np.uint8))
        for label in range(1, count):
            own = labels == label
            score = float(np.quantile(inside[own], PEAK_QUANTILE))
            if stats[label, cv2.CC_STAT_AREA] >= least and score >= least_score:
                mask = np.zeros((height, width), bool)
                mask[panel.window] = own
                found.append(Altered(mask, score, number if len(panels) > 1 else None))
    return sorted(found, key=lambda region: -region.score)


def altered_regions(image: np.ndarray, panels: Sequence[Panel], models_dir: Path) -> list[Altered]:
    """`find_altered` by the networks of a folder, or by those that come with the project; nothing without any.

    Args:
        image: uint8 (H, W, 3) RGB.
        panels: Of the image.
        models_dir: Folder of the checkpoints; they stay loaded for the next call.

    Raises:
        UserError: A checkpoint is broken.
    """
    networks = _load(models_dir)
    if networks is None:
        return []
    threshold = networks.settings.pixel_threshold
    return find_altered(image, networks.network_map(image), panels, threshold=threshold, least_score=LEAST_SCORE)


@cache
def _load(models_dir: Path) -> "Ensemble | None":
    from common.ensemble.loading import load_ensemble
    from common.ensemble.members import checkpoint_paths, network_folder

    if not checkpoint_paths(network_folder(models_dir)):
        return None
    with redirect_stdout(StringIO()):  # each of several processes would say which networks it takes
        return load_ensemble(models_dir, allow_missing=True, generated=False)

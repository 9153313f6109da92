"""Copy-move evidence: regions and features of detected copies, computed by several processes.

Imports little, since each of these processes imports this module.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import cv2
import joblib
import numpy as np

from common.errors import UserError
from common.figures.reuse import find_reuse
from common.forensics.copy_move import Group
from common.process import watched

Result = TypeVar("Result")

EVIDENCE_THRESHOLD = 0.5
"""Calibrated probability from which a copy is in the evidence's map. Less probable ones only count in the features of
the image-level decision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The copies in one image."""

    prob: np.ndarray
    """1 in copies that pass, else 0, float16: (H, W), or (1, 1) if none does. Not the score: what passes is in the mask
    whatever the pixel threshold."""
    groups: tuple[np.ndarray, ...] = ()
    """For each group with copies that pass, their mask, bool (H, W): equal content is one instance."""
    score: float = 0.0
    """Of the best group, whether it passes or not: calibrated probability in [0, 1]; 0 if nothing was found."""
    inliers: int = 0
    """Of the best group."""
    area_share: float = 0.0
    """Of the best group, all its copies, in [0, 1]."""


def examine(image: np.ndarray) -> Evidence:
    """Detect copies in an image, uint8 (H, W, 3) RGB."""
    return evidence_of(find_reuse(image).reuse)


def evidence_of(found: Sequence[Group], least: float = EVIDENCE_THRESHOLD) -> Evidence:
    """The evidence that groups of copies of one image are.

    Args:
        found: By descending score.
        least: Score from which a copy passes.
    """
    if not found:
        return Evidence(prob=np.zeros((1, 1), np.float16))
    groups = tuple(passing(group, least) for group in found if group.score >= least)
    best = found[0]
    prob = np.zeros(best.copies[0].source.shape if groups else (1, 1), np.float16)
    for mask in groups:
        prob[mask] = 1
    share = float(best.mask.mean())
    return Evidence(prob=prob, groups=groups, score=best.score, inliers=best.inliers, area_share=share)


def passing(group: Group, least: float) -> np.ndarray:
    """Mask of the copies of a group with at least a score, bool (H, W)."""
    mask = np.zeros(group.copies[0].source.shape, bool)
    for copy in group.copies:
        if copy.score >= least:
            mask |= copy.source | copy.target
    return mask


def gather(images: Iterable[np.ndarray], workers: int) -> Iterator[Evidence]:
    """`examine` images in order, by several processes that start at once; by one worker in this thread, on demand.

    The processes are joblib's: those of the standard library would import the program again, and with it torch. They
    stay for the next call with as many workers, and end with the program.

    Args:
        images: uint8 (H, W, 3) RGB. They are taken as processes become free, two waiting for each.
        workers: Processes, at least 1.

    Raises:
        UserError: A process was killed, as happens when memory runs out.
    """
    if workers == 1:
        return map(examine, images)
    # The images go through pipes: shared files would have to be cleaned up.
    pool = joblib.Parallel(n_jobs=workers, return_as="generator", max_nbytes=None, batch_size=1, **watched())
    results = pool(joblib.delayed(_examine_alone)(image) for image in images)
    return collected(results, "Use fewer (workers).")


def _examine_alone(image: np.ndarray) -> Evidence:
    cv2.setNumThreads(1)  # the other cores have processes of their own
    return examine(image)


def collected(results: Iterator[Result], remedy: str) -> Iterator[Result]:
    """The results of processes that detect copies.

    Args:
        results: From joblib's generator.
        remedy: What to do when memory runs out, a sentence.

    Raises:
        UserError: A process was killed.
    """
    try:
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that detects copies was killed, perhaps because memory ran out. {remedy}"
        ) from error

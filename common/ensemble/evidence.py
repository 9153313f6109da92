"""Copy-move evidence: what is found without a network, for the ensemble to join.

Imports little: each process that looks for copies imports this module.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import cv2
import joblib
import numpy as np

from common.errors import UserError
from common.forensics.copy_move import Group, find_copies

EVIDENCE_THRESHOLD = 0.5
"""Calibrated probability from which a copy is drawn. What is less probable speaks through the features of the
image-level decision alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The copies in one image."""

    prob: np.ndarray
    """1 where a copy that passes lies, else 0, float16: (H, W), or (1, 1) where none does. No score: what passes is
    drawn whatever the pixel threshold."""
    groups: tuple[np.ndarray, ...] = ()
    """Mask of the copies that pass in each group that has any, bool (H, W): what shows the same is one instance."""
    score: float = 0.0
    """Of the best group, whether it passes or not: calibrated probability in [0, 1]; 0 where nothing was found."""
    inliers: int = 0
    """Of the best group."""
    area_share: float = 0.0
    """Of the best group, all its copies, in [0, 1]."""


def examine(image: np.ndarray) -> Evidence:
    """Look for copies in an image, uint8 (H, W, 3) RGB."""
    found = find_copies(image)
    groups = tuple(_passing(group) for group in found if group.score >= EVIDENCE_THRESHOLD)
    prob = np.zeros(image.shape[:2] if groups else (1, 1), np.float16)
    for mask in groups:
        prob[mask] = 1
    if not found:
        return Evidence(prob=prob)
    best = found[0]
    share = float(best.mask.mean())
    return Evidence(prob=prob, groups=groups, score=best.score, inliers=best.inliers, area_share=share)


def _passing(group: Group) -> np.ndarray:
    """Where the copies of a group lie that pass, bool (H, W)."""
    mask = np.zeros(group.copies[0].source.shape, bool)
    for copy in group.copies:
        if copy.score >= EVIDENCE_THRESHOLD:
            mask |= copy.source | copy.target
    return mask


def gather(images: Iterable[np.ndarray], workers: int) -> Iterator[Evidence]:
    """`examine` images by several processes, which begin at once; with one worker here, one image at a time.

    joblib's processes, since they don't import the program again, and with it torch, as those of the standard library
    do. They stay for the next call with as many workers, and end with the program.

    Args:
        images: uint8 (H, W, 3) RGB. They are taken as processes become free, two waiting for each.
        workers: Processes, at least 1.

    Returns:
        In the order of the images.

    Raises:
        UserError: A process was ended from outside, as it is where memory runs out.
    """
    if workers == 1:
        return map(examine, images)
    # The images go through pipes: files that the processes share would have to be cleaned up.
    pool = joblib.Parallel(n_jobs=workers, return_as="generator", max_nbytes=None, batch_size=1)
    return _collected(pool(joblib.delayed(_examine_alone)(image) for image in images))


def _examine_alone(image: np.ndarray) -> Evidence:
    cv2.setNumThreads(1)  # the other cores have processes of their own
    return examine(image)


def _collected(results: Iterator[Evidence]) -> Iterator[Evidence]:
    try:
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            "a process that looked for copies was ended from outside, perhaps for want of memory. Try fewer at a time: "
            "--workers 1."
        ) from error

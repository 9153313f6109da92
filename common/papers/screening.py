"""Panels that several figures share, and panels that they share with a library."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from common.errors import readable
from common.papers.across import Across, compare, strips
from common.papers.index import PanelIndex, Points
from common.papers.library import Library
from common.papers.shots import Shot
from common.process import watched

MOST_PARTNERS = 8
"""Panels that a panel is compared with in full, those with most votes: bounds the time."""
MOST_STRIPS = 60
"""Strips of blots of which all pairs are compared in full."""


def shared_panels(
    shots: Sequence[Shot],
    library: Library | None = None,
    digests: frozenset[str] = frozenset(),
    *,
    least: float = 0.0,
) -> Iterator[Across]:
    """Find what panels of different figures share, and panels of these with those of a library.

    Args:
        shots: Panels of any number of figures.
        library: Earlier panels; their sources are named after it.
        digests: Of the files that the panels are from, whose panels in the library are not compared.
        least: Score from which a finding is given.

    Yields:
        What was found, in the order of the panels.
    """
    pairs = [*_within(shots), *(() if library is None else _with_library(shots, library, digests))]
    jobs = (joblib.delayed(_compare)(one, other, least) for one, other in pairs)
    workers = min(os.cpu_count() or 1, max(len(pairs), 1))
    results = joblib.Parallel(workers, return_as="generator", **watched())(jobs)
    yield from (found for found in tqdm(results, "pairs of panels", len(pairs), disable=None) if found is not None)


def _compare(one: Shot, other: Shot, least: float) -> Across | None:
    cv2.setNumThreads(1)
    found = compare(one, other)
    return None if found is None or found.finding.group.score < least else found


def _within(shots: Sequence[Shot]) -> Iterator[tuple[Shot, Shot]]:
    """Pairs of panels of different figures that may share something."""
    points = Points.of(shots)
    figures = np.unique([shot.source for shot in shots], return_inverse=True)[1].reshape(-1)
    known = set()
    partners = np.zeros(len(shots), int)
    for candidate in PanelIndex(points).candidates(points, figures, figures):
        pair = (min(candidate.one, candidate.other), max(candidate.one, candidate.other))
        if pair not in known and partners[candidate.one] < MOST_PARTNERS:
            partners[candidate.one] += 1
            known.add(pair)
    blots = strips(shots)[:MOST_STRIPS]
    known |= {(i, j) for i in blots for j in blots if i < j and figures[i] != figures[j]}
    for i, j in sorted(known):
        yield shots[i], shots[j]


def _with_library(shots: Sequence[Shot], library: Library, digests: frozenset[str]) -> Iterator[tuple[Shot, Shot]]:
    partners = np.zeros(len(shots), int)
    for candidate in library.candidates(shots, digests):
        if partners[candidate.one] < MOST_PARTNERS:
            partners[candidate.one] += 1
            known = library.shot(candidate.other)
            yield shots[candidate.one], replace(known, source=readable(f"{library.folder.name}: {known.source}"))

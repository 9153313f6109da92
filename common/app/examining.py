"""One figure as the app keeps it: what was found in it, and the verdict for a mode, a threshold and corrections."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common.app.models import Models
from common.data.decoding import stored
from common.ensemble.altered import LEAST_SCORE, Altered, find_altered
from common.ensemble.choices import MODE_THRESHOLDS, Mode
from common.ensemble.decision import is_forged
from common.ensemble.ensemble import Blend
from common.ensemble.evidence import EVIDENCE_THRESHOLD, Evidence, evidence_of, passing
from common.errors import UserError
from common.explaining.figure import Row, Searched, search_figure
from common.figures.reuse import Finding
from common.generated import Generated
from common.metrics.rle import encode_labels, format_annotation
from common.submission.config import SubmissionConfig
from common.submission.predictor import find_regions

Verdict = Literal["right", "wrong", "natural"]
"""`right`: a copy, or altered; `wrong`: neither; `natural`: shown twice for an innocent reason."""
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "natural")
REASONS = ("channel", "inset", "same blot", "other")
"""Why a finding is natural: another channel of the field, an enlargement, the same blot or another exposure of it."""
_MOST = 0.5  # share of a region above which it belongs to another one


@dataclass(frozen=True)
class Mark:
    """What a reviewer says of a finding."""

    verdict: Verdict
    reason: str = ""
    """One of `REASONS`, of natural ones alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A figure, upright, and all that was found in it."""

    file: str
    """Name of the file."""
    digest: str
    """SHA-256 of the file."""
    figure: str = ""
    """Page and number of a figure of a paper, such as `page 3, figure 1`."""
    orientation: int = 1
    """EXIF orientation of the file: how its pixels are turned to be upright."""
    note: str = ""
    searched: Searched
    folds: tuple[Blend, ...]
    """What the deciding networks give for it (`Ensemble.blends`)."""
    network_map: np.ndarray | None
    """Probabilities of the networks of the map, float16 (h, w); None without any."""
    generated: Generated | None
    """Whether the figure as a whole is generated; None without a detector."""
    entries: dict[str, Finding | Altered] = field(init=False)
    """Id → finding: `c1` … of regions that show the same, `a1` … of those that look altered, the best first."""

    rows: dict[str, Row] = field(init=False)
    """Id → the row of findings.csv, with what report.html says besides."""

    def __post_init__(self) -> None:
        found: dict[str, Finding | Altered] = {f"c{n}": one for n, one in enumerate(self.searched.findings, 1)}
        found |= {f"a{n}": region for n, region in enumerate(self.searched.altered, 1)}
        object.__setattr__(self, "entries", found)
        object.__setattr__(self, "rows", dict(zip(found, self.searched.rows(0.0), strict=True)))

    def score(self, key: str) -> float:
        """Of a finding: of a copy its probability, of an altered region how strongly networks mark it."""
        entry = self.entries[key]
        return entry.score if isinstance(entry, Altered) else entry.group.score

    @property
    def name(self) -> str:
        """File, and figure of a paper."""
        return ", ".join(filter(None, (self.file, self.figure)))

    @property
    def case_id(self) -> str:
        """As the submission calls it: the file without its suffix."""
        return ", ".join(filter(None, (Path(self.file).stem, self.figure)))

    @property
    def nbytes(self) -> int:
        """Memory that it takes, nearly."""
        pixels = self.searched.image.size // 3
        regions = 2 * sum(len(one.group.copies) for one in self.searched.findings) + len(self.searched.altered)
        maps = 0 if self.network_map is None else self.network_map.nbytes
        return pixels * (3 + regions) + maps + sum(blended.nbytes for blended, _ in self.folds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decided:
    """The verdict on a figure, as a submission gives it."""

    probability: float
    """That something in it is forged, calibrated."""
    forged: bool
    """Whether it reaches the mode's threshold."""
    mode: Mode
    labels: np.ndarray
    """int (H, W), upright: 0 authentic, 1 … n the regions that are reported."""
    counted: frozenset[str]
    """Ids of the findings that are in the verdict."""

    def row(self, examined: Examined) -> tuple[str, str]:
        """Case id and annotation, of the pixels as the file stores them."""
        labels = stored(self.labels, examined.orientation)
        return examined.case_id, format_annotation(encode_labels(labels))


def examine(image: np.ndarray, models: Models, **source: object) -> Examined:
    """Examine a figure, uint8 (H, W, 3) RGB, upright.

    Args:
        image: The figure.
        models: What is loaded.
        source: Fields of `Examined` that say where it is from.

    Raises:
        UserError: A network's result is not finite.
    """
    searched = search_figure(image)
    folds = models.decider.blends(image)
    network_map = None
    if models.networks is not None:
        prob = np.asarray(folds[0][0]) if models.networks is models.decider and len(folds) == 1 else None
        prob = models.networks.network_map(image) if prob is None else prob
        threshold = models.networks.settings.pixel_threshold
        regions = find_altered(image, prob, searched.panels, threshold=threshold, least_score=LEAST_SCORE)
        searched, network_map = replace(searched, altered=regions), prob.astype(np.float16)
    detector = models.decider.detector
    generated = None if detector is None else detector.predict([image])[0]
    return Examined(searched=searched, folds=folds, network_map=network_map, generated=generated, **source)  # pyrefly: ignore


def decide(
    examined: Examined, models: Models, mode: Mode, threshold: float, marks: Mapping[str, Mark] | None = None
) -> Decided:
    """The verdict on a figure; no network runs, and nothing is searched again.

    At the threshold 0.5 and without marks it is that of `make_submission.py` on the upright picture. Findings that are
    marked right count whatever their score, and those that are marked wrong or natural do not. Of altered regions this
    holds for the mask: the probability of networks that take part in the verdict stays theirs.

    Args:
        examined: The figure.
        models: Those that it was examined by.
        mode: Sets the probability from which it is called forged.
        threshold: Score from which a copy counts.
        marks: Of a reviewer, by the ids of the findings.

    Raises:
        UserError: A network's result is not finite, so that there is no verdict.
    """
    marks = marks or {}
    sure = [key for key, mark in marks.items() if mark.verdict == "right" and key in examined.entries]
    open_ = [
        (key, one.group)
        for key, one in examined.entries.items()
        if isinstance(one, Finding) and one.relation == "reuse" and key not in marks
        # Up to the ensemble's own threshold a weaker group is a feature of its decision.
        if one.group.score >= threshold or threshold <= EVIDENCE_THRESHOLD
    ]
    evidence = evidence_of([group for _, group in open_], threshold)
    if sure:
        evidence = _with_regions(evidence, [_region(examined.entries[key]) for key in sure])
    prediction = models.decider.decide(examined.folds, evidence, examined.generated)
    config, settings = SubmissionConfig(input=Path(), mode=mode), models.decider.settings
    found = find_regions(config, settings, examined.searched.image, prediction)
    labels, counted = found, [*sure, *(key for key, group in open_ if group.score >= threshold)]
    if models.networks is models.decider:
        altered = {key: one.mask for key, one in examined.entries.items() if isinstance(one, Altered)}
        labels = _without(found, [mask for key, mask in altered.items() if key in marks and key not in sure])
        counted += [key for key, mask in altered.items() if _share_in(mask, labels > 0) > _MOST]
    return Decided(
        probability=prediction.forged_probability,
        forged=is_forged(prediction.forged_probability, mode) and bool(labels.any() or not found.any()),
        mode=mode,
        labels=labels,
        counted=frozenset(counted),
    )


def _without(labels: np.ndarray, regions: list[np.ndarray]) -> np.ndarray:
    """Labels, int (H, W), renumbered, without those that lie for the most part in regions, bool (H, W)."""
    if not regions:
        return labels
    pixels = np.bincount(labels.ravel())
    inside = np.bincount(labels[np.any(regions, axis=0)], minlength=len(pixels))
    kept = inside <= _MOST * pixels
    kept[0] = False
    return (np.cumsum(kept) * kept).astype(labels.dtype)[labels]


def _share_in(region: np.ndarray, mask: np.ndarray) -> float:
    """Share of a region that lies in a mask, both bool (H, W); 0 of an empty one."""
    return np.count_nonzero(region & mask) / max(np.count_nonzero(region), 1)


def _region(entry: Finding | Altered) -> np.ndarray:
    return entry.mask if isinstance(entry, Altered) else passing(entry.group, 0.0)


def _with_regions(evidence: Evidence, regions: list[np.ndarray]) -> Evidence:
    """The evidence with regions, bool (H, W), that are sure."""
    groups = (*evidence.groups, *regions)
    prob = np.any(groups, axis=0).astype(np.float16)
    share = max(evidence.area_share, *(float(region.mean()) for region in regions))
    return replace(evidence, prob=prob, groups=groups, score=1.0, area_share=share)


def checked_mode(mode: object) -> Mode:
    """A mode, if it is one.

    Raises:
        UserError: It is none.
    """
    for known in MODE_THRESHOLDS:
        if mode == known:
            return known
    raise UserError(f"there is no mode {mode!r}; it is one of {', '.join(MODE_THRESHOLDS)}.")


def checked_threshold(threshold: object) -> float:
    """A score, if it is one.

    Raises:
        UserError: It is no number from 0 to 1.
    """
    if isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0 <= threshold <= 1:
        return float(threshold)
    raise UserError(f"the threshold is {threshold!r}; it must be a number from 0 to 1.")

"""Which panels of different figures may show the same: votes of their key points, found through an index.

Each key point votes for the panels of its nearest ones, in the plain and the mirrored view, with the rotation, the
scale and the shift that the two key points give. Panels that share something get several votes that agree; each such
pair is compared in full afterwards (`common.papers.across`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from common.forensics.keypoints import mirror
from common.papers.shots import Shot

FLAT = 200_000
"""Descriptors that are searched one by one; more are sorted into cells and compressed (Jégou et al. 2011)."""
LEAST_VOTES = 4
"""Key points of two panels that one rotation, scale and shift take to each other."""
_NEIGHBOURS = 12
_RATIO = 0.85  # of the distances to a match and to the last of the neighbours, which is background
_SAME = 0.05  # squared distance of two descriptors, of about length 1, that match whatever else is near
_LEAST_REACH, _REACH = 6.0, 0.12  # pixels, and share of its distance, by which a place may be missed: angles are rough
_SCALES = 0.5  # of a factor of two: how much scales may differ
_PLACE = 8  # pixels: key points that lie nearer count as one
_MOST_CELLS, _PROBED = 4096, 4  # cells of the index, and how many of them a search looks into
_COMPRESSED = 32  # bytes of a descriptor
_TRAINED = 40  # descriptors a cell that an index is trained on


@dataclass(frozen=True)
class Candidate:
    """Two panels that may share something."""

    one: int
    """Position among the panels that asked."""
    other: int
    """Position among the panels of the index."""
    votes: int


class PanelIndex:
    """Key points of panels, by their descriptors."""

    def __init__(self, points: "Points", index: faiss.Index | None = None) -> None:
        """Hold key points.

        Args:
            points: Of all panels.
            index: Of their descriptors; built anew by default.
        """
        self.points = points
        self.index = index if index is not None else build(points.descriptor)

    def candidates(self, points: "Points", figures: np.ndarray, own: np.ndarray) -> list[Candidate]:
        """Pairs of panels with votes that agree, those with most first.

        Args:
            points: Of the panels that ask.
            figures: int (n,), the figure of each panel of the index.
            own: int (m,), the figure of each panel that asks: panels of one figure are left out.
        """
        best: dict[tuple[int, int], int] = {}
        if not len(points.panel) or not self.index.ntotal:
            return []
        for mirrored in (False, True):
            distance, found = self._nearest(points.descriptor, mirrored=mirrored)
            # Of a panel that many figures show, all neighbours are copies: there is no background to stand out from.
            like = (distance < _RATIO**2 * distance[:, -1:]) | (distance <= _SAME)
            first, rank = np.nonzero((found >= 0) & like)
            second = found[first, rank]
            apart = own[points.panel[first]] != figures[self.points.panel[second]]
            first, second = first[apart], second[apart]
            pairs = np.stack([points.panel[first], self.points.panel[second]], axis=1)
            order = np.lexsort(pairs.T[::-1])
            starts = np.flatnonzero(np.any(np.diff(pairs[order], axis=0, prepend=-1), axis=1))
            for part in np.split(order, starts[1:]):
                if len(part) >= LEAST_VOTES:
                    votes = _agreeing(points, first[part], self.points, second[part], mirrored=mirrored)
                    pair = (int(pairs[part[0], 0]), int(pairs[part[0], 1]))
                    best[pair] = max(best.get(pair, 0), votes)
        candidates = [Candidate(*pair, votes) for pair, votes in best.items() if votes >= LEAST_VOTES]
        return sorted(candidates, key=lambda pair: (-pair.votes, pair.one, pair.other))

    def _nearest(self, descriptor: np.ndarray, *, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances and positions (n, k) of the nearest descriptors, −1 where there are fewer."""
        parts = []
        for start in range(0, len(descriptor), FLAT):  # floats take four times the room
            part = descriptor[start : start + FLAT]
            asked = as_floats(mirror(part) if mirrored else part)
            parts.append(self.index.search(asked, min(_NEIGHBOURS, self.index.ntotal)))
        return np.concatenate([d for d, _ in parts]), np.concatenate([found for _, found in parts])


def _agreeing(here: "Points", first: np.ndarray, there: "Points", second: np.ndarray, *, mirrored: bool) -> int:
    """Number of pairs of key points, at different places, that agree with the best of the transforms that they give."""
    scale = there.size[second] / here.size[first]
    sign = -1 if mirrored else 1
    turn = there.angle[second] - sign * here.angle[first]
    source, target = here.place[first].astype(np.float64), there.place[second].astype(np.float64)
    source = source * (1, sign)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    linear = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)
    offset = target - np.einsum("nij,nj->ni", linear, source)
    moved = np.einsum("nij,mj->nmi", linear, source) + offset[:, None]
    reach = np.maximum(_LEAST_REACH, _REACH * np.linalg.norm(target[None] - target[:, None], axis=-1))
    agrees = np.linalg.norm(moved - target, axis=-1) <= reach
    agrees &= np.abs(np.log2(scale[:, None] / scale)) <= _SCALES
    best = agrees[agrees.sum(axis=1).argmax()]
    return min(len(np.unique(np.round(side[best] / _PLACE), axis=0)) for side in (source, target))


@dataclass(frozen=True, eq=False)
class Points:
    """Key points of several panels."""

    panel: np.ndarray
    """int32 (n,): the position of its panel."""
    place: np.ndarray
    """float32 (n, 2), x and y in pixels of the panel."""
    angle: np.ndarray
    """float32 (n,)"""
    size: np.ndarray
    """float32 (n,)"""
    descriptor: np.ndarray
    """uint8 (n, 128)"""

    @classmethod
    def of(cls, shots: Sequence[Shot], first: int = 0) -> "Points":
        """The key points of panels, which are numbered from `first`."""
        counts = [len(shot.place) for shot in shots]
        return cls(
            np.repeat(np.arange(first, first + len(shots), dtype=np.int32), counts),
            _joined([shot.place for shot in shots], (0, 2), np.float32),
            _joined([shot.angle for shot in shots], (0,), np.float32),
            _joined([shot.size for shot in shots], (0,), np.float32),
            _joined([shot.descriptor for shot in shots], (0, 128), np.uint8),
        )

    @classmethod
    def concatenated(cls, parts: "Sequence[Points]") -> "Points":
        """All key points of several, at least one."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__})


def _joined(parts: list[np.ndarray], empty: tuple[int, ...], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(empty, kind)


def as_floats(descriptor: np.ndarray) -> np.ndarray:
    """Descriptors, uint8 (n, 128), as float32 of about length 1."""
    return descriptor.astype(np.float32) / 255


def build(descriptor: np.ndarray) -> faiss.Index:
    """An index of descriptors, uint8 (n, 128)."""
    count = len(descriptor)
    if count <= FLAT:
        index = faiss.IndexFlatL2(128)
    else:
        cells = min(2 ** int(np.log2(4 * count**0.5)), _MOST_CELLS)
        # np: without the training for polysemous codes, which are not searched here and take a minute.
        index = faiss.index_factory(128, f"IVF{cells},PQ{_COMPRESSED}np")
        some = np.random.default_rng(0).choice(count, min(count, _TRAINED * cells), replace=False)
        index.train(as_floats(descriptor[np.sort(some)]))
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", _PROBED)
    for start in range(0, count, FLAT):  # in parts, as they are searched
        index.add(as_floats(descriptor[start : start + FLAT]))
    return index


def is_outgrown(index: faiss.Index) -> bool:
    """Whether an index holds so many more descriptors than when it was built that it should be built anew."""
    cells = getattr(index, "nlist", 0)
    return cells < _MOST_CELLS and index.ntotal > max(FLAT, cells**2)

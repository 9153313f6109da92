"""What each open page holds on the server: the figures dropped on it, and what their reviewer says of them."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from common.app.examining import Examined, Mark
from common.app.reading import Unread
from common.errors import UserError
from common.figures.panels import Panel
from common.papers.across import Across

MOST_BYTES = 2_000_000_000
"""Memory of all cases together; those that were used least recently are dropped first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """Two panels of different figures that show the same."""

    across: Across
    figures: tuple[int, int]
    """Positions of the two among the figures of the case."""

    def region(self, side: int, shape: tuple[int, int]) -> np.ndarray:
        """Where the best copy lies in one of the two figures.

        Args:
            side: 0 or 1, of `figures`.
            shape: Height and width of that figure in pixels.

        Returns:
            bool (H, W).
        """
        mask = np.zeros(shape, bool)
        x, y, width, height = (self.across.one, self.across.other)[side].box
        inside = cv2.resize(self.inside(side).view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        mask[y : y + height, x : x + width] = inside[: shape[0] - y, : shape[1] - x]
        return mask

    def inside(self, side: int) -> np.ndarray:
        """The same region in pixels of its panel as it was compared, bool (h, w)."""
        copy, forward = self.across.finding.group.copies[0], self.across.finding.panels == (0, 1)
        return np.ascontiguousarray((copy.source if forward == (side == 0) else copy.target)[self._panel(side).window])

    def enlarged(self, side: int) -> float:
        """Pixels of the figure for one of the panel as it was compared, on lengths."""
        return (self.across.one, self.across.other)[side].box[2] / self._panel(side).width

    def _panel(self, side: int) -> Panel:
        return self.across.panels[side]


@dataclass(kw_only=True, eq=False)
class Scored:
    """A clip and its score."""

    file: str
    results: dict[str, Any]
    """Of `result.json`."""
    pictures: dict[str, bytes]
    """Name → PNG file."""


@dataclass(kw_only=True, eq=False)
class Case:
    """The figures of one drop."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Who has it may see the case."""
    figures: list[Examined] = field(default_factory=list)
    shared: dict[str, Shared] = field(default_factory=dict)
    """Id → finding between figures: `x1` …, by descending score."""
    clips: list[Scored] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    marks: dict[int, dict[str, Mark]] = field(default_factory=dict)
    """Position of a figure → id of a finding within it → what is said of it."""
    shared_marks: dict[str, Mark] = field(default_factory=dict)
    """Id of a finding between figures → what is said of it."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def figure(self, place: object) -> Examined:
        """The figure at a position.

        Raises:
            UserError: There is none.
        """
        if isinstance(place, int) and 0 <= place < len(self.figures):
            return self.figures[place]
        raise UserError(f"there is no figure {place!r}.")

    def marks_at(self, place: int) -> dict[str, Mark]:
        """What is said of all findings that a figure lists: those within it, and those between it and others."""
        between = {key: mark for key, mark in self.shared_marks.items() if place in self.shared[key].figures}
        return self.marks.get(place, {}) | between

    @property
    def nbytes(self) -> int:
        """Memory that it takes, nearly."""
        clips = sum(len(picture) for clip in self.clips for picture in clip.pictures.values())
        across = sum(4 * shared.across.image.nbytes for shared in self.shared.values())
        return sum(figure.nbytes for figure in self.figures) + clips + across


class Cases:
    """The cases of all pages that are open, one a page."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._lock = most_bytes, threading.Lock()
        self._cases: OrderedDict[str, Case] = OrderedDict()  # by page, the one used last at the end
        self._pages: dict[str, str] = {}  # token → page

    def open(self, page: str) -> Case:
        """A new case of a page, instead of the one it had."""
        case = Case()
        with self._lock:
            self._drop(page)
            self._cases[page], self._pages[case.token] = case, page
        return case

    def of(self, token: object) -> Case:
        """The case with a token.

        Raises:
            UserError: There is none, or not any more.
        """
        with self._lock:
            page = self._pages.get(token) if isinstance(token, str) else None
            if page is None:
                raise UserError("this figure is not kept any more. Drop it again.")
            self._cases.move_to_end(page)
            return self._cases[page]

    def close(self, page: str) -> None:
        """Forget the case of a page."""
        with self._lock:
            self._drop(page)

    def shrink(self) -> None:
        """Drop the cases used least recently until the others keep to the memory; the last one stays."""
        with self._lock:
            while len(self._cases) > 1 and sum(case.nbytes for case in self._cases.values()) > self._most:
                self._drop(next(iter(self._cases)))

    def __len__(self) -> int:
        """Number of cases."""
        return len(self._cases)

    def _drop(self, page: str) -> None:
        if (case := self._cases.pop(page, None)) is not None:
            del self._pages[case.token]

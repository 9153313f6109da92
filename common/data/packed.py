"""A read-only list whose memory forked worker processes share."""

import pickle
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class PackedList(Sequence[Item]):
    """A read-only list that keeps its items pickled in one array and unpickles them on access.

    A forked worker that reads a plain list copies its memory page by page, since reading changes reference counts;
    arrays have none for their content (as in Detectron2's serialised data set lists). The parent should not keep the
    plain list beside it: parts of paths are interned, so that unpickled paths would share the parent's strings.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        """Pickle the items."""
        pickled = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([len(entry) for entry in pickled], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __add__(self, others: Iterable[Item]) -> "PackedList[Item]":
        return PackedList([*self, *others])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Item:  # pyrefly: ignore[bad-override] # no slices
        position = range(len(self))[index]
        start = self._ends[position - 1] if position else 0
        return pickle.loads(self._bytes[start : self._ends[position]].data)  # nosec B301 # its own bytes

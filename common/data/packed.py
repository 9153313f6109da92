"""A long list of small objects in memory that worker processes share."""

import pickle
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class PackedList(Sequence[Item]):
    """A read-only list whose items are kept pickled, one after the other, and unpickled when they are asked for.

    A forked worker that only reads a plain list copies it all the same, page by page, because reading counts
    references. Two arrays have nothing to count (the serialised list of Detectron2 data sets). The parent should not
    keep the plain list beside it: parts of paths are interned, so that those of unpickled ones are the parent's.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        """Pack the items: anything that pickle takes."""
        pickled = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([len(entry) for entry in pickled], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __add__(self, others: Iterable[Item]) -> "PackedList[Item]":
        return PackedList([*self, *others])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Item:
        position = range(len(self))[index]
        start = self._ends[position - 1] if position else 0
        return pickle.loads(self._bytes[start : self._ends[position]].data)

"""Pairs of matching points within one image: the output of every matcher."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Matches:
    """n pairs of matching points in one image, unordered; each pair occurs once, with either point as `source`."""

    source: np.ndarray
    """float32 (n, 2): x, y in pixels of the image; (0, 0) is the centre of its first pixel."""
    target: np.ndarray
    """float32 (n, 2)"""
    linear: np.ndarray
    """float32 (n, 2, 2): the local linear map, which takes an offset d from `source` to linear · d from `target`.
    Scale, rotation and mirroring (negative determinant), estimated roughly from the one pair."""

    def __post_init__(self) -> None:
        n = len(self.source)
        if not (self.source.shape == self.target.shape == (n, 2) and self.linear.shape == (n, 2, 2)):
            raise ValueError(f"shapes {self.source.shape}, {self.target.shape}, {self.linear.shape} do not match")

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def none(cls) -> "Matches":
        """No pairs."""
        return cls(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), np.empty((0, 2, 2), np.float32))

    @classmethod
    def concatenated(cls, parts: "Sequence[Matches]") -> "Matches":
        """All pairs of several matchers, at least one."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("source", "target", "linear"))
        )

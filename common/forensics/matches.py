"""Places of an image that look alike: what every matcher hands to `common.forensics.copy_move`."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Matches:
    """n pairs of places in one image, in no order. A pair stands once: either of its places may be `source`."""

    source: np.ndarray
    """float32 (n, 2): x, y in pixels of the image; (0, 0) is the centre of its first pixel."""
    target: np.ndarray
    """float32 (n, 2)"""
    linear: np.ndarray
    """float32 (n, 2, 2): the surroundings of `source` at source + d look as those of `target` at target + linear · d.
    Scale, rotation and mirroring (negative determinant), roughly: a matcher estimates them from one place alone."""

    def __post_init__(self) -> None:
        n = len(self.source)
        if not (self.source.shape == self.target.shape == (n, 2) and self.linear.shape == (n, 2, 2)):
            raise ValueError(
                f"shapes {self.source.shape}, {self.target.shape}, {self.linear.shape} don't belong together"
            )

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def none(cls) -> "Matches":
        """No pairs."""
        return cls(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), np.empty((0, 2, 2), np.float32))

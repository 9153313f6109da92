"""Stratified training, validation and test splits that depend on names and a seed alone."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Protocol, TypeVar

from common.errors import UserError

SPLITS = ("train", "val", "test")


class _HasSplit(Protocol):
    @property
    def split(self) -> str: ...


Item = TypeVar("Item", bound=_HasSplit)


def draw_splits(
    strata: Mapping[str, str],
    seed: int,
    shares: tuple[float, float, float],
    sizes: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Draw the split of each item, so that every stratum is split by the same shares, whatever the items' order.

    Args:
        strata: Name of each item → its stratum.
        seed: Of the draw.
        shares: Of train, val and test; they sum to 1.
        sizes: Name of each item → its size, of which the shares are; all the same if None.

    Returns:
        Name of each item → `train`, `val` or `test`.

    Raises:
        UserError: A share is negative, or they don't sum to 1.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"the shares of {', '.join(SPLITS)} are {shares}; give three that sum to 1.")
    members: dict[str, list[str]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    bounds = list(accumulate(shares))[:-1]
    splits = {}
    for stratum, names in sorted(members.items()):
        names.sort(key=lambda name: _draw(f"{seed},{name}"))
        widths = [1 if sizes is None else sizes[name] for name in names]
        ends = list(accumulate(widths))
        # A random phase instead of rounding: a stratum of one or two would always be training otherwise.
        phase = _draw(f"{seed},{stratum},phase")
        for name, width, end in zip(names, widths, ends, strict=True):
            splits[name] = SPLITS[sum((end - width + phase * width) / ends[-1] >= bound for bound in bounds)]
    return splits


def of_split(items: Iterable[Item], split: str) -> list[Item]:
    """The items of one split."""
    return [item for item in items if item.split == split]


def _draw(text: str) -> float:
    """A pseudorandom number in [0, 1) for a text."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:6], "big") / 2**48

"""Training, validation and test, drawn from names and a seed."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Protocol, TypeVar

from common.errors import UserError

SPLITS = ("train", "val", "test")


class _Split(Protocol):
    @property
    def split(self) -> str: ...


Labelled = TypeVar("Labelled", bound=_Split)


def draw_splits(
    strata: Mapping[str, str],
    seed: int,
    shares: tuple[float, float, float],
    sizes: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Draw the split of each of many things, so that every stratum is split by the same shares.

    The draw follows from names, strata and seed alone, not from the order in which things are given.

    Args:
        strata: Name of each thing → its stratum.
        seed: Of the draw.
        shares: Of train, val and test; they sum to 1.
        sizes: Name of each thing → how much of its stratum it is; all alike if None.

    Returns:
        Name of each thing → `train`, `val` or `test`.

    Raises:
        UserError: Shares that are none.
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
        # A drawn phase instead of rounding: a stratum of one or two would always train otherwise.
        phase = _draw(f"{seed},{stratum},phase")
        for name, width, end in zip(names, widths, ends, strict=True):
            splits[name] = SPLITS[sum((end - width + phase * width) / ends[-1] >= bound for bound in bounds)]
    return splits


def of_split(labelled: Iterable[Labelled], split: str) -> list[Labelled]:
    """Those of one split."""
    return [one for one in labelled if one.split == split]


def _draw(text: str) -> float:
    """A number in [0, 1) that follows from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48

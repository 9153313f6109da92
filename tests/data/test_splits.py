from collections import Counter

import pytest

from common.data.splits import draw_splits
from common.errors import UserError

SHARES = (0.7, 0.15, 0.15)


def test_every_stratum_is_split_by_the_same_shares():
    strata = {f"{stratum}{n}": stratum for stratum, count in (("a", 100), ("b", 20), ("c", 40)) for n in range(count)}
    splits = draw_splits(strata, 0, SHARES)
    counts = Counter((name[0], split) for name, split in splits.items())
    for stratum, total in (("a", 100), ("b", 20), ("c", 40)):
        assert [counts[stratum, split] for split in ("train", "val", "test")] == [
            round(share * total) for share in SHARES
        ]


def test_a_draw_follows_from_names_and_seed():
    strata = {str(n): str(n % 3) for n in range(60)}
    splits = draw_splits(strata, 0, SHARES)
    assert draw_splits(dict(reversed(strata.items())), 0, SHARES) == splits
    assert sum(split != splits[name] for name, split in draw_splits(strata, 1, SHARES).items()) > 10


def test_shares_are_of_sizes_where_they_are_given():
    sizes = {str(n): 1 + n % 7 for n in range(200)}
    splits = draw_splits(dict.fromkeys(sizes, ""), 0, SHARES, sizes)
    parts = Counter()
    for name, split in splits.items():
        parts[split] += sizes[name]
    total = sum(sizes.values())
    # Systematic sampling: a part is off by at most the largest thing at either end.
    assert [parts[split] for split in ("train", "val", "test")] == pytest.approx([s * total for s in SHARES], abs=14)
    assert draw_splits(dict.fromkeys(sizes, ""), 0, SHARES, dict.fromkeys(sizes, 3)) == draw_splits(
        dict.fromkeys(sizes, ""), 0, SHARES
    )


def test_a_share_of_nothing_gets_nothing():
    assert set(draw_splits({str(n): "" for n in range(50)}, 0, (0.5, 0.5, 0.0)).values()) == {"train", "val"}


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (1.2, -0.2, 0.0)])
def test_shares_that_are_none(shares):
    with pytest.raises(UserError, match="sum to 1"):
        draw_splits({"a": ""}, 0, shares)

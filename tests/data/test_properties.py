"""What holds for all inputs of the folds, splits, tiles and views."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.samples import Sample, assign_folds
from common.data.splits import SPLITS, draw_splits
from common.data.tiles import blend_tiles, tile_windows
from common.ensemble.views import VIEWS

NAMES = st.dictionaries(st.text(max_size=6), st.sampled_from("abc"), min_size=1, max_size=40)
SHARES = st.sampled_from([(0.7, 0.15, 0.15), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.34, 0.33, 0.33)])


@settings(max_examples=60, deadline=None)
@given(NAMES, SHARES, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_every_name_has_one_split_that_follows_from_name_and_seed(strata, shares, seed, random):
    splits = draw_splits(strata, seed, shares)
    assert splits.keys() == strata.keys() and set(splits.values()) <= set(SPLITS)
    assert not {split for split, share in zip(SPLITS, shares, strict=True) if not share} & set(splits.values())
    names = list(strata)
    random.shuffle(names)
    assert draw_splits({name: strata[name] for name in names}, seed, shares) == splits


@pytest.mark.filterwarnings("ignore:The least populated class")
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 0.004, 0.03, 0.2])), min_size=12, max_size=50),
    st.integers(2, 4),
    st.integers(0, 2**32 - 1),
)
def test_every_image_is_in_one_fold_with_its_whole_group(rows, folds, seed):
    samples = [
        Sample(
            case_id=str(number),
            image=Path(f"{number}.png"),
            mask=Path("mask.npy") if share else None,
            group=str(group),
            area_share=share,
        )
        for number, (group, share) in enumerate(rows)
    ]
    groups = {sample.group for sample in samples}
    if len(groups) < folds:
        return
    assigned = assign_folds(samples, folds, seed)
    np.random.seed(1)  # noqa: NPY002 # the draw is the seed's alone, not that of the process
    assert (assign_folds(samples, folds, seed) == assigned).all()
    assert ((assigned >= 0) & (assigned < folds)).all()
    assert all(len({assigned[i] for i, s in enumerate(samples) if s.group == group}) == 1 for group in groups)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(8, 60), st.floats(0, 0.9), st.floats(0, 1, width=32))
def test_tiles_of_any_size_cover_the_image_and_a_constant_stays(height, width, side, overlap, value):
    windows = tile_windows(height, width, side, overlap)
    covered = np.zeros((height, width), int)
    for window in windows:
        covered[window] += 1
    assert covered.all()
    maps = [(window, np.full((3, 7), value, np.float32)) for window in windows]  # of another size than the window
    np.testing.assert_allclose(blend_tiles(maps, height, width), value, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_views_are_undone_exactly_and_form_a_group(side, channels, seed):
    x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(seed))
    shown = [view.apply(x) for view in VIEWS["full"]]
    for view, pixels in zip(VIEWS["full"], shown, strict=True):
        assert torch.equal(view.undo(pixels), x)
        assert torch.equal(view.apply(view.undo(x)), x)
        assert torch.equal(pixels.flatten(2).sort().values, x.flatten(2).sort().values)
        for other in VIEWS["full"]:
            both = other.apply(pixels)
            assert any(torch.equal(both, one) for one in shown)

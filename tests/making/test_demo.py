"""The demo: no source on both sides of the split, pairs that differ by the forgery alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.data.images import read_image
from common.data.masks import read_mask
from common.data.samples import load_samples
from common.errors import UserError
from common.making.demo import bundled_photographs, make_demo, plan_demo, usable_photographs
from common.making.layout import new_folder, write_image

PATHS = [Path(f"photo{n}.png") for n in range(7)]


def plan(paths=PATHS, **changes):
    return plan_demo(paths, **{"train_pairs": 60, "test_images": 50, "drawn_share": 0.4, "seed": 0, **changes})


@pytest.mark.parametrize("seed", range(5))
def test_no_source_is_on_both_sides(seed):
    sources = {"train": set(), "test": set()}
    groups = {"train": set(), "test": set()}
    for case in plan(seed=seed):
        groups[case.split].add(case.group)
        sources[case.split] |= {path for path in (case.host, case.donor) if isinstance(path, Path)}
    assert not groups["train"] & groups["test"] and not sources["train"] & sources["test"]
    assert sources["train"] | sources["test"] == set(PATHS)


def test_a_photograph_is_a_donor_only_within_its_group():
    members = {}
    for case in plan():
        for base in (case.host, case.donor):
            if isinstance(base, Path):
                assert members.setdefault(base, case.group) == case.group
    drawn = [case.group for case in plan() if isinstance(case.host, str)]
    assert len(drawn) == 44 and len(set(drawn)) == 44


def test_the_seed_decides():
    assert plan(seed=1) == plan(seed=1) != plan(seed=2)


def test_counts_ids_and_labels():
    cases = plan()
    assert sorted(int(case.case_id) for case in cases) == list(range(1, 111))
    assert Counter((case.split, case.forged) for case in cases) == {
        ("train", True): 60,
        ("test", True): 27,
        ("test", False): 23,
    }
    quantiles = sorted(case.quantile for case in cases if case.split == "train")
    assert [int(q * 60) for q in quantiles] == list(range(60))


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_few_photographs_are_enough(count):
    cases = plan(PATHS[:count])
    assert {case.split for case in cases if isinstance(case.host, Path)} == {"train", "test"}


def test_too_few_photographs_are_refused_unless_none_is_needed():
    with pytest.raises(UserError, match="drawn_share 1"):
        plan(PATHS[:1])
    assert len(plan([], drawn_share=1)) == 110
    assert len(plan(PATHS[:1], test_images=0)) == 60


def test_groups_of_the_same_name_are_numbered():
    paths = [Path(f"{letter}/1.png") for letter in "abcdefgh"]
    groups = {}
    for case in plan(paths, drawn_share=0):
        groups.setdefault(case.group, set()).add(case.host)
    assert len(groups) == 4 and all(len(hosts) == 2 for hosts in groups.values())


def test_bundled_photographs_are_there():
    paths = bundled_photographs()
    assert len(paths) == 21 and all(path.is_file() for path in paths)


def test_small_photographs_are_left_out_and_broken_ones_listed(tmp_path):
    for name, side in (("large", 64), ("small", 63)):
        write_image(tmp_path / f"{name}.png", np.zeros((side, 100, 3), np.uint8))
    paths = [tmp_path / "large.png", tmp_path / "small.png"]
    assert usable_photographs(paths) == paths[:1]
    for name in ("x.png", "y.png"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"(?s)x\.png.*y\.png"):
        usable_photographs([*paths, tmp_path / "x.png", tmp_path / "y.png"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "data"
    cases = plan(usable_photographs(bundled_photographs()[:6]), train_pairs=24, test_images=10)
    with new_folder(output) as folder:
        made = make_demo(cases, folder, 0)
    return output, made


def test_pairs_differ_inside_the_mask_above_all(demo):
    """With a final JPEG compression the difference rings into neighbouring blocks, but not across the image."""
    output, _ = demo
    exact = 0
    for path in sorted((output / "train_images" / "forged").iterdir()):
        forged = read_image(path).astype(int)
        authentic = read_image(output / "train_images" / "authentic" / path.name)
        mask = read_mask(output / "train_masks" / f"{path.stem}.npy").any(axis=0)
        assert forged.shape == authentic.shape and mask.shape == forged.shape[:2]
        difference = np.abs(forged - authentic).max(axis=2)
        assert difference[mask].mean() > 1
        assert difference[~mask].mean() < 0.2 * difference[mask].mean()
        exact += not difference[~mask].any()
    assert 3 <= exact <= 21  # some without a final compression, some with


def test_the_folder_is_sound_and_complete(demo):
    output, made = demo
    samples = load_samples(output)
    assert Counter(sample.forged for sample in samples) == {True: 24, False: 24}
    assert len(list((output / "test_images").iterdir())) == 10
    forged_test = {case.case_id for case, kind, _ in made if case.split == "test" and kind != "authentic"}
    assert {path.stem for path in (output / "test_masks").iterdir()} == forged_test and len(forged_test) == 5
    kinds = {case.case_id: kind for case, kind, _ in made}
    assert all(sample.kind == kinds[sample.case_id] for sample in samples if sample.forged)
    assert all(
        sample.size == size
        for case, _, size in made
        for sample in samples
        if (sample.case_id, sample.forged) == (case.case_id, True)
    )

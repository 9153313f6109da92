"""Bringing data in: nothing is re-encoded, nothing is lost without a word, groups stay whole."""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.data.samples import Sample, load_samples, open_samples
from common.errors import UserError, listing
from common.making.importing import find_source, hold_out, import_samples
from common.making.layout import new_folder


def make_source(folder: Path, forged: list[str], authentic: list[str], masks: list[str] | None = None) -> Path:
    """JPEG images and PNG masks by name; each image has its own colour."""
    for part, names in (("images", forged), ("authentic", authentic)):
        (folder / part).mkdir(parents=True)
        for number, name in enumerate(names):
            path = folder / part / f"{name}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (30, 20), (10 * number, 50, 100)).save(path)
    (folder / "masks").mkdir()
    for name in forged if masks is None else masks:
        mask = np.zeros((20, 30), np.uint8)
        mask[:5, :5] = 255
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    return folder


def bring_in(source: Path, output: Path, held=None, link: bool = False, pattern: str | None = None):
    found = find_source(source, pattern)
    samples = [sample for sample in open_samples(found.samples) if isinstance(sample, Sample)]
    assert not found.faults and len(samples) == len(found.samples)
    with new_folder(output, source=source) as folder:
        import_samples(samples, np.zeros(len(samples), bool) if held is None else held(samples), folder, link=link)
    return samples


@pytest.mark.parametrize("link", [False, True])
def test_files_come_byte_for_byte(tmp_path, link):
    source = make_source(tmp_path / "source", ["a", "sub/b"], ["a", "c"])
    bring_in(source, tmp_path / "data", link=link)
    for label, folder, names in (("forged", "images", ["a", "sub/b"]), ("authentic", "authentic", ["a", "c"])):
        for name in names:
            path = tmp_path / "data" / "train_images" / label / f"{name}.jpg"
            assert path.is_symlink() == link
            assert path.read_bytes() == (source / folder / f"{name}.jpg").read_bytes()
    mask = np.load(tmp_path / "data" / "train_masks" / "sub" / "b.npy")
    assert mask.shape == (1, 20, 30) and mask.dtype == np.uint8 and mask.sum() == 25 and set(np.unique(mask)) == {0, 1}
    assert [s.case_id for s in load_samples(tmp_path / "data")] == ["a", "c", "a", "sub/b"]


def test_masks_are_found_by_their_endings(tmp_path):
    source = make_source(tmp_path / "s", ["a", "b", "c", "d_mask"], [], ["a_gt", "b_MASK", "c", "d_mask"])
    Image.new("L", (30, 20), 255).save(source / "masks" / "nobody.png")
    found = find_source(source)
    assert {s.case_id: s.mask.name for s in found.samples} == {
        "a": "a_gt.png",
        "b": "b_MASK.png",
        "c": "c.png",
        "d_mask": "d_mask.png",
    }
    assert any("nobody.png" in note for note in found.notes)


def test_npy_masks_keep_their_channels(tmp_path):
    source = make_source(tmp_path / "s", ["a"], [], [])
    mask = np.zeros((3, 20, 30), bool)
    mask[0, 0], mask[1, 1], mask[2, 2] = True, True, True
    np.save(source / "masks" / "a.npy", mask)
    bring_in(source, tmp_path / "data")
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "train_masks" / "a.npy"), mask)


def test_every_fault_is_listed(tmp_path):
    source = make_source(tmp_path / "s", ["a", "b", "c", "two"], [], ["a", "c", "c_gt", "two"])
    Image.new("RGB", (9, 9)).save(source / "images" / "two.png")
    faults = "\n".join(find_source(source).faults)
    for part in ("b.jpg: has no mask", "c.jpg: has several masks: c.png, c_gt.png", "two.jpg and", "two.png"):
        assert part in faults
    assert [s.case_id for s in find_source(source).samples] == ["a"]


def test_groups_and_kinds_from_the_index(tmp_path):
    source = make_source(tmp_path / "s", ["a", "b"], ["c"], ["a", "other"])
    rows = [
        ("images/a.jpg", "forged", "masks/a.png", "splice", "lake"),
        ("images/b.jpg", "forged", "masks/other.png", "copymove", ""),
        ("authentic/c.jpg", "authentic", "", "", "lake"),
    ]
    pd.DataFrame(rows, columns=["file", "label", "mask", "kind", "group"]).to_csv(source / "index.csv", index=False)
    bring_in(source, tmp_path / "data")
    assert {s.case_id: (s.group, s.kind) for s in load_samples(tmp_path / "data")} == {
        "a": ("lake", "splice"),
        "b": ("b", "copymove"),
        "c": ("lake", ""),
    }


def test_an_index_that_does_not_fit_the_files(tmp_path):
    source = make_source(tmp_path / "s", ["a", "b", "c", "d"], ["e", "a"])
    rows = [
        ("images/a.jpg", "forged", "", "x"),
        ("images/b.jpg", "forged", "masks/gone.png", "x"),
        ("images/c.jpg", "authentic", "", "x"),
        ("images/gone.jpg", "forged", "", "x"),
        ("authentic/a.jpg", "authentic", "", "y"),
        ("authentic/e.jpg", "authentic", "", "x"),
        ("authentic/e.jpg", "authentic", "", "x"),
    ]
    pd.DataFrame(rows, columns=["file", "label", "mask", "group"]).to_csv(source / "index.csv", index=False)
    found = find_source(source)
    faults = "\n".join(found.faults)
    for part in (
        "d.jpg: is not in index.csv",
        "masks/gone.png does not exist",
        "c.jpg: is among the forged images, but index.csv calls it authentic",
        "names images/gone.jpg, which does not exist",
        "a: the image of this name in images/ and that in authentic/ have different groups",
        "2 rows for authentic/e.jpg",
    ):
        assert part in faults
    assert [s.case_id for s in found.samples] == ["e"]
    (source / "index.csv").write_text("path,label\n1,2\n")
    with pytest.raises(UserError, match="columns file"):
        find_source(source)


def test_groups_without_an_index(tmp_path):
    source = make_source(tmp_path / "s", ["lake_1", "lake_2"], ["lake_3", "sea_1"])
    found = find_source(source, r"^([a-z]+)_")
    assert Counter(s.group for s in found.samples) == {"lake": 3, "sea": 1}
    found = find_source(source)
    assert len({s.group for s in found.samples}) == 4 and any("folds will leak" in note for note in found.notes)
    assert "doesn't match" in find_source(source, r"^(lake)").faults[0]
    for pattern, part in (("([a", "no regular expression"), ("lake", "parentheses")):
        with pytest.raises(UserError, match=part):
            find_source(source, pattern)


def test_equal_names_are_one_group(tmp_path):
    source = make_source(tmp_path / "s", ["a", "b"], ["a", "c"])
    found = find_source(source)
    assert Counter(s.group for s in found.samples) == {"a": 2, "b": 1, "c": 1}
    assert not any("leak" in note for note in found.notes)


def test_folders_of_another_form_are_explained(tmp_path):
    with pytest.raises(UserError, match="It needs images/"):
        find_source(tmp_path)
    (tmp_path / "train_images").mkdir()
    with pytest.raises(UserError, match="a data folder already"):
        find_source(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        find_source(tmp_path)
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match="no folder masks"):
        find_source(tmp_path)


def make_samples(counts: list[tuple[int, int]]) -> list[Sample]:
    """Groups with so many authentic and forged images."""
    return [
        Sample(
            case_id=f"{group}-{n}",
            image=Path("a"),
            mask=Path("m") if n >= authentic else None,
            group=str(group),
            area_share=0.01 if n >= authentic else 0,
        )
        for group, (authentic, forged) in enumerate(counts)
        for n in range(authentic + forged)
    ]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_held_out_groups_are_whole_and_balanced(share):
    rng = np.random.default_rng(1)
    samples = make_samples([(int(rng.integers(0, 6)), int(rng.integers(1, 9))) for _ in range(80)])
    held = hold_out(samples, share, seed=0)
    for label in (False, True):
        of_label = [away for away, s in zip(held, samples, strict=True) if s.forged == label]
        assert np.mean(of_label) == pytest.approx(share, abs=0.03)
    sides = {}
    for away, s in zip(held, samples, strict=True):
        assert sides.setdefault(s.group, away) == away
    np.testing.assert_array_equal(held, hold_out(samples, share, seed=0))
    assert (held != hold_out(samples, share, seed=1)).any()


def test_one_group_can_not_be_split():
    with pytest.raises(UserError, match="1 groups"):
        hold_out(make_samples([(5, 5)]), 0.2, seed=0)


def test_held_out_images_lie_flat_and_pairs_keep_both(tmp_path):
    source = make_source(tmp_path / "s", ["a", "b", "c"], ["a", "b", "d"])
    bring_in(source, tmp_path / "data", held=lambda samples: np.array([s.case_id in "ad" for s in samples]))
    assert sorted(p.name for p in (tmp_path / "data" / "test_images").iterdir()) == ["a.jpg", "a_original.jpg", "d.jpg"]
    assert [p.name for p in (tmp_path / "data" / "test_masks").iterdir()] == ["a.npy"]
    assert (tmp_path / "data" / "sample_submission.csv").read_text().split() == [
        "case_id,annotation",
        "a,authentic",
        "a_original,authentic",
        "d,authentic",
    ]
    table = pd.read_csv(tmp_path / "data" / "groups.csv").set_index("case_id")["group"]
    assert table.to_dict() == {"a": "a", "a_original": "a", "b": "b", "c": "c", "d": "d"}
    assert [s.case_id for s in load_samples(tmp_path / "data")] == ["b", "b", "c"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_no_table_can_hold_are_faults(tmp_path):
    odd = [os.fsdecode(name) for name in (b"caf\xe9", b"a\nb", b"\x1b[31m")]
    source = make_source(tmp_path / "s", ["=1", "$x$", *odd], ['a,b"c', *odd[:1]])
    found = find_source(source)
    assert sorted(sample.case_id for sample in found.samples) == ["$x$", "=1", 'a,b"c']
    assert len(found.faults) == 4 and all("rename it" in fault for fault in found.faults)
    shown = str(UserError(listing("", found.faults)))
    assert all(name in shown for name in (r"images/caf\xe9.jpg", r"images/a\nb.jpg", r"images/\x1b[31m.jpg"))
    for name in odd:
        for folder in ("images", "authentic"):
            (source / folder / f"{name}.jpg").unlink(missing_ok=True)
    bring_in(source, tmp_path / "data")
    assert [s.case_id for s in load_samples(tmp_path / "data")] == ['a,b"c', "$x$", "=1"]


def test_a_group_that_no_table_can_hold_is_a_fault(tmp_path):
    source = make_source(tmp_path / "s", ["a", "b"], [])
    (source / "index.csv").write_text('file,group\nimages/a.jpg,one\nimages/b.jpg,"two\nlines"\n')
    (fault,) = find_source(source).faults
    assert "b.jpg: its group in index.csv, 'two\\nlines', holds control characters" in fault


def test_a_pattern_that_takes_years_is_named_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("common.patterns.MOST_SECONDS", 2)
    source = make_source(tmp_path / "s", ["1", "c " * 5 + "c" * 40 + "!"], ["2"])
    with pytest.raises(UserError, match=r"group pattern '.*' takes more than 2 s, at 'c c c c c cccc"):
        find_source(source, r"^((\w+\s?)*)$")

"""Samples, their faults, and folds that never split a group."""

import os
import sys
from pathlib import Path
from shutil import copyfile, copytree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.data.images import read_picture
from common.data.samples import (
    Sample,
    assign_folds,
    find_samples,
    fingerprint,
    load_authentic,
    load_samples,
    open_samples,
)
from common.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pairs; the forged area of `1` is 25 %, that of `2` 1 %."""
    for label in ("authentic", "forged"):
        (tmp_path / "train_images" / label).mkdir(parents=True)
        for case_id in ("1", "2"):
            Image.new("RGB", (20, 10)).save(tmp_path / "train_images" / label / f"{case_id}.png")
    (tmp_path / "train_masks").mkdir()
    masks = np.zeros((2, 2, 10, 20), np.uint8)
    masks[0, 0, :5, :5], masks[0, 1, 5:, :5] = 1, 1
    masks[1, :, 0, :2] = 1  # both channels mark the same two pixels
    np.save(tmp_path / "train_masks" / "1.npy", masks[0])
    np.save(tmp_path / "train_masks" / "2.npy", masks[1])
    return tmp_path


def test_samples_of_the_competitions_layout(folder):
    samples = load_samples(folder)
    assert [(s.case_id, s.forged, s.group, s.height, s.width) for s in samples] == [
        ("1", False, "1", 10, 20),
        ("2", False, "2", 10, 20),
        ("1", True, "1", 10, 20),
        ("2", True, "2", 10, 20),
    ]
    assert [s.area_share for s in samples] == pytest.approx([0, 0, 0.25, 0.01])
    assert [s.size for s in samples] == ["authentic", "authentic", "xlarge", "small"]


def test_groups_and_kinds_come_from_the_table(folder):
    (folder / "groups.csv").write_text("case_id,group,kind\n1,lake,splice\n")
    samples = find_samples(folder)
    assert [(s.group, s.kind) for s in samples] == [("lake", ""), ("2", ""), ("lake", "splice"), ("2", "")]
    (folder / "groups.csv").write_text("id,group\n1,lake\n")
    with pytest.raises(UserError, match="case_id"):
        find_samples(folder)


def test_an_empty_group_is_the_case_id(folder):
    """Like a missing one: the images that a table says nothing of do not become one group."""
    (folder / "groups.csv").write_text("case_id,group,kind\n1,,splice\n2,,\n")
    found = [(s.case_id, s.group, s.kind) for s in find_samples(folder)]
    assert found == [("1", "1", ""), ("2", "2", ""), ("1", "1", "splice"), ("2", "2", "")]
    assert sorted(assign_folds(load_samples(folder), 2, 0)) == [0, 0, 1, 1]


def test_supplemental_is_flat_and_all_forged(folder):
    (folder / "train_images" / "forged").rename(folder / "supplemental_images")
    (folder / "train_masks").rename(folder / "supplemental_masks")
    assert [s.forged for s in load_samples(folder, "supplemental")] == [True, True]


def test_every_bad_file_is_listed_or_left_out(folder, capsys):
    np.save(folder / "train_masks" / "1.npy", np.ones((1, 20, 10), np.uint8))
    np.save(folder / "train_masks" / "2.npy", np.zeros((1, 10, 20), np.uint8))
    (folder / "train_images" / "authentic" / "2.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        load_samples(folder)
    for part in ("1.npy", "20×10", "2.npy", "marks no pixel", "2.png", "3 bad files"):
        assert part in str(error.value)
    assert [s.case_id for s in load_samples(folder, skip_bad_files=True)] == ["1"]
    assert "2.npy" in capsys.readouterr().out


def test_one_empty_channel_is_a_fault(folder):
    mask = np.zeros((2, 10, 20), np.uint8)
    mask[0] = 1
    np.save(folder / "train_masks" / "1.npy", mask)
    opened = open_samples(find_samples(folder))
    assert [isinstance(sample, Sample) for sample in opened] == [True, True, False, True]
    assert "1.npy: a mask channel marks no pixel" in str(opened[2])


def test_missing_masks_and_folders_are_named(folder, tmp_path):
    (folder / "train_masks" / "2.npy").unlink()
    with pytest.raises(UserError, match=r"2\.npy"):
        find_samples(folder)
    with pytest.raises(UserError, match="supplemental_images"):
        find_samples(folder, "supplemental")


def test_masks_may_lie_behind_a_link(folder, tmp_path):
    for label in ("authentic", "forged"):
        (folder / "train_images" / label / "s").mkdir()
        (folder / "train_images" / label / "1.png").rename(folder / "train_images" / label / "s" / "1.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "train_masks" / "1.npy").rename(elsewhere / "1.npy")
    (folder / "train_masks" / "s").symlink_to(elsewhere)
    assert [s.area_share for s in load_samples(folder) if s.case_id == "s/1"] == pytest.approx([0, 0.25])


def test_a_file_that_vanishes_while_it_is_read_is_a_bad_one(folder, monkeypatch):
    def read_and_delete(path):
        picture = read_picture(path)
        path.unlink()
        return picture

    monkeypatch.setattr("common.data.index.read_picture", read_and_delete)
    samples = find_samples(folder)
    (error,) = open_samples(samples[:1])
    assert isinstance(error, UserError) and str(samples[0].image) in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
@pytest.mark.parametrize(("name", "shown"), [(b"\xff", "udcff"), (b"a\nb", r"a\\nb"), (b"\x1b[2J", r"\\x1b\[2J")])
def test_names_that_no_table_can_hold_are_named(folder, tmp_path, name, shown):
    image = folder / "train_images" / "authentic" / "1.png"
    broken = image.rename(image.with_name(os.fsdecode(name + b".png")))
    with pytest.raises(UserError, match=rf"1 names of images are no UTF-8.*\n.*authentic/.*{shown}\.png"):
        load_samples(folder)
    (tmp_path / "extra").mkdir()
    broken.rename(tmp_path / "extra" / broken.name)
    with pytest.raises(UserError, match="no UTF-8"):
        load_authentic(tmp_path / "extra", [])


def test_fingerprint_follows_content_not_place(folder):
    before = fingerprint(load_samples(folder))
    moved = folder.rename(folder.with_name("elsewhere"))
    assert fingerprint(load_samples(moved)) == before
    mask = moved / "train_masks" / "2.npy"
    corrected, size = np.load(mask), mask.stat().st_size
    corrected[0, 0] = 1 - corrected[0, 0]
    np.save(mask, corrected)
    assert mask.stat().st_size == size
    assert fingerprint(load_samples(moved)) != before


def test_more_authentic_images_of_the_users(folder, tmp_path):
    extra = tmp_path / "extra" / "sub"
    extra.mkdir(parents=True)
    Image.new("RGB", (30, 40), "red").save(extra / "1.png")
    (found,) = load_authentic(extra.parent, load_samples(folder))
    assert (found.case_id, found.forged, found.height, found.width) == ("extra/sub/1", False, 40, 30)
    (extra / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png"):
        load_authentic(extra.parent, [])
    assert len(load_authentic(extra.parent, [], skip_bad_files=True)) == 1


def test_images_that_validate_are_not_trained_on_by_another_name(folder, tmp_path):
    (tmp_path / "extra").mkdir()
    original = folder / "train_images" / "authentic" / "1.png"
    (tmp_path / "extra" / "other_name.png").write_bytes(original.read_bytes())
    with pytest.raises(
        UserError, match=r"1 images of .*extra are also validation images:\n  .*other_name\.png is .*1\.png"
    ):
        load_authentic(tmp_path / "extra", load_samples(folder)[:1])


def test_no_more_authentic_images(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        load_authentic(tmp_path, [])


def sample(number: int, group: int, share: float) -> Sample:
    mask = Path("mask.npy") if share else None
    return Sample(case_id=str(number), image=Path("a.png"), mask=mask, group=str(group), area_share=share)


@pytest.mark.filterwarnings("ignore:The least populated class")
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from([0, 0.001, 0.01, 0.03, 0.07, 0.5])), min_size=2, max_size=60
    ),
    folds=st.integers(2, 5),
    seed=st.integers(0, 5),
)
def test_groups_are_never_split(rows, folds, seed):
    samples = [sample(number, group, share) for number, (group, share) in enumerate(rows)]
    groups = {s.group for s in samples}
    if len(groups) < folds:
        with pytest.raises(UserError, match="groups"):
            assign_folds(samples, folds, seed)
        return
    assigned = assign_folds(samples, folds, seed)
    assert assigned.shape == (len(samples),) and set(assigned) <= set(range(folds))
    for group in groups:
        assert len({fold for fold, s in zip(assigned, samples, strict=True) if s.group == group}) == 1
    np.testing.assert_array_equal(assigned, assign_folds(samples, folds, seed))


def test_folds_share_labels_and_sizes_about_evenly():
    shares = [0, 0, 0, 0.001, 0.01, 0.5]
    samples = [sample(n, n, shares[n % 6]) for n in range(300)]
    assigned = assign_folds(samples, 5, 0)
    for fold in range(5):
        sizes = [s.size for s, f in zip(samples, assigned, strict=True) if f == fold]
        assert sizes.count("authentic") == 30
        assert all(5 <= sizes.count(size) <= 15 for size in ("tiny", "small", "xlarge"))


@pytest.mark.skipif(not (SHARED / "competition_sample").is_dir(), reason="the competition's sample is not here")
def test_real_pairs_of_the_competition(tmp_path):
    samples = load_samples(copytree(SHARED / "competition_sample", tmp_path / "data", copy_function=copyfile))
    assert sorted((s.case_id, s.forged, s.height, s.width) for s in samples) == [
        ("10", False, 512, 648),
        ("10", True, 512, 648),
        ("57", False, 256, 320),
        ("57", True, 256, 320),
    ]
    assert {s.case_id: s.size for s in samples if s.forged} == {"10": "tiny", "57": "medium"}

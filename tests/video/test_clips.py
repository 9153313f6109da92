import os
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from common.video.clips import (
    Clip,
    check_clips,
    clip_key,
    find_clips,
    fingerprint,
    measure,
    read_clip_folders,
    read_clip_table,
    with_self_blended,
)

FFPP = r"(\d{3})(?:_(\d{3}))?"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_clips_are_found(tmp_path):
    touch(tmp_path, "b.mp4", "a.JPG", "notes.txt", ".hidden.mp4", "deep/er/c.webm")
    touch(tmp_path, "frames/2.png", "frames/10.png", "frames/.DS_Store")
    touch(tmp_path, "noted/1.png", "noted/2.png", "noted/Thumbs.db", "noted/boxes.json", "noted/notes")
    touch(tmp_path, "mixed/1.png", "mixed/1.mp4", "nested/1.png", "nested/more/1.png", "nested/notes/1.txt")
    touch(tmp_path, "outer/f1/0.png", "outer/f2.v2/0.png", ".thumbs/0.mp4")
    (tmp_path / "empty").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_clips(tmp_path)]
    assert found == [
        *("a.JPG", "b.mp4", "deep/er/c.webm", "frames", "mixed/1.mp4", "mixed/1.png", "nested/1.png", "nested/more"),
        *("noted", "outer/f1", "outer/f2.v2"),
    ]
    with pytest.raises(UserError, match=r"missing can't be read \(No such file or directory\)"):
        find_clips(tmp_path / "missing")


def test_what_links_lead_to_is_one_clip(tmp_path):
    touch(tmp_path, "set/b.mp4", "set/frames/0.png", "set/frames/1.png", "elsewhere/c.mp4")
    links = {"self": ".", "a": "frames", "a.mp4": "b.mp4", "more": "../elsewhere", "loop.mp4": ""}
    links |= {"frames/again": "../frames", "deep/other": "../frames"}
    for link, target in links.items():
        (tmp_path / "set" / link).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / link).symlink_to(target or link)
    found = [path.relative_to(tmp_path / "set").as_posix() for path in find_clips(tmp_path / "set")]
    assert found == ["b.mp4", "frames", "loop.mp4", "more/c.mp4"]
    with pytest.raises(UserError, match=r"loop\.mp4 can't be read"):
        measure(tmp_path / "set" / "loop.mp4")


@pytest.mark.parametrize("function", [find_clips, read_clip_folders])
def test_folders_that_can_not_be_read_are_named(tmp_path, monkeypatch, function):
    """Permissions bind no administrator, so the system's refusal is made up."""
    touch(tmp_path, "real/a.mp4", "real/locked/b.mp4")
    scandir = os.scandir

    def refusing(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"the folder .*real.locked can't be read \(Permission denied\)"):
        function(tmp_path)


def test_a_data_folder_that_can_not_be_searched_is_named(tmp_path, monkeypatch):
    def refusing(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refusing)
    with pytest.raises(UserError, match=r"the folder .* can't be read \(Permission denied\)"):
        read_clip_folders(tmp_path)


def test_given_splits(tmp_path):
    touch(tmp_path, "train/real/1.mp4", "train/fake/1.mp4", "val/real/x/1.avi", "val/fake/2.png", "test/fake/7/0.png")
    assert read_clip_folders(tmp_path) == [
        Clip(tmp_path / "train/real/1.mp4", False, "train"),
        Clip(tmp_path / "train/fake/1.mp4", True, "train"),
        Clip(tmp_path / "val/real/x/1.avi", False, "val"),
        Clip(tmp_path / "val/fake/2.png", True, "val"),
        Clip(tmp_path / "test/fake/7", True, "test"),
    ]


@pytest.fixture(scope="module")
def faceforensics(tmp_path_factory) -> Path:
    """As FaceForensics++: 100 pairs of people, each video also with the other's face, by two methods."""
    folder = tmp_path_factory.mktemp("ffpp")
    for one in range(0, 200, 2):
        a, b = f"{one:03}", f"{one + 1:03}"
        touch(folder, f"real/{a}.mp4", f"real/{b}.mp4")
        for method in ("swap", "blend"):
            touch(folder, f"fake/{method}/{a}_{b}.mp4", f"fake/{method}/{b}_{a}.mp4")
    return folder


def test_identities_come_from_the_path_in_the_class_folder(faceforensics):
    identities = {clip.path.stem: clip.identities for clip in read_clip_folders(faceforensics, FFPP)}
    assert identities["004"] == ("004",) and identities["004_005"] == ("004", "005")
    whole = {clip.path.stem: clip.identities for clip in read_clip_folders(faceforensics, r"\d{3}")}
    assert whole["005_004"] == ("005",)
    either = read_clip_folders(faceforensics, r"^(swap|blend)/|^\d\d")
    assert {clip.identities for clip in either if clip.fake} == {("swap",), ("blend",)}
    assert {clip.identities for clip in either if not clip.fake} == {(f"{n:02}",) for n in range(20)}


def test_an_identity_stays_in_one_split(faceforensics):
    clips = read_clip_folders(faceforensics, FFPP)
    splits = defaultdict(set)
    for clip in clips:
        for name in clip.identities:
            splits[name].add(clip.split)
    assert len(splits) == 200 and all(len(found) == 1 for found in splits.values())
    # Joined through a fake: 004 and 005 are on one side.
    assert all(splits[f"{n:03}"] == splits[f"{n + 1:03}"] for n in range(0, 200, 2))
    counts = Counter((clip.fake, clip.split) for clip in clips)
    assert [counts[False, split] for split in ("train", "val", "test")] == [140, 30, 30]
    assert [counts[True, split] for split in ("train", "val", "test")] == [280, 60, 60]
    check_clips(clips)


def test_without_a_pattern_clips_of_one_name_stay_together(tmp_path):
    for number in range(100):
        touch(tmp_path, f"real/{number}.mp4", f"fake/a/{number}.avi", f"fake/b/{number}/0.png")
        touch(tmp_path, f"fake/a/f.{number}/0.png")
    splits = defaultdict(set)
    for clip in read_clip_folders(tmp_path, seed=3):
        assert clip.identities == ()
        splits[clip.path.name.removesuffix(".mp4").removesuffix(".avi")].add(clip.split)
    assert len(splits) == 200 and all(len(found) == 1 for found in splits.values())
    assert Counter(next(iter(splits[f"f.{n}"])) for n in range(100)) == {"train": 70, "val": 15, "test": 15}


def test_a_draw_follows_from_names_and_seed(faceforensics, tmp_path):
    def drawn(folder, seed):
        return {c.path.relative_to(folder): c.split for c in read_clip_folders(folder, FFPP, seed)}

    before = drawn(faceforensics, 0)
    (tmp_path / "moved").symlink_to(faceforensics)
    assert drawn(tmp_path / "moved", 0) == before
    assert sum(split != before[path] for path, split in drawn(faceforensics, 1).items()) > 100


def test_groups_of_unequal_size_keep_the_shares(tmp_path):
    for person in range(60):
        for number in range(1 + person % 9):
            touch(tmp_path, f"real/p{person}_{number}.mp4", f"fake/p{person}_{number}.mp4")
    clips = read_clip_folders(tmp_path, r"p(\d+)")
    counts = Counter(clip.split for clip in clips)
    assert [counts[split] / len(clips) for split in ("train", "val", "test")] == pytest.approx(
        [0.7, 0.15, 0.15], abs=18 / len(clips)
    )


def test_patterns_that_fail(tmp_path):
    touch(tmp_path, "real/004.mp4", "real/someone.mp4", "fake/004_982.mp4")
    with pytest.raises(UserError, match=r"matches nothing in 1 of 3 clips:\n.*someone\.mp4"):
        read_clip_folders(tmp_path, FFPP)
    with pytest.raises(UserError, match=r"matches nothing in 3 of 3"):
        read_clip_folders(tmp_path, "(x*)\\d?")
    with pytest.raises(UserError, match=r"'\(' is no regular expression"):
        read_clip_folders(tmp_path, "(")


def test_layouts_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*missing"):
        read_clip_folders(tmp_path / "missing")
    with pytest.raises(UserError, match="holds neither"):
        read_clip_folders(tmp_path)
    touch(tmp_path, "real/notes.txt")
    with pytest.raises(UserError, match="holds no files of a kind that is read here"):
        read_clip_folders(tmp_path)
    touch(tmp_path, "train/real/0.mp4")
    with pytest.raises(UserError, match="holds train, real; it needs"):
        read_clip_folders(tmp_path)


@pytest.fixture
def table(tmp_path):
    """Writes a table beside three clips, one of them a folder of frames."""
    touch(tmp_path, "set/a.mp4", "set/b.mp4", "set/c/0.png")

    def write(*rows: str, head: str = "file,label,identity,split") -> Path:
        (tmp_path / "table.csv").write_text("\n".join([head, *rows]) + "\n")
        return tmp_path / "table.csv"

    return write


def test_table(table, tmp_path):
    rows = ("set/a.mp4,real,004,train", f"{tmp_path / 'set' / 'b.mp4'},1,004; 982;,val", "set/c,FAKE,,test")
    assert read_clip_table(table(*rows)) == [
        Clip(tmp_path / "set/a.mp4", False, "train", ("004",)),
        Clip(tmp_path / "set/b.mp4", True, "val", ("004", "982")),
        Clip(tmp_path / "set/c", True, "test"),
    ]


@pytest.mark.parametrize("head", ["file,label,identity", "file,label,identity,split"])
def test_a_table_without_splits_is_split_by_identity(table, tmp_path, head):
    names = [f"{kind}{n}.mp4" for n in range(100) for kind in ("r", "f")]
    touch(tmp_path, *names)
    rows = [f"{name},{'real' if name[0] == 'r' else 'fake'},{name[1:-4]}{',' * head.count('split')}" for name in names]
    clips = read_clip_table(table(*rows, head=head))
    assert Counter((clip.fake, clip.split) for clip in clips) == {
        (fake, split): count for fake in (False, True) for split, count in (("train", 70), ("val", 15), ("test", 15))
    }
    check_clips(clips)
    assert [clip.split for clip in read_clip_table(table(*rows, head=head), seed=1)] != [clip.split for clip in clips]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (["set/a.mp4,real,,train", "set/b.mp4,2,,val"], ["row 3 (set/b.mp4)", "label is '2'"]),
        (["set/a.mp4,real,,dev"], ["row 2", "split is 'dev'", "train, val or test"]),
        (["set/a.mp4,real,,train", "set/b.mp4,fake,,"], ["row 3", "split is ''"]),
        (["set/a.mp4,0,,", "set/../set/a.mp4,1,,"], ["row 3", "is in row 2 already"]),
        (["set/x.mp4,0,,", "set/b.mp4,1,,", "y.mp4,1,,"], ["2 of the 3 files", "row 2", "x.mp4", "row 4"]),
        ([], ["lists no files"]),
    ],
)
def test_faults_of_a_table_name_file_and_row(table, rows, parts):
    with pytest.raises(UserError) as error:
        read_clip_table(table(*rows))
    for part in ("table.csv", *parts):
        assert part in str(error.value)


def test_a_pattern_stands_in_for_identities_that_a_table_lacks(table):
    rows = ("set/a.mp4,real,004;,", "set/b.mp4,fake,,", "set/c,fake, ;,")
    assert [c.identities for c in read_clip_table(table(*rows), r"set/(.)")] == [("004",), ("b",), ("c",)]
    assert {c.split for c in read_clip_table(table(*rows), r"(set)")[1:]} < {"train", "val", "test"}
    without = [row.rsplit(",", 2)[0] for row in rows]
    found = read_clip_table(table(*without, head="file,label"), "set/(.)")
    assert [c.identities for c in found] == [("a",), ("b",), ("c",)]
    with pytest.raises(UserError, match=r"'\[ab\]' matches nothing in 1 of 3 clips:\n  .*set/c$"):
        read_clip_table(table(*rows), "[ab]")
    with pytest.raises(UserError, match=r"'\(' is no regular expression"):
        read_clip_table(table(*rows), "(")


def test_a_pattern_that_takes_years_is_named_within_seconds(table, monkeypatch):
    monkeypatch.setattr("common.patterns.MOST_SECONDS", 2)
    found = table("set/a.mp4,real,004;,", f"set/{'a' * 40}!.mp4,fake,,", "set/c,fake, ;,")
    (found.parent / "set" / f"{'a' * 40}!.mp4").touch()
    with pytest.raises(UserError, match=r"identity pattern '.*' takes more than 2 s, at 'set/aaaa"):
        read_clip_table(found, r"(a+)+$")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_clips_of_any_name_are_drawn_and_known(tmp_path):
    for number in range(12):
        for kind in ("real", "fake"):
            name = os.fsdecode(b"caf\xe9%d.mp4" % number) if number % 2 else f"\x1b[31m\n{number}.mp4"
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / name).write_bytes(b"x" * number)
    clips = read_clip_folders(tmp_path)
    assert len(clips) == 24 and {clip.split for clip in clips} == {"train", "val", "test"}
    assert len(fingerprint(clips)) == 16 and len({clip_key(clip.path) for clip in clips}) == 12


def test_a_table_needs_its_columns(table):
    with pytest.raises(UserError, match=r"table\.csv needs one column label or class"):
        read_clip_table(table("set/a.mp4,1", head="file,kind"))


def clip(name: str, split: str, *identities: str) -> Clip:
    return Clip(Path(f"{name}.mp4"), name.startswith("fake"), split, identities)


BOTH = [clip(f"{name}_{split}", split) for name in ("real", "fake") for split in ("train", "val")]


def test_training_and_validation_need_both_classes():
    check_clips(BOTH)
    with pytest.raises(UserError, match=r"^val has no fake clips\. .*differently\.$"):
        check_clips(BOTH[:3])
    tied = [replace(c, split="train", identities=("a", "b")) for c in BOTH]
    with pytest.raises(UserError, match=r"val has no real clips; val has no fake clips\. .*4 of the 4 clips"):
        check_clips(tied)


def test_an_identity_in_two_splits_is_refused():
    clips = [*BOTH, clip("real_7", "train", "7"), clip("fake_7", "test", "8", "7"), clip("fake_8", "test", "8")]
    with pytest.raises(UserError, match=r"1 of 2 identities .*\n  7: train \(real_7\.mp4\), test \(fake_7\.mp4\)\n"):
        check_clips(clips)
    check_clips([replace(c, split="val") if c.identities else c for c in clips])


def test_a_clip_in_two_splits_is_refused(tmp_path):
    touch(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in ("a.mp4", "f/0.png", "f/1.png")))
    train, val = (Clip(tmp_path / split / "a.mp4", False, split) for split in ("train", "val"))
    frames = [Clip(tmp_path / split / "f", True, split) for split in ("train", "val")]
    with pytest.raises(UserError, match=r"^2 clips are in several splits:\n  train \(.*a\.mp4\), val \(.*a\.mp4\)\n"):
        check_clips([train, val, *frames])
    (tmp_path / "val/a.mp4").write_bytes(b"y")  # of the same size
    touch(tmp_path, "val/f/2.png")
    check_clips([train, val, *frames])
    (tmp_path / "val/f/2.png").unlink()
    with pytest.raises(UserError, match=r"^1 clips are in several splits:\n  train \(.*f\), val \(.*f\)\n"):
        check_clips([train, val, *[replace(c, identities=(c.split,)) for c in frames]])
    (tmp_path / "val/f/1.png").write_bytes(b"y")
    check_clips([train, val, *frames])
    copy = Clip(touch(tmp_path / "copy", "a.mp4") / "a.mp4", False, "train")
    check_clips([train, val, *frames, copy])  # twice in one split


def test_size_and_date_of_a_clip(tmp_path):
    touch(tmp_path, "a.mp4", "frames/0.png", "frames/1.png", "frames/.DS_Store", "frames/Thumbs.db")
    assert measure(tmp_path / "frames")[:2] == (2, 2)
    count, size, changed = measure(tmp_path / "a.mp4")
    assert (count, size) == (1, 1) and changed == (tmp_path / "a.mp4").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"gone\.mp4 can't be read"):
        measure(tmp_path / "gone.mp4")


def test_a_clip_is_known_again_by_name_and_size(tmp_path):
    for place in ("here", "there"):
        touch(tmp_path / place, "a.mp4", "b.mp4", "frames/0.png", "frames/1.png")
    keys = {
        place: [clip_key(tmp_path / place / name) for name in ("a.mp4", "b.mp4", "frames")]
        for place in ("here", "there")
    }
    assert keys["here"] == keys["there"] and len(set(keys["here"])) == 3
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys["here"])
    (tmp_path / "here/a.mp4").write_bytes(b"longer")
    touch(tmp_path, "here/frames/2.png")
    assert clip_key(tmp_path / "here/a.mp4") != keys["here"][0]
    assert clip_key(tmp_path / "here/frames") != keys["here"][2]


def test_fingerprint_follows_content_not_place(tmp_path):
    for place in ("here", "there"):
        touch(tmp_path / place, "a.mp4", "frames/0.png", "frames/1.png")
    clips, moved = (
        [Clip(tmp_path / p / "a.mp4", False, "train"), Clip(tmp_path / p / "frames", True, "val", ("7",))]
        for p in ("here", "there")
    )
    before = fingerprint(clips)
    assert fingerprint(moved[::-1]) == before
    for change in ({"split": "test"}, {"fake": False}, {"identities": ("8",)}, {"path": clips[0].path}):
        assert fingerprint([clips[0], replace(clips[1], **change)]) != before
    (tmp_path / "here/a.mp4").write_bytes(b"longer")
    touch(tmp_path, "there/frames/2.png")
    assert len({before, fingerprint(clips), fingerprint(moved)}) == 3


def test_real_clips(shared_data):
    folder = shared_data / "clips"
    clips = read_clip_folders(folder, r"ffpp_c23_(\d{3})(?:_(\d{3}))?|(demo)")
    found = {c.path.name: c for c in clips}
    assert {name: c.identities for name, c in found.items()} == {
        "facewarp_demo.mp4": ("demo",),
        "ffpp_c23_004.mp4": ("004",),
        "ffpp_c23_004_982.mp4": ("004", "982"),
        "uadfv_demo_fake.mp4": ("demo",),
    }
    assert [c.fake for c in clips] == [False, False, True, True]
    assert found["ffpp_c23_004.mp4"].split == found["ffpp_c23_004_982.mp4"].split


def test_fakes_are_made_for_splits_that_have_none():
    clips = [Clip(Path("a"), False, "train", ("x",)), Clip(Path("b"), False, "test"), Clip(Path("c"), True, "test")]
    made = Clip(Path("a"), True, "train", ("x",), self_blended=True)
    assert with_self_blended(clips) == [*clips, made]

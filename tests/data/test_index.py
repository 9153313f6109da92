"""A second start opens only what is new or has changed, and finds the same."""

import csv
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import samples as module
from common.data.index import COLUMNS, Index, open_sample
from common.data.samples import fingerprint, load_samples
from common.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pairs, 10×20; the forged area of `1` is 25 %, that of `s/2` a thirtieth; the authentic `1` is transparent."""
    for label in ("authentic", "forged"):
        (tmp_path / "train_images" / label / "s").mkdir(parents=True)
        for case_id, mode in (("1", "RGBA" if label == "authentic" else "RGB"), ("s/2", "L")):
            Image.new(mode, (20, 10)).save(tmp_path / "train_images" / label / f"{case_id}.png")
    (tmp_path / "train_masks" / "s").mkdir(parents=True)
    masks = np.zeros((2, 2, 10, 20), np.uint8)
    masks[0, 0, :5, :5], masks[0, 1, 5:, :5] = 1, 1
    masks[1, :, 0, :6] = 1
    np.save(tmp_path / "train_masks" / "1.npy", masks[0])
    np.save(tmp_path / "train_masks" / "s" / "2.npy", masks[1][:, :, :18])
    Image.new("L", (18, 10)).save(tmp_path / "train_images" / "forged" / "s" / "2.png")
    return tmp_path


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the images that are opened, each with its mask, and of those alone."""
    names = []

    def noted(sample, **options):
        names.append(f"{sample.image.parent.name}/{sample.image.name}")
        return open_sample(sample, **options)

    monkeypatch.setattr(module, "open_sample", noted)
    return names


def rows(folder: Path, split: str = "train") -> list[dict[str, str]]:
    with (folder / f"{split}_index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rewrite(path: Path, content: bytes) -> None:
    """Other content of the same length, a second later."""
    now = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(now + 10**9, now + 10**9))


def test_a_second_start_opens_nothing_and_finds_the_same(folder, opened):
    first = load_samples(folder)
    assert len(opened) == 4
    index = folder / "train_index.csv"
    inode = index.stat().st_ino
    second = load_samples(folder)
    assert second == first and fingerprint(second) == fingerprint(first)
    assert len(opened) == 4 and index.stat().st_ino == inode


def test_area_shares_come_back_to_the_last_bit(folder):
    load_samples(folder)
    *_, last = load_samples(folder)
    assert last.area_share == float(np.load(last.mask).any(axis=0).mean()) == 6 / 180


def test_people_can_read_it(folder):
    (folder / "groups.csv").write_text("case_id,group,kind\n1,lake,splice\n")
    load_samples(folder)
    first, _, third, fourth = rows(folder)
    assert tuple(first) == COLUMNS
    assert (first["label"], first["image"], first["channels"]) == ("authentic", "train_images/authentic/1.png", "4")
    assert (first["mask"], first["kind"], first["bucket"], first["mask_hash"]) == ("", "", "authentic", "")
    assert (third["label"], third["mask"]) == ("forged", "train_masks/1.npy")
    assert (third["group"], third["kind"], third["bucket"]) == ("lake", "splice", "xlarge")
    assert (third["height"], third["width"], third["area_share"]) == ("10", "20", "0.25")
    assert (fourth["case_id"], fourth["width"], fourth["channels"]) == ("s/2", "18", "1")


def test_only_what_has_changed_is_opened(folder, opened):
    load_samples(folder)
    opened.clear()
    mask = folder / "train_masks" / "1.npy"
    moved = np.roll(np.load(mask), 1, axis=2)
    moved[0, 9] = 1
    np.save(folder / "other.npy", moved)
    rewrite(mask, (folder / "other.npy").read_bytes())
    Image.new("RGB", (30, 20)).save(folder / "train_images" / "authentic" / "3.png")
    (folder / "train_images" / "authentic" / "s" / "2.png").unlink()
    samples = load_samples(folder)
    assert sorted(opened) == ["authentic/3.png", "forged/1.png"]
    assert [(s.case_id, s.width) for s in samples] == [("1", 20), ("3", 30), ("1", 20), ("s/2", 18)]
    assert samples[2].area_share == moved.any(axis=0).mean() > 0.25
    assert [row["case_id"] for row in rows(folder)] == ["1", "3", "1", "s/2"]
    opened.clear()
    assert load_samples(folder) == samples and not opened


def test_an_image_of_another_format_is_another(folder, opened):
    load_samples(folder)
    opened.clear()
    path = folder / "train_images" / "authentic" / "1.png"
    stamps = path.stat()
    path = path.rename(path.with_suffix(".bmp"))
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    load_samples(folder)
    assert opened == ["authentic/1.bmp"]


INDEX = """\
case_id,label,image,mask,group,kind,height,width,channels,orientation,area_share,bucket,image_hash,mask_hash,\
image_bytes,image_mtime_ns,mask_bytes,mask_mtime_ns
1,authentic,train_images/authentic/1.png,,1,,10,20,4,1,0.0,authentic,a1,,{},1000000001,0,0
s/2,authentic,train_images/authentic/s/2.png,,"lake, ""b"" c",,10,20,1,1,0.0,authentic,a2,,{},1000000002,0,0
1,forged,train_images/forged/1.png,train_masks/1.npy,1,,10,20,3,1,0.25,xlarge,f1,m1,{},1000000003,{},1000000005
s/2,forged,train_images/forged/s/2.png,train_masks/s/2.npy,"lake, ""b"" c",splice,10,18,1,1,0.03333333333333333,medium,\
f2,m2,{},1000000004,{},1000000006
"""
"""As it is written, to the byte; sizes of the files left open."""


@pytest.fixture
def indexed(folder):
    """The folder with that index, and its content."""
    (folder / "groups.csv").write_text('case_id,group,kind\ns/2,"lake, ""b"" c",splice\n')
    names = ("authentic/1", "authentic/s/2", "forged/1", "forged/s/2")
    images = [folder / f"train_images/{name}.png" for name in names]
    masks = [folder / f"train_masks/{name}.npy" for name in ("1", "s/2")]
    for number, path in enumerate([*images, *masks], 1):
        os.utime(path, ns=(0, 10**9 + number))
    sizes = [path.stat().st_size for path in (*images[:3], masks[0], images[3], masks[1])]
    content = INDEX.format(*sizes).replace("\n", "\r\n").encode()
    (folder / "train_index.csv").write_bytes(content)
    return folder, content


def test_an_index_of_other_columns_is_written_again(indexed, opened):
    """Versions before the orientation read some files otherwise."""
    folder, content = indexed
    (folder / "train_index.csv").write_bytes(content.replace(b",orientation", b"").replace(b",1,0.", b",0."))
    load_samples(folder)
    assert len(opened) == 4 and b"orientation" in (folder / "train_index.csv").read_bytes()


def test_an_index_of_earlier_runs_is_used_as_it_is(indexed, opened):
    folder, content = indexed
    samples = load_samples(folder)
    assert not opened and (folder / "train_index.csv").read_bytes() == content
    assert [s.image_hash for s in samples] == ["a1", "a2", "f1", "f2"] and samples[3].area_share == 6 / 180
    assert [s.mask_mtime_ns for s in samples] == [0, 0, 1000000005, 1000000006]
    (folder / "train_index.csv").unlink()
    load_samples(folder)  # and is written in the same way
    assert [{**row, "image_hash": "", "mask_hash": ""} for row in rows(folder)] == [
        {**row, "image_hash": "", "mask_hash": ""} for row in csv.DictReader(content.decode().splitlines())
    ]


def test_groups_come_from_the_table_as_it_is_now(folder, opened):
    load_samples(folder)
    opened.clear()
    (folder / "groups.csv").write_text("case_id,group,kind\n1,lake,splice\ns/2,lake,\n")
    assert [s.group for s in load_samples(folder)] == ["lake"] * 4
    assert [row["group"] for row in rows(folder)] == ["lake"] * 4 and not opened


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("0.25", "a quarter"),
        lambda text: text.replace("image_hash", "hash"),
        lambda text: "case_id,group\n1,lake\n",
        lambda text: text + "\0\n",
        lambda text: text + 'x,"',
    ],
)
def test_a_broken_index_is_rebuilt(folder, damage):
    samples = load_samples(folder)
    index = folder / "train_index.csv"
    text = index.read_text()
    index.write_text(damage(text))
    assert load_samples(folder) == samples
    assert index.read_text() == text


def test_bytes_that_are_no_text_are_no_index(folder):
    (folder / "train_index.csv").write_bytes(bytes(range(256)))
    assert len(load_samples(folder)) == 4 == len(rows(folder))


def test_bad_files_are_never_in_it(folder, opened, capsys):
    (folder / "train_images" / "authentic" / "1.png").write_bytes(b"no image")
    (folder / "train_images" / "authentic" / "s" / "2.png").unlink()
    (folder / "train_images" / "authentic" / "s" / "2.png").symlink_to(folder / "gone.png")
    for _ in range(2):
        opened.clear()
        with pytest.raises(UserError, match="2 bad files"):
            load_samples(folder)
        assert [s.forged for s in load_samples(folder, skip_bad_files=True)] == [True, True]
        assert capsys.readouterr().out.count("2 bad files") == 1
    assert set(opened) == {"authentic/1.png", "s/2.png"}
    assert [row["label"] for row in rows(folder)] == ["forged", "forged"]


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(folder, capsys):
    (folder / "train_index.csv").mkdir()
    assert len(load_samples(folder)) == 4
    assert "note: without an index" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_text_mean_no_index(folder, capsys):
    samples, index = load_samples(folder), folder / "train_index.csv"
    before = index.read_bytes()
    Index(folder, "train").update([*samples, replace(samples[0], case_id=os.fsdecode(b"\xff"))])
    assert "note: without an index" in capsys.readouterr().out
    assert index.read_bytes() == before and not list(folder.glob("*.partial"))


def test_each_split_has_its_own(folder):
    (folder / "train_images" / "forged").rename(folder / "supplemental_images")
    (folder / "train_masks").rename(folder / "supplemental_masks")
    (folder / "train_images" / "forged").mkdir()
    load_samples(folder, "supplemental")
    load_samples(folder)
    assert [row["label"] for row in rows(folder)] == ["authentic"] * 2
    assert [row["image"] for row in rows(folder, "supplemental")] == [
        "supplemental_images/1.png",
        "supplemental_images/s/2.png",
    ]


def test_the_folder_may_be_the_present_one(folder, opened, monkeypatch):
    samples = load_samples(folder)
    monkeypatch.chdir(folder)
    opened.clear()
    assert [s.image_hash for s in load_samples(Path())] == [s.image_hash for s in samples]
    assert not opened

"""A check names everything that is wrong, at once."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError, readable
from common.making.checking import check_folder
from common.making.layout import write_image, write_mask


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sound data folder: three pairs, one supplemental image, two test images."""
    image, mask = np.full((20, 30, 3), 90, np.uint8), np.zeros((2, 20, 30), np.uint8)
    mask[0, :3], mask[1, 9:] = 1, 1
    for case_id in "123":
        write_image(tmp_path / "train_images" / "authentic" / f"{case_id}.png", image)
        write_image(tmp_path / "train_images" / "forged" / f"{case_id}.png", image)
        write_mask(tmp_path / "train_masks" / f"{case_id}.npy", mask)
    write_image(tmp_path / "supplemental_images" / "s.png", image)
    write_mask(tmp_path / "supplemental_masks" / "s.npy", mask[0])
    write_image(tmp_path / "test_images" / "8.png", image)
    write_image(tmp_path / "test_images" / "9.png", image)
    write_mask(tmp_path / "test_masks" / "9.npy", mask)
    (tmp_path / "groups.csv").write_text("case_id,group,kind\n1,a,splice\n2,b,\n3,b,\n8,c,\n")
    (tmp_path / "sample_submission.csv").write_text("case_id,annotation\n8,authentic\n9,authentic\n")
    return tmp_path


def found(folder: Path) -> set[tuple[str, str]]:
    return {(fault.kind, fault.file) for fault in check_folder(folder).faults}


def test_a_sound_folder(folder):
    report = check_folder(folder)
    assert report.faults == []
    assert report.images == {
        "train_images/authentic": 3,
        "train_images/forged": 3,
        "supplemental_images": 1,
        "test_images": 2,
    }
    assert "3 in train_images/forged" in report.counts


def test_parts_that_are_not_there_are_not_missed(folder):
    for name in ("groups.csv", "sample_submission.csv"):
        (folder / name).unlink()
    for name in ("supplemental_images", "supplemental_masks", "test_images", "test_masks"):
        (folder / name).rename(folder / f"other_{name}")
    assert check_folder(folder).faults == []


def test_classes_that_were_saved_otherwise_are_told(folder):
    assert check_folder(folder).leak is None
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for number in range(40):
        label = ("authentic", "forged")[number % 2]
        pixels.save(folder / "train_images" / label / f"more {number}.jpg", quality=70 + 10 * (number % 2))
        write_mask(folder / "train_masks" / f"more {number}.npy", np.ones((1, 20, 30), np.uint8))
    leak = check_folder(folder).leak
    assert leak.startswith("authentic and forged images are told apart by how their files are stored: file format and")


def write_text(path: Path) -> None:
    path.write_text("no image")


def save_rgba(path: Path) -> None:
    Image.new("RGBA", (30, 20)).save(path)


def save_larger(path: Path) -> None:
    Image.new("RGB", (30, 21)).save(path)


def save_values(path: Path) -> None:
    np.save(path, np.full((1, 20, 30), 255, np.uint8))


def save_empty(path: Path) -> None:
    np.save(path, np.zeros((1, 20, 30), np.uint8))


def save_empty_channel(path: Path) -> None:
    np.save(path, np.stack([np.ones((20, 30), np.uint8), np.zeros((20, 30), np.uint8)]))


def save_turned(path: Path) -> None:
    np.save(path, np.ones((1, 30, 20), np.uint8))


@pytest.mark.parametrize(
    ("kind", "file", "spoil"),
    [
        ("unreadable image", "train_images/forged/1.png", write_text),
        ("unreadable image", "test_images/8.png", write_text),
        ("unreadable mask", "train_masks/1.npy", write_text),
        ("unreadable mask", "test_masks/9.npy", write_text),
        ("forged image without mask", "train_images/forged/4.png", lambda p: Image.new("RGB", (30, 20)).save(p)),
        ("forged image without mask", "supplemental_images/t.png", lambda p: Image.new("RGB", (30, 20)).save(p)),
        ("mask without image", "train_masks/5.npy", save_values),
        ("mask without image", "supplemental_masks/t.npy", save_values),
        ("mask without image", "test_masks/7.npy", save_values),
        ("shape mismatch", "train_masks/2.npy", save_turned),
        ("shape mismatch", "supplemental_masks/s.npy", save_turned),
        ("empty mask", "train_masks/2.npy", save_empty),
        ("empty mask", "test_masks/9.npy", save_empty_channel),
        ("mask values", "train_masks/2.npy", save_values),
        ("duplicate id", "train_images/forged/1.jpg", lambda p: Image.new("RGB", (30, 20)).save(p)),
        ("alpha channel", "train_images/authentic/3.png", save_rgba),
        ("twin of another size", "train_images/authentic/3.png", save_larger),
        ("stray file", "train_images/7.png", save_rgba),
        ("stray file", "train_images/forged/notes.txt", write_text),
        ("stray file", "train_masks/1.png", save_rgba),
    ],
)
def test_each_fault_alone(folder, kind, file, spoil):
    spoil(folder / file)
    assert found(folder) == {(kind, file)}


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("groups.csv", "case_id,group\n77,a\n", "'77'"),
        ("groups.csv", "case_id,group\n1,a\n1,b\n", "2 rows for '1'"),
        ("groups.csv", "case_id,group\n1,a\n8,a\n", "'a' is among the training and the test images"),
        ("groups.csv", "id,group\n1,a\n", "needs the columns"),
        ("groups.csv", "", "can't be read"),
        ("sample_submission.csv", "case_id,annotation\n8,authentic\n", "no row for the test image '9'"),
        ("sample_submission.csv", "case_id,annotation\n8,a\n9,a\n10,a\n", "'10', which is no test image"),
        ("sample_submission.csv", "case_id,annotation\n8,a\n9,a\n9,a\n", "2 rows for '9'"),
        ("sample_submission.csv", "id\n8\n", "needs the columns"),
    ],
)
def test_each_fault_of_the_tables(folder, file, content, part):
    (folder / file).write_text(content)
    (fault,) = check_folder(folder).faults
    assert (fault.kind, fault.file) == (file, file) and part in fault.text


def test_images_of_an_empty_group_are_no_group(folder):
    (folder / "groups.csv").write_text("case_id,group\n1,\n2,\n8,\n9,\n")
    assert check_folder(folder).faults == []


def test_a_group_on_both_sides_is_found_in_every_row_of_an_image(folder):
    (folder / "groups.csv").write_text("case_id,group\n1,a\n1,b\n8,a\n")
    kinds = [fault.text for fault in check_folder(folder).faults if fault.kind == "groups.csv"]
    assert any("group 'a' is among the training and the test images" in text for text in kinds)


def test_transparency_in_both_twins_tells_nothing(folder):
    for label in ("authentic", "forged"):
        save_rgba(folder / "train_images" / label / "3.png")
    assert found(folder) == set()


def test_all_faults_come_at_once(folder):
    write_text(folder / "train_images" / "forged" / "1.png")
    save_empty(folder / "train_masks" / "1.npy")  # found although its image can't be read
    save_larger(folder / "train_images" / "authentic" / "2.png")
    save_rgba(folder / "train_images" / "authentic" / "3.png")
    save_larger(folder / "test_images" / "10.png")
    report = check_folder(folder)
    assert list(report.by_kind()) == [
        "unreadable image",
        "empty mask",
        "twin of another size",
        "alpha channel",
        "sample_submission.csv",
    ]
    assert all(fault.text for fault in report.faults)


def test_both_files_of_a_duplicate_id_are_opened(folder):
    write_text(folder / "train_images" / "forged" / "1.jpg")
    assert found(folder) == {
        ("duplicate id", "train_images/forged/1.jpg"),
        ("unreadable image", "train_images/forged/1.jpg"),
    }


def test_other_folders_are_explained(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="folder"):
            check_folder(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize(("name", "shown"), [(b"caf\xe9", r"caf\xe9"), (b"a\nb", r"a\nb"), (b"\x1b[31m", r"\x1b[31m")])
def test_names_that_no_table_can_hold(folder, name, shown):
    """The check goes on to the end, and prints none of their bytes."""
    image = folder / "train_images" / "authentic" / "1.png"
    image.rename(image.with_name(os.fsdecode(name + b".png")))
    (folder / "test_images" / os.fsdecode(name + b".png")).write_bytes(b"none")
    (folder / "train_images" / os.fsdecode(name + b".txt")).write_bytes(b"none")
    report = check_folder(folder)
    named = {(fault.kind, fault.file) for fault in report.faults}
    assert {("name", f"train_images/authentic/{shown}.png"), ("name", f"test_images/{shown}.png")} <= named
    assert {("unreadable image", f"test_images/{shown}.png"), ("stray file", f"train_images/{shown}.txt")} <= named
    assert all(readable(fault.file + fault.text) == fault.file + fault.text for fault in report.faults)
    (broken,) = [fault for fault in report.faults if fault.kind == "unreadable image"]
    assert broken.text.startswith("cannot be read as an image")

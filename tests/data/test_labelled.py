"""Labelled files: both layouts give the same records, and every fault is named with its row."""

from pathlib import Path

import pytest

from common.data.labelled import Labelled, check_both_classes, read_class_folders, read_labelled_table
from common.errors import UserError


@pytest.fixture
def table(tmp_path):
    """Writes a table beside the files a.png, b.png and sub/c.png and the folder clip."""
    for name in ("a.png", "b.png", "sub/c.png", "clip/0001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def write(*lines: str) -> Path:
        (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "table.csv"

    return write


def test_a_table_with_splits_and_other_columns(table, tmp_path):
    csv = table(
        "file,label,identity,split", "a.png,real,004,train", "sub/c.png,fake,,val", f"{tmp_path}/b.png,1,7,test"
    )
    assert read_labelled_table(csv) == [
        Labelled(tmp_path / "a.png", False, "train", "a.png", {"identity": "004"}),
        Labelled(tmp_path / "sub/c.png", True, "val", "sub/c.png", {"identity": ""}),
        Labelled(tmp_path / "b.png", True, "test", f"{tmp_path}/b.png", {"identity": "7"}),
    ]


@pytest.mark.parametrize("file", ["file", "image"])
@pytest.mark.parametrize("label", ["label", "class"])
def test_columns_have_two_names(table, file, label):
    found = read_labelled_table(table(f"{label},{file}", "0,a.png", "1,b.png"))
    assert [(entry.name, entry.fake, entry.split, entry.columns) for entry in found] == [
        ("a.png", False, "", {}),
        ("b.png", True, "", {}),
    ]


@pytest.mark.parametrize(
    ("label", "fake"),
    [("real", False), ("0", False), ("Real ", False), ("fake", True), ("1", True), ("generated", True), ("FAKE", True)],
)
def test_labels_have_several_names(table, label, fake):
    assert read_labelled_table(table("file,label", f"a.png,{label}"))[0].fake is fake


def test_a_folder_of_frames_is_a_file(table):
    assert read_labelled_table(table("file,label", "clip,fake"))[0].path.is_dir()


def test_empty_splits_are_to_be_drawn(table):
    found = read_labelled_table(table("file,label,split", "a.png,real,", "b.png,fake,"))
    assert [entry.split for entry in found] == ["", ""]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("b.png,maybe,val", r"row 3 (b.png): label is 'maybe'; it must be real or fake (0 or 1)"),
        ("b.png,,val", r"row 3 (b.png): label is ''"),
        ("b.png", r"row 3 (b.png): label is ''"),
        ("b.png,fake,", r"row 3 (b.png): split is ''; it must be train, val or test"),
        ("b.png,fake,Train", r"row 3 (b.png): split is 'Train'"),
        ("a.png,real,train", r"row 3 (a.png): is in row 2 already"),
        ("sub/../a.png,real,train", r"row 3 (sub/../a.png): is in row 2 already"),
        (",real,train", r"row 3: file is empty"),
    ],
)
def test_wrong_rows_are_named(table, row, fault):
    csv = table("file,label,split", "a.png,real,train", row, "sub/c.png,fake,val")
    with pytest.raises(UserError) as error:
        read_labelled_table(csv)
    head, only = str(error.value).split("\n  ")
    assert head == f"{csv} has 1 wrong rows among 3:" and only.startswith(fault)


def test_all_wrong_rows_come_at_once_and_before_missing_files(table):
    csv = table("image,class", "a.png,x", "gone.png,real", "a.png,real", "b.png,2")
    with pytest.raises(UserError) as error:
        read_labelled_table(csv)
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "row 2 (a.png)",
        "row 4 (a.png)",
        "row 5 (b.png)",
    ]


def test_missing_files_are_listed_with_their_rows(table, tmp_path):
    csv = table("file,label", "gone.png,real", "a.png,real", "sub/gone.png,fake")
    with pytest.raises(UserError) as error:
        read_labelled_table(csv)
    assert str(error.value).splitlines() == [
        f"2 of the 3 files of {csv} do not exist (paths begin at the table's folder):",
        f"  row 2: {tmp_path}/gone.png",
        f"  row 4: {tmp_path}/sub/gone.png",
    ]


@pytest.mark.parametrize(
    ("head", "part"),
    [
        ("path,label", r"needs one column file or image; it has path, label"),
        ("file,image,label", r"needs one column file or image; it has file, image, label"),
        ("file,split", r"needs one column label or class; it has file, split"),
        ("image,class", r"lists no files. Give each a row: image,class,split"),
    ],
)
def test_tables_of_another_form_are_explained(table, head, part):
    csv = table(head)
    with pytest.raises(UserError) as error:
        read_labelled_table(csv)
    assert str(error.value).startswith(f"{csv} {part}")


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def find_png(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def test_class_folders(tmp_path):
    make_files(tmp_path, "real/a.png", "real/notes.txt", "fake/a.png", "fake/gan/b.png", "other/c.png")
    assert read_class_folders(tmp_path, find_png) == [
        Labelled(tmp_path / "real/a.png", False, "", "a.png"),
        Labelled(tmp_path / "fake/a.png", True, "", "a.png"),
        Labelled(tmp_path / "fake/gan/b.png", True, "", "gan/b.png"),
    ]


def test_class_folders_of_each_split(tmp_path):
    make_files(tmp_path, "train/real/a.png", "train/fake/b.png", "val/fake/c.png", "test/real/d.png")
    found = read_class_folders(tmp_path, find_png)
    assert [(entry.split, entry.fake, entry.name) for entry in found] == [
        ("train", False, "a.png"),
        ("train", True, "b.png"),
        ("val", True, "c.png"),
        ("test", False, "d.png"),
    ]


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ((), "holds neither; it needs the folders train, val, test"),
        (("real/a.png", "train/real/b.png"), "holds train, real; it needs"),
        (("real/a.txt",), "holds no files of a kind that is read here"),
    ],
)
def test_folders_of_another_layout_are_explained(tmp_path, files, part):
    make_files(tmp_path, *files)
    with pytest.raises(UserError) as error:
        read_class_folders(tmp_path, find_png)
    assert str(error.value).startswith(f"{tmp_path} {part}")


def test_both_classes_are_needed_for_training_and_validation():
    both = [(split, fake) for split in ("train", "val") for fake in (False, True)]
    check_both_classes(both, "clips")
    with pytest.raises(UserError, match=r"^train has no fake clips; val has no real clips\. .*add clips or split"):
        check_both_classes([both[0], both[3], ("test", True)], "clips")

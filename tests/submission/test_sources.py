import os
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from common.data.images import find_images
from common.errors import UserError
from common.submission.sources import VIDEOS_PER_PART, Part, distinct, list_files, split_into_parts


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_in_the_order_of_its_paths(tmp_path):
    """As `find_images` does: by the paths' parts, so that a folder stands before the file that its name begins."""
    touch(tmp_path, "b.png", "a/z.JPG", "a.png", "a-b.tif", "a/.hidden.png", "notes.txt", "a/deep/er/1.webp", ".h.png")
    listed = list(list_files(tmp_path))
    assert {case_id: path for _, case_id, path in listed} == {k: str(v) for k, v in find_images(tmp_path).items()}
    assert [case_id for _, case_id, _ in listed] == list(find_images(tmp_path))
    assert [case_id for _, case_id, _ in listed] == ["a/deep/er/1", "a/z", "a-b", "a", "b"]


def test_videos_keep_their_suffix_and_can_be_left_out(tmp_path):
    touch(tmp_path, "1.png", "1.mp4", "sub/c.MOV", ".h.mp4")
    assert [file[:2] for file in list_files(tmp_path)] == [("video", "1.mp4"), ("image", "1"), ("video", "sub/c.MOV")]
    assert [file[1] for file in list_files(tmp_path, videos=False)] == ["1"]
    assert list(list_files(tmp_path / "1.mp4")) == [("video", "1.mp4", str(tmp_path / "1.mp4"))]
    assert list(list_files(tmp_path / "1.png")) == [("image", "1", str(tmp_path / "1.png"))]


def test_a_manifest_gives_order_names_and_places(tmp_path):
    touch(tmp_path, "elsewhere/x.png")
    absolute = tmp_path / "elsewhere" / "x.png"
    (tmp_path / "lists").mkdir()
    manifest = tmp_path / "lists" / "m.csv"
    manifest.write_text(
        f'\ufeffcase_id,group,file\n007,a,./b.png\n,b,sub/a.jpg\n,c,"{absolute}"\n\n,d,../up.png\n"x,\ny",e,clip.mp4\n,f,c.avi'
    )
    folder = str(tmp_path / "lists")
    assert list(list_files(manifest)) == [
        ("image", "007", f"{folder}/./b.png"),
        ("image", "sub/a", f"{folder}/sub/a.jpg"),
        ("image", "x", str(absolute)),
        ("image", "up", f"{folder}/../up.png"),
        ("video", r"x,\ny", f"{folder}/clip.mp4"),
        ("video", "c.avi", f"{folder}/c.avi"),
    ]


def test_parquet_says_the_same_as_csv(tmp_path):
    (tmp_path / "m.csv").write_text("file,case_id\na.png,1\nb.png,\nc.mp4,3\n")
    table = pyarrow.table({"case_id": ["1", None, "3"], "other": [1, 2, 3], "file": ["a.png", "b.png", "c.mp4"]})
    parquet.write_table(table, tmp_path / "m.parquet")
    assert list(list_files(tmp_path / "m.parquet")) == list(list_files(tmp_path / "m.csv"))


def test_numbers_are_names_in_parquet(tmp_path):
    parquet.write_table(pyarrow.table({"case_id": [7], "file": ["a.png"]}), tmp_path / "m.parquet")
    assert [file[1] for file in list_files(tmp_path / "m.parquet")] == ["7"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([("file", ["a.png"]), ("file", ["b.png"])], r"has the column file twice"),
        ([("case_id", ["a"]), ("file", ["b.png"]), ("case_id", ["b"])], r"has the column case_id twice"),
        ([("file", [1.5])], r"the column file holds double, not text"),
        ([("file", [7])], r"the column file holds int64, not text"),
        ([("file", [["a.png"]])], r"the column file holds list"),
        ([("file", [{"file": "a.png"}])], r"the column file holds struct"),
        ([("file", ["a.png"]), ("case_id", [7.0])], r"the column case_id holds double, not text"),
        ([("file", [b"caf\xe9.png"])], r"can't be read as a manifest \(Invalid UTF8"),
        ([("file", [None])], r"row 1 names no file"),
    ],
)
def test_columns_of_parquet_that_are_no_names(tmp_path, columns, message):
    names, values = zip(*columns, strict=True)
    table = pyarrow.Table.from_arrays([pyarrow.array(column) for column in values], names=names)
    parquet.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(UserError, match=rf"m\.parquet:? {message}"):
        list(list_files(tmp_path / "m.parquet"))


def test_damaged_parquet_is_an_error_or_a_list(tmp_path):
    path, random = tmp_path / "m.parquet", Random(5)
    names = [f"{number}.png" for number in range(60)]
    parquet.write_table(pyarrow.table({"file": names, "case_id": names}), path, row_group_size=20)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        data = bytearray(whole[: random.randrange(len(whole))] if random.random() < 0.2 else whole)
        for _ in range(random.randrange(1, 4)):
            data[-1 - random.randrange(min(900, len(data)))] = random.randrange(256)
        path.write_bytes(data)
        try:
            list(list_files(path))
        except UserError as error:
            assert "m.parquet" in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"image\na.png\n", r"m\.csv needs the column file \(and may have case_id\); it has image"),
        ("m.csv", b"", "it has none"),
        ("m.csv", b"file,case_id\na.png,1\n,2\n", "row 2 names no file"),
        ("m.csv", b"case_id,file\n1,a.png\n2\n", "row 2 names no file"),
        ("m.parquet", b"no parquet", r"m\.parquet can't be read as a manifest"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(list_files(tmp_path / name))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    touch(tmp_path, "m.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        list(list_files(tmp_path / "m.parquet"))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tsv", "x"])
def test_a_file_of_an_unknown_kind_is_no_image(tmp_path, name):
    touch(tmp_path, name)
    with pytest.raises(UserError, match=rf"{name} has not the suffix of an image, video, manifest"):
        list(list_files(tmp_path / name))


def test_no_such_input():
    with pytest.raises(UserError, match=r"^nowhere is not a folder"):
        list(list_files(Path("nowhere")))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_utf8_can_be_read_and_written(tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(odd)).write_bytes(b"here")
    (tmp_path / "m.csv").write_bytes(b"file\ncaf\xe9.png\n")
    for source in (tmp_path, tmp_path / "m.csv"):
        (part,) = split_into_parts(list_files(source), 10)
        ((case_id, path),) = part.files()
        assert case_id == r"caf\xe9"
        assert Path(path).read_bytes() == b"here"


def test_names_of_control_characters_are_case_ids_of_one_line(tmp_path):
    touch(tmp_path, "a\nb.png", "\x1b[31mred\r.png", "tab\t.mp4", "µ é.png")
    assert [f[1] for f in list_files(tmp_path)] == [r"\x1b[31mred\r", r"a\nb", r"tab\t.mp4", "µ é"]
    assert all(Path(path).is_file() for _, _, path in list_files(tmp_path))
    touch(tmp_path, r"a\nb.png")
    with pytest.raises(UserError, match=r"share a case id.*\n.*a\\nb\.png and .*a\\nb\.png$"):
        list(distinct(lambda: list_files(tmp_path)))


def test_shared_case_ids_are_named(tmp_path):
    touch(tmp_path, "7.png", "7.png.jpg", "7.tif", "8.png")
    with pytest.raises(UserError, match=r"share a case id.*\n.*/7\.png and .*/7\.png\.jpg$"):
        list(distinct(lambda: list_files(tmp_path)))
    touch(tmp_path / "fine", "7.png", "7.mp4", "sub/7.png")
    assert list(distinct(lambda: list_files(tmp_path / "fine"))) == list(list_files(tmp_path / "fine"))


def test_images_of_one_stem_have_ids_with_suffix(tmp_path):
    touch(tmp_path, "7.png", "7.jpg", "8.png", "8.mp4", "sub/7.png", "sub/7.TIF", "sub/9.gif")
    ids = [case_id for _, case_id, _ in distinct(lambda: list_files(tmp_path))]
    assert ids == ["7.jpg", "7.png", "8.mp4", "8", "sub/7.TIF", "sub/7.png", "sub/9"]


def test_files_that_are_not_listed_are_counted(tmp_path):
    touch(tmp_path, "1.png", "2.mp4", "a.pdf", "sub/b.PDF", "sub/notes", ".hidden.pdf", "sample_submission.csv")
    others = Counter()
    for _ in range(2):
        assert len(list(list_files(tmp_path, others=others))) == 2
        assert others == {".pdf": 2, "without suffix": 1}
    assert len(list(list_files(tmp_path, videos=False, others=others))) == 1
    assert others == {".pdf": 2, "without suffix": 1, ".mp4": 1}


def test_of_many_shared_ones_ten_are_named():
    files = [("image", str(n // 2), f"{n}.png") for n in range(60)]
    with pytest.raises(UserError, match=r"0\.png and 1\.png\n.*2\.png and 3\.png(.*\n)*.* 20 more"):
        list(distinct(lambda: files))


def test_parts_are_consecutive_and_videos_come_last():
    files = [("video" if n % 3 == 0 else "image", str(n), f"/{n}") for n in range(30)]
    parts = split_into_parts(files, 8)
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [(part.kind, part.count) for part in parts] == [
        *[("image", 8), ("image", 8), ("image", 4)],
        *[("video", VIDEOS_PER_PART), ("video", 10 - VIDEOS_PER_PART)],
    ]
    expected = [(n, p) for kind in ("image", "video") for k, n, p in files if k == kind]
    assert [file for part in parts for file in part.files()] == expected


TEXTS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20))
def test_a_part_holds_what_was_packed(files):
    part = Part.pack("image", [text for file in files for text in file])
    assert part.files() == files
    assert part.count == len(files)


def test_a_part_is_known_by_its_files():
    digests = {
        Part.pack(kind, texts).digest
        for kind, texts in (
            ("image", ["1", "a"]),
            ("video", ["1", "a"]),
            ("image", ["1", "b"]),
            ("image", ["2", "a"]),
            ("image", ["1", "a", "2", "b"]),
            ("image", ["2", "b", "1", "a"]),
        )
    }
    assert len(digests) == 6
    assert Part.pack("image", ["1", "a"]).digest in digests


def test_a_stamp_tells_sizes_times_and_places(tmp_path):
    """And what is missing: a case without a file, or a file that went."""
    touch(tmp_path, "a", "b")
    (tmp_path / "b").write_bytes(b"longer")
    for name in "ab":
        os.utime(tmp_path / name, ns=(10**9, 10**9))
    a, b, gone = (str(tmp_path / name) for name in ("a", "b", "gone"))
    stamps = [Part.pack("image", texts).stamp() for texts in (["1", a, "2", b], ["1", b, "2", a], ["1", a, "2", gone])]
    assert len(set(stamps)) == 3
    assert Part.pack("image", ["1", a, "2", b]).stamp() == stamps[0]
    assert Part.pack("image", ["1", a, "2", ""]).stamp() == stamps[2]
    os.utime(b, ns=(10**9, 10**9 + 1))
    assert Part.pack("image", ["1", a, "2", b]).stamp() not in stamps

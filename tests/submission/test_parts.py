import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from common.errors import UserError
from common.submission.parts import Parts
from common.submission.sources import split_into_parts

HEADS = ("id", "text"), ("id", "number", "more")


def make(folder, run="run", ids="abcdefg", size=2, files=""):
    """Parts of two tables in two folders, of the same name, for the images of a folder."""
    parts = split_into_parts([("image", case_id, f"{files}/{case_id}.png") for case_id in ids], size)
    tables = {folder / "out" / "table.csv": HEADS[0], folder / "other" / "table.csv": HEADS[1]}
    return Parts(tables, parts, run)


def do(parts, *numbers, text="x"):
    for number in numbers:
        part, counts = parts.parts[number], Counter()
        with parts.written(part, counts) as (first, second):
            for case_id, path in part.files():
                first.writerow([case_id, f"{text}, {path}"])
                second.writerow([case_id, number, ""])
                counts["vowel" if case_id in "ae" else "consonant"] += 1


def merged(folder):
    return (folder / "out" / "table.csv").read_bytes().decode(), (folder / "other" / "table.csv").read_bytes().decode()


def test_parts_in_any_order_are_merged_in_order(tmp_path):
    parts = make(tmp_path)
    do(parts, 2, 0, 3)
    assert parts.merge() is None
    assert [part.number for part in parts.missing()] == [1]
    do(parts, 1)
    assert parts.merge() == {"vowel": 2, "consonant": 5}
    first, second = merged(tmp_path)
    assert first == "id,text\r\n" + "".join(f'{i},"x, /{i}.png"\r\n' for i in "abcdefg")
    assert second == "id,number,more\r\n" + "".join(f"{i},{n // 2},\r\n" for n, i in enumerate("abcdefg"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["other", "out", "table.csv", "table.csv"]


def test_another_run_finds_what_is_done(tmp_path, capsys):
    do(make(tmp_path), 0, 2)
    again = make(tmp_path)
    assert [part.number for part in again.remaining(again.parts)] == [1, 3]
    assert capsys.readouterr().out == (
        f"continues: 2 of 4 parts are done, with 0 files that have an error; to start over, remove {again.folder}\n"
    )
    assert [part.number for part in again.remaining(again.parts[1::2])] == [1, 3]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("count", ["unreadable", "failed", "video not scored"])
def test_what_has_an_error_is_counted_where_a_run_goes_on(tmp_path, count, capsys):
    parts = make(tmp_path)
    do(parts, 0, 1)
    with parts.written(parts.parts[3], Counter({count: 5, "forged": 2})):
        pass
    assert [part.number for part in parts.remaining(parts.parts)] == [2]
    assert "3 of 4 parts are done, with 5 files that have an error" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"run": "other flags"}, {"ids": "abxdefg"}, {"ids": "bacdefg"}, {"size": 3}])
def test_what_decides_otherwise_is_done_anew(tmp_path, change, capsys):
    do(make(tmp_path), 0, 1, 2, 3, text="old")
    other = make(tmp_path, **change)
    todo = other.remaining(other.parts)
    assert other.parts[0 if change != {"ids": "abxdefg"} else 1] in todo
    assert f"{len(todo)} parts in {other.folder} are of other" in capsys.readouterr().out
    do(other, *(part.number for part in todo), text="new")
    other.merge()
    assert merged(tmp_path)[0].count("new") == sum(part.count for part in todo)
    assert not other.folder.exists()


@pytest.fixture
def images(tmp_path):
    """The files of all parts but the first, `a`."""
    folder = tmp_path / "images"
    folder.mkdir()
    for case_id in "bcdefg":
        (folder / f"{case_id}.png").write_bytes(b"old")
    return folder


def rewrite(path):
    """Other content of the same length, a second later."""
    time = path.stat().st_mtime_ns + 10**9
    path.write_bytes(b"new")
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize(
    "change",
    [
        lambda images: (images / "a.png").write_bytes(b"there at last"),
        lambda images: (images / "b.png").unlink(),
        lambda images: (images / "b.png").write_bytes(b"longer"),
        lambda images: rewrite(images / "b.png"),
    ],
    ids=["came", "went", "grew", "was replaced"],
)
def test_a_part_whose_files_have_changed_is_done_anew(tmp_path, images, change, capsys):
    parts = make(tmp_path, files=images)
    do(parts, 0, 1, 3)
    change(images)
    again = make(tmp_path, files=images)
    assert [part.number for part in again.remaining(again.parts)] == [0, 2]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"1 parts in {again.folder} are of files that have changed since, and are done again"
    assert said[1].startswith("continues: 2 of 4 parts are done, ")
    assert [part.number for part in again.missing()] == [0, 2]
    do(again, 0, 2)
    assert again.remaining(again.parts) == []
    assert "have changed" not in capsys.readouterr().out
    assert again.merge() == {"vowel": 2, "consonant": 5}


def test_what_changes_while_it_is_read_is_noticed_at_the_next_start(tmp_path, images):
    parts = make(tmp_path, files=images)
    with parts.written(parts.parts[1], Counter()):
        rewrite(images / "c.png")
    assert parts.is_done(parts.parts[1])
    assert parts.remaining(parts.parts) == parts.parts


def test_what_changes_after_it_was_read_does_not_keep_a_run_from_its_end(tmp_path, images):
    parts = make(tmp_path, files=images)
    do(parts, 0, 1, 2, 3)
    (images / "c.png").unlink()
    assert parts.merge() is not None


def test_workers_look_at_their_own_files(tmp_path, images, capsys):
    """The second, at work already, has written its parts; it must not merge what the first is to do anew."""
    do(make(tmp_path, files=images), 0, 2, text="old")
    first, second = make(tmp_path, files=images), make(tmp_path, files=images)
    do(second, 1)
    rewrite(images / "e.png")
    rewrite(images / "c.png")
    assert [part.number for part in first.remaining(first.parts[::2])] == [2]
    assert second.is_done(second.parts[1])
    do(second, 3)
    assert second.merge() is None
    do(first, 2, text="new")
    assert first.merge() == {"vowel": 2, "consonant": 5}
    assert [line.split('"')[1][:3] for line in merged(tmp_path)[0].splitlines()[1:]] == [
        *["old", "old", "x, ", "x, ", "new", "new", "x, "]
    ]


def test_a_part_that_is_interrupted_leaves_nothing(tmp_path):
    parts = make(tmp_path)
    for done in ([], ["000002-0.csv", "000002-1.csv", "000002.json"]):
        do(parts, *[2] * bool(done))
        with pytest.raises(KeyboardInterrupt), parts.written(parts.parts[0], Counter()) as (first, _):
            first.writerow(["a", "half"])
            raise KeyboardInterrupt
        assert sorted(path.name for path in parts.folder.glob("*")) == done
    assert parts.folder.exists()


def test_an_interrupted_second_time_does_not_count_as_the_first(tmp_path):
    """Its mark goes before its tables change."""
    parts = make(tmp_path)
    do(parts, 0)
    with pytest.raises(KeyboardInterrupt), parts.written(parts.parts[0], Counter()):
        raise KeyboardInterrupt
    assert not parts.is_done(parts.parts[0])


@pytest.mark.parametrize("damage", ["shorter", "missing", "mark"])
def test_a_damaged_part_is_not_done(tmp_path, damage):
    parts = make(tmp_path)
    do(parts, 0, 1)
    if damage == "mark":
        (parts.folder / "000000.json").write_text('{"key": ')
    elif damage == "missing":
        (parts.folder / "000000-1.csv").unlink()
    else:
        (parts.folder / "000000-1.csv").write_text("a,0,")
    assert [part.number for part in parts.missing()] == [0, 2, 3]


def _killed(folder):
    parts = make(folder)
    do(parts, 1)
    with parts.written(parts.parts[3], Counter()) as (first, _):
        first.writerow(["g", "half"])
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_worker_that_is_killed_is_started_again(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    do(make(tmp_path), 0, 2)
    again = make(tmp_path)
    assert [part.number for part in again.missing()] == [3]
    do(again, 3)
    assert sum(again.merge().values()) == 7
    assert "half" not in merged(tmp_path)[0]
    assert not list(tmp_path.rglob("*.p*"))


def test_of_two_that_end_at_once_one_merges(tmp_path):
    first, second = make(tmp_path), make(tmp_path)
    do(first, 0, 2)
    do(second, 1, 3)
    assert [first.merge() is None, second.merge() is None] == [False, True]
    assert not first.folder.exists()


def _merge(folder, start, results):
    parts = make(folder, ids=[f"{n:04d}" for n in range(400)], size=4)
    start.wait()
    results.put(parts.merge() is not None)


def test_of_many_processes_that_end_at_once_one_merges(tmp_path):
    parts = make(tmp_path, ids=[f"{n:04d}" for n in range(400)], size=4)
    do(parts, *range(100))
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.SimpleQueue()
    processes = [context.Process(target=_merge, args=(tmp_path, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sum(results.get() for _ in processes) == 1
    assert [line[:4] for line in merged(tmp_path)[0].splitlines()[1:]] == [f"{n:04d}" for n in range(400)]


def test_a_merge_that_was_killed_is_done_again(tmp_path):
    parts = make(tmp_path)
    do(parts, 0, 1, 2, 3)
    parts.folder.rename(tmp_path / "out" / "table.csv.parts.merging")
    assert make(tmp_path).merge() == {"vowel": 2, "consonant": 5}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.csv"]


def test_an_old_merge_beside_new_parts_is_left_aside(tmp_path):
    old = make(tmp_path, run="old")
    do(old, 0, 1, 2, 3, text="old")
    new = make(tmp_path)
    old.folder.rename(tmp_path / "out" / "table.csv.parts.merging")
    do(new, 0, 1, 2, 3, text="new")
    assert new.merge() is not None
    assert "old" not in merged(tmp_path)[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.csv"]


def test_a_table_that_cannot_be_written_keeps_the_parts(tmp_path):
    parts = make(tmp_path)
    do(parts, 0, 1, 2, 3)
    (tmp_path / "other").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="can't be written"):
        parts.merge()
    assert parts.missing() == []
    (tmp_path / "other").unlink()
    assert parts.merge() is not None


def test_a_mark_can_be_read(tmp_path):
    parts = make(tmp_path)
    do(parts, 0)
    mark = json.loads(Path(parts.folder / "000000.json").read_text())
    assert mark["counts"] == {"vowel": 1, "consonant": 1}
    assert mark["bytes"] == [len('a,"x, /a.png"\r\n') * 2, len("a,0,\r\n") * 2]


@pytest.mark.parametrize(
    "change",
    [
        *("[" * 10**5, '{"key": ' * 10**4, "9" * 5000, "[]", "null", '"text"', "{}", ""),
        *({"counts": []}, {"counts": {"forged": "7"}}, {"files": None}, {"key": 7}, {"bytes": 3}, {"counts": None}),
    ],
)
def test_a_part_with_a_broken_mark_is_done_again(tmp_path, change):
    parts = make(tmp_path)
    do(parts, 0, 1, 2, 3)
    mark = parts.folder / "000001.json"
    mark.write_text(change if isinstance(change, str) else json.dumps(json.loads(mark.read_text()) | change))
    assert parts.merge() is None
    again = make(tmp_path)
    assert [part.number for part in again.remaining(again.parts)] == [1]
    do(again, 1)
    assert again.merge() == {"vowel": 2, "consonant": 5}

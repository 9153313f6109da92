import contextlib
import errno
import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.submission.config import SubmissionConfig
from common.submission.inputs import find_parts, open_parts
from common.submission.shards import TruncatedTar, find_shards, read_shard, shard_parts


def write_tar(path, **members):
    """A tar of files with these contents; `__` in a name stands for a dot, `_s_` for a slash."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("_s_", "/").replace("__", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path):
    return write_tar(tmp_path / "s.tar", a__png=b"A" * 700, a__json=b"{}", sub_s_b__JPG=b"B" * 1500, c__png=b"C")


def test_images_are_read_in_order(shard):
    assert [(m.case_id, m.data) for m in read_shard(shard)] == [
        ("a", b"A" * 700),
        ("sub/b", b"B" * 1500),
        ("c", b"C"),
    ]
    assert [m.path for m in read_shard(shard)] == [f"{shard}: {name}" for name in ("a.png", "sub/b.JPG", "c.png")]


def test_a_tar_is_a_part_and_known_by_its_members_and_its_stamp(shard, tmp_path):
    other = write_tar(tmp_path / "t.tar", d__png=b"D", **{f"e{n}__png": b"" for n in range(7)})
    parts = shard_parts([shard, other])
    assert [(p.number, p.kind, p.count, p.files()) for p in parts] == [
        (0, "shard", 3, [("s.tar", str(shard))]),
        (1, "shard", 8, [("t.tar", str(other))]),
    ]
    assert shard_parts([shard])[0].digest == parts[0].digest != parts[1].digest
    stamp, time = parts[0].stamp(), shard.stat().st_mtime_ns + 10**9
    write_tar(shard, a__png=b"?" * 700, a__json=b"{}", sub_s_b__JPG=b"B" * 1500, c__png=b"C")
    os.utime(shard, ns=(time, time))
    assert shard_parts([shard])[0].digest == parts[0].digest and parts[0].stamp() != stamp
    write_tar(shard, a__png=b"A" * 700, a__json=b"{}", sub_s_b__JPG=b"B" * 1500, d__png=b"C")
    assert shard_parts([shard])[0].digest != parts[0].digest


def test_case_ids_are_unique_in_all_tars(shard, tmp_path):
    other = write_tar(tmp_path / "t.tar", c__jpg=b"")
    with pytest.raises(UserError, match=r"share a case id.*\n.*s\.tar: c\.png and .*t\.tar: c\.jpg"):
        shard_parts([shard, other])


def read_all(shard):
    """The images of a tar, and the error at its end, if there is one."""
    members = []
    try:
        for member in read_shard(shard):
            members.append(member)  # noqa: PERF402, what came before the error is kept
    except TruncatedTar as error:
        return members, str(error)
    return members, ""


# Headers at 0, 1536 (the JSON's), 2560 (b's, its data from 3072 to 4572), 4608 (c's); the end from 5632 on.
@pytest.mark.parametrize(
    ("size", "whole", "named"),
    [
        *((5632, 3, 3), (5700, 3, 3), (5000, 2, 2), (4608, 2, 2), (4000, 1, 2)),
        *((3072, 1, 2), (2600, 1, 1), (2560, 1, 1), (900, 0, 1)),
    ],
)
def test_a_tar_that_is_cut_short_gives_what_is_whole_and_says_so(shard, size, whole, named):
    shard.write_bytes(shard.read_bytes()[:size])
    members, error = read_all(shard)
    assert "s.tar is truncated or broken" in error
    assert [m.case_id for m in members] == ["a", "sub/b", "c"][:named]
    assert [bool(m.data) for m in members] == [place < whole for place in range(named)]
    assert all("is truncated: of" in member.fault for member in members[whole:])
    assert [part.count for part in shard_parts([shard])] == [named]


def test_a_broken_header_is_no_end(shard):
    data = bytearray(shard.read_bytes())
    data[2560:2600] = b"?" * 40
    shard.write_bytes(data)
    members = read_shard(shard)
    assert next(members).case_id == "a"
    with pytest.raises(UserError, match=r"truncated or broken after a\.json"):
        next(members)


def test_an_empty_tar_and_what_is_none(tmp_path):
    assert list(read_shard(write_tar(tmp_path / "empty.tar"))) == []
    for content in (b"", b"no tar at all" * 100):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.tar can't be read as a tar"):
            shard_parts([tmp_path / "x.tar"])


def test_a_tar_that_is_gone_is_no_tar_that_is_cut_short(shard):
    shard.unlink()
    for read in (lambda: shard_parts([shard]), lambda: list(read_shard(shard))):
        with pytest.raises(UserError, match=r"s\.tar can't be read \(No such file") as raised:
            read()
        assert not isinstance(raised.value, TruncatedTar)


def test_a_tar_that_stops_being_readable_is_named(shard, monkeypatch):
    """Within the second image, as when a mount is lost."""
    real = Path.open

    class Lost(io.FileIO):
        def read(self, size=-1):
            if self.tell() >= 3072:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda path, mode: Lost(path) if path == shard else real(path, mode))
    members = read_shard(shard)
    assert next(members).case_id == "a"
    with pytest.raises(UserError, match=r"s\.tar can't be read \(Input/output error") as raised:
        next(members)
    assert not isinstance(raised.value, TruncatedTar)


def test_inputs_that_name_shards(tmp_path):
    for number in (8, 9, 10):
        write_tar(tmp_path / f"s-{number:02d}.tar")
    names = ["s-08.tar", "s-09.tar", "s-10.tar"]
    assert [p.name for p in find_shards(tmp_path)] == names
    assert [p.name for p in find_shards(tmp_path / "s-{08..10}.tar")] == names
    write_tar(tmp_path / "t-1-07.tar"), write_tar(tmp_path / "t-2-07.tar")
    assert [p.name for p in find_shards(tmp_path / "t-{1..2}-{07..07}.tar")] == ["t-1-07.tar", "t-2-07.tar"]
    assert find_shards(tmp_path / "s-09.tar") == [tmp_path / "s-09.tar"]
    for name in ("images", "m.csv", "missing.tar"):
        assert find_shards(tmp_path / name) == []
    with pytest.raises(UserError, match=r"(?s)2 of the 5 shards .*s-07\.tar.*s-11\.tar"):
        find_shards(tmp_path / "s-{07..11}.tar")
    with pytest.raises(UserError, match="counts backwards"):
        find_shards(tmp_path / "s-{9..8}.tar")


def test_a_folder_of_shards_says_what_it_leaves_out(tmp_path, capsys):
    """Suffixes in capital letters are no others; a folder of that name is no shard."""
    write_tar(tmp_path / "a.tar", a__png=b"A", a__json=b"{}"), write_tar(tmp_path / "c.TAR", c__png=b"C", d__png=b"D")
    for name in ("b.tar.gz", "B.TAR.GZ", "sub/d.tar", "sub/deep/e.Tar", "x.tar/notes.json", ".hidden.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path)] == ["a.tar", "c.TAR"]
    others = Counter({".old": 9})
    config = SubmissionConfig(input=tmp_path, output=tmp_path / "out/s.csv", models_dir=tmp_path / "models")
    assert [part.count for part in find_parts(config, others)] == [1, 2]
    assert others == {".gz": 2, ".json": 2, ".tar in subfolders": 2}
    open_parts(config)
    assert "that are scored: 2 .gz, 2 .json, 2 .tar in subfolders\n" in capsys.readouterr().out


def test_a_folder_of_shards_alone_leaves_nothing_out(tmp_path):
    write_tar(tmp_path / "a.TAR", a__png=b"A")
    others = Counter()
    find_parts(SubmissionConfig(input=tmp_path, models_dir=tmp_path / "models"), others)
    assert not others


def header(name="x.png", size=0, kind=b"0", own=b""):
    """A header and its data."""
    number = b"%011o" % size if size < 8**11 else b"\x80" + size.to_bytes(11)
    block = name.encode().ljust(100, b"\0") + b"0000644\0" * 3 + number.ljust(12, b"\0") + b"0" * 11 + b"\0"
    block = (block + b" " * 8 + kind).ljust(257, b"\0") + b"ustar\x0000"
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:] + own.ljust(-(-len(own) // 512) * 512, b"\0")


def pax(kind=b"x", **fields):
    records = b""
    for name, value in fields.items():
        record = f" {name.replace('__', '.')}={value}\n".encode(errors="surrogateescape")
        length = next(n for n in range(len(record), len(record) + 30) if n == len(record) + len(str(n)))
        records += str(length).encode() + record
    return header("PaxHeaders/x", len(records), kind, records)


def broken(records, kind=b"x"):
    return header("PaxHeaders/x", len(records), kind, records)


ORDINARY = b"".join(header(f"{name}.png", 3, own=b"abc") for name in "ab")
AFTER = header("c.png", 2, own=b"de")
END = bytes(1024)


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        (pax(GNU__sparse__map="a,b") + header(size=4, own=b"data"), "holes left out"),
        (pax(GNU__sparse__map="0,-5,9,99999999999999999999") + header(size=4, own=b"data"), "holes left out"),
        (pax(GNU__sparse__size="-1", GNU__sparse__offset="9" * 5000) + header(size=4, own=b"data"), "holes left out"),
        (
            pax(
                GNU__sparse__major="1",
                GNU__sparse__minor="0",
                GNU__sparse__name="x.png",
                GNU__sparse__realsize="9" * 99,
            )
            + header("GNUSparseFile.0/x.png", 600, own=b"9" * 600),
            "holes left out",
        ),
        (header(size=4, kind=b"S", own=b"data"), "holes left out"),
        (broken(b"no records") + header(size=4, own=b"data"), "broken extended header"),
        (broken(b"0 a=b\n") + header(size=4, own=b"data"), "broken extended header"),
        (broken(b"9" * 5000 + b" a=b\n") + header(size=4, own=b"data"), "broken extended header"),
        (broken(b"999 path=y.png\n") + header(size=4, own=b"data"), "broken extended header"),
        (pax(size="-4") + header(size=4, own=b"data"), "broken extended header"),
        (pax(size="9" * 4400) + header(size=4, own=b"data"), "broken extended header"),
        (broken(b"1" * (2**20 + 1)) + header(size=4, own=b"data"), "header of more than 1 MB"),
        (broken(b"x.png" + bytes(2**20), b"L") + header(size=4, own=b"data"), "header of more than 1 MB"),
        (header(size=0, kind=b"1"), "is a link"),
        (header(size=0, kind=b"2"), "is a link"),
        (header(size=0, kind=b"3"), "is a link or a device"),
    ],
)
def test_a_member_that_cannot_be_read_is_named_and_those_after_it_are_read(tmp_path, member, fault):
    shard = tmp_path / "s.tar"
    shard.write_bytes(ORDINARY + member + AFTER + END)
    members, error = read_all(shard)
    assert [(m.case_id, m.data) for m in members] == [("a", b"abc"), ("b", b"abc"), ("x", b""), ("c", b"de")]
    assert [bool(m.fault) for m in members] == [False, False, True, False]
    assert members[2].fault.startswith(f"{shard}: x.png ") and fault in members[2].fault and not error
    assert [part.count for part in shard_parts([shard])] == [4]


@pytest.mark.parametrize("size", [10**4, 2**40, 2**87])
@pytest.mark.parametrize("told_by", ["header", "pax"])
def test_more_data_than_the_tar_has(tmp_path, size, told_by):
    """No memory is taken for it; where the next member begins can't be known."""
    shard = tmp_path / "s.tar"
    lying = header(size=size) if told_by == "header" else pax(size=size % 10**19) + header(size=4)
    shard.write_bytes(ORDINARY + lying + AFTER + END)
    members, error = read_all(shard)
    assert [m.case_id for m in members] == ["a", "b", "x"]
    assert "x.png is truncated: of" in members[2].fault and "broken after x.png" in error
    assert [part.count for part in shard_parts([shard])] == [3]


def test_a_member_too_large_for_the_memory(tmp_path):
    shard = tmp_path / "s.tar"
    with shard.open("wb") as file:  # a file with a hole takes no room
        file.write(ORDINARY + header(size=2**30 + 512))
        file.seek(2**30 + 512, io.SEEK_CUR)
        file.write(AFTER + END)
    members, error = read_all(shard)
    assert [bool(m.data) for m in members] == [True, True, False, True] and not error
    assert "x.png has 1073742336 bytes" in members[2].fault


def test_headers_of_headers(tmp_path):
    """One in another 30,000 times, which would be as many calls, and no data."""
    shard = tmp_path / "s.tar"
    shard.write_bytes(ORDINARY + pax(comment="") * 30_000 + header("x.png", 1, own=b"x") + AFTER + END)
    assert [m.case_id for m in read_all(shard)[0]] == ["a", "b", "x", "c"]
    shard.write_bytes(ORDINARY + header("deep", 0, b"x") * 10_000)
    members, error = read_all(shard)
    assert len(members) == 2 and "broken after b.png" in error


def test_names_of_any_length_and_content(tmp_path):
    long, shard = "d" * 150 + "/" + "n" * 150, tmp_path / "s.tar"
    odd = header("././@LongLink", len(long) + 4, b"L", f"{long}.png".encode()) + header("cut.png", 1, own=b"1")
    odd += header("././@LongLink", 3, b"K", b"to\0") + header("k.png", 1, own=b"2")
    odd += pax(path="café/µ.png") + header("cafe.png", 1, own=b"3")
    odd += pax(path="nul\0and\x1b[31m\n.png", comment="=") + header("nul.png", 1, own=b"4")
    odd += pax(path="byte\udce9.png") + header("byte.png", 1, own=b"5")
    odd += pax(b"g", comment="of all") + header("folder/", kind=b"5") + header("old/", kind=b"\0")
    odd += header("volume", 0, b"V") + header("old.png", 1, b"\0", b"6")
    shard.write_bytes(odd + END)
    members, error = read_all(shard)
    assert [m.data for m in members] == [b"1", b"2", b"3", b"4", b"5", b"6"] and not error
    names = [long, "k", "café/µ", r"nul\x00and\x1b[31m\n", r"byte\xe9", "old"]
    assert [m.case_id for m in members] == names
    assert [part.count for part in shard_parts([shard])] == [6]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_read_as_python_reads_it(tmp_path, form):
    path = tmp_path / "s.tar"
    names = ["a.png", "sub/b.JPG", "d" * 90 + "/" + "e" * 80 + ".png", "f" * 70 + "/" + "g" * 60 + "/é.tif"]
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 700 * number, 1e9 + 0.5
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    with tarfile.open(path) as tar:
        expected = [(m.name.rpartition(".")[0], tar.extractfile(m).read()) for m in tar]
    assert [(m.case_id, m.data) for m in read_shard(path)] == expected


def test_any_damage_is_an_error_or_a_member(tmp_path):
    """Random bytes of a tar with all kinds of headers are changed: nothing else is raised, and all of it ends."""
    random, path = np.random.default_rng(11), tmp_path / "s.tar"
    whole = ORDINARY + pax(path="long.png", size=4) + header(size=4, own=b"data") + pax(GNU__sparse__map="0,1")
    whole += header(size=1, own=b"1") + header("L", 9, b"L", b"name.png") + header(size=1, own=b"2") + AFTER + END
    for _ in range(400):
        data = np.frombuffer(whole, np.uint8).copy()
        start = int(random.integers(len(data) // 512)) * 512
        places = start + random.integers(0, 512, random.integers(1, 5))
        data[places] = random.choice(np.frombuffer(b"0179-=LSxg \0\x80\xff", np.uint8), len(places))
        data = data[: random.integers(1, len(data) + 1)].tobytes() if random.random() < 0.3 else data.tobytes()
        block = data[start : start + 512].ljust(512, b"\0")
        block = block[:148] + b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:]) + block[156:]  # passes the check
        path.write_bytes(data[:start] + block + data[start + 512 :])
        with contextlib.suppress(UserError):
            read_all(path)
        with contextlib.suppress(UserError):
            shard_parts([path])

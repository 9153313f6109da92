import errno
import io
import os
import tarfile
from pathlib import Path

import pytest

from common.errors import UserError
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


# Headers at 0, 1536 (the JSON's), 2560 (b's, its data from 3072 to 4572), 4608 (c's); the end from 5632 on.
@pytest.mark.parametrize(
    ("size", "whole"),
    [(5632, 3), (5700, 3), (5000, 2), (4608, 2), (4000, 1), (3072, 1), (2600, 1), (2560, 1), (900, 0)],
)
def test_a_tar_that_is_cut_short_gives_what_is_whole_and_says_so(shard, size, whole):
    shard.write_bytes(shard.read_bytes()[:size])
    members = []
    with pytest.raises(UserError, match=r"s\.tar is truncated or broken"):
        for member in read_shard(shard):
            members.append(member)  # noqa: PERF402, what came before the error is kept
    assert [m.case_id for m in members] == ["a", "sub/b", "c"][:whole]
    assert len(shard_parts([shard])) == 1


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

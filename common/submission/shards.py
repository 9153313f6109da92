"""Webdataset shards: images in tar files, read one after the other."""

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.errors import UserError, listing
from common.submission.sources import Listed, Part, distinct, numbered, readable
from common.suffixes import IMAGE_SUFFIXES

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Member(NamedTuple):
    """An image in a tar."""

    case_id: str
    """Its name without the suffix."""
    path: str
    """Tar and name, for messages."""
    data: bytes


def find_shards(source: Path) -> list[Path]:
    """The tar files that an input names, none for another kind of input, or one that does not exist.

    Args:
        source: A .tar file, a folder that holds some, or a pattern as `shards-{000..009}.tar`.

    Raises:
        UserError: The pattern names files that do not exist, or counts backwards.
    """
    if source.is_dir():
        return sorted(path for path in source.glob("*.tar") if not path.name.startswith("."))
    if source.suffix.lower() == ".tar" and source.is_file():
        return [source]
    if source.suffix.lower() != ".tar" or not _BRACES.search(str(source)):
        return []
    shards = [Path(name) for name in _expanded(str(source))]
    if missing := [str(path) for path in shards if not path.is_file()]:
        raise UserError(listing(f"{len(missing)} of the {len(shards)} shards {source} do not exist:", missing))
    if not shards:
        raise UserError(f"{source} names no shards: it counts backwards.")
    return shards


def _expanded(pattern: str) -> Iterator[str]:
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")


class CutShort(UserError):
    """A tar ends before its end, or is broken from some place on."""


def shard_parts(shards: Iterable[Path]) -> list[Part]:
    """A part for each tar, in order. Only the members' headers are read.

    Raises:
        UserError: A file can't be read or is no tar, or images share a case id.
    """
    parts: list[Part] = []

    def list_again() -> Iterator[Listed]:
        parts.clear()
        for shard in shards:
            digest, count = hashlib.blake2b(digest_size=16), 0
            try:
                for member, _ in _headers(shard):
                    digest.update(member.name.encode(errors="surrogateescape") + b"\0")
                    count += 1
                    yield "image", _case_id(member), f"{shard}: {member.name}"
            except CutShort:
                pass  # `read_shard` says so when what lies before is decided
            part = Part.pack("shard", [readable(shard.name), str(shard)])
            parts.append(replace(part, count=count, digest=digest.hexdigest()))

    for _ in distinct(list_again):
        pass
    return numbered(parts)


def read_shard(shard: Path) -> Iterator[Member]:
    """The images of a tar as they come; what is no image by its suffix is passed over.

    Raises:
        CutShort: After the last whole member, it is cut short or broken.
        UserError: The file is no tar, or can't be read, at all or from some place on.
    """
    for member, tar in _headers(shard):
        try:
            data = tar.extractfile(member).read()
        except tarfile.ReadError as error:
            raise _cut_short(shard, "its images so far") from error
        except OSError as error:
            raise _unreadable(shard, error) from error
        yield Member(_case_id(member), readable(f"{shard}: {member.name}"), data)


def _headers(shard: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    name = "its first member"
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                name = member.name
                path = PurePosixPath(name)
                if member.isreg() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                    yield member, tar
                tar.members.clear()  # else it keeps all of them
            # Python takes a broken header for the end, which is a block of zeros.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise _cut_short(shard, name)
    except tarfile.TarError as error:
        if name == "its first member":
            raise UserError(f"{shard} can't be read as a tar ({error}). Write it anew, or leave it out.") from error
        raise _cut_short(shard, name) from error
    except OSError as error:
        raise _unreadable(shard, error) from error


def _unreadable(shard: Path, error: OSError) -> UserError:
    return UserError(readable(f"{shard} can't be read ({error.strerror}). Make it readable, or leave it out."))


def _cut_short(shard: Path, name: str) -> CutShort:
    return CutShort(
        readable(f"{shard} is cut short or broken after {name}; what follows is not decided. Write it anew.")
    )


def _case_id(member: tarfile.TarInfo) -> str:
    return readable(PurePosixPath(member.name).with_suffix("").as_posix())

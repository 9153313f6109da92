"""Webdataset shards: sequential reading of images in tar files."""

import hashlib
import re
import tarfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.errors import UserError, listing
from common.files import check_regular, entries
from common.submission.sources import ListedFile, Part, distinct, numbered, readable
from common.suffixes import IMAGE_SUFFIXES

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class TarImage(NamedTuple):
    """An image in a tar."""

    case_id: str
    """Its name without the suffix."""
    path: str
    """Tar and name, for messages."""
    data: bytes


class TruncatedTar(UserError):
    """A tar ends early, or is broken from some position on."""


def find_shards(source: Path) -> list[Path]:
    """The tar files of an input; none if it is of another kind or does not exist.

    Args:
        source: A .tar file, a folder of them, or a pattern such as `shards-{000..009}.tar`.

    Raises:
        UserError: The pattern names files that do not exist, or counts backwards.
    """
    if source.is_dir():
        return [path for path in entries(source) if path.suffix == ".tar" and not path.name.startswith(".")]
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


def shard_parts(shards: Iterable[Path], others: Counter[str] | None = None) -> list[Part]:
    """A part for each tar, in order. Only the members' headers are read.

    Args:
        shards: The tar files.
        others: Set to the number of members that are no images, by suffix.

    Raises:
        UserError: A file can't be read or is not a tar, or images share a case id.
    """
    parts: list[Part] = []
    others = Counter() if others is None else others

    def list_again() -> Iterator[ListedFile]:
        parts.clear()
        others.clear()
        for shard in shards:
            digest, count = hashlib.blake2b(digest_size=16), 0
            with suppress(TruncatedTar):  # `read_shard` raises it again after the last whole image
                for member, _ in _headers(shard, others):
                    digest.update(member.name.encode(errors="surrogateescape") + b"\0")
                    count += 1
                    yield "image", _case_id(member), f"{shard}: {member.name}"
            part = Part.pack("shard", [readable(shard.name), str(shard)])
            parts.append(replace(part, count=count, digest=digest.hexdigest()))

    deque(distinct(list_again), 0)
    return numbered(parts)


def read_shard(shard: Path) -> Iterator[TarImage]:
    """The images of a tar in order; members with another suffix are skipped.

    Raises:
        TruncatedTar: The tar ends early or is broken after the last image.
        UserError: The file is not a tar, or can't be read, at all or from some position on.
    """
    for member, tar in _headers(shard):
        try:
            file = tar.extractfile(member)
            data = b"" if file is None else file.read()
        except tarfile.ReadError as error:
            raise _truncated(shard, "the images so far") from error
        except OSError as error:
            raise _unreadable(shard, error) from error
        yield TarImage(_case_id(member), readable(f"{shard}: {member.name}"), data)


def _headers(shard: Path, others: Counter[str] | None = None) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    name = start = "its start"
    check_regular(shard)
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                name = member.name
                path = PurePosixPath(name)
                if member.isreg() and not path.name.startswith("."):
                    if path.suffix.lower() in IMAGE_SUFFIXES:
                        yield member, tar
                    elif others is not None:
                        others[path.suffix.lower() or "without suffix"] += 1
                tar.members.clear()  # pyrefly: ignore[missing-attribute] # it would keep all of them in memory
            # Python takes a broken header for the end of the tar, which is a block of zeros.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise _truncated(shard, name)
    except tarfile.TarError as error:
        if name != start:
            raise _truncated(shard, name) from error
        raise UserError(f"{shard} can't be read as a tar ({error}). Write it again, or leave it out.") from error
    except OSError as error:
        raise _unreadable(shard, error) from error


def _unreadable(shard: Path, error: OSError) -> UserError:
    return UserError(readable(f"{shard} can't be read ({error.strerror}). Make it readable, or leave it out."))


def _truncated(shard: Path, name: str) -> TruncatedTar:
    return TruncatedTar(
        readable(f"{shard} is truncated or broken after {name}; the rest is not in the submission. Write it again.")
    )


def _case_id(member: tarfile.TarInfo) -> str:
    return readable(PurePosixPath(member.name).with_suffix("").as_posix())

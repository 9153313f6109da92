"""Webdataset shards: sequential reading of images in tar files.

The headers of a tar are read here, and not by `tarfile`: that recurses where they are nested, reads headers of any
size, and one header that it does not understand ends the listing.
"""

import hashlib
import os
import re
import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from common.errors import UserError, listing, readable
from common.files import check_regular, entries
from common.submission.sources import ListedFile, Part, distinct, numbered
from common.suffixes import IMAGE_SUFFIXES

MOST_BYTES = 2**30
"""Size above which an image in a tar is not read, since it would be in memory as a whole."""
_MOST_HEADERS = 2**20  # bytes of the extended headers of a member: paths have up to 4096
_BLOCK = 512
_NO_DATA = frozenset(b"123456")  # kinds of members: links, devices, folders, pipes
_FOLDERS = frozenset(b"5D")
_REGULAR = frozenset(b"\x0007S")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class TarImage(NamedTuple):
    """An image in a tar."""

    case_id: str
    """Its name without the suffix."""
    path: str
    """Tar and name, for messages."""
    data: bytes
    fault: str = ""
    """Why it can't be read; it then has no data."""


class _Header(NamedTuple):
    """The header of a member, with what its extended headers add."""

    name: str
    kind: int
    """The type flag: a byte."""
    start: int
    """Position of its data in the tar."""
    size: int
    """Of the data, in bytes."""
    fault: str
    """Why the member can't be read, with what to do; empty if it can."""


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
        tars = (path for path in entries(source) if path.suffix.lower() == ".tar" and not path.name.startswith("."))
        return [path for path in tars if not path.is_dir()]
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
            with suppress(TruncatedTar):  # `read_shard` raises it again after the last image
                for header, _ in _images(shard, others):
                    digest.update(header.name.encode(errors="surrogateescape") + b"\0")
                    count += 1
                    yield "image", _case_id(header), f"{shard}: {header.name}"
            part = Part.pack("shard", [readable(shard.name), str(shard)])
            parts.append(replace(part, count=count, digest=digest.hexdigest()))

    deque(distinct(list_again), 0)
    return numbered(parts)


def read_shard(shard: Path) -> Iterator[TarImage]:
    """The images of a tar in order, those with a fault too; members with another suffix are skipped.

    Raises:
        TruncatedTar: The tar ends early or is broken after the last image.
        UserError: The file is not a tar, or can't be read, at all or from some position on.
    """
    for header, file in _images(shard):
        place, data = readable(f"{shard}: {header.name}"), b""
        if not header.fault:
            try:
                file.seek(header.start)
                data = file.read(header.size)
            except OSError as error:
                raise _unreadable(shard, error) from error
        yield TarImage(_case_id(header), place, data, header.fault and f"{place} {header.fault}")


def _images(shard: Path, others: Counter[str] | None = None) -> Iterator[tuple[_Header, BinaryIO]]:
    """The headers of the images in a tar, and the opened tar."""
    check_regular(shard)
    try:
        with shard.open("rb") as file:
            for header in _headers(file, shard):
                path = PurePosixPath(header.name)
                if header.kind in _FOLDERS or path.name.startswith("."):
                    continue
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    yield header, file
                elif others is not None:
                    others[path.suffix.lower() or "without suffix"] += 1
    except OSError as error:
        raise _unreadable(shard, error) from error


def _headers(file: BinaryIO, shard: Path) -> Iterator[_Header]:
    """The members of a tar by their headers; extended ones, of GNU tar and POSIX (pax), are joined with their member's.

    Raises:
        TruncatedTar: The tar ends early, or the checksum of a header is wrong.
        UserError: The first header is broken: the file is no tar.
    """
    length, place, last = os.fstat(file.fileno()).st_size, 0, "its start"
    of_all: dict[str, str] = {}
    own: dict[str, str] = {}  # extended header of the next member
    extended, fault = 0, ""
    while True:
        block = b""
        if place <= length:
            file.seek(place)
            block = file.read(_BLOCK)
        if block == bytes(_BLOCK):
            return
        parsed = _parse(block)
        if parsed is None and not place:
            raise UserError(
                f"{shard} can't be read as a tar (its first header is broken). Write it again, or leave it out."
            )
        if parsed is None:
            raise TruncatedTar(
                f"{shard} is truncated or broken after {last}; the rest is not in the submission. Write it again."
            )
        name, kind, size = parsed
        start = place + _BLOCK
        if kind in b"LKxXg":
            extended += size
            if extended > _MOST_HEADERS:
                fault = "has a header of more than 1 MB. Write the tar again."
            else:
                file.seek(start)
                try:
                    (of_all if kind in b"g" else own).update(_extension(kind, file.read(size)))
                except ValueError:
                    fault = "has a broken extended header. Write the tar again."
            place = start + _padded(size)
            continue
        fields = of_all | own
        name = fields.get("GNU.sparse.name", fields.get("path", name))
        if "size" in fields:
            try:
                size = _decimal(fields["size"])
            except ValueError:
                fault = "has a broken extended header. Write the tar again."
        while kind in b"S" and start < length and block[-8 if start > place + _BLOCK else -30]:  # is its map continued?
            file.seek(start)
            block = file.read(_BLOCK).ljust(_BLOCK, b"\0")
            start += _BLOCK
        last, place = name, start if kind in _NO_DATA else start + _padded(size)
        yield _Header(name, kind, start, size, fault or _fault(kind, size, length - start, fields))
        own, extended, fault = {}, 0, ""


def _fault(kind: int, size: int, left: int, fields: dict[str, str]) -> str:
    """Why a member with a valid header can't be read, empty if it can; `left` counts the bytes up to the tar's end."""
    if kind in b"S" or any(name.startswith("GNU.sparse.") for name in fields):
        return "is stored with holes left out, which is not read. Write the tar without --sparse."
    if kind not in _REGULAR:
        return "is a link or a device, not a file. Write the tar with --dereference --hard-dereference."
    if size > left:
        return f"is truncated: of {size} bytes the tar has {max(left, 0)}. Write the tar again."
    if size > MOST_BYTES:
        return f"has {size} bytes; in a tar at most {MOST_BYTES} are read. Put it into a folder."
    return ""


def _parse(block: bytes) -> tuple[str, int, int] | None:
    """Name, kind and size of a header; None if the block is none."""
    if len(block) < _BLOCK:
        return None
    try:
        checksum, size = _number(block[148:156]), _number(block[124:136])
    except ValueError:
        return None
    rest = block[:148] + b" " * 8 + block[156:]
    if checksum != sum(rest) and checksum != sum(struct.unpack("512b", rest)):  # old programs added signed bytes
        return None
    if size < 0:
        return None
    name, prefix, kind = _text(block[:100]), _text(block[345:500]), block[156]
    if prefix and block[257:263] == b"ustar\0":  # GNU tar has times there
        name = f"{prefix}/{name}"
    return name, b"5"[0] if kind == 0 and name.endswith("/") else kind, size


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or in base 256 after a byte above 127."""
    if field[0] >= 128:
        return int.from_bytes(field[1:]) if field[0] == 128 else -1
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _decimal(text: str) -> int:
    """A length that is written in decimal digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(text[:20])
    return int(text)


def _extension(kind: int, data: bytes) -> dict[str, str]:
    """What an extended header says of its member, or of all.

    Raises:
        ValueError: It is broken.
    """
    if kind in b"LK":  # a long name, or the target of a link
        return {"path": _text(data)} if kind in b"L" else {}
    fields, place = {}, 0
    while place < len(data):
        digits, _, _ = data[place : place + 20].partition(b" ")
        end = place + _decimal(_text(digits))
        name, equals, value = data[place + len(digits) + 1 : end].partition(b"=")
        if not equals or not value.endswith(b"\n") or end > len(data):
            raise ValueError("a record without its end")
        fields[name.decode(errors="replace")] = value[:-1].decode(errors="surrogateescape")
        place = end
    return fields


def _padded(size: int) -> int:
    """The bytes that a size takes in a tar."""
    return -(-size // _BLOCK) * _BLOCK


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _unreadable(shard: Path, error: OSError) -> UserError:
    return UserError(f"{shard} can't be read ({error.strerror}). Make it readable, or leave it out.")


def _case_id(header: _Header) -> str:
    return readable(PurePosixPath(header.name).with_suffix("").as_posix())

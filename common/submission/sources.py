"""The input of a submission: listing of its images and videos, and splitting into parts.

Made for millions of files: they are listed once, and a part keeps the names of its files compressed, some ten bytes a
file.
"""

import hashlib
import os
import posixpath
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import UserError, first_line, listing, readable
from common.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from common.tables import csv_rows

if TYPE_CHECKING:
    import pyarrow

Kind = Literal["image", "video", "shard"]
ListedFile = tuple[Kind, str, str]
"""Kind, case id and path of a file; the path is empty if a case has no file."""

VIDEOS_PER_PART = 8
"""Few, because a video takes as long as hundreds of images."""
MANIFEST_SUFFIXES = (".csv", ".parquet")
TABLES = ("sample_submission.csv", "submission.csv", "scores.csv")
"""Files in a folder of images that are no part of the input."""
_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive files of one kind, the unit of work: it is done completely or repeated."""

    kind: Kind
    """`shard`: the images in one tar."""
    count: int
    """Number of its cases."""
    digest: str
    """Hash of their ids and paths; of a tar, of its members' names."""
    packed: bytes = field(repr=False)
    number: int = 0
    """Position among all parts, from 0."""

    @classmethod
    def pack(cls, kind: Kind, texts: list[str]) -> "Part":
        """Make a part of alternating case ids and paths."""
        plain = "\0".join(texts).encode(**_ENCODING)
        digest = hashlib.blake2b(kind.encode() + b"\0" + plain, digest_size=16).hexdigest()
        return cls(kind=kind, count=len(texts) // 2, digest=digest, packed=zlib.compress(plain, 1))

    def files(self) -> list[tuple[str, str]]:
        """Case id and path of each file, in order."""
        texts = zlib.decompress(self.packed).decode(**_ENCODING).split("\0")
        return list(zip(texts[::2], texts[1::2], strict=True))

    def stamp(self) -> str:
        """Hash of the current sizes and modification times of its files, including missing ones.

        It does not notice a file that was replaced by one of the same size and modification time.
        """
        stamps = "\0".join(_stamp(path) for _, path in self.files())
        return hashlib.blake2b(stamps.encode(), digest_size=16).hexdigest()


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116, as in `_list_folder`
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def split_into_parts(files: Iterable[ListedFile], part_size: int) -> list[Part]:
    """Parts of at most `part_size` images, and after them parts of at most `VIDEOS_PER_PART` videos."""
    sizes, waiting, parts = {"image": part_size, "video": VIDEOS_PER_PART}, defaultdict(list), defaultdict(list)
    for kind, case_id, path in files:
        texts = waiting[kind]
        texts += (case_id, path)
        if len(texts) == 2 * sizes[kind]:
            parts[kind].append(Part.pack(kind, texts))
            texts.clear()
    for kind, texts in waiting.items():
        if texts:
            parts[kind].append(Part.pack(kind, texts))
    return numbered([*parts["image"], *parts["video"]])


def numbered(parts: Iterable[Part]) -> list[Part]:
    """The parts with their positions."""
    return [replace(part, number=number) for number, part in enumerate(parts)]


def list_files(source: Path, *, videos: bool = True, others: Counter[str] | None = None) -> Iterator[ListedFile]:
    """The images and videos of a folder (with its subfolders, sorted), of a manifest (in its order), or a single file.

    The case id of an image is its path below the folder (or the manifest's folder) without the suffix; with it, where
    a folder holds several of one stem, like `a.png` and `a.jpg`. That of a video has the suffix, since `a.png` and
    `a.mp4` may be in one folder. Case ids are `readable`.

    Args:
        source: A folder, an image, a video, or a manifest: CSV or Parquet with the column `file` and, optionally, the
            column `case_id`; relative paths are relative to the manifest.
        videos: Whether to list videos.
        others: Set to the number of the folder's visible files that are not listed, by suffix.

    Raises:
        UserError: The source does not exist, can't be read, has an unknown suffix, or is a manifest without the column
            or with a row without a file.
    """
    others = Counter() if others is None else others
    others.clear()
    if source.is_dir():
        files = _list_folder(os.fspath(source), "", others)
    elif not source.is_file():
        raise UserError(
            f"{source} is not a folder, nor is it a file. Name a folder, a manifest, shards or a single file."
        )
    elif source.suffix.lower() in MANIFEST_SUFFIXES:
        files = _list_manifest(source)
    elif _suffix(source.name) in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        files = iter([(*_kind_and_case_id(source.name), str(source))])
    else:
        raise UserError(
            f"{source} has not the suffix of an image, video, manifest ({', '.join(MANIFEST_SUFFIXES)}) or "
            "uncompressed shard (.tar). Name one of these, or a folder."
        )
    return files if videos else _without_videos(files, others)


def _without_videos(files: Iterable[ListedFile], others: Counter[str]) -> Iterator[ListedFile]:
    for file in files:
        if file[0] == "video":
            others[_suffix(file[2])] += 1
        else:
            yield file


def _list_folder(folder: str, below: str, others: Counter[str]) -> Iterator[ListedFile]:
    """In the order of the paths' parts, without what is hidden. Links to folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except OSError as error:
        raise UserError(f"{folder} can't be listed ({error.strerror}). Make it readable, or leave it out.") from error
    images = (name for name in is_folder if _suffix(name) in IMAGE_SUFFIXES and not name.startswith("."))
    stems = Counter(os.path.splitext(name)[0] for name in images)  # noqa: PTH122
    for name in sorted(is_folder):
        path = os.path.join(folder, name)  # noqa: PTH118, millions of Path objects take as long as all the rest
        if name.startswith("."):
            continue
        if is_folder[name]:
            yield from _list_folder(path, f"{below}{name}/", others)
        elif _suffix(name) in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            kind, case_id = _kind_and_case_id(below + name)
            shared = kind == "image" and stems[os.path.splitext(name)[0]] > 1  # noqa: PTH122
            yield kind, readable(below + name) if shared else case_id, path
        elif name not in TABLES:
            others[_suffix(name) or "without suffix"] += 1


def _list_manifest(manifest: Path) -> Iterator[ListedFile]:
    folder = os.fspath(manifest.parent)
    rows = _read_parquet(manifest) if manifest.suffix.lower() == ".parquet" else _read_csv(manifest)
    for number, (file, case_id) in enumerate(rows, 1):
        if not file or "\0" in file + (case_id or ""):
            raise UserError(f"{manifest}: row {number} names no file. Fill its column `file`, or remove the row.")
        inside = posixpath.normpath(file)
        if inside.startswith(("/", "..")) or os.path.isabs(file):  # noqa: PTH117
            inside = posixpath.basename(inside)
        kind, own = _kind_and_case_id(inside)
        yield kind, readable(case_id) if case_id else own, os.path.join(folder, file)  # noqa: PTH118


def _read_csv(manifest: Path) -> Iterator[tuple[str | None, str | None]]:
    """File and case id of each row."""
    rows = csv_rows(manifest, errors="surrogateescape")  # a file's name may have a line break
    head = next(rows)
    _check_columns(manifest, head)
    file, case_id = head.index("file"), head.index("case_id") if "case_id" in head else None
    for row in rows:
        yield row[file], None if case_id is None else row[case_id]


def _read_parquet(manifest: Path) -> Iterator[tuple[str | None, str | None]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"{manifest}: Parquet is read by pyarrow, which is not installed. Install it (pip install pyarrow), or "
            "write the manifest as CSV."
        ) from error
    try:
        with parquet.ParquetFile(manifest) as file:
            schema = file.schema_arrow
            if twice := [name for name in ("file", "case_id") if schema.names.count(name) > 1]:
                raise UserError(f"{manifest} has the column {', '.join(twice)} twice. Rename or remove one.")
            _check_columns(manifest, schema.names)
            columns = [name for name in ("file", "case_id") if name in schema.names]
            for name in columns:
                kind = schema.field(name).type
                if not _is_text(kind) and not (name == "case_id" and pyarrow.types.is_integer(kind)):
                    raise UserError(f"{manifest}: the column {name} holds {kind}, not text. Write it as text.")
            for batch in file.iter_batches(columns=columns):
                found = [batch.column(name).cast(pyarrow.string()).to_pylist() for name in columns]
                yield from zip(found[0], found[1] if len(found) == 2 else [None] * len(found[0]), strict=True)
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: a name that is no UTF-8
        raise UserError(f"{manifest} can't be read as a manifest ({first_line(error)}). Write it again.") from error


def _is_text(kind: "pyarrow.DataType") -> bool:
    """Whether a column of Parquet holds text, be it as bytes, or one for all by number; or nothing but nulls."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    names = ("string", "large_string", "string_view", "binary", "large_binary", "null")
    return any(getattr(types, f"is_{name}")(kind) for name in names)


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    if "file" not in columns:
        raise UserError(
            f"{manifest} needs the column file (and may have case_id); it has {', '.join(columns) or 'none'}."
        )


def _kind_and_case_id(path: str) -> tuple[Kind, str]:
    """Kind and case id of a file by its path below the folder."""
    if _suffix(path) in VIDEO_SUFFIXES:
        return "video", readable(path)
    return "image", readable(os.path.splitext(path)[0])  # noqa: PTH122


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def distinct(list_again: Callable[[], Iterable[ListedFile]]) -> Iterator[ListedFile]:
    """The files, and after the last a check that no two of a kind share a case id.

    To save memory, only a hash of 8 bytes is kept per file; they are listed again if two hashes are equal.

    Raises:
        UserError: Some share a case id; the first of them are named.
    """
    hashes = array("q")
    for kind, case_id, path in list_again():
        hashes.append(hash((kind, case_id)))
        yield kind, case_id, path
    values = np.sort(np.frombuffer(hashes, np.int64))
    if not (repeated := set(values[1:][values[1:] == values[:-1]].tolist())):
        return
    paths = defaultdict(list)
    for kind, case_id, path in list_again():
        if hash((kind, case_id)) in repeated:
            paths[kind, case_id].append(path)
    if shared := [" and ".join(map(readable, found)) for found in paths.values() if len(found) > 1]:
        head = (
            "files that share a case id; rename or remove one of each, or give case ids in a manifest's column case_id:"
        )
        raise UserError(listing(head, shared))

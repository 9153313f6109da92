"""Listing of folders, which leaves nothing out in silence, and atomic writing of files."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NoReturn

from common.errors import UserError

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows: files are not locked
    flock = None


def walk(folder: Path, *, follow_links: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, from the top: path, folders and files of each folder; but it raises where that would go on.

    Folders below whose names begin with a dot, such as a bin or thumbnails, are left out.

    Raises:
        UserError: The folder or one below it can't be listed.
    """
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=follow_links):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield place, folders, names


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted; none that is hidden or in a hidden folder. Links to folders are not followed.

    Raises:
        UserError: The folder does not exist, or it or one below can't be listed.
    """
    # Of links and devices too: whoever reads them says what is wrong.
    return sorted(Path(place, name) for place, _, names in walk(folder) for name in names if not name.startswith("."))


def entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted; nothing if it does not exist.

    Raises:
        UserError: It can't be listed, or is no folder.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        _refuse(error)


def spelled_out(path: Path) -> Path:
    """A path that ends in a name, so that `name` and `parent` say where it is; `.` and `..` do not.

    Links are not followed otherwise: what lies beside a link belongs to it.
    """
    return path.resolve() if path.name in ("", "..") else path


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: Path) -> None:
    """Check that a file that is to be read is one, or a folder; a missing one is for the reader to report.

    Raises:
        UserError: It is a pipe, a socket or a device: to open it may wait for ever, and reading it may never end.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path} is a pipe, socket or device, not a file. Save what it gives as a file, or remove it.")


def _refuse(error: OSError) -> NoReturn:
    raise UserError(
        f"the folder {error.filename} can't be read ({error.strerror}). Change its permissions or move it."
    ) from error


_LEFTOVER = re.compile(r"\.[0-9a-f]{8}\.partial$")
_FRESH = 2.0
"""Seconds within which a file of another program may not be locked yet."""
_FAILED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def written_whole(path: Path, mode: str = "w") -> Generator[IO]:
    """Open a temporary file beside `path`, and rename it to `path` when the block ends.

    If the block is interrupted, `path` stays as it was. If several processes write it at once, on one machine or
    several, the last one's file is kept.

    Args:
        path: Its folder is created if it is missing.
        mode: `w` (UTF-8 text) or `wb`.

    Raises:
        UserError: The folder can't be written to, or the disk is full or broken.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open(mode) if "b" in mode else temporary.open(mode, encoding="utf-8", newline="")
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        with file:
            with suppress(OSError):  # some file systems have no locks
                lock(file)  # tells it from what a killed program left
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        if (failed := _failed_write(error)) is None:
            raise
        temporary.unlink(missing_ok=True)  # what it took is free again, and counts below
        free = shutil.disk_usage(path.parent).free / 1e6
        raise UserError(
            f"{path} can't be written ({failed.strerror or failed}; {free:.0f} MB are free there). What was there "
            "before is unchanged. Make room, or choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def lock(file: IO) -> None:
    """Lock an open file, as long as it is open.

    Raises:
        OSError: Another program has locked it, or the system has no locks.
    """
    if flock is None:
        raise OSError("this system has no locks")
    flock(file, LOCK_EX | LOCK_NB)


def _failed_write(error: BaseException | None) -> OSError | None:
    """The refusal to write that an error is or comes from; libraries raise their own kinds after it."""
    while error is not None and not isinstance(error, UserError):  # which speaks for itself
        # Of a write there is no file name.
        numpy_says = f"{error}".endswith(" written")  # "9 requested and 4 written", without a number
        if isinstance(error, OSError) and error.filename is None and (error.errno in _FAILED_WRITES or numpy_says):
            return error
        error = error.__cause__ or error.__context__
    return None


def check_writable(path: Path) -> None:
    """Make the folder of a file that is to be written later, and check that a file can be made in it.

    What killed programs left there half written is removed.

    Raises:
        UserError: It can't be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
        _remove_leftovers(path.parent)
    except OSError as error:
        raise _not_writable(path, error) from error


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed programs left of `written_whole`: files that none has locked."""
    for path in folder.iterdir():
        if not _LEFTOVER.search(path.name):
            continue
        with suppress(OSError):  # another program may have finished it meanwhile, or hold its lock
            if time.time() - path.stat().st_mtime > _FRESH:
                with path.open("r+b") as file:
                    lock(file)
                    path.unlink()


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} can't be written ({error.strerror}). Choose another place.")


def write_json(value: dict, path: Path) -> None:
    """Write plain values as JSON, atomically; nan, which JSON does not have, becomes null."""
    with written_whole(path) as file:
        json.dump(_without_nan(value), file, indent=2, allow_nan=False)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value

"""Locks on what a program writes, which end with the program, however it ends."""

import atexit
import json
import os
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.process import rank

fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None  # on Windows nothing is locked

_PATIENCE = 2.0
"""Seconds after which a lock that can't be shared is another program's."""
_held: dict[Path, int] = {}


def hold(path: Path, *, together: str = "") -> None:
    """Lock a file or folder that is to be written, until `release` or until this program ends.

    The lock is a hidden file beside it. It binds programs of this project alone, on all machines that share the folder;
    a file system without locks has none. Of a launcher's processes only the main one takes it. To hold what is held
    already has no effect.

    Args:
        path: Its folder exists.
        together: Programs that give the same text share the lock: workers on parts of one output.

    Raises:
        UserError: Another program holds it, which is named; or the folder can't be written.
    """
    lock = _lock_of(path)
    if fcntl is None or rank() > 0 or lock in _held:
        return
    started = time.monotonic()
    while True:
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            left = f" If no program writes it, remove {lock}." if lock.exists() else ""
            raise UserError(f"{path} can't be locked ({error.strerror}).{left} Or choose another place.") from error
        with suppress(OSError):  # for others who share the folder, whatever this user's mask is
            os.fchmod(file, 0o666)
        try:
            # Not flock: worker processes would inherit the lock, and could outlive this one.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = _owner(lock)
            if together and owner.get("together") == together and _shares(file) and _is_there(lock, file):
                break
            os.close(file)
            # A holder is alone for a moment while it says who it is, and when it gives up.
            if (together or not owner) and time.monotonic() - started < _PATIENCE:
                time.sleep(0.05)
                continue
            raise UserError(
                f"{path} is being written by another program: {owner.get('who', 'unknown')}. Wait until it ends, or "
                "choose another place."
            ) from None
        except OSError:  # the file system has no locks
            os.close(file)
            return
        if _is_there(lock, file):
            who = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M')}"
            program = Path(sys.argv[0]).name
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"who": f"{who}, {program}", "together": together}).encode(), 0)
            if together:
                fcntl.lockf(file, fcntl.LOCK_SH)
            break
        os.close(file)  # the last holder has removed it meanwhile
    _held[lock] = file


def release(path: Path) -> None:
    """Give up a lock of `hold`, and remove its file if no other program shares it."""
    _release({_lock_of(path)} & set(_held))


def holder(path: Path) -> str:
    """Which program holds the lock of a file or folder alone, as the message of `hold` names it; empty if none does."""
    lock = _lock_of(path)
    if lock in _held:
        return "this process"  # which would give its lock up by closing the file
    if fcntl is None:
        return ""
    try:
        file = os.open(lock, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _owner(lock).get("who", "unknown")
    except OSError:  # the file system has no locks
        return ""
    finally:
        os.close(file)
    return ""


def _lock_of(path: Path) -> Path:
    # With the folder's own name: a lock ends when the process closes its file, under whatever name that was opened.
    return path.parent.resolve() / f".{path.name}.lock"


def _release(locks: set[Path]) -> None:
    for lock in locks:
        file = _held.pop(lock)
        with suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.unlink()
        os.close(file)


@contextmanager
def locks_end() -> Generator[None]:
    """A block, or as a decorator a function, at whose end the locks that were taken in it are given up."""
    before = set(_held)
    try:
        yield
    finally:
        _release(set(_held) - before)


def _owner(lock: Path) -> dict[str, str]:
    """What the holder says of itself; nothing while it has not."""
    try:
        return json.loads(lock.read_bytes())
    except (OSError, ValueError):
        return {}


def _shares(file: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_there(lock: Path, file: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(lock.stat(), os.fstat(file))
    except OSError:
        return False


@atexit.register
def _release_all() -> None:
    _release(set(_held))

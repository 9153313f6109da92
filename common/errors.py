"""The error whose message is for the user, and the formatting of errors, names and flags."""

import re
import shlex
from collections.abc import Iterable
from typing import Any

# Control characters (ESC starts a terminal's commands), separators of lines, marks that turn the direction of writing,
# and lone surrogates, with which Python stands for the bytes of a name that are no UTF-8 (surrogateescape).
_UNREADABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(text: str) -> str:
    r"""Text on one line that every file and terminal takes: what isn't printed becomes an escape, as `\n` or `\xe9`.

    Names of files may hold anything but NUL and a slash; every name that is printed or written comes through here.
    """
    return text if text.isprintable() else _UNREADABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def shortened(name: str) -> str:
    """A name for a title, `readable` and of 32 letters at most."""
    name = readable(name)
    return name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"


class UserError(Exception):
    """Something in the user's files or arguments is wrong.

    The message says what is wrong, in which file, and what to do next. Programs end with this message alone,
    without a traceback (see `common.process`). It may have several lines, each of them `readable`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(map(readable, str(message).split("\n"))))


def flag_of(field: str, *value: Any) -> str:
    """A field of a configuration as a command line spells it: `--tta`, `--no-tta`, `--min-region 5`, `--kinds a b`.

    Args:
        field: Its name in Python.
        value: Its value; without one the flag alone.
    """
    option = field.replace("_", "-")
    if value and isinstance(value[0], bool):
        return f"--{option}" if value[0] else f"--no-{option}"
    parts = value[0] if value and isinstance(value[0], list | tuple) else value
    return shlex.join([f"--{option}", *map(str, parts)])


def listing(head: str, rows: Iterable[str], most: int = 10, hint: str = "") -> str:
    """A message of several lines: the head, its first rows, indented, and how many more there are, with a hint."""
    rows = list(rows)
    rest = [f"... and {len(rows) - most} more{hint}"] * (len(rows) > most)
    return "\n  ".join([head, *map(readable, rows[:most]), *rest])


def described(error: Exception) -> str:
    """An error as an entry of a table, on one line: its kind, unless it is a `UserError`, and its message."""
    kind = "" if isinstance(error, UserError) else type(error).__name__
    return readable(": ".join(filter(None, (kind, str(error)))))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return readable(next(iter(str(error).splitlines()), type(error).__name__))

"""The error whose message is for the user, and the formatting of errors."""

from collections.abc import Iterable


class UserError(Exception):
    """Something in the user's files or arguments is wrong.

    The message says what is wrong, in which file, and what to do next. Programs end with this message alone,
    without a traceback (see `common.process`).
    """


def listing(head: str, rows: Iterable[str], most: int = 10, hint: str = "") -> str:
    """A message of several lines: the head, its first rows, indented, and how many more there are, with a hint."""
    rows = list(rows)
    rest = [f"... and {len(rows) - most} more{hint}"] * (len(rows) > most)
    return "\n  ".join([head, *rows[:most], *rest])


def described(error: Exception) -> str:
    """An error as an entry of a table: its kind, unless it is a `UserError`, and its message."""
    kind = "" if isinstance(error, UserError) else type(error).__name__
    return ": ".join(filter(None, (kind, str(error))))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)

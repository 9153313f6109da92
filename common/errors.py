"""The error that a user can mend, and lists in its message."""

from collections.abc import Iterable


class UserError(Exception):
    """Something in the user's files or flags is wrong.

    The message says what is wrong, in which file, and what to do next. Programs end with this message alone,
    without a traceback (see `common.process`).
    """


def listing(head: str, rows: Iterable[str], most: int = 10, hint: str = "") -> str:
    """A message's head, below it its first rows, indented, and how many more there are, with a hint where to look."""
    rows = list(rows)
    rest = [f"... and {len(rows) - most} more{hint}"] * (len(rows) > most)
    return "\n  ".join([head, *rows[:most], *rest])


def described(error: Exception) -> str:
    """An error as one row of a table says it: the kind, unless it is a `UserError`, and the message."""
    kind = "" if isinstance(error, UserError) else type(error).__name__
    return ": ".join(filter(None, (kind, str(error))))

"""Limits of what is read: the pixels and bytes of one picture, and the memory that all threads decode into at once.

A file of a hundred bytes can claim a picture of terabytes. What a header claims is held against the limits before
anything is decoded; environment variables raise them for files that are trusted.
"""

import os
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager

from common.errors import UserError

PIXELS = "FORGERY_MAX_PIXELS"
"""Environment variable: pixels that a picture may have."""
BYTES = "FORGERY_MAX_BYTES"
"""Environment variable: bytes that a picture or mask may take when it is decoded."""
DEFAULTS = {PIXELS: 500_000_000, BYTES: 4_000_000_000}
AT_ONCE = 1_000_000_000
"""Bytes that the threads of a process decode into at once; a picture of more is decoded alone."""


def limit(name: str) -> int:
    """The limit that an environment variable, `PIXELS` or `BYTES`, sets.

    Raises:
        UserError: It is set to something else than a whole number above 0.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return DEFAULTS[name]
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise UserError(f"the environment variable {name} is {text!r}. Set it to a whole number above 0, or unset it.")
    return value


class TooLarge(ValueError):
    """A claim above a limit. The message follows the file's name in a sentence, and says how to raise the limit."""


def check_pixels(width: int, height: int) -> int:
    """The number of pixels that a header claims.

    Raises:
        TooLarge: It is above the limit.
    """
    if width * height > limit(PIXELS):
        raise too_many(f"{width} × {height}", width * height)
    return width * height


def too_many(shown: str, count: int) -> TooLarge:
    """The error of a picture of more pixels than are allowed: how many are shown, and their number."""
    return TooLarge(
        f"has {shown} pixels, more than {limit(PIXELS):,}. Cut it into smaller images, or raise the limit, if you "
        f"trust the file: {PIXELS}={count}."
    )


def check_bytes(size: int) -> int:
    """The number of bytes, if it is allowed, of what a header claims.

    Raises:
        TooLarge: It is above the limit.
    """
    if size > limit(BYTES):
        raise TooLarge(
            f"takes {size:,} bytes when it is decoded, more than {limit(BYTES):,}. Cut it into smaller images, or "
            f"raise the limit, if you trust the file: {BYTES}={size}."
        )
    return size


class Room:
    """A budget of memory that threads share: requests wait, in their order, until enough of it is free.

    A request larger than the budget waits for the whole budget. A thread that already holds some is granted more at
    once, so that it never waits for itself.
    """

    def __init__(self, size: int):
        self.size = size
        self._reset()
        if hasattr(os, "register_at_fork"):  # a child has none of the threads that hold some
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._free = self.size
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._own = threading.local()

    @contextmanager
    def taken(self, amount: int) -> Generator[None]:
        """Reserve some bytes of it until the block ends."""
        own, changed = self._own, self._changed
        if getattr(own, "taken", False):
            yield
            return
        amount, turn = min(amount, self.size), object()
        with changed:
            self._waiting.append(turn)
            try:
                changed.wait_for(lambda: self._waiting[0] is turn and self._free >= amount)
                self._free -= amount
            finally:
                self._waiting.remove(turn)
                changed.notify_all()
        own.taken = True
        try:
            yield
        finally:
            own.taken = False
            with changed:
                self._free += amount
                changed.notify_all()


ROOM = Room(AT_ONCE)
"""The budget of all readers of this process."""

"""Files that are written whole or not at all."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from common.errors import UserError


@contextmanager
def written_whole(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`, and rename it to `path` when the block ends.

    Whatever interrupts the block, `path` is afterwards what it was before, or the new file, whole. Of several processes
    that write it at once, on whatever machines, the last one's is kept.

    Args:
        path: Its folder is made when it is missing.
        mode: `w` (UTF-8 text) or `wb`.

    Raises:
        UserError: The folder can't be written to.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open(mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""}))
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}). Choose another place.") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(value: dict, path: Path) -> None:
    """Write plain values as JSON, whole or not at all; nan, which JSON does not have, becomes null."""
    with written_whole(path) as file:
        json.dump(_without_nan(value), file, indent=2, allow_nan=False)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value

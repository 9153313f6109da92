"""Small CSV tables that come with a data set."""

from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError

import pandas as pd


def read_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read a CSV file as text: case ids are names, `007` stays `007`, and an empty field is an empty string.

    Args:
        path: The file.
        columns: Those that it must have; it may have others.

    Raises:
        UserError: The file is missing, no table, or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as a table ({error}). Write it anew or remove it.") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} needs the columns {', '.join(columns)}; it has {', '.join(table.columns)}.")
    return table

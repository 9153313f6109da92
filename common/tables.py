"""Reading of CSV tables and printing of Markdown tables."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def read_table(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """Read a CSV file as strings: the case id `007` stays `007`, and an empty field is an empty string.

    Args:
        path: The file.
        columns: Those that it must have; it may have others.

    Raises:
        UserError: The file is missing, is not a table, or lacks a column.
    """
    # Imported here because it takes half a second, and most submissions read no table.
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as a table ({error}). Fix or remove it.") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} needs the columns {', '.join(columns)}; it has {', '.join(table.columns)}.")
    return table


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    """A Markdown table, padded to be read in a terminal; floats have four decimals, nan is a dash."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4f}"
    return f"{value}"

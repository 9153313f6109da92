"""Reading of CSV tables, cells for spreadsheets, and printing of Markdown tables."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, readable
from common.files import check_regular

if TYPE_CHECKING:
    import pandas as pd

# What a name must not start within a cell: another cell, HTML, and the address of a link or picture.
_MARKUP = re.compile(r"(\\*)(\||<(?=[A-Za-z/!?])|(?<=\])\()")
_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones count where one writes Chinese or Japanese
LONGEST_FIELD = 2**31 - 1
"""Characters that a field may have: the annotation of a noisy mask has megabytes, far above the default of `csv`."""


def csv_rows(path: Path, columns: Iterable[str] = (), *, errors: str = "strict") -> Iterator[list[str]]:
    """The head of a CSV file, and then its rows, as `numbered_rows` has them, without the numbers of their lines."""
    return (row for _, row in numbered_rows(path, columns, errors=errors))


def numbered_rows(
    path: Path, columns: Iterable[str] = (), *, errors: str = "strict"
) -> Iterator[tuple[int, list[str]]]:
    """The head of a CSV file, and then its rows, each with the number of its first line.

    Rows have as many fields as the head; missing ones at the end are empty strings. Blank lines are left out, and so
    are columns without a name, which spreadsheets add, as long as they are empty. No row vanishes in another one's
    field: quotes must be closed and followed by a comma or the line's end.

    Args:
        path: The file, in UTF-8.
        columns: Those whose fields must have no line break.
        errors: What to do about bytes that are no UTF-8, as in `open`.

    Raises:
        UserError: The file can't be read, names a column twice, or has a row with such a quote or with a field that
            belongs to no named column.
    """
    check_regular(path)
    csv.field_size_limit(LONGEST_FIELD)
    line = 0
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            reader = csv.reader(file, strict=True)
            found = next(reader, [])
            named = [place for place, name in enumerate(found) if name.strip()]
            head = [found[place] for place in named]
            if twice := sorted(name for name, count in Counter(head).items() if count > 1):
                raise UserError(f"{path} has the column {', '.join(twice)} twice. Rename or remove one.")
            plain = [place for place, name in enumerate(head) if name in set(columns)]
            yield 1, head
            line = reader.line_num
            for row in reader:
                if row and (len(row) > len(found) or len(head) < len(found)):
                    if fault := _stray(row, found):
                        raise UserError(f"{path}, line {line + 1}: {fault}")
                    row = [row[place] if place < len(row) else "" for place in named]
                row += [""] * (len(head) - len(row)) if row else []
                for place in plain if row else ():
                    if "\n" in row[place] or "\r" in row[place]:
                        raise UserError(
                            f"{path}, line {line + 1}: the column {head[place]} has a name with a line break, "
                            f'{_shortened(row[place])}. Remove the line break, or close the quote (") before it.'
                        )
                if row:
                    yield line + 1, row
                line = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line + 1}: can't be read as a table ({error}). Close or remove the quote (\") of that line."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as a table ({error}). Fix or remove it.") from error


def _stray(row: list[str], head: list[str]) -> str:
    """What is wrong with a row that has a field in no named column; empty if all such fields are empty."""
    if any(row[len(head) :]):
        return f'{len(row)} fields, but the head has {len(head)}. Put a field with commas between quotes (").'
    for name, field in zip(head, row, strict=False):
        if field and not name.strip():
            return (
                f"the field {_shortened(field)} is in a column without a name. Name the column in the first line, or "
                "remove the field."
            )
    return ""


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def read_table(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """Read a CSV file as strings: the case id `007` stays `007`, and an empty field is an empty string.

    Args:
        path: The file.
        columns: Those that it must have; it may have others.

    Raises:
        UserError: The file is missing, is not a table, or lacks a column; or as `numbered_rows`.
    """
    # Imported here because it takes half a second, and most submissions read no table.
    import pandas as pd

    head, *rows = csv_rows(path, columns)
    if not head:
        raise UserError(f"{path} can't be read as a table (it is empty). Fix or remove it.")
    table = pd.DataFrame(rows, columns=pd.Index(head), dtype=str)
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} needs the columns {', '.join(columns)}; it has {', '.join(table.columns)}.")
    return table


def spreadsheet_cell(value: str | int | float) -> str | int | float:
    """A cell of a table for people: a text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    """A Markdown table, padded to be read in a terminal; floats have four decimals, nan is a dash.

    Whatever a cell's text is, it stays in its cell and is shown as it is: it is `readable`, and markup is escaped.
    """
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
    return _MARKUP.sub(lambda found: f"{2 * found[1]}\\{found[2]}", readable(f"{value}"))

"""Reading of files labelled real or fake, images and clips alike, from a table or from class folders."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.data.splits import SPLITS
from common.errors import UserError, listing
from common.tables import read_table

CLASSES = {"real": False, "fake": True}
"""Folder of a class → whether it is fake."""
LABELS = CLASSES | {"0": False, "1": True, "generated": True}
"""Label in a table → whether it is fake; read without regard to case."""
FILE_COLUMNS, LABEL_COLUMNS = ("file", "image"), ("label", "class")
"""The names that the two columns of a table may have."""


@dataclass(frozen=True)
class Labelled:
    """One file, or one folder of frames, with its class."""

    path: Path
    fake: bool
    split: str = ""
    """`train`, `val` or `test`; empty where it is to be drawn."""
    name: str = ""
    """Its path as the table has it, or relative to its class folder, with slashes."""
    columns: dict[str, str] = field(default_factory=dict)
    """The other columns of its row; empty for a file of a folder."""


def read_labelled_table(csv: Path) -> list[Labelled]:
    """Read a table of files, one a row.

    Args:
        csv: With the columns `file` (or `image`; the path, relative to the table's folder) and `label` (or `class`:
            real or 0, fake, generated or 1). `split` (train, val, test) is given in all rows or in none. Others are
            kept as they are.

    Raises:
        UserError: It lacks a column or has no rows; a label or split is none of these; a file is not named, missing or
            listed twice. Rows are counted from the head, which is row 1, without blank lines.
    """
    table = read_table(csv, ())
    file_column, label_column = (_column(csv, table, names) for names in (FILE_COLUMNS, LABEL_COLUMNS))
    if not len(table):
        raise UserError(f"{csv} lists no files. Give each a row: {file_column},{label_column},split.")
    drawn = "split" not in table or not table["split"].any()
    found, faults, missing, rows = [], [], [], {}
    for number, values in enumerate(table.itertuples(index=False, name=None), 2):
        row = dict(zip(table.columns, values, strict=True))
        name, label, split = row.pop(file_column), row.pop(label_column), row.pop("split", "")
        path, fake = csv.parent / name, LABELS.get(label.strip().lower())
        first = rows.setdefault(path.resolve(), number)
        if not name:
            faults.append(f"row {number}: {file_column} is empty")
        elif fake is None:
            faults.append(f"row {number} ({name}): {label_column} is {label!r}; it must be real or fake (0 or 1)")
        elif not drawn and split not in SPLITS:
            faults.append(f"row {number} ({name}): split is {split!r}; it must be train, val or test")
        elif first != number:
            faults.append(f"row {number} ({name}): is in row {first} already")
        elif not path.exists():
            missing.append(f"row {number}: {path}")
        found.append(Labelled(path, bool(fake), split, name, row))
    if faults:
        raise UserError(listing(f"{csv} has {len(faults)} wrong rows among {len(found)}:", faults))
    if missing:
        head = f"{len(missing)} of the {len(found)} files of {csv} do not exist (paths begin at the table's folder):"
        raise UserError(listing(head, missing))
    return found


def read_class_folders(data_dir: Path, find: Callable[[Path], Iterable[Path]]) -> list[Labelled]:
    """List the files of `real` and `fake`, or of `{train,val,test}/{real,fake}`.

    Args:
        data_dir: Holds the folders of either layout.
        find: Lists the files below one of them.

    Raises:
        UserError: Neither layout or both, no files, a folder that can't be searched, or as `find`.
    """
    if not _is_folder(data_dir):
        raise UserError(f"there is no folder {data_dir}. Name the folder that holds real/ and fake/, or a table.")
    given = [split for split in SPLITS if _is_folder(data_dir / split)]
    classes = [name for name in CLASSES if _is_folder(data_dir / name)]
    if bool(given) == bool(classes):
        raise UserError(
            f"{data_dir} holds {', '.join(given + classes) or 'neither'}; it needs the folders train, val, test "
            "(each with real and fake) or the folders real and fake."
        )
    found = []
    for split in given or [""]:
        for name, fake in CLASSES.items():
            folder = data_dir / split / name
            if _is_folder(folder):
                found += [Labelled(path, fake, split, path.relative_to(folder).as_posix()) for path in find(folder)]
    if not found:
        raise UserError(f"{data_dir} holds no files of a kind that is read here.")
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        reason = f"the folder {error.filename} can't be read ({error.strerror})"
        raise UserError(f"{reason}. Change its permissions or move it.") from error


def check_both_classes(labelled: Sequence[tuple[str, bool]], noun: str) -> None:
    """Check that training and validation have files of both classes.

    Args:
        labelled: Split and whether fake, of each file.
        noun: What the files are, for the message: images or clips.

    Raises:
        UserError: Naming what is lacking.
    """
    present = set(labelled)
    lacking = [
        f"{split} has no {name} {noun}"
        for split in ("train", "val")
        for name, fake in CLASSES.items()
        if (split, fake) not in present
    ]
    if lacking:
        raise UserError(f"{'; '.join(lacking)}. Both classes are needed in both: add {noun} or split them differently.")


def _column(csv: Path, table, names: Sequence[str]) -> str:
    found = [name for name in names if name in table]
    if len(found) != 1:
        raise UserError(f"{csv} needs one column {' or '.join(names)}; it has {', '.join(table.columns)}.")
    return found[0]

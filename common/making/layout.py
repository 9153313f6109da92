"""Writing of data folders in the layout of `common.data.samples` and data/README.md.

    train_images/authentic/   train_images/forged/   train_masks/<case_id>.npy   groups.csv
    test_images/              test_masks/            sample_submission.csv

A folder is built as `<output>.partial` and renamed when it is complete.
"""

import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import check_writable, entries
from common.locks import hold, release

ENTRIES = frozenset(
    {
        *("train_images", "train_masks", "supplemental_images", "supplemental_masks", "test_images", "test_masks"),
        *("groups.csv", "sample_submission.csv", "train_index.csv", "supplemental_index.csv"),
    }
)
"""What a data folder may hold."""


@contextmanager
def new_folder(output: Path, *, overwrite: bool = False, source: Path | None = None) -> Generator[Path]:
    """Build a data folder in `<output>.partial`, which is renamed to `output` when the block ends without an error.

    After an error, Ctrl-C included, nothing is left of the new folder, and an old one is unchanged. What a killed
    program left is removed.

    Args:
        output: The folder to make.
        overwrite: Replace `output` if it is a data folder.
        source: Where the content comes from; neither it nor `output` may contain the other.

    Raises:
        UserError: `output` exists and may not be replaced, lies within `source` or the reverse, is being written by
            another program, or can't be written.
    """
    if output.name in ("", ".."):  # as of `.`, which nothing can lie beside by its name
        raise UserError(
            f"{output} can't be made: it is a folder already. Name a new one in it, such as {output / 'data'}."
        )
    partial, replaced = (output.with_name(f"{output.name}.{name}") for name in ("partial", "replaced"))
    if source is not None:
        here, there = output.resolve(), source.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise UserError(f"{output} and its source {source} lie within each other. Choose another output folder.")
    check_writable(output)
    hold(output)  # so that what is there of an earlier run is no longer written
    try:
        if replaced.exists() and not output.exists():  # it was killed between its two renamings
            replaced.rename(output)
        _check_replaceable(output, overwrite=overwrite)
        for leftover in (partial, replaced):
            _check_replaceable(leftover, overwrite=True)
            _remove(leftover)
        yield from _built(output, partial, replaced)
    finally:
        release(output)


def _built(output: Path, partial: Path, replaced: Path) -> Generator[Path]:
    try:
        for name in ("train_images/authentic", "train_images/forged", "train_masks"):
            (partial / name).mkdir(parents=True)
        yield partial
        if output.exists():
            output.rename(replaced)
        partial.rename(output)
        _remove(replaced)
    except OSError as error:
        raise UserError(f"{output} can't be written ({error}).") from error
    finally:
        _remove(partial)
        if replaced.exists() and not output.exists():
            replaced.rename(output)


def _check_replaceable(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder} exists and is no folder. Choose another output folder.")
    foreign = [entry.name for entry in entries(folder) if not _belongs(entry.name)]
    if foreign:
        raise UserError(
            f"{folder} exists and is no data folder: it holds {foreign[0]} (of {len(foreign)} such entries). "
            "It is never overwritten; choose another output folder."
        )
    if not overwrite and entries(folder):
        raise UserError(f"{folder} exists. Choose another output folder, or overwrite it.")


def _belongs(name: str) -> bool:
    """Whether a data folder may hold an entry of this name, or the leftover of a killed `common.files.written_whole`.

    Hidden files come from file managers (.DS_Store).
    """
    whole = name.rsplit(".", 2)[0] if name.endswith(".partial") else name
    return whole in ENTRIES or name.startswith(".")


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) RGB image as PNG."""
    _, buffer = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.tobytes())


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask (N, H, W) as `.npy`, uint8 of 0 and 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, (mask > 0).astype(np.uint8))


def write_groups(folder: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write groups.csv from rows of case id, group and kind (of the forgery, empty where there is none)."""
    table = pd.DataFrame(sorted(set(rows)), columns=["case_id", "group", "kind"])
    table.to_csv(folder / "groups.csv", index=False)


def write_sample_submission(folder: Path, case_ids: Iterable[str]) -> None:
    """Write sample_submission.csv, with `authentic` in every row."""
    table = pd.DataFrame({"case_id": list(case_ids)}).assign(annotation="authentic")
    table.to_csv(folder / "sample_submission.csv", index=False)

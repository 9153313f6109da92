"""What the files of a data folder hold, kept beside them, so that a next start opens only what is new or has changed.

`train_index.csv` and `supplemental_index.csv` have a row for each sound image:

    case_id, label, image, mask, group, kind     as in the folder and in groups.csv, for people; paths from the folder
    height, width, channels                      of the image as stored: a fourth (or second) channel is transparency
    area_share, bucket                           forged share of the image, and the name of that size
    image_hash, mask_hash                        SHA-256 of the files
    image_bytes, image_mtime_ns, mask_...        size and time of the files as they were when they were opened

A row counts while the sizes and times are still those of the files. What it can't see is a file whose content was
replaced by another of the same length and the time set back. Deleting an index is always safe.
"""

import csv
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.data.images import read_image, read_mask, stored_channels
from common.errors import UserError
from common.files import written_whole
from common.sizes import size_of

# A file with other columns is made anew: rename one when its values get another meaning.
COLUMNS = (
    *("case_id", "label", "image", "mask", "group", "kind", "height", "width", "channels", "area_share", "bucket"),
    *("image_hash", "mask_hash", "image_bytes", "image_mtime_ns", "mask_bytes", "mask_mtime_ns"),
)


class Facts(NamedTuple):
    """What opening an image and its mask tells."""

    height: int
    width: int
    channels: int
    """Of the file, before it became RGB."""
    area_share: float
    """Forged share of the image, all channels of the mask together, in [0, 1]."""
    image_hash: str
    mask_hash: str
    """Empty for an authentic image."""


class Stamps(NamedTuple):
    """Size and time of modification of an image and its mask, which has zeros where there is none."""

    image_bytes: int
    image_mtime_ns: int
    mask_bytes: int
    mask_mtime_ns: int


class Entry(NamedTuple):
    """A row of an index."""

    case_id: str
    forged: bool
    image: str
    """Path from the data folder, as `mask`."""
    mask: str
    group: str
    kind: str
    stamps: Stamps | None
    facts: Facts | None


def inspect(image: Path, mask: Path | None) -> Facts:
    """Decode an image and its mask, None for an authentic image.

    Raises:
        UserError: One can't be read, they differ in size, or a channel of the mask marks no pixel.
    """
    height, width = read_image(image).shape[:2]
    channels, image_hash = stored_channels(image), file_hash(image)
    if mask is None:
        return Facts(height, width, channels, 0.0, image_hash, "")
    pixels = read_mask(mask)
    if pixels.shape[1:] != (height, width):
        raise UserError(f"{mask}: the mask is {pixels.shape[1]}×{pixels.shape[2]}, its image {height}×{width}")
    if not pixels.size or not pixels.any(axis=(1, 2)).all():
        raise UserError(f"{mask}: a mask channel marks no pixel")
    return Facts(height, width, channels, float(pixels.any(axis=0).mean()), image_hash, file_hash(mask))


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamps_of(image: Path, mask: Path | None) -> Stamps | None:
    """The stamps of two files as they are now, None where one is missing."""
    try:
        ours, theirs = image.stat(), mask and mask.stat()
    except OSError:
        return None
    return Stamps(ours.st_size, ours.st_mtime_ns, theirs.st_size if theirs else 0, theirs.st_mtime_ns if theirs else 0)


def read_index(path: Path) -> dict[tuple[str, bool], Entry]:
    """The rows of an index by case id and whether forged; none if it is missing, broken or has other columns."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            if tuple(next(rows, ())) != COLUMNS:
                return {}
            entries = map(_parse, rows)
            return {(entry.case_id, entry.forged): entry for entry in entries}
    except (OSError, ValueError, csv.Error):
        return {}


def write_index(path: Path, entries: Iterable[Entry]) -> None:
    """Write an index whole; in a folder that can't be written to, print a note and go on."""
    try:
        with written_whole(path) as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            rows.writerows(map(_row, entries))
    except (UserError, OSError, UnicodeError) as error:
        print(f"note: without an index of its images, which every start opens again: {error}")


def _parse(row: list[str]) -> Entry:
    case_id, label, image, mask, group, kind, height, width, channels, area_share, _, *others = row
    image_hash, mask_hash, image_bytes, image_mtime_ns, mask_bytes, mask_mtime_ns = others
    stamps = Stamps(int(image_bytes), int(image_mtime_ns), int(mask_bytes), int(mask_mtime_ns))
    facts = Facts(int(height), int(width), int(channels), float(area_share), image_hash, mask_hash)
    return Entry(case_id, label == "forged", image, mask, group, kind, stamps, facts)


def _row(entry: Entry) -> tuple[str | int | float, ...]:
    *sides, area_share, image_hash, mask_hash = entry.facts
    label = "forged" if entry.forged else "authentic"
    bucket = size_of(area_share) if entry.forged else label
    names = (entry.case_id, label, entry.image, entry.mask, entry.group, entry.kind)
    return (*names, *sides, area_share, bucket, image_hash, mask_hash, *entry.stamps)

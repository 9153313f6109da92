"""The record of an image and its mask (`Sample`), and the index of a data folder: these records as a CSV file.

`train_index.csv` and `supplemental_index.csv` have a row for each valid image, so that the next start opens only the
files that are new or have changed:

    case_id, label, image, mask, group, kind     as in the folder and in groups.csv; paths relative to the folder
    height, width, channels                      of the image as stored: a fourth (or second) channel is transparency
    orientation                                  of EXIF, 1 to 8: how the stored pixels are shown
    area_share, bucket                           forged share of the image, and the name of that size
    image_hash, mask_hash                        SHA-256 of the files
    image_bytes, image_mtime_ns, mask_...        size and modification time of the files when they were opened

A row is valid while size and time are still those of the files. It misses a file whose content was replaced by another
of the same length with the time set back. Deleting an index is always safe.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.data.images import read_picture
from common.data.masks import misfit, read_mask
from common.errors import UserError
from common.files import file_hash, written_whole
from common.sizes import size_of

# A file with other columns is rebuilt: rename one when its values get another meaning.
COLUMNS = (
    *("case_id", "label", "image", "mask", "group", "kind", "height", "width", "channels"),
    *("orientation", "area_share", "bucket"),
    *("image_hash", "mask_hash", "image_bytes", "image_mtime_ns", "mask_bytes", "mask_mtime_ns"),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a data folder; the fields from `height` on are known once its files have been opened."""

    case_id: str
    image: Path
    mask: Path | None
    """None for an authentic image."""
    group: str
    """Images of one group come from the same source and must stay in the same fold."""
    kind: str = ""
    """How it was forged (`copymove`, `splice`, ...), where that is known."""
    height: int = 0
    width: int = 0
    channels: int = 0
    """Of the file, before it became RGB."""
    orientation: int = 1
    """EXIF orientation, 1 to 8; mask and sizes refer to the pixels as stored."""
    area_share: float = 0.0
    """Forged share of the image, all channels of the mask together, in [0, 1]."""
    image_hash: str = ""
    mask_hash: str = ""
    """SHA-256 in hexadecimal; empty for an authentic image."""
    image_bytes: int = 0
    image_mtime_ns: int = 0
    mask_bytes: int = 0
    mask_mtime_ns: int = 0

    @property
    def forged(self) -> bool:
        """Whether the image has a forged region."""
        return self.mask is not None

    @property
    def label(self) -> str:
        """`authentic` or `forged`."""
        return "forged" if self.forged else "authentic"

    @property
    def size(self) -> str:
        """`authentic`, or the size of the forgery: tiny, small, medium, large, xlarge."""
        return size_of(self.area_share) if self.forged else "authentic"


def open_sample(sample: Sample, *, masks_are_upright: bool = False) -> Sample:
    """Decode the image and mask of a sample, and fill in what they show.

    Args:
        sample: With its paths.
        masks_are_upright: Whether masks refer to the pictures as their EXIF orientation shows them, not as stored.

    Raises:
        UserError: A file can't be read, the two differ in size, or a channel of the mask marks no pixel.
    """
    try:
        stamps = _stamps(sample)  # first: if a file changes while it is read, the next start opens it again
        picture = read_picture(sample.image)
        height, width = picture.pixels.shape[:2]
        known: dict[str, Any] = {**stamps, "height": height, "width": width}
        known |= {"channels": picture.channels, "orientation": picture.orientation}
        known["image_hash"] = file_hash(sample.image)
        if sample.mask is not None:
            mask = read_mask(sample.mask, picture.orientation if masks_are_upright else 1)
            if fault := misfit(mask, (height, width), picture.orientation):
                raise UserError(f"{sample.mask}: the mask {fault}")
            if not mask.size or not mask.any(axis=(1, 2)).all():
                raise UserError(f"{sample.mask}: a mask channel marks no pixel")
            known |= {"area_share": float(mask.any(axis=0).mean()), "mask_hash": file_hash(sample.mask)}
    except OSError as error:
        path = error.filename or sample.image
        raise UserError(f"{path} cannot be read ({error.strerror}). Replace or remove the file.") from error
    return replace(sample, **known)


class Index:
    """The index of one split of a data folder; empty if the file is missing, broken or has other columns."""

    def __init__(self, data_dir: Path, split: str) -> None:
        """Read the index of `train` or `supplemental`."""
        self.path = data_dir / f"{split}_index.csv"
        self._start = len(str(data_dir / "_")) - 1
        self._rows: dict[tuple[str, str], list[str]] = {}
        """Rows as text, by case id and label."""
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                head, *rows = csv.reader(file)
        except (OSError, ValueError, csv.Error):
            return
        if tuple(head) == COLUMNS and all(len(row) == len(COLUMNS) for row in rows):
            self._rows = {(row[0], row[1]): row for row in rows}

    def find(self, sample: Sample) -> Sample | None:
        """The sample with what its row says of its files; None if it has none, or they have changed since."""
        row = self._rows.get((sample.case_id, sample.label))
        if row is None:
            return None
        try:
            stamps = _stamps(sample)
            if [*row[2:4], *row[14:]] != [*self._paths(sample), *map(str, stamps.values())]:
                return None
            height, width, channels, orientation = map(int, row[6:10])
            area_share, image_hash, mask_hash = float(row[10]), row[12], row[13]
        except (OSError, ValueError):
            return None
        known: dict[str, Any] = {"height": height, "width": width, "channels": channels, "orientation": orientation}
        known |= {"area_share": area_share, "image_hash": image_hash, "mask_hash": mask_hash}
        return replace(sample, **stamps, **known)

    def update(self, samples: Sequence[Sample]) -> None:
        """Let the index hold exactly these opened samples; where it can't be written, print a note."""
        rows = [self._row(sample) for sample in samples]
        if rows == list(self._rows.values()):
            return
        try:
            with written_whole(self.path) as file:
                csv.writer(file).writerows([COLUMNS, *rows])
        except (UserError, OSError, UnicodeError) as error:
            print(f"note: without an index of its images, which every start opens again: {error}")

    def _paths(self, sample: Sample) -> tuple[str, str]:
        return str(sample.image)[self._start :], str(sample.mask)[self._start :] if sample.mask else ""

    def _row(self, s: Sample) -> list[str]:
        sides = (s.height, s.width, s.channels, s.orientation, s.area_share)
        stamps = (s.image_bytes, s.image_mtime_ns, s.mask_bytes, s.mask_mtime_ns)
        names = (s.case_id, s.label, *self._paths(s), s.group, s.kind)
        return [*names, *map(str, sides), s.size, s.image_hash, s.mask_hash, *map(str, stamps)]


def _stamps(sample: Sample) -> dict[str, Any]:
    """Size and modification time of the files of a sample as they are now; zeros for no mask."""
    image, mask = sample.image.stat(), sample.mask.stat() if sample.mask else None
    return {
        "image_bytes": image.st_size,
        "image_mtime_ns": image.st_mtime_ns,
        "mask_bytes": mask.st_size if mask else 0,
        "mask_mtime_ns": mask.st_mtime_ns if mask else 0,
    }

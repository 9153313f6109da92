"""The samples of a data folder, their faults, folds and fingerprint.

The layout is the competition's:

    train_images/authentic/<case_id>.png     train_images/forged/<case_id>.png
    train_masks/<case_id>.npy                supplemental_images/, supplemental_masks/  (forged, flat)
    groups.csv                               optional: case_id,group,kind
    train_index.csv, supplemental_index.csv  written here (see `common.data.index`)

`groups.csv` names the source that an image was made from. Without it the case id is the group, which is right for
the competition, where a forged image has the case id of its authentic original.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from common.data.images import find_images
from common.data.index import Index, Sample, open_sample
from common.errors import UserError, listing, readable
from common.tables import read_table

if TYPE_CHECKING:
    import pandas as pd


def find_samples(data_dir: Path, split: str = "train") -> list[Sample]:
    """List the samples of `train` or `supplemental` without opening the images.

    Raises:
        UserError: No such folder, no images in it, two files with one case id, a name that is no UTF-8, or a forged
            image without a mask.
    """
    images_dir, masks_dir = data_dir / f"{split}_images", data_dir / f"{split}_masks"
    if not images_dir.is_dir():
        raise UserError(
            f"{data_dir} has no folder {images_dir.name}. Make a data folder with `python prepare_data.py demo` "
            "or `python prepare_data.py import SOURCE OUTPUT`; data/README.md shows the layout."
        )
    flat = split == "supplemental"
    authentic = {} if flat else _find_images(images_dir / "authentic")
    forged = _find_images(images_dir if flat else images_dir / "forged")
    if not authentic and not forged:
        raise UserError(f"{images_dir} holds no images.")
    masks = {case_id: masks_dir / f"{case_id}.npy" for case_id in forged}
    missing = [str(path) for path in masks.values() if not path.is_file()]
    if missing:
        raise UserError(_listing(f"{len(missing)} forged images have no mask. Expected:", missing))
    sources = read_groups(data_dir / "groups.csv")

    def sample(case_id: str, image: Path, mask: Path | None) -> Sample:
        group, kind = sources.get(case_id, (case_id, ""))
        return Sample(case_id=case_id, image=image, mask=mask, group=group, kind=kind if mask else "")

    return [sample(i, path, None) for i, path in authentic.items()] + [
        sample(i, path, masks[i]) for i, path in forged.items()
    ]


def _find_images(folder: Path) -> dict[str, Path]:
    """As `find_images`, for names that tables and hashes can hold."""
    images = find_images(folder)
    broken = [repr(str(path)) for name, path in images.items() if readable(name) != name]
    if broken:
        head = f"{len(broken)} names of images are no UTF-8 or hold control characters; rename these files:"
        raise UserError(_listing(head, broken))
    return images


def read_groups(path: Path) -> dict[str, tuple[str, str]]:
    """Case id → (group, kind) from groups.csv; empty if there is none. Where a group is empty, it is the case id.

    Raises:
        UserError: The file is no table, or lacks the columns case_id and group.
    """
    if not path.is_file():
        return {}
    table = read_table(path, ("case_id", "group"))
    kinds = table["kind"].tolist() if "kind" in table else [""] * len(table)
    return {case_id: (group, kind) for (case_id, group), kind in zip(groups_of(table), kinds, strict=True)}


def groups_of(table: "pd.DataFrame") -> list[tuple[str, str]]:
    """Case id and group of each row of groups.csv. Where a group is empty, it is the case id."""
    # As lists: iterating over a column of pandas takes ten times as long.
    rows = zip(table["case_id"].tolist(), table["group"].tolist(), strict=True)
    return [(case_id, group or case_id) for case_id, group in rows]


def open_samples(samples: Sequence[Sample], *, masks_are_upright: bool = False) -> list[Sample | UserError]:
    """Decode every image and mask once: each sample as `open_sample` completes it, or the error in its place."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        opened = pool.map(partial(_open_or_error, masks_are_upright=masks_are_upright), samples)
        return list(tqdm(opened, "reading", len(samples), unit="img", leave=False, disable=None))


def _open_or_error(sample: Sample, *, masks_are_upright: bool) -> Sample | UserError:
    try:
        return open_sample(sample, masks_are_upright=masks_are_upright)
    except UserError as error:
        return error


def load_samples(data_dir: Path, split: str = "train", *, skip_bad_files: bool = False) -> list[Sample]:
    """Find and open the samples of a split; files that the folder's index knows are not opened again.

    Args:
        data_dir: Folder in the layout above.
        split: `train` or `supplemental`.
        skip_bad_files: Leave bad files out and print each, instead of raising.

    Raises:
        UserError: With the list of all bad files, each with its fault.
    """
    found, index = find_samples(data_dir, split), Index(data_dir, split)
    known = [index.find(sample) for sample in found]
    new = iter(open_samples([sample for sample, entry in zip(found, known, strict=True) if entry is None]))
    samples = [next(new) if entry is None else entry for entry in known]
    index.update([sample for sample in samples if isinstance(sample, Sample)])
    return _without_errors(samples, data_dir, skip_bad_files=skip_bad_files)


def _without_errors(samples: list[Sample | UserError], folder: Path, *, skip_bad_files: bool) -> list[Sample]:
    """The opened samples, after the errors were raised together or printed."""
    errors = [str(error) for error in samples if isinstance(error, UserError)]
    if errors:
        text = _listing(f"{len(errors)} bad files in {folder}:", errors)
        if not skip_bad_files:
            raise UserError(f"{text}\nFix or remove them, or leave them out with skip_bad_files.")
        print(f"left out: {text}")
    return [sample for sample in samples if isinstance(sample, Sample)]


def load_authentic(folder: Path, foreign_to: Sequence[Sample], *, skip_bad_files: bool = False) -> list[Sample]:
    """Samples of a folder of authentic images beside those of the data folder; case ids begin with `extra/`.

    They are opened at every start: only a data folder has an index.

    Args:
        folder: With its subfolders; every image counts as a source of its own.
        foreign_to: Opened validation samples, which must not be among them.
        skip_bad_files: Leave unreadable files out and print each, instead of raising.

    Raises:
        UserError: No images, unreadable ones, a name that is no UTF-8, or a file that is also a validation image.
    """
    ids = {f"extra/{case_id}": path for case_id, path in _find_images(folder).items()}
    if not ids:
        raise UserError(f"{folder} holds no images.")
    samples = open_samples([Sample(case_id=i, image=path, mask=None, group=i) for i, path in ids.items()])
    readable = _without_errors(samples, folder, skip_bad_files=skip_bad_files)
    hashes = {sample.image_hash: sample.image for sample in foreign_to}
    copies = [f"{s.image} is {hashes[s.image_hash]}" for s in readable if s.image_hash in hashes]
    if copies:
        text = _listing(f"{len(copies)} images of {folder} are also validation images:", copies)
        raise UserError(f"{text}\nRemove them from {folder}: training images can't validate.")
    return readable


def _listing(head: str, rows: Iterable[str]) -> str:
    return listing(head, rows, most=50, hint=" (`python prepare_data.py check` lists all)")


def assign_folds(samples: list[Sample], folds: int, seed: int) -> np.ndarray:
    """Fold of each sample, (len(samples),), 0 … folds − 1.

    Groups are never split; within that, each fold gets its part of the authentic images and of every size.

    Raises:
        UserError: Fewer groups than folds.
    """
    # Imported here: it takes a second, which `check`, `import` and a submission need not wait.
    from sklearn.model_selection import StratifiedGroupKFold

    groups = [sample.group for sample in samples]
    if len(set(groups)) < folds:
        raise UserError(f"{len(set(groups))} groups of images can't be split into {folds} folds; use fewer folds.")
    sizes = [sample.size for sample in samples]
    # scikit-learn refuses classes with fewer members than folds: a rare size joins `forged`.
    counts = Counter(sizes)
    strata = [size if counts[size] >= folds else "forged" for size in sizes]
    if Counter(strata)["forged"] < folds:
        strata = ["authentic" if size == "authentic" else "forged" for size in sizes]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    assigned = np.empty(len(samples), np.int64)
    for fold, (_, members) in enumerate(splitter.split(samples, strata, groups)):
        assigned[members] = fold
    return assigned


def fingerprint(samples: list[Sample]) -> str:
    """Hash of opened samples: names, labels, groups, sizes and forged areas, but not where the folder is; 16 digits."""
    lines = sorted(
        f"{s.case_id},{s.forged},{s.group},{s.image_bytes},{s.height},{s.width},{s.area_share}" for s in samples
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

"""The images of a data folder as a list of samples, the faults of the folder, and the folds.

The layout (that of the competition):

    train_images/authentic/<case_id>.png     train_images/forged/<case_id>.png
    train_masks/<case_id>.npy                supplemental_images/, supplemental_masks/  (forged, flat)
    groups.csv                               optional: case_id,group,kind
    train_index.csv, supplemental_index.csv  made here (see `common.data.index`)

`groups.csv` names the source that an image was made from. Without it the case id is the group, which is right for
the competition, where a forged image has the case id of its authentic original.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.images import find_images
from common.data.index import Entry, Facts, inspect, read_index, stamps_of, write_index
from common.errors import UserError, listing
from common.sizes import size_of
from common.tables import read_table


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a data folder."""

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
    area_share: float = 0.0
    """Forged share of the image, all channels together, in [0, 1]. It, sides and hashes are known once inspected."""
    image_hash: str = ""
    mask_hash: str = ""
    """SHA-256 of the files; empty for no mask."""

    @property
    def forged(self) -> bool:
        """Whether the image has a forged region."""
        return self.mask is not None

    @property
    def size(self) -> str:
        """`authentic`, or the size of the forgery: tiny, small, medium, large, xlarge."""
        return size_of(self.area_share) if self.forged else "authentic"


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
    forged_dir = images_dir if split == "supplemental" else images_dir / "forged"
    authentic = {} if split == "supplemental" else _find_images(images_dir / "authentic")
    forged = _find_images(forged_dir)
    if not authentic and not forged:
        raise UserError(f"{images_dir} holds no images.")
    masks = {case_id: masks_dir / f"{case_id}.npy" for case_id in forged}
    there = {f"{parent}{os.sep}{name}" for parent, _, names in os.walk(masks_dir) for name in names}
    # What was listed need not be asked for; the listing does not follow links to folders.
    missing = [path for path in masks.values() if str(path) not in there and not path.is_file()]
    if missing:
        raise UserError(_listing(f"{len(missing)} forged images have no mask. Expected:", map(str, missing)))
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
    broken = [repr(str(path)) for name, path in images.items() if name.encode(errors="replace").decode() != name]
    if broken:
        raise UserError(_listing(f"{len(broken)} names of images are no UTF-8; rename these files:", broken))
    return images


def read_groups(path: Path) -> dict[str, tuple[str, str]]:
    """Case id → (group, kind) of a groups.csv; nothing where there is none.

    Raises:
        UserError: The file is no table, or lacks the columns case_id and group.
    """
    if not path.is_file():
        return {}
    table = read_table(path, ("case_id", "group"))
    # As lists: pandas hands out one entry of a column after the other a tenth as fast.
    ids, groups = table["case_id"].tolist(), table["group"].tolist()
    kinds = table["kind"].tolist() if "kind" in table else [""] * len(table)
    return dict(zip(ids, zip(groups, kinds, strict=True), strict=True))


def inspect_samples(samples: list[Sample]) -> tuple[list[Sample], list[tuple[Sample, str]]]:
    """Decode every image and mask once.

    Returns:
        The sound samples with what their files hold, and the others, each with what is wrong with it.
    """
    return _parted(samples, _inspect_all(samples))


def _inspect_all(samples: list[Sample]) -> list[Facts | str]:
    """What the files of each sample hold, or what is wrong with them."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.map(_inspect, samples), "reading", len(samples), unit="img", leave=False, disable=None))


def _inspect(sample: Sample) -> Facts | str:
    try:
        return inspect(sample.image, sample.mask)
    except (UserError, OSError) as error:  # the latter where a file vanishes while it is read
        return str(error)


def _parted(samples: list[Sample], found: list[Facts | str]) -> tuple[list[Sample], list[tuple[Sample, str]]]:
    sound, bad = [], []
    for sample, facts in zip(samples, found, strict=True):
        if isinstance(facts, str):
            bad.append((sample, facts))
            continue
        known = {"height": facts.height, "width": facts.width, "area_share": facts.area_share}
        known |= {"image_hash": facts.image_hash, "mask_hash": facts.mask_hash}
        sound.append(Sample(**vars(sample) | known))  # `replace` takes twice as long
    return sound, bad


def load_samples(data_dir: Path, split: str = "train", skip_bad_files: bool = False) -> list[Sample]:
    """Find and inspect the samples of a split; files that the folder's index knows are not opened again.

    Args:
        data_dir: Folder in the layout above.
        split: `train` or `supplemental`.
        skip_bad_files: Leave bad files out and print each, instead of raising.

    Raises:
        UserError: With the list of all bad files, each with its fault.
    """
    samples = find_samples(data_dir, split)
    path = data_dir / f"{split}_index.csv"
    index = read_index(path)
    start = len(str(data_dir / "_")) - 1
    # Before any file is opened: what changes meanwhile has other stamps at the next start.
    rows = [_entry(sample, index.get((sample.case_id, sample.forged)), start) for sample in samples]
    found: list[Facts | str | None] = [row.facts for row in rows]
    new = [position for position, facts in enumerate(found) if facts is None]
    for position, facts in zip(new, _inspect_all([samples[position] for position in new]), strict=True):
        found[position] = facts
        if isinstance(facts, Facts):
            rows[position] = rows[position]._replace(facts=facts)

    entries = [row for row in rows if row.stamps and row.facts]
    if entries != list(index.values()):
        write_index(path, entries)
    sound, bad = _parted(samples, found)
    return _sound(sound, bad, data_dir, skip_bad_files)


def _entry(sample: Sample, known: Entry | None, start: int) -> Entry:
    """The row of a sample, whose paths begin at a character; with facts if the index has them of the same files."""
    image, mask = str(sample.image)[start:], str(sample.mask)[start:] if sample.mask else ""
    stamps = stamps_of(sample.image, sample.mask)
    facts = known.facts if known is not None and (known.image, known.stamps) == (image, stamps) else None
    return Entry(sample.case_id, sample.forged, image, mask, sample.group, sample.kind, stamps, facts)


def _sound(sound: list[Sample], bad: list[tuple[Sample, str]], folder: Path, skip_bad_files: bool) -> list[Sample]:
    """The sound samples, after the bad ones were raised or printed."""
    if bad:
        text = _listing(f"{len(bad)} bad files in {folder}:", (fault for _, fault in bad))
        if not skip_bad_files:
            raise UserError(f"{text}\nMend or remove them, or leave them out with --skip-bad-files.")
        print(f"left out: {text}")
    return sound


def load_authentic(folder: Path, foreign_to: list[Sample], skip_bad_files: bool = False) -> list[Sample]:
    """Samples of a folder of authentic images, beside those of the data folder; case ids begin with `extra/`.

    They are opened at every start: no index is kept in a folder that is not a data folder.

    Args:
        folder: With its subfolders; every image counts as a source of its own.
        foreign_to: Inspected images that must not be among them: those that validate.
        skip_bad_files: Leave unreadable files out and print each, instead of raising.

    Raises:
        UserError: No images, unreadable ones, a name that is no UTF-8, or a file that also validates.
    """
    ids = {f"extra/{case_id}": path for case_id, path in _find_images(folder).items()}
    if not ids:
        raise UserError(f"{folder} holds no images (PNG, JPEG, TIFF, BMP, WEBP).")
    samples = [Sample(case_id=case_id, image=path, mask=None, group=case_id) for case_id, path in ids.items()]
    sound, bad = inspect_samples(samples)
    hashes = {sample.image_hash: sample for sample in foreign_to}
    copies = [(s.image, hashes[s.image_hash].image) for s in sound if s.image_hash in hashes]
    if copies:
        text = _listing(f"{len(copies)} images of {folder} also validate:", (f"{a} is {b}" for a, b in copies))
        raise UserError(f"{text}\nRemove them from {folder}: what is trained on can't validate.")
    return _sound(sound, bad, folder, skip_bad_files)


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
        raise UserError(f"{len(set(groups))} groups of images can't be parted into {folds} folds; lower --folds.")
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
    """Hash of what inspected samples are: names, labels, groups, sizes and forged areas (not where the folder is)."""
    lines = sorted(
        f"{s.case_id},{s.forged},{s.group},{s.image.stat().st_size},{s.height},{s.width},{s.area_share}"
        for s in samples
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

"""The images of a data folder as a list of samples, the faults of the folder, and the folds.

The layout (that of the competition):

    train_images/authentic/<case_id>.png     train_images/forged/<case_id>.png
    train_masks/<case_id>.npy                supplemental_images/, supplemental_masks/  (forged, flat)
    groups.csv                               optional: case_id,group,kind

`groups.csv` names the source that an image was made from. Without it the case id is the group, which is right for
the competition, where a forged image has the case id of its authentic original.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from common.data.images import find_images, read_image, read_mask
from common.errors import UserError, listing
from common.sizes import size_of
from common.tables import read_table

import numpy as np
from tqdm import tqdm


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
    """Forged share of the image, all channels together, in [0, 1]. It and the sides are known once inspected."""

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
        UserError: No such folder, no images in it, two files with one case id, or a forged image without a mask.
    """
    images_dir, masks_dir = data_dir / f"{split}_images", data_dir / f"{split}_masks"
    if not images_dir.is_dir():
        raise UserError(
            f"{data_dir} has no folder {images_dir.name}. Make a data folder with `python prepare_data.py demo` "
            "or `python prepare_data.py import SOURCE OUTPUT`; data/README.md shows the layout."
        )
    forged_dir = images_dir if split == "supplemental" else images_dir / "forged"
    authentic = {} if split == "supplemental" else find_images(images_dir / "authentic")
    forged = find_images(forged_dir)
    if not authentic and not forged:
        raise UserError(f"{images_dir} holds no images.")
    masks = {case_id: masks_dir / f"{case_id}.npy" for case_id in forged}
    missing = [path for path in masks.values() if not path.is_file()]
    if missing:
        raise UserError(_listing(f"{len(missing)} forged images have no mask. Expected:", map(str, missing)))
    sources = read_groups(data_dir / "groups.csv")

    def sample(case_id: str, image: Path, mask: Path | None) -> Sample:
        group, kind = sources.get(case_id, (case_id, ""))
        return Sample(case_id=case_id, image=image, mask=mask, group=group, kind=kind if mask else "")

    return [sample(i, path, None) for i, path in authentic.items()] + [
        sample(i, path, masks[i]) for i, path in forged.items()
    ]


def read_groups(path: Path) -> dict[str, tuple[str, str]]:
    """Case id → (group, kind) of a groups.csv; nothing where there is none.

    Raises:
        UserError: The file is no table, or lacks the columns case_id and group.
    """
    if not path.is_file():
        return {}
    table = read_table(path, ("case_id", "group"))
    kinds = table["kind"] if "kind" in table else [""] * len(table)
    return dict(zip(table["case_id"], zip(table["group"], kinds, strict=True), strict=True))


def inspect_samples(samples: list[Sample]) -> tuple[list[Sample], list[tuple[Sample, str]]]:
    """Decode every image and mask once.

    Returns:
        The sound samples with their sides and area shares, and the others, each with what is wrong with it.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(tqdm(pool.map(_inspect, samples), "reading", len(samples), unit="img", leave=False, disable=None))
    sound = [sample for sample in found if isinstance(sample, Sample)]
    bad = [(sample, fault) for sample, fault in zip(samples, found, strict=True) if isinstance(fault, str)]
    return sound, bad


def _inspect(sample: Sample) -> Sample | str:
    """The sample with its sides and area share, or what is wrong with it."""
    try:
        height, width = read_image(sample.image).shape[:2]
        if sample.mask is None:
            return replace(sample, height=height, width=width)
        mask = read_mask(sample.mask)
    except UserError as error:
        return str(error)
    if mask.shape[1:] != (height, width):
        return f"{sample.mask}: the mask is {mask.shape[1]}×{mask.shape[2]}, its image {height}×{width}"
    if not mask.size or not mask.any(axis=(1, 2)).all():
        return f"{sample.mask}: a mask channel marks no pixel"
    return replace(sample, height=height, width=width, area_share=float(mask.any(axis=0).mean()))


def load_samples(data_dir: Path, split: str = "train", skip_bad_files: bool = False) -> list[Sample]:
    """Find and inspect the samples of a split.

    Args:
        data_dir: Folder in the layout above.
        split: `train` or `supplemental`.
        skip_bad_files: Leave bad files out and print each, instead of raising.

    Raises:
        UserError: With the list of all bad files, each with its fault.
    """
    return _sound(find_samples(data_dir, split), data_dir, skip_bad_files)


def _sound(samples: list[Sample], folder: Path, skip_bad_files: bool) -> list[Sample]:
    """The inspected samples without the bad ones, which are raised or printed."""
    sound, bad = inspect_samples(samples)
    if bad:
        text = _listing(f"{len(bad)} bad files in {folder}:", (fault for _, fault in bad))
        if not skip_bad_files:
            raise UserError(f"{text}\nMend or remove them, or leave them out with --skip-bad-files.")
        print(f"left out: {text}")
    return sound


def load_authentic(folder: Path, foreign_to: list[Sample], skip_bad_files: bool = False) -> list[Sample]:
    """Samples of a folder of authentic images, beside those of the data folder; case ids begin with `extra/`.

    Args:
        folder: With its subfolders; every image counts as a source of its own.
        foreign_to: Images that must not be among them: those that validate.
        skip_bad_files: Leave unreadable files out and print each, instead of raising.

    Raises:
        UserError: No images, unreadable ones, or a file that also validates.
    """
    ids = {f"extra/{case_id}": path for case_id, path in find_images(folder).items()}
    if not ids:
        raise UserError(f"{folder} holds no images (PNG, JPEG, TIFF, BMP, WEBP).")
    samples = [Sample(case_id=case_id, image=path, mask=None, group=case_id) for case_id, path in ids.items()]
    hashes = {_file_hash(sample.image): sample for sample in foreign_to}
    copies = [(s.image, hashes[h].image) for s in samples if (h := _file_hash(s.image)) in hashes]
    if copies:
        text = _listing(f"{len(copies)} images of {folder} also validate:", (f"{a} is {b}" for a, b in copies))
        raise UserError(f"{text}\nRemove them from {folder}: what is trained on can't validate.")
    return _sound(samples, folder, skip_bad_files)


def _file_hash(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


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

"""Import of data sets of the form `images/` + `masks/` + `authentic/` into the layout of `common.data.samples`.

images/     forged images                authentic/  authentic images (may be missing)
masks/      one mask for each of images/: same name, or with `_gt`, `_mask`, ... appended; an image or .npy
index.csv   optional: file, and any of label, mask, kind, group (paths relative to the source folder)
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.images import scan_images
from common.data.masks import MOST_COVERED, read_mask
from common.data.samples import Sample
from common.errors import UserError, listing, readable
from common.files import files_below
from common.making.layout import write_groups, write_mask, write_sample_submission
from common.patterns import checked, search_all
from common.suffixes import IMAGE_SUFFIXES
from common.tables import read_table

MASK_ENDINGS = ("_gt", "_mask", "_groundtruth", "_ground_truth", "_forged", "-gt", "-mask")
"""Suffixes that the name of a mask may add to that of its image, in lower or upper case."""

FORM = (
    "It needs images/ (forged images) and masks/ (their masks), and may have authentic/ and index.csv; "
    "data/README.md describes the form."
)


@dataclass(frozen=True, kw_only=True)
class SourceContent:
    """The content of a source folder, before any image is opened."""

    samples: list[Sample]
    """With the paths in the source folder."""
    faults: list[str]
    """Files that can't be imported, each with the reason."""
    notes: list[str]
    """How the groups were found, and which files are ignored."""


def find_source(source: Path, group_pattern: str | None = None) -> SourceContent:
    """List the samples of a source folder.

    Args:
        source: Folder of the form above.
        group_pattern: Regular expression whose first group matches the image's group in a file's stem; it takes
            precedence over index.csv.

    Raises:
        UserError: The folder has another form, index.csv has no column `file`, or the pattern is invalid or takes
            too long.
    """
    if not (source / "images").is_dir():
        ready = (source / "train_images").is_dir()
        raise UserError(f"{source} has no folder images. {'It is a data folder already: use it.' if ready else FORM}")
    if group_pattern and not checked(group_pattern, "group pattern").groups:
        raise UserError(f"The group pattern {group_pattern!r} needs a group in parentheses around the source's name.")
    faults: list[str] = []
    files: dict[str, dict[str, Path]] = {}
    for folder in ("images", "authentic"):
        files[folder], duplicates = scan_images(source / folder) if (source / folder).is_dir() else ({}, [])
        faults += [f"{' and '.join(map(str, paths))}: one name for several files" for paths in duplicates]
    if not files["images"] and not files["authentic"] and not faults:
        raise UserError(f"{source} holds no images. {FORM}")
    index = _read_index(source, faults)
    if files["images"] and index is None and not (source / "masks").is_dir():
        raise UserError(
            f"{source} has no folder masks. Images without forgeries belong in authentic/; "
            "`python prepare_data.py demo --from` forges them."
        )
    masks = _find_masks(source / "masks")
    named = [(folder, case_id, image) for folder, images in files.items() for case_id, image in images.items()]
    stems = [Path(case_id).name for _, case_id, _ in named]
    groups = _groups_by_pattern(group_pattern, stems) if group_pattern else [None] * len(named)
    samples = []
    for (folder, case_id, image), group in zip(named, groups, strict=True):
        row = {} if index is None else index.get(image.relative_to(source).as_posix())
        try:
            if group == "":
                raise UserError(f"its name doesn't match the group pattern {group_pattern}")
            samples.append(_make_sample(case_id, image, row, masks if folder == "images" else None, group, source))
        except UserError as error:
            faults.append(f"{image}: {error}")
    samples = _drop_contradictions(samples, faults)
    notes = [_grouping_note(samples, index, by_pattern=bool(group_pattern))]
    unused = {path for paths in masks.values() for path in paths} - {sample.mask for sample in samples}
    if unused and not faults:
        notes.append(
            f"{len(unused)} files in masks/ belong to no image and are ignored, {readable(min(unused).name)} first"
        )
    if not files["authentic"]:
        notes.append("there are no authentic images: from forged ones alone a model can't learn what is authentic")
    return SourceContent(samples=samples, faults=faults, notes=notes)


def _groups_by_pattern(group_pattern: str, names: Sequence[str]) -> list[str]:
    """What the first group of the pattern matches in each name; empty where it does not match."""
    return [found[1] or "" if found else "" for found in search_all(group_pattern, names, "group pattern")]


def _read_index(source: Path, faults: list[str]) -> dict[str, dict[str, str]] | None:
    """File → its row of index.csv; None without an index.csv."""
    path = source / "index.csv"
    if not path.is_file():
        return None
    table = read_table(path, ["file"])
    counts = Counter(table["file"])
    faults += [f"{path}: {count} rows for {file}" for file, count in counts.items() if count > 1]
    faults += [f"{path}: names {file}, which does not exist" for file in counts if not (source / file).is_file()]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False, name=None)]
    return {row["file"]: row for row in rows}


def _find_masks(folder: Path) -> dict[str, list[Path]]:
    """Name of a mask in lower case, with and without its ending → files."""
    masks = defaultdict(list)
    for path in files_below(folder) if folder.is_dir() else []:
        if path.suffix.lower() not in {*IMAGE_SUFFIXES, ".npy"}:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix().lower()
        masks[name].append(path)
        for ending in MASK_ENDINGS:
            if name.endswith(ending):
                masks[name.removesuffix(ending)].append(path)
    return masks


def _make_sample(
    case_id: str,
    image: Path,
    row: dict[str, str] | None,
    masks: dict[str, list[Path]] | None,
    group: str | None,
    source: Path,
) -> Sample:
    """The sample of an image with its row of index.csv.

    `masks` is None for the images of authentic/, `group` where no pattern gives it.

    Raises:
        UserError: What is wrong with it, without its name.
    """
    if readable(case_id) != case_id:
        raise UserError("its name is no UTF-8 or holds control characters, which no table can hold; rename it")
    if row is None:
        raise UserError("is not in index.csv")
    label, other = ("authentic", "forged") if masks is None else ("forged", "authentic")
    if row.get("label") == other:
        raise UserError(f"is among the {label} images, but index.csv calls it {other}")
    mask = None if masks is None else _find_mask(case_id, row, masks, source)
    group = group or row.get("group") or case_id
    if readable(group) != group:
        raise UserError(f"its group in index.csv, {group!r}, holds control characters")
    return Sample(case_id=case_id, image=image, mask=mask, group=group, kind=row.get("kind", "") if mask else "")


def _find_mask(case_id: str, row: dict[str, str], masks: dict[str, list[Path]], source: Path) -> Path:
    if row.get("mask"):
        mask = source / row["mask"]
        if not mask.is_file():
            raise UserError(f"its mask {mask} does not exist")
        return mask
    found = masks.get(case_id.lower(), [])
    if not found:
        raise UserError("has no mask in masks/ (same name, or with _gt, _mask, ... appended; an image or .npy)")
    if len(found) > 1:
        raise UserError(f"has several masks: {', '.join(path.name for path in found)}")
    return found[0]


def _drop_contradictions(samples: list[Sample], faults: list[str]) -> list[Sample]:
    """Drop images that share their name with one of another group: in the layout a name has one group."""
    groups = defaultdict(set)
    for sample in samples:
        groups[sample.case_id].add(sample.group)
    faults += [
        f"{case_id}: the image of this name in images/ and that in authentic/ have different groups in index.csv "
        f"({', '.join(sorted(found))}); rename one of them"
        for case_id, found in groups.items()
        if len(found) > 1
    ]
    return [sample for sample in samples if len(groups[sample.case_id]) == 1]


def _grouping_note(samples: list[Sample], index: dict | None, *, by_pattern: bool) -> str:
    groups = {sample.group for sample in samples}
    if by_pattern:
        return f"{len(groups)} groups by the group pattern"
    if index is not None and any("group" in row for row in index.values()):
        return f"{len(groups)} groups from index.csv"
    if len(groups) < len(samples):
        return f"{len(groups)} groups: images of the same name in images/ and authentic/ belong together"
    return (
        "every image is its own group: where images were made from the same source, folds will leak; "
        "name the source by a group pattern or in index.csv"
    )


def hold_out(samples: list[Sample], share: float, seed: int) -> np.ndarray:
    """Choose whole groups with about `share` of the authentic images and of the forgeries of every size.

    Args:
        samples: Opened samples.
        share: In (0, 1).
        seed: Of the order in which groups are tried.

    Returns:
        bool (len(samples),): which are chosen.

    Raises:
        UserError: There are too few groups, or too large ones.
    """
    strata = sorted({sample.size for sample in samples})
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(strata)))
    for sample in samples:
        counts[sample.group][strata.index(sample.size)] += 1
    target = share * np.sum(list(counts.values()), axis=0)
    rng = np.random.default_rng(seed)
    trials = [_fill_up(counts, target, rng.permutation(sorted(counts))) for _ in range(50)]
    chosen, _ = min(trials, key=lambda trial: trial[1])
    if not chosen or len(chosen) == len(counts):
        raise UserError(f"{len(counts)} groups of images can't be split at a share of {share}.")
    return np.array([sample.group in chosen for sample in samples])


def _fill_up(counts: dict[str, np.ndarray], target: np.ndarray, order: np.ndarray) -> tuple[set[str], float]:
    """Take groups in this order if they bring the counts nearer to the target; they, and the distance left."""
    chosen: set[str] = set()
    missing = target
    for group in order:
        if np.linalg.norm(missing - counts[group]) < np.linalg.norm(missing):
            missing = missing - counts[group]
            chosen.add(group)
    return chosen, float(np.linalg.norm(missing))


def import_samples(
    samples: list[Sample], held: np.ndarray, folder: Path, *, link: bool = False, masks_are_upright: bool = False
) -> None:
    """Copy samples into a new data folder; images keep their bytes, masks become `.npy`.

    Args:
        samples: Opened samples with the paths of their source.
        held: bool (len(samples),): those that go to test_images/ instead of train_images/.
        folder: From `common.making.layout.new_folder`.
        link: Link to the images instead of copying them.
        masks_are_upright: Turn masks of the upright pictures back, to the pixels as stored.
    """
    train = [(sample.case_id, sample) for sample, away in zip(samples, held, strict=True) if not away]
    test = _unique_names([sample for sample, away in zip(samples, held, strict=True) if away])
    jobs = [("train", *named) for named in train] + [("test", *named) for named in test]
    for split, case_id, sample in tqdm(jobs, "copying", unit="img", leave=False, disable=None):
        target = folder / f"{split}_images" / ("" if split == "test" else sample.label)
        target /= f"{case_id}{sample.image.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(sample.image.resolve())
        else:
            shutil.copyfile(sample.image, target)
        if sample.mask is not None:
            mask = read_mask(sample.mask, sample.orientation if masks_are_upright else 1)
            write_mask(folder / f"{split}_masks" / f"{case_id}.npy", mask)
    # An authentic image and its forged twin share a row; only the forged one has a kind, and comes last.
    named = sorted([*train, *test], key=lambda pair: pair[1].forged)
    write_groups(folder, {case_id: (case_id, sample.group, sample.kind) for case_id, sample in named}.values())
    if test:
        write_sample_submission(folder, sorted(case_id for case_id, _ in test))


def mask_notes(samples: list[Sample], *, masks_are_upright: bool) -> list[str]:
    """What to look at in the masks of opened samples: EXIF orientations, and masks that cover nearly everything."""
    notes = []
    oriented = [sample for sample in samples if sample.mask and sample.orientation != 1]
    if oriented:
        text = f"{len(oriented)} forged images have an EXIF orientation, {oriented[0].image.name} first; their masks "
        turned = "were turned back, since they are of the upright pictures"
        as_stored = (
            "are taken to fit the pixels as stored. If they fit the upright pictures, import with --masks-are-upright"
        )
        notes.append(text + (turned if masks_are_upright else as_stored))
    covering = [sample.mask.name for sample in samples if sample.mask and sample.area_share > MOST_COVERED]
    if covering:
        head = f"{len(covering)} masks cover more than {MOST_COVERED:.0%} of their image; are they masks?"
        notes.append(listing(head, covering))
    return notes


def _unique_names(samples: list[Sample]) -> list[tuple[str, Sample]]:
    """Case ids for the flat test folder, where an authentic image can't have the name of its forged twin."""
    forged = {sample.case_id for sample in samples if sample.forged}
    taken = {sample.case_id for sample in samples}
    named = []
    for sample in samples:
        case_id = sample.case_id
        if not sample.forged and case_id in forged:
            while case_id in taken:
                case_id += "_original"
            taken.add(case_id)
        named.append((case_id, sample))
    return named

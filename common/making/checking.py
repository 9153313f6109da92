"""Check of a data folder: lists all faults of its images, masks and tables, and changes nothing."""

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.data.images import Picture, read_picture, scan_images
from common.data.leaks import leak_note
from common.data.masks import MOST_COVERED, misfit, read_mask
from common.data.samples import groups_of
from common.errors import UserError, readable
from common.files import files_below
from common.suffixes import IMAGE_SUFFIXES
from common.tables import read_table

AUTHENTIC, FORGED = "train_images/authentic", "train_images/forged"
PARTS = {
    AUTHENTIC: None,
    FORGED: "train_masks",
    "supplemental_images": "supplemental_masks",
    "test_images": "test_masks",
}
"""Folder of images → that of their masks. In test_images/ an image without a mask is authentic."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of a data folder."""

    kind: str
    file: str
    """Relative to the data folder."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a check."""

    faults: list[Fault]
    images: dict[str, int]
    """Number of image files in each of the folders that exist."""
    oriented: list[str]
    """Images with a mask and an EXIF orientation that turns them, relative to the data folder."""
    leak: str | None
    """What tells authentic and forged training images apart by their headers, in words (`common.data.leaks`)."""

    def by_kind(self) -> dict[str, list[Fault]]:
        """The faults of each kind, sorted by file; kinds in the order in which they were found."""
        kinds: dict[str, list[Fault]] = defaultdict(list)
        for fault in self.faults:
            kinds[fault.kind].append(fault)
        return {kind: sorted(faults, key=lambda fault: fault.file) for kind, faults in kinds.items()}

    @property
    def counts(self) -> str:
        """The numbers of images, as text."""
        return ", ".join(f"{count} in {folder}" for folder, count in self.images.items())


def check_folder(data_dir: Path) -> Report:
    """Find all faults of a data folder; every image and mask is decoded.

    Raises:
        UserError: The folder does not exist, or has none of the layout's folders.
    """
    if not data_dir.is_dir():
        raise UserError(f"{data_dir} is not a folder. Name a data folder.")
    check = _Check(data_dir)
    parts = [part for part in PARTS if (data_dir / part).is_dir()]
    if not parts:
        raise UserError(f"{data_dir} is no data folder: it has none of {', '.join(PARTS)}. See data/README.md.")
    for part in parts:
        check.part(part, PARTS[part])
    check.stray_files()
    check.decode()
    check.twins()
    check.groups()
    check.sample_submission()
    images = {part: len(check.images[part]) for part in parts}
    return Report(faults=check.faults, images=images, oriented=check.oriented, leak=check.leak())


class _Check:
    """The faults found so far, and the images with their sizes for later checks."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.faults: list[Fault] = []
        self.images: dict[str, list[tuple[str, Path]]] = {part: [] for part in PARTS}
        self.jobs: list[tuple[Path, Path | None]] = []
        self.sides: dict[Path, tuple[int, ...]] = {}
        self.has_alpha: dict[Path, bool] = {}
        self.oriented: list[str] = []
        self.sources: dict[str, str] = {}

    def add(self, kind: str, path: Path, text: str) -> None:
        file = readable(path.relative_to(self.data_dir).as_posix())
        self.faults.append(Fault(kind=kind, file=file, text=readable(text)))

    def ids(self, part: str) -> set[str]:
        return {case_id for case_id, _ in self.images[part]}

    def part(self, part: str, masks: str | None) -> None:
        """List the images of a folder; note duplicates and missing masks."""
        found, duplicates = scan_images(self.data_dir / part)
        self.images[part] = list(found.items())
        for paths in duplicates:
            names = " and ".join(path.name for path in paths)
            self.add("duplicate id", paths[0], f"{names} share one case id; keep one")
            case_id = paths[0].relative_to(self.data_dir / part).with_suffix("").as_posix()
            self.images[part] += [(case_id, path) for path in paths]
        for case_id, path in self.images[part]:
            if readable(case_id) != case_id:
                self.add("name", path, "is no UTF-8 or holds control characters, which no table can hold; rename it")
            mask = self.data_dir / masks / f"{case_id}.npy" if masks else None
            if mask is not None and not mask.is_file():
                if part != "test_images":
                    self.add("forged image without mask", path, f"{masks}/{case_id}.npy is missing")
                mask = None
            self.jobs.append((path, mask))

    def stray_files(self) -> None:
        """Find files that no program would read, and masks without an image."""
        folders = {"train_images", *(part.split("/")[0] for part in PARTS)}
        for folder in sorted(folders):
            listed = {path for part in PARTS if part.startswith(folder) for _, path in self.images[part]}
            for path in self._files(folder):
                if path in listed:
                    continue
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    self.add("stray file", path, "lies in neither authentic/ nor forged/")
                else:
                    self.add("stray file", path, f"is no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        for part, masks in PARTS.items():
            for path in self._files(masks) if masks else []:
                case_id = path.relative_to(self.data_dir).with_suffix("").as_posix().removeprefix(f"{masks}/")
                if path.suffix != ".npy":
                    self.add("stray file", path, "is no .npy; `prepare_data.py import` converts masks")
                elif case_id not in self.ids(part):
                    self.add("mask without image", path, f"{part}/ has no image {case_id}")

    def leak(self) -> str | None:
        """Whether headers tell the classes of the training images apart."""
        images = [(*image, part == FORGED) for part in (AUTHENTIC, FORGED) for image in self.images[part]]
        sources = [self.sources.get(case_id, case_id) for case_id, _, _ in images]
        forged = [own for _, _, own in images]
        return leak_note([path for _, path, _ in images], forged, sources, ("authentic", "forged images"))

    def _files(self, folder: str) -> list[Path]:
        return files_below(self.data_dir / folder) if (self.data_dir / folder).is_dir() else []

    def decode(self) -> None:
        """Open every image and mask."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            opened = pool.map(lambda job: _examine(*job), self.jobs)
            opened = tqdm(opened, "reading", len(self.jobs), unit="img", leave=False, disable=None)
            for (image, mask), (facts, faults) in zip(self.jobs, opened, strict=True):
                if facts:
                    self.sides[image], self.has_alpha[image], orientation = facts
                    if mask is not None and orientation != 1:
                        self.oriented.append(image.relative_to(self.data_dir).as_posix())
                for kind, path, text in faults:
                    self.add(kind, path, text)

    def twins(self) -> None:
        """An authentic image and its forged twin have the same size, and transparency doesn't reveal the label."""
        twins = [dict(self.images[part]) for part in (AUTHENTIC, FORGED)]
        for case_id in sorted(twins[0].keys() | twins[1].keys()):
            pair = [images[case_id] for images in twins if images.get(case_id) in self.sides]
            sides = [self.sides[path] for path in pair]
            if len(set(sides)) == 2:
                text = "is {}×{}, its forged twin {}×{}".format(*sides[0], *sides[1])
                self.add("twin of another size", pair[0], text)
            transparent = [path for path in pair if self.has_alpha[path]]
            if len(transparent) == 1:
                text = "has transparency that no twin has, which reveals the label; store as RGB"
                self.add("alpha channel", transparent[0], text)

    def groups(self) -> None:
        """groups.csv names images that exist, each once, and no group is on both sides of the split."""
        table, path = self._table("groups.csv", "group"), self.data_dir / "groups.csv"
        if table is None:
            return
        train, test = self.ids(AUTHENTIC) | self.ids(FORGED), self.ids("test_images")
        for case_id in table["case_id"].unique():
            if case_id not in train | test | self.ids("supplemental_images"):
                self.add("groups.csv", path, f"names {case_id!r}, which is no image")
        pairs = groups_of(table)
        self.sources = dict(pairs)
        sides = [{group for case_id, group in pairs if case_id in ids} for ids in (train, test - train)]
        for group in sorted(sides[0] & sides[1]):
            self.add("groups.csv", path, f"group {group!r} is among the training and the test images")

    def sample_submission(self) -> None:
        """sample_submission.csv has one row for each test image."""
        name, ids = "sample_submission.csv", self.ids("test_images")
        table = self._table(name, "annotation")
        for case_id in sorted(ids ^ set(table["case_id"])) if table is not None else []:
            lacking = f"has no row for the test image {case_id!r}"
            text = lacking if case_id in ids else f"has a row for {case_id!r}, which is no test image"
            self.add(name, self.data_dir / name, text)

    def _table(self, name: str, column: str) -> pd.DataFrame | None:
        """A table with the columns case_id and `column`, or None if it can't be read; note repeated case ids."""
        path = self.data_dir / name
        if not path.is_file():
            return None
        try:
            table = read_table(path, ("case_id", column))
        except UserError as error:
            self.add(name, path, _without_path(error, path))
            return None
        for case_id, count in Counter(table["case_id"]).items():
            if count > 1:
                self.add(name, path, f"has {count} rows for {case_id!r}")
        return table


def _examine(
    image: Path, mask: Path | None
) -> tuple[tuple[tuple[int, ...], bool, int] | None, list[tuple[str, Path, str]]]:
    """What `check` compares of an image, and the faults of it and its mask.

    Sides, whether it stores transparency, and orientation; None where it can't be read.
    A fault is its kind, the file and a text.
    """
    picture: Picture | None = None
    faults = []
    try:
        picture = read_picture(image)
    except UserError as error:
        faults.append(("unreadable image", image, _without_path(error, image)))
    facts = (picture.pixels.shape[:2], picture.has_alpha, picture.orientation) if picture else None
    return facts, faults + (_mask_faults(mask, picture) if mask else [])


def _mask_faults(mask: Path, picture: Picture | None) -> list[tuple[str, Path, str]]:
    try:
        channels = read_mask(mask)
    except UserError as error:
        return [("unreadable mask", mask, _without_path(error, mask))]
    faults = []
    if picture and (text := misfit(channels, picture.pixels.shape[:2], picture.orientation)):
        faults.append(("shape mismatch", mask, text))
    if not channels.any():
        faults.append(("empty mask", mask, "marks no pixel"))
    elif empty := [str(number) for number, channel in enumerate(channels, 1) if not channel.any()]:
        faults.append(("empty mask", mask, f"channel {', '.join(empty)} of {len(channels)} marks no pixel"))
    values = np.unique(np.load(mask))
    if not np.isin(values, (0, 1)).all():
        shown = ", ".join(f"{value:g}" for value in values[:6])
        faults.append(("mask values", mask, f"holds {shown}{', ...' * (len(values) > 6)} instead of 0 and 1"))
    if not faults and (share := float(channels.any(axis=0).mean())) > MOST_COVERED:
        faults.append(("mask covers the image", mask, f"marks {share:.0%} of its image; is it a mask?"))
    return faults


def _without_path(error: UserError, path: Path) -> str:
    return readable(str(error)).removeprefix(readable(f"{path} "))

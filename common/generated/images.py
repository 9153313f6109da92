"""Pictures labelled as a whole, real or generated: from a table or two folders to training, validation and test."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from common import tables
from common.data.images import find_images, read_image
from common.data.splits import SPLITS, draw_splits
from common.errors import UserError, listing

REAL, UNKNOWN = "real", "generated"
"""The `generator` of a real picture, and of a generated one of which it is not known."""


@dataclass(frozen=True)
class LabelledImage:
    """One picture of which it is known whether it was generated."""

    path: Path
    generated: bool
    split: str
    """`train`, `val` or `test`."""
    generator: str
    """What generated it: `real` for a real picture, `generated` where that is unknown."""
    prompt: str = ""
    """What it was generated from, or a caption; empty where there is none."""


def read_table(csv: Path) -> list[LabelledImage]:
    """Read a table of pictures, one a row.

    Args:
        csv: With the columns `image` (its path, relative to the table's folder), `class` (1 = generated, 0 = real) and
            `split` (train, val, test); `generator` and `prompt` may be left out or empty.

    Raises:
        UserError: It lacks a column or has no rows; a class, split or generator is none; an image is missing or
            listed twice. Rows are counted from the head, which is row 1.
    """
    table = tables.read_table(csv, ("image", "class", "split"))
    if not len(table):
        raise UserError(f"{csv} lists no images. Give each a row: image,class,split.")
    images, faults, rows = [], [], {}
    for number, row in enumerate(table.to_dict("records"), 2):
        generated, prompt = row["class"] == "1", row.get("prompt", "")
        generator = (row.get("generator") or UNKNOWN) if generated else REAL
        image = LabelledImage(csv.parent / row["image"], generated, row["split"], generator, prompt)
        first = rows.setdefault(image.path.resolve(), number)
        fault = _fault(row["class"], image) or (f"is in row {first} already" if first != number else "")
        if fault:
            faults.append(f"row {number} ({row['image']}): {fault}")
        images.append(image)
    if faults:
        raise UserError(listing(f"{csv} has {len(faults)} wrong rows:", faults))
    missing = [f"row {number}: {image.path}" for number, image in enumerate(images, 2) if not image.path.is_file()]
    if missing:
        head = f"{len(missing)} of the {len(images)} images of {csv} do not exist (paths begin at the table's folder):"
        raise UserError(listing(head, missing))
    return images


def _fault(label: str, image: LabelledImage) -> str:
    """What is wrong with a row's values; empty if nothing is."""
    if label not in ("0", "1"):
        return f"class is {label!r}; it must be 1 (generated) or 0 (real)"
    if image.split not in SPLITS:
        return f"split is {image.split!r}; it must be one of {', '.join(SPLITS)}"
    if image.generated and image.generator == REAL:
        return f"class is 1, but generator is {REAL!r}; name what generated it, or leave the field empty"
    return ""


def read_folders(
    real: Path, fake: Path, seed: int, shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
) -> list[LabelledImage]:
    """List the pictures of two folders and draw their splits.

    Pictures of the same file stem, in whichever folder, get the same split: as a rule they show the same content (a
    photograph and its processed twin, one prompt given to several generators), and a network that trained on one would
    know the other by its content. Within that, every generator and the real pictures are split by the same shares.
    The draw follows from names and seed alone, not from where the folders are.

    Args:
        real: Folder of real pictures, subfolders included.
        fake: Folder of generated ones; the name of a subfolder of it is the generator of all below it.
        seed: Of the draw.
        shares: Of train, val and test; they sum to 1.

    Raises:
        UserError: No such folder or no images in it, one folder lies in the other, two files with one case id, a
            subfolder of `fake` called real, or shares that are none.
    """
    if real.resolve().is_relative_to(fake.resolve()) or fake.resolve().is_relative_to(real.resolve()):
        raise UserError(f"{real} and {fake} share images; keep real and generated ones in folders side by side.")
    members: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for folder in (real, fake):
        paths = find_images(folder).values()
        if not paths:
            raise UserError(f"{folder} holds no images (PNG, JPEG, TIFF, BMP, WEBP).")
        for path in paths:
            members[path.stem].append((path, REAL if folder == real else _generator(path, fake)))
    # Stems whose pictures come from the same generators are one stratum.
    strata = {stem: "/".join(sorted(name for _, name in pictures)) for stem, pictures in members.items()}
    images = []
    for stem, split in draw_splits(strata, seed, shares).items():
        images += [LabelledImage(path, name != REAL, split, name) for path, name in members[stem]]
    return sorted(images, key=lambda image: (image.generated, image.path))


def _generator(path: Path, folder: Path) -> str:
    below = path.relative_to(folder).parts
    if len(below) > 1 and below[0] == REAL:
        raise UserError(f"{folder / REAL} is among the generated images. Move it, or name it after its generator.")
    return below[0] if len(below) > 1 else UNKNOWN


def inspect(images: Sequence[LabelledImage], skip_bad_files: bool = False) -> list[LabelledImage]:
    """Decode every picture once.

    Args:
        images: As read above.
        skip_bad_files: Leave bad files out and print each, instead of raising.

    Returns:
        Those that can be read.

    Raises:
        UserError: With the list of all bad files, each with its fault.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(_unreadable, images)
        faults = list(tqdm(found, "reading", len(images), unit="img", leave=False, disable=None))
    bad = [fault for fault in faults if fault]
    if bad:
        text = listing(f"{len(bad)} bad files among {len(images)} images:", bad, most=len(bad))
        if not skip_bad_files:
            raise UserError(f"{text}\nMend or remove them, or leave them out with --skip-bad-files.")
        print(f"left out: {text}")
    return [image for image, fault in zip(images, faults, strict=True) if not fault]


def _unreadable(image: LabelledImage) -> str:
    try:
        read_image(image.path)
    except UserError as error:
        return str(error)
    return ""


def hold_out(images: Sequence[LabelledImage], generator: str) -> list[LabelledImage]:
    """Leave one generator out: trained and validated on the others, tested on this one.

    All its pictures become test pictures; those that the other generators have for the test are dropped. Real pictures
    stay where they are.

    Raises:
        UserError: There is no such generator.
    """
    known = sorted({image.generator for image in images if image.generated})
    if generator not in known:
        raise UserError(f"no image was generated by {generator!r}; there are {', '.join(known) or 'none at all'}.")
    held = [replace(image, split="test") if image.generator == generator else image for image in images]
    return [image for image in held if not image.generated or image.generator == generator or image.split != "test"]


def check_splits(images: Iterable[LabelledImage]) -> None:
    """Refuse a training or validation that lacks a class.

    Raises:
        UserError: Saying which.
    """
    there = {(image.split, image.generated) for image in images}
    lacking = [
        f"{split} has no {'generated' if generated else 'real'} images"
        for split in ("train", "val")
        for generated in (False, True)
        if (split, generated) not in there
    ]
    if lacking:
        raise UserError(f"{'; '.join(lacking)}. Both classes are needed in both: add images or part them otherwise.")


def prompt_list(images: Iterable[LabelledImage]) -> list[str]:
    """The prompts that occur, each once, sorted; without the empty one."""
    return sorted({image.prompt for image in images} - {""})


def fingerprint(images: Iterable[LabelledImage]) -> str:
    """Hash of what labelled pictures are: names, byte counts, labels, splits, prompts (not where the folder is)."""
    lines = sorted(
        f"{i.path.name},{i.path.stat().st_size},{i.generated},{i.split},{i.generator},{i.prompt}" for i in images
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

"""Images labelled real or generated, with their generators, prompts and splits."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from common.data.images import find_images, read_image
from common.data.labelled import Labelled, read_class_folders, read_labelled_table
from common.data.splits import draw_splits
from common.errors import UserError, listing, readable

REAL, UNKNOWN = "real", "generated"
"""The `generator` of a real image, and of a generated one whose generator is not known."""
SHARES = (0.7, 0.15, 0.15)
"""Of train, val and test, where splits are drawn."""


@dataclass(frozen=True)
class LabelledImage:
    """One image of which it is known whether it was generated."""

    path: Path
    generated: bool
    split: str
    """`train`, `val` or `test`."""
    generator: str
    """What generated it: `real` for a real image, `generated` where that is unknown."""
    prompt: str = ""
    """What it was generated from, or a caption; empty where there is none."""
    drawn: bool = False
    """Whether its split was drawn by the seed, not given."""


def images_of_table(csv: Path, seed: int) -> list[LabelledImage]:
    """List the images of a table, one per row.

    Args:
        csv: See `read_labelled_table`; the columns `generator` and `prompt` may be missing or empty.
        seed: Of the splits, where the table has none.

    Raises:
        UserError: As `read_labelled_table`, or the generator of a generated image is called real.
    """
    found = read_labelled_table(csv)
    return _described(csv, found, [image.columns.get("generator", "") for image in found], seed)


def images_of_folders(data_dir: Path, seed: int) -> list[LabelledImage]:
    """List the images of the folders `real` and `fake`, or of these two in `train`, `val` and `test`.

    Args:
        data_dir: See `read_class_folders`. A subfolder of `fake` is the generator of all images in it.
        seed: Of the splits, where the folders are none.

    Raises:
        UserError: As `read_class_folders` and `find_images`, or a subfolder of `fake` is called real.
    """
    found = read_class_folders(data_dir, lambda folder: find_images(folder).values())
    return _described(data_dir, found, [image.name.rpartition("/")[0].split("/")[0] for image in found], seed)


def _described(source: Path, found: Sequence[Labelled], generators: Sequence[str], seed: int) -> list[LabelledImage]:
    """The images with their generators ("" where it is unknown), in splits that are drawn if none are given.

    Images of one file stem get the same split: as a rule they show the same content (a photograph and its processed
    twin, one prompt given to several generators), and a network that trained on one would know the other by its
    content. Apart from that every generator and the real images are split by the same shares. The draw depends on file
    stems, generators and seed alone, not on where the folders are.
    """
    images = [
        LabelledImage(
            labelled.path,
            labelled.fake,
            labelled.split,
            (readable(generator) or UNKNOWN) if labelled.fake else REAL,
            labelled.columns.get("prompt", ""),
        )
        for labelled, generator in zip(found, generators, strict=True)
    ]
    if wrong := [str(image.path) for image in images if image.generated and image.generator == REAL]:
        head = f"{source} has {len(wrong)} generated images whose generator is {REAL!r}; name what generated them:"
        raise UserError(listing(head, wrong))
    if all(image.split for image in images):
        return images
    generators_of: dict[str, list[str]] = defaultdict(list)
    for image in images:
        generators_of[image.path.stem].append(image.generator)
    # Stems whose images come from the same generators are one stratum.
    splits = draw_splits({stem: "/".join(sorted(names)) for stem, names in generators_of.items()}, seed, SHARES)
    return [replace(image, split=splits[image.path.stem], drawn=True) for image in images]


def readable_images(images: Sequence[LabelledImage], *, skip_bad_files: bool = False) -> list[LabelledImage]:
    """Decode every image once, and return those that can be read.

    Args:
        images: As read above.
        skip_bad_files: Leave bad files out and print each, instead of raising.

    Raises:
        UserError: With the list of all bad files, each with its fault.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(_fault, images)
        faults = list(tqdm(found, "reading", len(images), unit="img", leave=False, disable=None))
    if bad := [fault for fault in faults if fault]:
        text = listing(f"{len(bad)} bad files among {len(images)} images:", bad, most=len(bad))
        if not skip_bad_files:
            raise UserError(f"{text}\nFix or remove them, or leave them out with skip_bad_files.")
        print(f"left out: {text}")
    return [image for image, fault in zip(images, faults, strict=True) if not fault]


def _fault(image: LabelledImage) -> str:
    """Why an image can't be read; empty if it can."""
    try:
        read_image(image.path)
    except UserError as error:
        return str(error)
    return ""


def hold_out(images: Sequence[LabelledImage], generator: str) -> list[LabelledImage]:
    """Leave one generator out: trained and validated on the others, tested on this one.

    Its images become test images, but those of train and val whose file stem the training knows from others: as a rule
    they show the same content (see `_described`). The test images of the other generators are dropped. Real images
    stay in their splits.

    Raises:
        UserError: There is no such generator.
    """
    known = sorted({image.generator for image in images if image.generated})
    if generator not in known:
        raise UserError(f"no image was generated by {generator!r}; there are {', '.join(known) or 'none at all'}.")
    others = [
        image for image in images if image.generator != generator and not (image.generated and image.split == "test")
    ]
    seen = {image.path.stem for image in others if image.split != "test"}
    own = [image for image in images if image.generator == generator]
    return others + [
        replace(image, split="test") for image in own if image.split == "test" or image.path.stem not in seen
    ]


def prompt_list(images: Iterable[LabelledImage]) -> list[str]:
    """The prompts that occur, each once, sorted; without the empty one."""
    return sorted({image.prompt for image in images} - {""})


def fingerprint(images: Iterable[LabelledImage]) -> str:
    """Hash of the images' names, byte counts, labels, splits and prompts, wherever their folder is."""
    lines = sorted(
        f"{i.path.name},{i.path.stat().st_size},{i.generated},{i.split},{i.generator},{i.prompt}" for i in images
    )
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]

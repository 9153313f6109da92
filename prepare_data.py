"""Make, import and check data folders.

    python prepare_data.py examples                              # six images to look at first: forged and untouched
    python prepare_data.py demo                                  # a small data set without any download, ~30 s
    python prepare_data.py figures SOURCE data/figures           # compound figures of your micrographs, half with reuse
    python prepare_data.py pairs SOURCE data/pairs               # your untouched images, drawn figures, forged twins
    python prepare_data.py import SOURCE data/mine --holdout 0.2 # images/ + masks/ + authentic/ → the layout
    python prepare_data.py check data/mine                       # list all faults of a data folder

The layout, where public data sets come from, and their terms: data/README.md.
"""

from common.process import prepare

prepare()  # before torch is imported

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from common.data.images import find_images
from common.data.leaks import leak_note
from common.data.samples import Sample, open_samples
from common.errors import UserError, listing
from common.making.checking import check_folder
from common.making.demo import bundled_photographs, make_demo, plan_demo, usable_photographs
from common.making.examples import make_examples
from common.making.figures import RELATIONS, make_figures
from common.making.importing import find_source, hold_out, import_samples, mask_notes
from common.making.layout import new_folder
from common.making.pairs import make_pairs
from common.sizes import SIZES


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Make a small data set: forged photographs and drawn figures, with their authentic twins."""

    output: Path = Path("data/demo")
    """The data folder to make."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR")] = None
    """Authentic images to forge, in any folders below this one; by default the photographs and micrographs that come
    with scikit-image and scikit-learn."""
    seed: int = 0
    """Random seed; the same seed makes the same data set, to the byte."""
    train_pairs: int = 320
    """Number of training cases, each an authentic image and its forged twin; at least 1."""
    test_images: int = 100
    """Number of test images, 54 % of them forged, from photographs that no training image uses."""
    drawn_share: float = 0.7
    """Share of the cases that are drawn blots, gels and cells, from 0 to 1."""
    overwrite: bool = False
    """Replace the output if it is a data folder."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Make six examples for a first look: drawn figures and photographs, four of them forged."""

    output: Path = Path("data/examples")
    """The data folder to make."""
    seed: int = 0
    """Random seed; the same seed makes the same examples, to the byte."""
    overwrite: bool = False
    """Replace the output if it is a data folder."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Make compound figures of authentic pictures: panels with letters and scale bars, half of them with reuse."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder of authentic pictures, each of another field, such as micrographs; eight or more, of 64 px or more."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """The data folder to make."""
    train: int = 200
    """Number of training figures, at least 4."""
    test: int = 50
    """Number of test figures, of pictures that no training figure shows."""
    seed: int = 0
    """Random seed; the same seed makes the same data set, to the byte."""
    overwrite: bool = False
    """Replace the output if it is a data folder."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Make forged twins of untouched images, with forgeries of the competition's sizes: to train or measure on."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder of untouched images, each of another scene, such as micrographs; subfolders included."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """The data folder to make."""
    figures: int = 0
    """Number of compound figures of these images to add, with plots and print; one panel of each is forged."""
    drawn: int = 0
    """Number of drawn blots, gels and fields of cells to add."""
    photographs: int = 0
    """Number of crops to add of each photograph in scikit-image that is free of terms."""
    seed: int = 0
    """Random seed; the same seed makes the same data set, to the byte."""
    overwrite: bool = False
    """Replace the output if it is a data folder."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Convert images/ + masks/ + authentic/ to the layout that training reads."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder with images/ (forged), masks/, and possibly authentic/ and index.csv."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """The data folder to make."""
    link: bool = False
    """Link to the images instead of copying them."""
    holdout: float = 0.0
    """Share of the images to hold out as test images, from 0 to 1; whole groups only."""
    group_pattern: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None
    """Regular expression for the names of the files, whose first group (...) matches the image's source. Images of one
    source stay in one fold."""
    masks_are_upright: bool = False
    """The masks were drawn on the pictures as viewers show them: where an image has an EXIF orientation, its mask is
    turned back to the pixels as stored."""
    skip_bad_files: bool = False
    """Leave out and list files that can't be read or have no fitting mask, instead of stopping."""
    overwrite: bool = False
    """Replace the output if it is a data folder."""
    seed: int = 0
    """Random seed for the choice of the groups that are held out."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """List all faults of a data folder."""

    data_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The data folder."""


def run_demo(options: Demo) -> None:
    """Make the demo and print a summary."""
    if options.train_pairs < 1 or options.test_images < 0 or not 0 <= options.drawn_share <= 1:
        raise UserError("--train-pairs must be 1 or more, --test-images 0 or more, --drawn-share between 0 and 1.")
    start = time.perf_counter()
    with new_folder(options.output, overwrite=options.overwrite, source=options.from_) as folder:
        paths = bundled_photographs() if options.from_ is None else list(find_images(options.from_).values())
        cases = plan_demo(
            usable_photographs(paths),
            train_pairs=options.train_pairs,
            test_images=options.test_images,
            drawn_share=options.drawn_share,
            seed=options.seed,
        )
        made = make_demo(cases, folder, options.seed)
    table = pd.DataFrame([(kind, size) for _, kind, size in made if kind != "authentic"], columns=["kind", "size"])
    print(pd.crosstab(table["kind"], table["size"]).reindex(columns=SIZES, fill_value=0).rename_axis(columns="forged"))
    test = [case.forged for case in cases if case.split == "test"]
    print(
        f"wrote {options.output} in {time.perf_counter() - start:.0f} s: {options.train_pairs} training pairs, "
        f"{len(test)} test images ({sum(test)} forged)\n"
        f"next: python script_1_highres_no_ela.py --data-dir {options.output} --profile quick"
    )


def run_examples(options: Examples) -> None:
    """Make the examples and say how to look at them."""
    with new_folder(options.output, overwrite=options.overwrite) as folder:
        made = make_examples(folder, options.seed)
    print(
        f"wrote {options.output}: {len(made)} test images ({', '.join(made)})\n"
        f"next: python explain.py {options.output / 'test_images'}"
    )


def run_figures(options: Figures) -> None:
    """Make compound figures and print a summary."""
    if options.train < 4 or options.test < 0:
        raise UserError("--train must be 4 or more, --test 0 or more.")
    with new_folder(options.output, overwrite=options.overwrite, source=options.source) as folder:
        fields = list(find_images(options.source).values())
        relations = make_figures(fields, folder, train=options.train, test=options.test, seed=options.seed)
    counts = ", ".join(f"{relations.count(name)} {name}" for name in RELATIONS)
    print(
        f"wrote {options.output}: {options.train} training figures, {options.test} test figures ({counts})\n"
        f"next: python script_1_highres_no_ela.py --data-dir {options.output} --profile quick"
    )


def run_pairs(options: Pairs) -> None:
    """Make pairs and print a summary."""
    if min(options.figures, options.drawn, options.photographs) < 0:
        raise UserError("--figures, --drawn and --photographs must be 0 or more.")
    with new_folder(options.output, overwrite=options.overwrite, source=options.source) as folder:
        images = list(find_images(options.source).values())
        made = make_pairs(
            images,
            folder,
            figures=options.figures,
            drawn=options.drawn,
            photographs=options.photographs,
            seed=options.seed,
        )
        if not made:
            raise UserError(f"no image below {options.source} could be forged. Name a folder of two images or more.")
    print(
        f"wrote {options.output}: {made} authentic images, each with a forged twin\n"
        f"next: python script_4_enhanced_augmentation.py --data-dir {options.output} --profile quick"
    )


def run_import(options: Import) -> None:
    """Import a source folder and print a summary."""
    if not 0 <= options.holdout < 1:
        raise UserError(f"--holdout is a share between 0 and 1, not {options.holdout}.")
    source = find_source(options.source, options.group_pattern)
    with new_folder(options.output, overwrite=options.overwrite, source=options.source) as folder:
        # Everything is opened before anything is written.
        opened = open_samples(source.samples, masks_are_upright=options.masks_are_upright)
        samples = [sample for sample in opened if isinstance(sample, Sample)]
        faults = source.faults + [str(error) for error in opened if isinstance(error, UserError)]
        text = listing(f"{len(faults)} files of {options.source} can't be imported:", faults, len(faults))
        if faults and not options.skip_bad_files:
            raise UserError(f"{text}\nFix or remove them, or leave them out with --skip-bad-files.")
        if not samples:
            raise UserError(f"No image is left to import. {text}")
        held = hold_out(samples, options.holdout, options.seed) if options.holdout else np.zeros(len(samples), bool)
        upright = options.masks_are_upright
        import_samples(samples, held, folder, link=options.link, masks_are_upright=upright)
    if faults:
        print(f"left out: {text}")
    forged = np.array([sample.forged for sample in samples])
    leak = leak_note([s.image for s in samples], forged, [s.group for s in samples], ("authentic", "forged images"))
    notes = [*source.notes, *mask_notes(samples, masks_are_upright=upright), *([leak] if leak else [])]
    for note in notes:
        print(f"note: {note}")
    print(
        f"wrote {options.output}: {(~held).sum()} training images ({np.sum(~held & forged)} forged), "
        f"{held.sum()} test images ({np.sum(held & forged)} forged)\n"
        f"next: python script_1_highres_no_ela.py --data-dir {options.output}"
    )


def run_check(options: Check) -> None:
    """Print the faults of a data folder and exit with 1; without any, print one line and exit with 0."""
    report = check_folder(options.data_dir)
    for kind, faults in report.by_kind().items():
        print(f"{kind} ({len(faults)})")
        for fault in faults:
            print(f"  {fault.file}: {fault.text}")
    if report.oriented:
        head = (
            f"note: {len(report.oriented)} images with a mask have an EXIF orientation; masks fit the pixels as stored"
        )
        print(listing(head, report.oriented))
    if report.leak:
        print(f"note: {report.leak}")
    if report.faults:
        print(f"{len(report.faults)} faults in {options.data_dir} ({report.counts})")
        raise SystemExit(1)
    print(f"OK: {options.data_dir} ({report.counts})")


def main() -> None:
    """Run the chosen command."""
    options = tyro.cli(Examples | Demo | Figures | Pairs | Import | Check, description=__doc__)
    if isinstance(options, Demo):
        run_demo(options)
    elif isinstance(options, Examples):
        run_examples(options)
    elif isinstance(options, Figures):
        run_figures(options)
    elif isinstance(options, Pairs):
        run_pairs(options)
    elif isinstance(options, Import):
        run_import(options)
    else:
        run_check(options)


if __name__ == "__main__":
    main()

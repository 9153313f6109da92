"""The demo data set, made without a download: forged photographs and drawn figures.

All crops of a photograph belong to one group. Photographs are donors for splices only within their group (a pair of
photographs), and no group is in both training and test images: otherwise a model could learn "a piece of the coffee cup
is forged" and every validation would confirm it.

A network without pretrained weights must learn something from a few hundred images within minutes. Hence small figures,
which no resizing blurs, visible grain, few forgeries of a few pixels, and splices from other kinds of figures. The demo
shows that the pipeline works; a network that finds real forgeries needs real ones.

The history of a file must not reveal the label either: an authentic image and its forged twin go through the same
scaling, cropping and JPEG compression before and after the forging.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.data.images import read_image
from common.errors import UserError, listing
from common.forensics.jpeg import jpeg
from common.making.drawing import FIGURES
from common.making.layout import write_groups, write_image, write_mask, write_sample_submission
from common.making.synthesis import area_share_at, copy_move, inpaint, is_visible, splice
from common.sizes import size_of

BUNDLED = {
    "skimage": (
        *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png"),
        *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png"),
        *("moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
    ),
    "sklearn": ("china.jpg", "flower.jpg"),
}
"""Photographs and micrographs in the wheels of scikit-image and scikit-learn; data/README.md has the terms."""
NOT_FREE = ("china", "flower", "moon", "motorcycle_left", "page")
"""Those of them that are neither in the public domain nor CC0 nor without known restrictions."""

SIDES = (192, 256)
"""Shortest and longest side of a crop, in pixels."""
SHORTEST_SIDE = 64
"""Photographs with a shorter side, in pixels, are not used."""
FORGED_TEST_SHARE = 0.54
"""As in the competition's training set, where all-authentic scores 0.46."""
LARGEST_INPAINTING = 0.08
"""As a share of the image; larger holes become smears."""
HOST_GRAIN, DONOR_GRAIN = (4.0, 10.0), (0.0, 3.0)
"""Range of the noise of the host's camera and of the donor's, in gray levels."""
SMALLEST_QUANTILE = 0.3
"""Forgeries below this quantile of the competition's sizes (0.7 % of the image) are not made: on a figure of 200 pixels
they are a handful of pixels."""
KINDS = {"copymove": 0.35, "splice": 0.45, "inpaint": 0.2}
"""Share of each kind among the forgeries."""
INSTANCES = (0.75, 0.20, 0.05)
"""Share of the images with one, two, three forged groups."""

_read_image = lru_cache(maxsize=8)(read_image)


@dataclass(frozen=True)
class PlannedCase:
    """One image of the demo, or a pair, before it is made."""

    case_id: str
    split: str
    """`train` (an authentic image and its forged twin) or `test` (one of the two)."""
    host: Path | str
    """A photograph, or the name of a kind of drawn figure."""
    donor: Path | str
    """Where a splice comes from: a photograph of the same group, or another kind of drawn figure."""
    group: str
    forged: bool
    quantile: float
    """Of the distribution of forged areas, in [0, 1)."""


def bundled_photographs(*, free: bool = False) -> list[Path]:
    """The photographs and micrographs in the wheels of scikit-image and scikit-learn; `free`: without terms."""
    folders = {"skimage": files("skimage") / "data", "sklearn": files("sklearn") / "datasets" / "images"}
    paths = [Path(str(folders[package] / name)) for package, names in BUNDLED.items() for name in names]
    return [path for path in paths if not free or path.stem not in NOT_FREE]


def usable_photographs(paths: list[Path]) -> list[Path]:
    """The photographs whose shorter side has at least `SHORTEST_SIDE` pixels; all are decoded.

    Raises:
        UserError: Some can't be read; all of those are listed.
    """
    usable, faults = [], []
    for path in tqdm(paths, "reading", unit="img", leave=False, disable=None):
        try:
            if min(read_image(path).shape[:2]) >= SHORTEST_SIDE:
                usable.append(path)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(listing(f"{len(faults)} base images can't be used:", faults, len(faults)))
    return usable


def plan_demo(
    photographs: list[Path], *, train_pairs: int, test_images: int, drawn_share: float, seed: int
) -> list[PlannedCase]:
    """Choose what every case of the demo is made from.

    Args:
        photographs: Base images.
        train_pairs: Number of training cases, each an authentic image and its forged twin.
        test_images: Number of test images.
        drawn_share: Share of the cases, in [0, 1], that are drawn figures.
        seed: With the arguments above, determines the plan.

    Returns:
        The cases, those with the same photographs next to each other.

    Raises:
        UserError: Not enough photographs for two splits without one in common.
    """
    rng = np.random.default_rng([seed, 0])
    counts = {"train": train_pairs, "test": test_images}
    drawn = {split: round(count * drawn_share) for split, count in counts.items()}
    needed = [split for split, count in counts.items() if count > drawn[split]]
    if len(photographs) < len(needed):
        raise UserError(
            f"{len(photographs)} base images are too few: training and test images need different ones. "
            "Add images, or let all figures be drawn (drawn_share 1)."
        )
    groups = dict(zip(needed, _divide(_pair_up(photographs, rng), [counts[s] for s in needed]), strict=True))
    names = _name_groups(group for part in groups.values() for group in part)
    ids = iter(rng.permutation(train_pairs + test_images) + 1)
    cases = []
    for split, count in counts.items():
        hosts = [(path, group) for group in groups.get(split, []) for path in group]
        forged = rng.permutation(count) < (count if split == "train" else round(FORGED_TEST_SHARE * count))
        quantiles = (rng.permutation(count) + rng.random(count)) / max(count, 1)
        for i in range(count):
            case_id = str(next(ids))
            if i < drawn[split]:
                host = list(FIGURES)[i % len(FIGURES)]
                donor = str(rng.choice([kind for kind in FIGURES if kind != host]))
                name = f"drawn-{host}-{case_id}"
            else:
                host, group = hosts[(i - drawn[split]) * len(hosts) // (count - drawn[split])]
                others = [path for path in group if path != host] or [host]
                figure = str(rng.choice(list(FIGURES)))
                donor = figure if rng.random() < 0.5 else others[rng.integers(len(others))]
                name = names[host]
            cases.append(PlannedCase(case_id, split, host, donor, name, bool(forged[i]), float(quantiles[i])))
    return cases


def _pair_up(photographs: list[Path], rng: np.random.Generator) -> list[list[Path]]:
    """Groups of two photographs, the last one of three for an odd number; each alone where there are only few."""
    order = [photographs[i] for i in rng.permutation(len(photographs))]
    if len(order) < 4:
        return [[path] for path in order]
    groups = [order[i : i + 2] for i in range(0, len(order) - 1, 2)]
    if len(order) % 2:
        groups[-1].append(order[-1])
    return groups


def _name_groups(groups: Iterable[list[Path]]) -> dict[Path, str]:
    """Photograph → name of its group, made of the file names; numbered where two groups would have the same."""
    names: dict[Path, str] = {}
    for number, group in enumerate(groups):
        name = "+".join(path.stem for path in group)
        names |= dict.fromkeys(group, f"{name}-{number}" if name in names.values() else name)
    return names


def _divide(groups: list, counts: list[int]) -> list[list]:
    """Divide the groups among no, one or two splits about in proportion to their counts, at least one for each."""
    if len(counts) < 2:
        return [groups] * len(counts)
    first = round(len(groups) * counts[0] / sum(counts))
    first = min(max(first, 1), len(groups) - 1)
    return [groups[:first], groups[first:]]


def make_demo(cases: list[PlannedCase], folder: Path, seed: int) -> list[tuple[PlannedCase, str, str]]:
    """Make the cases and write them, with groups.csv and sample_submission.csv, into a new data folder.

    Args:
        cases: From `plan_demo`.
        folder: From `common.making.layout.new_folder`.
        seed: That of the plan.

    Returns:
        Each case with its kind (`copymove`, `splice`, `inpaint`, or `authentic`) and size.

    Raises:
        UserError: A base image can't be read.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made = pool.map(lambda case: _write_case(case, folder, seed), cases)
        summary = list(tqdm(made, "forging", len(cases), unit="case", leave=False, disable=None))
    write_groups(folder, ((case.case_id, case.group, kind.replace("authentic", "")) for case, kind, _ in summary))
    test = sorted((case.case_id for case in cases if case.split == "test"), key=int)
    if test:
        write_sample_submission(folder, test)
    return summary


def _write_case(case: PlannedCase, folder: Path, seed: int) -> tuple[PlannedCase, str, str]:
    # Its own generator: a case depends neither on the others nor on the order of the threads.
    rng = np.random.default_rng([seed, 1, int(case.case_id)])
    authentic, forged, mask, kind = _make_case(case, rng)
    name = f"{case.case_id}.png"
    if case.split == "train":
        write_image(folder / "train_images" / "authentic" / name, authentic)
        write_image(folder / "train_images" / "forged" / name, forged)
    else:
        write_image(folder / "test_images" / name, forged if case.forged else authentic)
    if not case.forged:
        return case, "authentic", "authentic"
    write_mask(folder / f"{case.split}_masks" / f"{case.case_id}.npy", mask)
    return case, kind, size_of(float(mask.any(axis=0).mean()))


def _make_case(case: PlannedCase, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """The authentic image, the forged one, the mask (N, H, W), and the kind."""
    height, width = rng.integers(SIDES[0], SIDES[1], 2, endpoint=True)
    # The grain of another camera, or its absence where pixels were interpolated or filled in, reveals a forgery.
    host = _add_grain(_base_image(case.host, height, width, rng), rng.uniform(*HOST_GRAIN), rng)
    donor = _add_grain(_base_image(case.donor, height, width, rng), rng.uniform(*DONOR_GRAIN), rng)
    host, donor = _compress(host, _draw_quality(rng, 0.5)), _compress(donor, _draw_quality(rng, 0.5))
    final = _draw_quality(rng, 0.4)
    share = area_share_at(SMALLEST_QUANTILE + (1 - SMALLEST_QUANTILE) * case.quantile)
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    if kind == "inpaint" and share > LARGEST_INPAINTING:
        kind = rng.choice(["copymove", "splice"])
    instances = 1 + rng.choice(3, p=INSTANCES)
    forged, masks = host, []
    for _ in range(instances):
        taken = np.any(masks, axis=0) if masks else None
        forged, mask = _forge(forged, donor, str(kind), share / instances, taken, rng)
        masks.append(mask)
    return _compress(host, final), _compress(forged, final), np.stack(masks), str(kind)


def _forge(image, donor, kind: str, share: float, taken, rng) -> tuple[np.ndarray, np.ndarray]:
    """A visible forgery and its mask; white paper copied onto white paper is not visible."""
    for _ in range(20):
        if kind == "splice":
            forged, mask = splice(image, donor, rng, area_share=share, avoid=taken)
        elif kind == "copymove":
            forged, mask = copy_move(image, rng, area_share=share, avoid=taken, plain_probability=0.15)
        else:
            forged, mask = inpaint(image, rng, area_share=share, avoid=taken)
        if is_visible(image, forged, mask):
            return forged, mask
    raise UserError("no visible forgery could be made: some base image is almost uniform. Leave such images out.")


def _base_image(base: Path | str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A drawn figure, or a crop of a photograph, scaled down and possibly mirrored."""
    if isinstance(base, str):
        return FIGURES[base](height, width, rng)
    image = _read_image(base)
    # A small crop of a large photograph would show nothing in particular.
    scale = min(1.0, rng.uniform(256, 512) / min(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = min(height, image.shape[0]), min(width, image.shape[1])
    for _ in range(20):
        top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        crop = image[top : top + height, left : left + width]
        if crop.std() > 10:  # else it is a piece of black sky
            break
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def _add_grain(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian sensor noise, `sigma` in gray levels, since scaling down has removed the photographs' own."""
    gray = (image == image[..., :1]).all()
    noise = rng.standard_normal((*image.shape[:2], 1 if gray else 3), np.float32) * np.float32(sigma)
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def _draw_quality(rng: np.random.Generator, probability: float) -> int | None:
    """The quality of a JPEG compression, or None for no compression."""
    return int(rng.integers(85, 99)) if rng.random() < probability else None


def _compress(image: np.ndarray, quality: int | None) -> np.ndarray:
    return image if quality is None else jpeg(image, quality)

"""New forgeries during training, made on the fly: copy-moves, splices, inpaintings, redrawn regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from common.data.cropping import range_around
from common.data.images import read_image
from common.data.samples import Sample
from common.forensics.jpeg import jpeg
from common.making.annotations import annotate
from common.making.synthesis import MIN_SIDE, copy_move, inpaint, is_visible, redraw, splice

ForgeryKind = Literal["copymove", "splice", "inpaint", "redraw"]
VARIED_SIDE = 400
"""Side in pixels of the crops of varied images: forgeries of a large image would cost more than the network."""

ANNOTATED = 0.4
"""Share of varied images that are printed on."""


@dataclass(frozen=True)
class NewForgeries:
    """An edit (see `common.data.dataset.Edit`) that adds a forgery to some of the images.

    Regions are moved, scaled, rotated, blended at their edge, and never overlap an existing forgery. The mask of a
    copy-move covers source and copy, as in the competition.
    """

    donors: Sequence[Sample]
    """Samples that regions are spliced from; training samples only, or validation pixels would be learned."""
    probability: float = 0.3
    """Share of the images that are forged, in [0, 1]."""
    scale_range: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest scale of a moved region."""
    kinds: tuple[ForgeryKind, ...] = ("copymove", "splice")
    """Kinds of forgeries, each as likely as the others."""
    vary: bool = False
    """Crop, shrink or enlarge, gray, invert and compress images at random before they are forged, and print on them
    after it: a network sees the traces of many more sources than there are, and that print is no forgery."""

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) and mask uint8 (H, W), forged or as they were; with `vary` of another size."""
        if not self.vary:
            return self._forged(image, mask, rng)
        image, mask = self._forged(*vary_image(image, mask, rng), rng)
        return (annotate(image, rng) if rng.random() < ANNOTATED else image), mask

    def _forged(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if rng.random() >= self.probability:
            return image, mask
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        try:
            if kind == "copymove":
                forged, region = copy_move(image, rng, avoid=mask, scale_range=self.scale_range)
            elif kind == "splice":
                donor = read_image(self.donors[int(rng.integers(len(self.donors)))].image)
                if self.vary:
                    donor, _ = vary_image(donor, np.zeros(donor.shape[:2], np.uint8), rng)
                forged, region = splice(image, donor, rng, avoid=mask, scale_range=self.scale_range)
            else:
                forged, region = (inpaint if kind == "inpaint" else redraw)(image, rng, avoid=mask)
        except ValueError:  # the image is too small, or an existing forgery leaves no room
            return image, mask
        return (forged, mask | region) if is_visible(image, forged, region) else (image, mask)


def vary_image(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image as another source could have given it: a crop, gray, inverted, partly out of focus, compressed, scaled.

    Args:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W) of 0 and 1; an image with a forgery is only cropped, around some of it, for its traces' sake.
        rng: Random generator.
    """
    image, mask = _random_crop(image, mask, rng)
    if mask.any():
        return image, mask
    if rng.random() < 0.3:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.15:
        image = 255 - image
    if rng.random() < 0.3:
        image = _defocus(image, rng)
    if rng.random() < 0.35:
        image = jpeg(image, int(rng.integers(60, 99)))
    if rng.random() < 0.4:
        factor = float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
        if min(image.shape[:2]) * factor >= 4 * MIN_SIDE:
            larger = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
            method = cv2.INTER_AREA if factor < 1 else larger
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=method)
            mask = np.zeros(image.shape[:2], np.uint8)
    return image, mask


def _defocus(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image that is out of focus in some places, and sharp in others: smooth ground alone is no forgery."""
    height, width = image.shape[:2]
    coarse = rng.normal(0, 1, tuple(rng.integers(2, 6, 2))).astype(np.float32)
    depth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    share = 1 / (1 + np.exp(-depth * rng.uniform(3, 15)))[..., None]
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(1, 5)))
    return np.rint(image + share * (blurred.astype(np.float32) - image)).astype(np.uint8)


def _random_crop(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At most `VARIED_SIDE` pixels along each side, with some of the forgery if there is one."""
    height, width = mask.shape
    forged = np.flatnonzero(mask)
    place = divmod(int(rng.choice(forged)), width) if len(forged) else (None, None)
    window = [
        range_around(position, min(length, VARIED_SIDE), length, rng)
        for length, position in zip((height, width), place, strict=True)
    ]
    return np.ascontiguousarray(image[tuple(window)]), np.ascontiguousarray(mask[tuple(window)])

"""Copy-paste augmentation: new forgeries during training, within an image and between images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.images import read_image
from common.data.samples import Sample
from common.making.synthesis import copy_move, is_visible, splice


@dataclass(frozen=True)
class CopyPaste:
    """An edit (see `common.data.dataset.Edit`) that adds a forgery to some of the images.

    Half of them are copy-moves, whose mask covers source and copy as in the competition, half are splices from another
    image. Regions are moved, scaled, rotated, blended at their edge, and never overlap an existing forgery.
    """

    donors: Sequence[Sample]
    """Samples that regions are spliced from; training samples only, or validation pixels would be learned."""
    probability: float = 0.3
    """Share of the images that are forged, in [0, 1]."""
    scale_range: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest scale of a moved region."""

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) and mask uint8 (H, W), forged or as they were."""
        if rng.random() >= self.probability:
            return image, mask
        try:
            if rng.random() < 0.5:
                forged, region = copy_move(image, rng, avoid=mask, scale_range=self.scale_range)
            else:
                donor = read_image(self.donors[int(rng.integers(len(self.donors)))].image)
                forged, region = splice(image, donor, rng, avoid=mask, scale_range=self.scale_range)
        except ValueError:  # the image is too small, or an existing forgery leaves no room
            return image, mask
        return (forged, mask | region) if is_visible(image, forged, region) else (image, mask)

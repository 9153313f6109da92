"""New forgeries while training: copy-paste within an image and between images."""

from collections.abc import Sequence

import numpy as np

from common.data.images import read_image
from common.data.samples import Sample
from common.making.synthesis import copy_move, is_visible, splice


class CopyPaste:
    """An edit (see `common.data.dataset`) that forges some of the images once more.

    One half are true copy-moves, whose mask covers source and copy as in the competition; the other half splices from
    another image. Regions are moved, scaled, turned, blended at their edge, and never laid over a forgery that is
    there.
    """

    def __init__(
        self, donors: Sequence[Sample], probability: float = 0.3, scale_range: tuple[float, float] = (0.5, 1.5)
    ) -> None:
        """Hold what is drawn from.

        Args:
            donors: Whose images lend regions; training images only, or the validation's pixels would be learned.
            probability: Share of the images that are forged, in [0, 1].
            scale_range: Smallest and largest scale of a moved region.
        """
        self.donors = donors
        self.probability = probability
        self.scale_range = scale_range

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) and mask uint8 (H, W), forged or as they were."""
        if rng.random() >= self.probability:
            return image, mask
        try:
            if rng.random() < 0.5:
                forged, region = copy_move(image, rng, avoid=mask, scale_range=self.scale_range)
            else:
                donor = read_image(self.donors[rng.integers(len(self.donors))].image)
                forged, region = splice(image, donor, rng, avoid=mask, scale_range=self.scale_range)
        except ValueError:  # too small an image, or no room beside the forgery that is there
            return image, mask
        return (forged, mask | region) if is_visible(image, forged, region) else (image, mask)

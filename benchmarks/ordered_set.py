"""Clips whose frames tell nothing and whose order tells all: what a detector sees that looks at time.

    python -m benchmarks.ordered_set IMAGES data/ordered
    python -m benchmarks.spotter data/ordered --faces crops --image-size 64 --variants plain time spotter

Of each image two clips, as folders of PNG frames: a window glides over it, `real`; and the same frames in a drawn
order, `fake`. Both classes hold exactly the same frames, so that a classifier of frames is right half of the time,
whatever it learned. A file's name is its identity: both clips of an image come into one split.
"""

from common.process import prepare

prepare()  # before torch is imported

from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from common.data.images import find_images, read_image
from common.data.transforms import resize_image
from common.errors import UserError
from common.making.layout import write_image

FRAMES, SIDE = 8, 64
GLIDE = 0.35
"""How far the window glides, as a share of the image's side."""


def main(
    images: tyro.conf.Positional[Path], output: tyro.conf.Positional[Path], limit: int = 300, seed: int = 0
) -> None:
    """Make OUTPUT/real and OUTPUT/fake.

    Args:
        images: Any images, in any folders below this one.
        output: A new folder.
        limit: Take so many of them, drawn by the seed.
        seed: Of the draws.
    """
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} exists. Choose another output folder.")
    rng = np.random.default_rng(seed)
    paths = list(find_images(images).values())
    for number, chosen in enumerate(tqdm(rng.permutation(len(paths))[:limit], "clips", disable=None)):
        frames = _glide(resize_image(read_image(paths[chosen]), 2 * SIDE), rng)
        order = rng.permutation(FRAMES)
        while (np.diff(order) == 1).sum() > 1 or (np.diff(order) == -1).sum() > 1:  # too much like the glide itself
            order = rng.permutation(FRAMES)
        for label, positions in (("real", range(FRAMES)), ("fake", order)):
            for place, position in enumerate(positions):
                write_image(output / label / f"{number:04}" / f"{place:02}.png", frames[position])


def _glide(image: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Windows (SIDE, SIDE, 3) along a straight way in a drawn direction."""
    room, angle = image.shape[0] - SIDE, rng.uniform(0, 2 * np.pi)
    way = GLIDE * image.shape[0] / 2 * np.array([np.sin(angle), np.cos(angle)])
    places = np.rint(room / 2 + np.linspace(-1, 1, FRAMES)[:, None] * way).astype(int).clip(0, room)
    return [image[top : top + SIDE, left : left + SIDE] for top, left in places]


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

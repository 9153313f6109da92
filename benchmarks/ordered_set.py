"""A data set of clips that differ from each other in the order of their frames alone, to test the use of time.

    python -m benchmarks.ordered_set IMAGES data/ordered
    python -m benchmarks.spotter data/ordered --faces crops --image-size 64 --variants plain time spotter

Each image gives two clips, as folders of PNG frames: a window that glides over it, `real`, and the same frames in a
random order, `fake`. Both classes have exactly the same frames, so that no classifier of single frames is right more
often than half of the time. Both clips of an image have the same name and are therefore in one split.
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
"""Length of the window's path as a share of the image's side."""


def main(
    images: tyro.conf.Positional[Path], output: tyro.conf.Positional[Path], limit: int = 300, seed: int = 0
) -> None:
    """Make OUTPUT/real and OUTPUT/fake.

    Args:
        images: Folder of images, with its subfolders.
        output: New folder for the clips.
        limit: Number of images at most, drawn by the seed.
        seed: Random seed of the draws.
    """
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} exists. Choose another output folder.")
    rng = np.random.default_rng(seed)
    paths = list(find_images(images).values())
    for number, chosen in enumerate(tqdm(rng.permutation(len(paths))[:limit], "clips", disable=None)):
        frames = _glide(resize_image(read_image(paths[chosen]), 2 * SIDE), rng)
        order = rng.permutation(FRAMES)
        while (np.diff(order) == 1).sum() > 1 or (np.diff(order) == -1).sum() > 1:  # too similar to the glide
            order = rng.permutation(FRAMES)
        for label, positions in (("real", range(FRAMES)), ("fake", order)):
            for place, position in enumerate(positions):
                write_image(output / label / f"{number:04}" / f"{place:02}.png", frames[position])


def _glide(image: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Windows (SIDE, SIDE, 3) along a straight line in a random direction."""
    room, angle = image.shape[0] - SIDE, rng.uniform(0, 2 * np.pi)
    half = GLIDE * image.shape[0] / 2 * np.array([np.sin(angle), np.cos(angle)])
    places = np.rint(room / 2 + np.linspace(-1, 1, FRAMES)[:, None] * half).astype(int).clip(0, room)
    return [image[top : top + SIDE, left : left + SIDE] for top, left in places]


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

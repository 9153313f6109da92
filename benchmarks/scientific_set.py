"""Making of a data folder of forged micrographs and drawn figures, to measure the ensemble on.

    python -m benchmarks.scientific_set MICROGRAPHS data/science
    python prepare_data.py check data/science

Each micrograph below MICROGRAPHS (of an odd number all but one), and as many drawn blots, gels and fields of cells, is
written as it is and with forgeries of the competition's sizes: copy-moves (60 %), splices, inpaintings. Unlike in the
demo nothing is cropped, scaled or made grainy. Micrographs are donors for splices within a pair, which is one group of
the folds. Two in five pairs are compressed as JPEG of quality 70 to 98, both twins alike.
"""

from common.process import prepare

prepare()  # before torch is imported

from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from common.data.images import find_images, read_image
from common.forensics.jpeg import jpeg
from common.making.drawing import FIGURES
from common.making.layout import new_folder, write_groups, write_image, write_mask
from common.making.synthesis import copy_move, draw_area_share, inpaint, is_visible, splice

KINDS = {"copymove": 0.6, "splice": 0.25, "inpaint": 0.15}
INSTANCES = (0.75, 0.20, 0.05)
DRAWN_SIDES = (256, 640)
TRIES = 20


def main(
    micrographs: tyro.conf.Positional[Path],
    output: tyro.conf.Positional[Path],
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Make the folder.

    Args:
        micrographs: Folder of unaltered images, subfolders included.
        output: The data folder to make.
        seed: Random seed of the forgeries.
        overwrite: Replace the output if it is a data folder.
    """
    rng = np.random.default_rng(seed)
    hosts = [(image, donor, f"micrographs-{number // 2}") for number, (image, donor) in _paired(micrographs, rng)]
    hosts += [(*_drawn(rng), f"drawn-{number}") for number in range(len(hosts))]
    rows = []
    with new_folder(output, overwrite=overwrite, source=micrographs) as folder:
        for number, (host, donor, group) in enumerate(tqdm(hosts, "forging", unit="pair", disable=None), start=1):
            host, donor = (read_image(image) if isinstance(image, Path) else image for image in (host, donor))
            kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
            forged, masks = _forge(host, donor, kind, rng)
            if not masks:
                continue
            if rng.random() < 0.4:
                quality = int(rng.integers(70, 99))
                host, forged = jpeg(host, quality), jpeg(forged, quality)
            write_image(folder / "train_images" / "authentic" / f"{number}.png", host)
            write_image(folder / "train_images" / "forged" / f"{number}.png", forged)
            write_mask(folder / "train_masks" / f"{number}.npy", np.stack(masks))
            rows.append((str(number), group, kind))
        write_groups(folder, rows)
    print(f"wrote {output}: {len(rows)} pairs")


def _paired(micrographs: Path, rng: np.random.Generator):
    """Number of a micrograph, its path, and the path of the other one of its pair."""
    paths = list(find_images(micrographs).values())
    order = [paths[i] for i in rng.permutation(len(paths))]
    for number, path in enumerate(order[: len(order) // 2 * 2]):
        yield number, (path, order[number ^ 1])


def _drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A drawn figure, and one of another kind."""
    figures = []
    for kind in rng.choice(list(FIGURES), 2, replace=False):
        height, width = rng.integers(*DRAWN_SIDES, 2, endpoint=True)
        figures.append(FIGURES[kind](height, width, rng))
    return figures[0], figures[1]


def _forge(image: np.ndarray, donor: np.ndarray, kind: str, rng: np.random.Generator):
    """The forged image and its masks, none where no forgery could be made visible."""
    count = 1 + rng.choice(3, p=INSTANCES)
    share, masks = draw_area_share(rng) / count, []
    for _ in range(count):
        for _ in range(TRIES):
            options = {"area_share": share, "avoid": np.any(masks, axis=0) if masks else None}
            try:
                if kind == "splice":
                    forged, mask = splice(image, donor, rng, **options)
                else:
                    forged, mask = (copy_move if kind == "copymove" else inpaint)(image, rng, **options)
            except ValueError:  # no room
                continue
            if is_visible(image, forged, mask):
                image = forged
                masks.append(mask)
                break
    return image, masks


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

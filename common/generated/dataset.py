"""Datasets of labelled images: augmented views for training, untouched pixels for testing."""

from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.data.dataset import make_loader
from common.data.images import read_image
from common.data.transforms import reseed, resize_image, to_tensor
from common.generated.degradations import DEGRADATIONS, degrade, random_chain, resize_to
from common.generated.images import LabelledImage, prompt_list

CACHE_BYTES = 2**32


def view_augmentation(
    size: int,
    color_jitter: float = 0.0,
    *,
    native_crops: bool = False,
    degraded: float = 0.5,
    rotation: float = 0.0,
    blur: tuple[float, float] = (0.1, 1.0),
) -> A.Compose:
    """A view of an image (SPAI): a crop of 20 to 100 % of the area, flipped, turned, blurred, noisy, JPEG.

    The paper leaves open how much noise there is: here up to 5 levels of 255. Each is applied to every second view.

    The original recipe lists SEMANTIC_AWARE_AUG without saying what it does. Crops that keep the main content are not
    among these: a generator leaves its traces in the background as well, and a network that always sees the subject
    learns what is shown instead.

    Args:
        size: Side of the view in pixels.
        color_jitter: Largest change of brightness, contrast and saturation, as a share in [0, 1); 0 for none (original
            recipe: 0.1).
        native_crops: Cut the view out as it is, as the patches of a scored image are cut, instead of resizing a crop:
            where views are much smaller than the image, resizing removes the traces.
        degraded: Share of the views that are blurred, of those that get noise, and of those that are compressed.
        rotation: Largest turn in degrees, to either side (published: 90), mirrored at the edges; 0 for quarter turns,
            which resample nothing.
        blur: Range of the blur's σ in pixels (published: 0.01 to 0.5).
    """
    crop = A.RandomResizedCrop((size, size), scale=(0.2, 1.0))
    if native_crops:
        crop = A.RandomCrop(size, size, pad_if_needed=True, border_mode=cv2.BORDER_REFLECT_101)
    turn = A.RandomRotate90(p=0.5)
    if rotation:
        turn = A.Rotate((-rotation, rotation), border_mode=cv2.BORDER_REFLECT_101, p=0.5)
    change = (1 - color_jitter, 1 + color_jitter)
    jitter = A.ColorJitter(brightness=change, contrast=change, saturation=change, hue=(0, 0), p=0.5)
    return A.Compose(
        [
            crop,
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            turn,
            *([jitter] if color_jitter else []),
            A.GaussianBlur(blur_limit=0, sigma_limit=blur, p=degraded),
            A.GaussNoise(std_range=(0.0, 5 / 255), p=degraded),
            A.ImageCompression(quality_range=(50, 100), p=degraded),
        ]
    )


class GeneratedTrainSet(Dataset):
    """Views of labelled images, augmented and degraded."""

    def __init__(  # noqa: PLR0913 the plain values of a configuration
        self,
        images: Sequence[LabelledImage],
        *,
        views: int,
        patch_size: int,
        whole_size: int,
        augmentation: A.Compose | None = None,
        degradation_probability: float = 0.0,
        longest_chain: int = len(DEGRADATIONS),
        pairs: bool = False,
        cache: bool = False,
    ) -> None:
        """Hold the images; files are read when an item is asked for.

        Args:
            images: Readable ones, so that no file fails in the middle of an epoch.
            views: V, number of views of an image.
            patch_size: S, side of a view in pixels.
            whole_size: T, side in pixels of the square that the whole image is resized to.
            augmentation: Makes a view; by default `view_augmentation(patch_size)`.
            degradation_probability: Share of the images that go through `random_chain` first. Without effect with
                `pairs`, where every image stays clean and has a degraded twin.
            longest_chain: Most degradations of such an image.
            pairs: Give each item its degraded twin.
            cache: Read files now and keep their pixels, of as many as fit into `CACHE_BYTES` (512² px are 0.8 MB).
        """
        self.images = images
        self.views = views
        self.whole_size = whole_size
        self.min_side = patch_size
        self.degradation_probability = degradation_probability
        self.longest_chain = longest_chain
        self.pairs = pairs
        self.prompts = prompt_list(images)
        """What an item's `prompt_index` counts."""
        self._prompt_index = {prompt: index for index, prompt in enumerate(self.prompts)}
        self._augmentation = augmentation or view_augmentation(patch_size)
        # Filled here, not item by item: each of the loader's workers would fill a copy of its own.
        self._pixels = _read_some(images) if cache else []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor | int]:
        """Item of `(index, seed)`, as the training sampler draws it; a bare index is its own seed.

        All randomness follows from the seed: the number of workers, or where a run was interrupted, changes nothing.

        Returns:
            views: uint8 (V, 3, S, S); whole: uint8 (3, T, T); label: float32 (), 1 = generated; index: position in
            `images`; prompt_index: position in `prompts`, -1 without a prompt. With `pairs` also degraded_views and
            degraded_whole of the same shapes: the same crops, flips, turns and so on of the image after a random
            chain, resized to its own size.
        """
        index, seed = index if isinstance(index, tuple) else (index, index)
        labelled = self.images[index]
        image = self._pixels[index] if index < len(self._pixels) else read_image(labelled.path, upright=True)
        rng = np.random.default_rng(seed)
        view_seeds = rng.integers(2**31, size=self.views).tolist()
        if not self.pairs and rng.random() < self.degradation_probability:
            image = random_chain(image, rng, min_side=self.min_side, longest=self.longest_chain)
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
        """One view of an image per seed, uint8 (V, 3, S, S)."""
        views = []
        for seed in seeds:
            reseed(self._augmentation, seed)
            views.append(to_tensor(self._augmentation(image=image)["image"]))
        return torch.stack(views)


class GeneratedTestSet(Dataset):
    """Labelled images at their own resolution."""

    def __init__(
        self, images: Sequence[LabelledImage], degradation: str | None = None, *, whole_size: int = 224
    ) -> None:
        """Hold the images.

        Args:
            images: Readable ones.
            degradation: What each goes through, if anything (see `common.generated.degradations`).
            whole_size: T, side in pixels of the square that the whole image is resized to.
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
        image = read_image(self.images[index].path, upright=True)
        if self.degradation is not None:
            image = degrade(image, self.degradation)
        label = torch.tensor(self.images[index].generated, dtype=torch.float32)
        whole = to_tensor(resize_image(image, self.whole_size))
        return {"image": to_tensor(image), "whole": whole, "label": label, "index": index}


def _read_some(images: Sequence[LabelledImage]) -> list[np.ndarray]:
    """The pixels of the first images, of as many as fit into `CACHE_BYTES`."""
    pixels, room = [], CACHE_BYTES
    for image in images:
        pixels.append(read_image(image.path, upright=True))
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

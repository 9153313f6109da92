"""Segmentation data set: samples as image and mask tensors, and the loader that batches them."""

import gc
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import albumentations as A
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.data.cropping import bound_pair, random_square
from common.data.images import read_image
from common.data.masks import read_mask
from common.data.packed import PackedList
from common.data.pixel_cache import Form, PixelCache
from common.data.samples import Sample
from common.data.tiles import fill_tile, square_windows
from common.data.transforms import augment, resize_image, resize_mask, to_channels, to_tensor
from common.files import file_hash

Edit = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Changes an image (H, W, C) and its union mask (H, W) before they are resized, by a random generator."""
Framing = Literal["squeeze", "crop"]
"""How images of all shapes become squares of one size: resized as a whole, or cut out at their own resolution."""


class ForgeryDataset(Dataset):
    """Images and union masks at the network's size."""

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: int,
        augmentation: A.Compose | None = None,
        *,
        in_channels: int = 3,
        edit: Edit | None = None,
        framing: Framing = "squeeze",
    ) -> None:
        """Hold the samples; files are read when an item is asked for.

        Args:
            samples: Opened ones, so that no file fails in the middle of an epoch.
            image_size: Side of the squares.
            augmentation: Applied to the squares of items asked for with a seed.
            in_channels: 3 for RGB, 4 for RGB and error level analysis.
            edit: Applied before the framing, to every item: crops, synthetic forgeries.
            framing: crop: a random square of an item asked for with a seed (`random_square`), else all its tiles.
        """
        self.samples = samples if isinstance(samples, PackedList) else PackedList(samples)
        self.image_size = image_size
        self.augmentation = augmentation
        self.in_channels = in_channels
        self.edit = edit
        self.framing = framing
        self.cache: PixelCache | None = None
        """Set by `use_cache`."""

    @property
    def form(self) -> Form:
        """What an item is before edit and augmentation, which a cache may keep."""
        return Form(self.in_channels, None if self._as_decoded else self.image_size)

    @property
    def _as_decoded(self) -> bool:
        return self.edit is not None or self.framing == "crop"

    def use_cache(self, cache: PixelCache) -> None:
        """Read items from a cache and add those that it lacks; items stay the same to the bit.

        Raises:
            ValueError: The cache keeps another form.
        """
        if cache.form != self.form:
            raise ValueError(f"a cache of {cache.form} for a data set of {self.form}")
        self.cache, self._slots = cache, cache.slots(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor | int]:
        """Item of an index, or of `(index, seed)` as the training sampler draws it.

        Edit and augmentation depend on the seed alone (for a bare index: on the index, without augmentation), not on
        the number of workers or on where a run was interrupted.

        Returns:
            image: uint8 (C, S, S), RGB first; mask: uint8 (1, S, S); index: position in `samples`. Of a bare index
            with framing crop, image: the tiles (T, C, S, S) of `square_windows`; mask: (1, H, W), of `bounded_shape`.
        """
        index, seed = index if isinstance(index, tuple) else (index, None)
        image, mask = self._load(index)
        rng = np.random.default_rng(index if seed is None else seed)
        if self.framing == "crop":  # before the edit: forgeries are made at the scale that prediction sees
            image, mask = bound_pair(image, mask, self.image_size)
        if self.edit is not None:
            image, mask = self.edit(image, mask, rng)
        if self.framing == "crop" and seed is None:
            return self._tiles(image, mask) | {"index": index}
        if self.framing == "crop":
            image, mask = random_square(image, mask, rng, side=self.image_size)
        elif self.edit is not None:
            image, mask = self._resize(image, mask)
        if self.augmentation is not None and seed is not None:
            image, mask = augment(self.augmentation, seed, image, mask)
        return {"image": to_tensor(image), "mask": to_tensor(mask[..., None]), "index": index}

    def _tiles(self, image: np.ndarray, mask: np.ndarray) -> dict[str, Tensor | int]:
        """All tiles of an image of `bounded_shape`, and its mask."""
        image = fill_tile(image, self.image_size)
        tiles = [to_tensor(image[window]) for window in square_windows(mask.shape[0], mask.shape[1], self.image_size)]
        return {"image": torch.stack(tiles), "mask": torch.from_numpy(np.ascontiguousarray(mask))[None]}

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and union mask in `form`, read from the cache or decoded."""
        if self.cache is None or (slot := self._slots[index]) < 0:
            return self._decode(index)
        found = self.cache.read(slot)
        if found is None:
            found = self._decode(index)
            if self._is_unchanged(index):
                self.cache.write(slot, *found)
        return found

    def _is_unchanged(self, index: int) -> bool:
        """Whether the files are still those that were opened; only their pixels belong in the cache."""
        sample = self.samples[index]
        try:
            hashes = file_hash(sample.image), file_hash(sample.mask) if sample.mask else ""
        except OSError:
            return False
        return hashes == (sample.image_hash, sample.mask_hash)

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        image = to_channels(read_image(sample.image), self.in_channels)
        mask = np.zeros(image.shape[:2], np.uint8) if sample.mask is None else read_mask(sample.mask).max(axis=0)
        return (image, mask) if self._as_decoded else self._resize(image, mask)

    def _resize(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return resize_image(image, self.image_size), resize_mask(mask[None], self.image_size)


def collate_whole(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of whole images, for validation: with framing crop, all tiles in one tensor, and a list of the masks."""
    if items[0]["image"].ndim == 3:
        return default_collate(items)
    return {
        "image": torch.cat([item["image"] for item in items]),
        "mask": [item["mask"] for item in items],
        "index": torch.tensor([item["index"] for item in items]),
    }


def make_loader(
    dataset: Dataset,
    batch_size: int,
    workers: int,
    sampler: Sampler | None = None,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
) -> DataLoader[dict[str, Any]]:
    """Batches of a data set, read by at most one worker a core.

    Args:
        dataset: Where items come from, in order unless there is a sampler.
        batch_size: Items of a batch; the last batch of an epoch may have fewer.
        workers: Processes that read; 0 reads in this process.
        sampler: Of the items of an epoch.
        collate: Makes a batch from a list of items; by default torch's.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=min(workers, os.cpu_count() or 1),
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Else each iteration draws from the global generator, but with workers only the first: dropout would differ
        # between numbers of workers, and between a run and its continuation.
        generator=torch.Generator(),
        worker_init_fn=_freeze_parent_objects,
    )


def _freeze_parent_objects(worker: int) -> None:
    """Keep a forked worker's garbage collector off the objects of its parent: to visit them copies their memory."""
    gc.freeze()

"""Samples as tensors."""

import os

from common.data.images import read_image, read_mask
from common.data.samples import Sample
from common.data.transforms import augment, resize_image, resize_mask, to_tensor

import albumentations as A
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class ForgeryDataset(Dataset):
    """Images and union masks at the network's size."""

    def __init__(self, samples: list[Sample], image_size: int, augmentation: A.Compose | None = None) -> None:
        """Hold the samples; files are read when an item is asked for.

        Args:
            samples: Inspected ones, so that no file fails in the middle of an epoch.
            image_size: Side of the square that images are resized to.
            augmentation: Applied after resizing, to items asked for with a seed.
        """
        self.samples = samples
        self.image_size = image_size
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        """Item of an index, or of `(index, seed)` as the training sampler draws it.

        The seed alone decides the augmentation: the number of workers, or where a run was interrupted, does not.

        Returns:
            image: uint8 (3, S, S), RGB; mask: uint8 (1, S, S); index: position in `samples`.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        sample = self.samples[index]
        image = resize_image(read_image(sample.image), self.image_size)
        if sample.mask is None:
            mask = np.zeros((self.image_size, self.image_size), np.uint8)
        else:
            mask = resize_mask(read_mask(sample.mask), self.image_size)
        if self.augmentation is not None and seed is not None:
            image, mask = augment(self.augmentation, seed, image, mask)
        return {"image": to_tensor(image), "mask": to_tensor(mask[..., None]), "index": index}


def make_loader(
    dataset: ForgeryDataset, batch_size: int, workers: int, sampler: Sampler | None = None
) -> DataLoader[dict[str, Tensor]]:
    """Batches of a data set, in the sampler's order or its own, read by at most one worker a core."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=min(workers, os.cpu_count() or 1),
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )

"""Cached clips as tensors."""

from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from common.data.transforms import reseed
from common.video.cache import ClipCache
from common.video.clips import Clip


class ClipDataset(Dataset):
    """The face crops of clips."""

    def __init__(self, clips: Sequence[Clip], cache: ClipCache, augmentation: A.Compose | None = None) -> None:
        """Look the clips up; crops are read when an item is asked for.

        Args:
            clips: Such as `cache.fill` returned.
            cache: Holds them.
            augmentation: Applied to items asked for with a seed, by one draw for all frames of a clip.

        Raises:
            UserError: A clip is not in the cache, or has changed since.
        """
        self.clips = clips
        self.augmentation = augmentation
        # Not the cache itself: its detector need not go to the loader's workers.
        self._cached = [cache.read(clip) for clip in clips]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        """Item of an index, or of `(index, seed)` as the training sampler draws it.

        The seed alone decides the augmentation: the number of workers, or where a run was interrupted, does not.

        Returns:
            frames: uint8 (T, 3, S, S), T as many as the clip has; label: int64 (), 1 = fake; index: position in
            `clips`.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        crops = self._cached[index].crops
        if self.augmentation is not None and seed is not None:
            reseed(self.augmentation, seed)
            crops = self.augmentation(images=crops)["images"]
        frames = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
        return {"frames": frames, "label": torch.tensor(int(self.clips[index].fake)), "index": index}


def clip_augmentation(size: int) -> A.Compose:
    """What training clips go through: moved and mirrored, brighter or darker, then scaled, blurred and compressed.

    Crops of 80 to 100 % of the area, because detectors differ in where they put the box; the rest is what happens to
    clips on their way through the web. No noise: one draw serves all frames, and it would stand still in time.

    Args:
        size: Side of the crops in px.
    """
    scaled = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}
    return A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=(0.8, 1.0), ratio=(1.0, 1.0), p=0.5),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
            A.Downscale(scale_range=(0.5, 0.9), interpolation_pair=scaled, p=0.3),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=0.2),
            A.ImageCompression(quality_range=(50, 100), p=0.5),
        ]
    )


def collate_clips(items: Sequence[dict[str, Tensor | int]]) -> dict[str, Tensor]:
    """Stack items; shorter clips end in frames of zeros.

    Returns:
        frames: uint8 (B, T, 3, S, S), T of the longest; lengths: int64 (B,), frames of each; label and index: int64
        (B,).
    """
    return {
        "frames": pad_sequence([item["frames"] for item in items], batch_first=True),
        "lengths": torch.tensor([len(item["frames"]) for item in items]),
        "label": torch.stack([item["label"] for item in items]),
        "index": torch.tensor([item["index"] for item in items]),
    }

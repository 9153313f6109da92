"""Dataset of cached clips, with their augmentation and collation."""

from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from common.data.transforms import reseed
from common.video.blending import self_blended
from common.video.cache import ClipCache
from common.video.clips import Clip


class ClipDataset(Dataset):
    """The face crops of clips."""

    def __init__(
        self,
        clips: Sequence[Clip],
        cache: ClipCache,
        augmentation: A.Compose | None = None,
        most_frames: int | None = None,
    ) -> None:
        """Find the clips in the cache; crops are read with each item.

        Args:
            clips: Cached clips.
            cache: Cache of their crops.
            augmentation: Applied to items requested with a seed, by one draw for all frames of a clip.
            most_frames: Of clips with more frames only so many are taken, evenly spaced; all by default.

        Raises:
            UserError: A clip is not in the cache, or has changed since.
        """
        self.clips = clips
        self.augmentation = augmentation
        self.most_frames = most_frames
        # Not the cache itself: its detector would have to be pickled for the loader's workers.
        self._cached = [cache.read(clip) for clip in clips]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Item of an index, or of `(index, seed)` as the training sampler draws it.

        Augmentation and self-blending depend on the seed alone, not on the number of workers or where a run was
        interrupted. Without a seed a clip is blended with itself in the same way each time.

        Returns:
            frames: uint8 (T, 3, S, S), T as many as the clip has; label: int64 (), 1 = fake; index: position in
            `clips`.
        """
        index, seed = index if isinstance(index, tuple) else (index, None)
        crops = self._cached[index].crops
        count = len(crops)
        if self.most_frames is not None and count > self.most_frames:
            crops = crops[(2 * np.arange(self.most_frames) + 1) * count // (2 * self.most_frames)]
        if self.clips[index].self_blended:
            crops = self_blended(crops, index if seed is None else seed)
        if self.augmentation is not None and seed is not None:
            reseed(self.augmentation, seed)
            crops = self.augmentation(images=crops)["images"]
        frames = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
        return {"frames": frames, "label": torch.tensor(int(self.clips[index].fake)), "index": index}


def clip_augmentation(size: int) -> A.Compose:
    """Augmentation of training clips: crop, mirror, brightness and contrast, then scaling, blur and compression.

    Crops cover 80 to 100 % of the area, because detectors place their boxes differently; scaling, blur and compression
    are what websites do to clips. No noise: one draw serves all frames, so that it would not change over time.

    Args:
        size: Side of the crops in px.
    """
    return A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=(0.8, 1.0), ratio=(1.0, 1.0), p=0.5),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
            A.Downscale((0.5, 0.9), {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}, p=0.3),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=0.2),
            A.ImageCompression(quality_range=(50, 100), p=0.5),
        ]
    )


def collate_clips(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack items; shorter clips are padded with frames of zeros.

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

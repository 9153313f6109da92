"""A plain baseline of script 1: the FPN of segmentation-models-pytorch in a bare loop.

    python -m benchmarks.baseline_plain --data-dir data/casia1 --epochs 5

What a member must beat, with the same encoder in the same minutes. Every image is resized to 256 × 384 pixels (upright
ones turned first), all images of the training folds are drawn once an epoch, flips are the only augmentation. The loss
is Dice plus cross-entropy, in which forged pixels weigh three times as much; AdamW at 1e-3 on one cycle. The fold, the
first weights and the metrics are script 1's. The weights are kept in models/baseline_plain, for `benchmarks.members`.
"""

from common.process import prepare

prepare()  # before torch is imported

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import tyro
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from common.config.segmentation import TrainConfig
from common.data.images import read_image
from common.data.masks import read_mask
from common.networks.pretrained import load_encoder_weights
from common.training.engine import build_seeded
from common.training.member import load_split
from common.training.validation import validate

HEIGHT, WIDTH = 256, 384
FOLDER = Path("models/baseline_plain")


class Images(Dataset):
    """Images and masks at one size, decoded once."""

    def __init__(self, samples, change: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        """Read all samples, each image changed by a function before it is resized."""
        self.samples, self.change = samples, change
        self.pairs = [self._read(sample) for sample in samples]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        image, mask = self.pairs[index]
        return {"image": torch.from_numpy(image).permute(2, 0, 1), "mask": torch.from_numpy(mask)[None], "index": index}

    def _read(self, sample) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(sample.image)
        mask = np.zeros(image.shape[:2], np.uint8) if sample.mask is None else read_mask(sample.mask).max(axis=0)
        if self.change is not None:
            image = self.change(image)
        if image.shape[0] > image.shape[1]:
            image, mask = np.rot90(image).copy(), np.rot90(mask).copy()
        size = (WIDTH, HEIGHT)
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.resize(mask, size, interpolation=0)


class Network(nn.Module):
    """The FPN on normalised images."""

    def __init__(self, encoder_name: str) -> None:
        """Build it with narrow decoder and the encoder's ImageNet weights."""
        super().__init__()
        self.fpn = smp.FPN(
            encoder_name, encoder_weights=None, decoder_pyramid_channels=64, decoder_segmentation_channels=32
        )
        load_encoder_weights(self.fpn.encoder, encoder_name, "imagenet")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of uint8 images, scaled as EfficientNet-Lite's weights want it."""
        return self.fpn(x.float() / 127.5 - 1)


def main(
    *, data_dir: Path = Path("data"), epochs: int = 5, encoder_name: str = "tu-tf_efficientnet_lite0", seed: int = 0
) -> None:
    """Train, and print the metrics of script 1 after each epoch.

    Args:
        data_dir: Data folder; fold 0 of 5 validates.
        epochs: Passes over the training images.
        encoder_name: One whose weights want mean and deviation 0.5.
        seed: Of the first weights and the draws; the folds are those of --fold-seed 0.
    """
    split = load_split(TrainConfig(name="baseline_plain", data_dir=data_dir, models_dir=FOLDER))
    train, val = DataLoader(Images(split.train), 8, shuffle=True), DataLoader(Images(split.val), 8)
    model = build_seeded(seed, lambda: Network(encoder_name))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * len(train))
    seconds = 0.0
    for epoch in range(epochs):
        started = time.perf_counter()
        model.train()
        for batch in train:
            image, mask = batch["image"], batch["mask"].float()
            for axis in (2, 3):
                if torch.rand(()) < 0.5:
                    image, mask = image.flip(axis), mask.flip(axis)
            logits = model(image)
            probs = torch.sigmoid(logits)
            dice = 1 - (2 * (probs * mask).sum() + 1) / ((probs + mask).sum() + 1)
            loss = F.binary_cross_entropy_with_logits(logits, mask, pos_weight=torch.tensor(3.0)) + dice
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds += time.perf_counter() - started
        metrics = validate(Accelerator(), model, val).metrics
        shown = ("dice", "pixel_f1", "pixel_f1_best", "pixel_auc", "image_auc", "image_recall_at_5_fpr")
        print(f"epoch {epoch + 1}: {seconds:.0f} s, " + ", ".join(f"{name} {metrics[name]:.3f}" for name in shown))
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), FOLDER / f"seed_{seed}.pth")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

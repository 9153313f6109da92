"""The original recipe in plain PyTorch, the baseline of `benchmarks.training` and `benchmarks.inference`.

    python -m benchmarks.reference train --data-dir data/demo --images 200 --profile quick
    python -m benchmarks.reference submit --input data/demo/test_images --models-dir models --output reference.csv

Eager fp32; every file decoded and resized in every epoch; a full `np.load` of all masks at the start to weight the
images; an optimiser that is not fused; contiguous tensors; members one after the other on one image at a time, each
reading the image itself; masks to text by a loop over pixels. `train` is script 1's recipe: network, images, sizes,
augmentation, loss. `submit` computes what `make_submission.py --no-copy-move --no-generated` computes; tiles, blend,
features and decision are those of `common`. Neither uses the process settings of `common.process`.
"""

import csv
import json
import os
import sys
import time
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Literal

# A program that started this one hands its process settings down.
os.environ.pop("GOMP_SPINCOUNT", None)
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import tyro
from albumentations.pytorch import ToTensorV2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from benchmarks import high_water
from common.config.segmentation import OversamplingConfig
from common.data.images import find_images
from common.data.samples import Sample, assign_folds, find_samples
from common.data.tiles import TILES_ALONG, blend_tiles, tile_windows
from common.data.transforms import resize_image, resize_map
from common.ensemble.blending import blend
from common.ensemble.decision import FEATURE_SIZE, is_forged, map_features
from common.ensemble.ensemble import Loaded
from common.ensemble.instances import find_instances
from common.ensemble.loading import original_settings
from common.ensemble.members import MEMBERS, SETTINGS_FILE, Member, identities, member_path
from common.ensemble.settings import Settings
from common.ensemble.views import MIN_TILE, TILE_WEIGHT, VIEWS, is_large
from common.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIRST_STEPS = 2
"""Not counted in the rate: they allocate memory and choose algorithms."""


class Network(nn.Module):
    """Feature pyramid and attention gate, with the names of `common.networks.segmentation.AttentionFPN`."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        fpn = smp.FPN(
            config["encoder_name"],
            encoder_weights=None,
            in_channels=config["in_channels"],
            decoder_pyramid_channels=config["decoder_channels"],
            decoder_segmentation_channels=config["segmentation_channels"],
        )
        self.encoder, self.decoder, self.head = fpn.encoder, fpn.decoder, fpn.segmentation_head
        self.gate = Gate(config["segmentation_channels"])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1, S, S) of normalised images (N, C, S, S)."""
        return self.head(self.gate(self.decoder(self.encoder(x))))


class Gate(nn.Module):
    """The original recipe's attention gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels // 2, kernel_size=1),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels // 4, kernel_size=3, padding=1),
            nn.BatchNorm2d(channels // 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, 1, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W), weighted by the attention."""
        return x * self.conv(x)


class Images(Dataset):
    """Images and masks, read, resized and augmented on every access, and the weights of the sampler."""

    def __init__(self, samples: list[Sample], config: OversamplingConfig, transform: A.Compose) -> None:
        self.samples, self.size, self.transform = samples, config.image_size, transform
        small = config.small_forgery_threshold
        self.weights = [config.oversample_factor if 0 < s.area_share < small else 1.0 for s in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        image = read_image(sample.image)
        mask = np.zeros(image.shape[:2], np.uint8)
        if sample.mask is not None:
            mask = union(np.load(sample.mask))
        image = resize_image(image, self.size)
        mask = cv2.resize(mask, (self.size, self.size), interpolation=cv2.INTER_NEAREST)
        result = self.transform(image=image, mask=mask)
        return result["image"], result["mask"].unsqueeze(0).float()


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB."""
    image = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION))
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def union(mask: np.ndarray) -> np.ndarray:
    """Union of a mask's groups, uint8 (H, W)."""
    return ((mask.max(axis=0) if mask.ndim == 3 else mask) > 0).astype(np.uint8)


def measured(sample: Sample) -> Sample:
    """The sample with its forged share, computed from the whole mask."""
    return sample if sample.mask is None else replace(sample, area_share=float(union(np.load(sample.mask)).mean()))


class FocalLoss(nn.Module):
    """The original recipe's focal loss."""

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the pixels of logits and targets (N, 1, S, S)."""
        bce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
        p = torch.sigmoid(inputs)
        p_t = p * targets + (1 - p) * (1 - targets)
        alpha_t = self.alpha * targets + (1 - self.alpha) * (1 - targets)
        return (alpha_t * (1 - p_t) ** self.gamma * bce).mean()


class DiceLoss(nn.Module):
    """Dice loss, for authentic images of the background, as `common.training.losses.DiceLoss`."""

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the images of logits and targets (N, 1, S, S)."""
        p, targets = torch.sigmoid(inputs).flatten(1), targets.flatten(1)
        authentic = targets.sum(1, keepdim=True) == 0
        p, targets = (torch.where(authentic, 1 - part, part) for part in (p, targets))
        return (1 - 2 * (p * targets).sum(1) / (p.sum(1) + targets.sum(1))).mean()


def train(
    data_dir: Path,
    images: int = 200,
    profile: Literal["quick", "full"] = "quick",
    save: Path | None = None,
    *,
    json: bool = False,
) -> None:
    """Train script 1's network from random weights, and print its speed.

    Args:
        data_dir: Data folder; fold 0 is left out, as in script 1.
        images: Number of images to train on, in whole batches.
        profile: Profile of script 1.
        save: Checkpoint to write; models/reference_best.pth is scored by script 1 with `--init reference --epochs 0`.
        json: Print the figures as one line of JSON.
    """
    config = OversamplingConfig(name="reference")
    config = config.quick() if profile == "quick" else config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)

    start = time.perf_counter()
    samples = [measured(sample) for sample in find_samples(data_dir)]
    folds = assign_folds(samples, config.folds, config.fold_seed)
    train_set = Images([s for s, fold in zip(samples, folds, strict=True) if fold != config.fold], config, _transform())
    start_seconds = time.perf_counter() - start

    steps = max(FIRST_STEPS + 1, round(images / config.batch_size))
    sampler = WeightedRandomSampler(train_set.weights, steps * config.batch_size)
    loader = DataLoader(train_set, batch_size=config.batch_size, sampler=sampler, num_workers=config.workers)
    model = Network(config.plain()).to(device)
    focal, dice = FocalLoss(config.focal_alpha, config.focal_gamma), DiceLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    scheduler = None
    if config.schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)
    model.train()
    total, begun = 0.0, time.perf_counter()
    steady = begun
    for step, (batch, masks) in enumerate(loader, 1):
        batch, masks = batch.to(device), masks.to(device)
        optimizer.zero_grad()
        outputs = model(batch)
        loss = config.focal_weight * focal(outputs, masks) + config.dice_weight * dice(outputs, masks)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        total += loss.item()
        if step == FIRST_STEPS:
            steady = time.perf_counter()
    ended = time.perf_counter()
    figures = {
        "images": steps * config.batch_size,
        "images_per_second": (steps - FIRST_STEPS) * config.batch_size / (ended - steady),
        "start_seconds": start_seconds,
        "seconds": ended - begun,
        "peak_mb": high_water(),
        "loss": total / steps,
    }
    if save is not None:
        _save(save, model, config)
    _print(figures, as_json=json)


def _save(path: Path, model: nn.Module, config: OversamplingConfig) -> None:
    """Write a checkpoint like script 1's, without what its validation adds."""
    normalisation = {"mean": torch.tensor(MEAN).view(1, 3, 1, 1), "std": torch.tensor(STD).view(1, 3, 1, 1)}
    checkpoint = {"model_state_dict": model.state_dict() | normalisation, "config": config.plain(), "epoch": 0}
    checkpoint |= {"best_dice": 0.0, "metrics": {}, "threshold": 0.5, "calibration": {"slope": 1.0, "intercept": 0.0}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)


def _transform() -> A.Compose:
    """Script 1's augmentation, and normalisation."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomRotate90(p=0.5),
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(0, 0), p=0.5),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=0.1),
            A.Normalize(MEAN, STD),
            ToTensorV2(),
        ]
    )


def submit(input: Path, models_dir: Path, output: Path, *, json: bool = False) -> None:
    """Write a submission, and next to it scores.csv with the probability of each image.

    Args:
        input: Folder of images.
        models_dir: Folder of checkpoints, all of which form the ensemble.
        output: CSV file to write, case_id,annotation.
        json: Print the figures as one line of JSON.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = time.perf_counter()
    members = [member for member in MEMBERS if member_path(models_dir, member).is_file()]
    members = [member for member in members if member.role in ("average", "union")]
    if not any(member.role == "average" for member in members):
        raise UserError(f"{models_dir} has no checkpoint of a member that is averaged (*_best.pth). Train one.")
    checkpoints = [torch.load(member_path(models_dir, m), map_location="cpu", weights_only=True) for m in members]
    models = [_load(checkpoint).to(device) for checkpoint in checkpoints]
    settings = _settings(models_dir, members, checkpoints)
    load_seconds = time.perf_counter() - start

    rows, scores = [], []
    paths = find_images(input)
    for case_id, path in paths.items():
        maps = [
            _predict(member, model, checkpoint["config"]["image_size"], path, settings, device)
            for member, model, checkpoint in zip(members, models, checkpoints, strict=True)
        ]
        height, width = read_image(path).shape[:2]
        annotation, probability = _decide(members, maps, height, width, settings)
        rows.append([case_id, annotation])
        scores.append([case_id, round(probability, 6)])
    for table, head, lines in (
        (output, ["case_id", "annotation"], rows),
        (output.with_name("scores.csv"), ["case_id", "forged_probability"], scores),
    ):
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([head, *lines])
    seconds = time.perf_counter() - start
    figures = {"images": len(paths), "images_per_second": len(paths) / (seconds - load_seconds)}
    _print(figures | {"load_seconds": load_seconds, "seconds": seconds, "peak_mb": high_water()}, as_json=json)


def _load(checkpoint: dict) -> Network:
    model = Network(checkpoint["config"])
    # This network expects normalised images.
    weights = {name: w for name, w in checkpoint["model_state_dict"].items() if name not in ("mean", "std")}
    model.load_state_dict(weights)
    return model.eval()


def _settings(models_dir: Path, members: list[Member], checkpoints: list[dict]) -> Settings:
    """The fitted settings if they are for exactly these checkpoints, else the original recipe's."""
    if (models_dir / SETTINGS_FILE).is_file():
        settings = Settings.load(models_dir / SETTINGS_FILE)
        if settings.checkpoints == identities(models_dir):
            return settings
    return original_settings([Loaded(m, nn.Identity(), c) for m, c in zip(members, checkpoints, strict=True)])


def _predict(
    member: Member, model: nn.Module, size: int, path: Path, settings: Settings, device: torch.device
) -> np.ndarray:
    """A member's map of an image: at the image's size if it is large, else at the network's."""
    image = read_image(path)
    if member.in_channels == 4:
        image = np.dstack([image, error_level(image)])
    height, width = image.shape[:2]
    if member.tile_share is not None:
        windows = tile_windows(height, width, max(MIN_TILE, round(member.tile_share * max(height, width))))
        tiled = _tiled(model, image, windows, size, settings, device)
        return tiled if is_large(height, width, size) else resize_image(tiled, size)
    prob = _forward(model, image, size, settings, device)
    if is_large(height, width, size):
        windows = tile_windows(height, width, max(size, ceil(max(height, width) / TILES_ALONG)))
        tiled = _tiled(model, image, windows, size, settings, device)
        prob = TILE_WEIGHT * tiled + (1 - TILE_WEIGHT) * resize_map(prob, height, width)
    return prob


def error_level(image: np.ndarray, quality: int = 90, amplification: int = 10) -> np.ndarray:
    """Error level analysis of a uint8 (H, W, 3) RGB image, uint8 (H, W)."""
    _, buffer = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    compressed = np.asarray(cv2.imdecode(buffer, cv2.IMREAD_COLOR))[..., ::-1]
    difference = np.abs(image.astype(np.int16) - compressed.astype(np.int16)).max(axis=2)
    return np.clip(amplification * difference, 0, 255).astype(np.uint8)


def _tiled(
    model: nn.Module, image: np.ndarray, windows: list, size: int, settings: Settings, device: torch.device
) -> np.ndarray:
    height, width = image.shape[:2]
    tiles = [(window, _forward(model, image[window], size, settings, device)) for window in windows]
    return blend_tiles(tiles, height, width)


@torch.no_grad()
def _forward(model: nn.Module, image: np.ndarray, size: int, settings: Settings, device: torch.device) -> np.ndarray:
    """Map (S, S) of an image (H, W, C)."""
    image = resize_image(image, size).astype(np.float32) / 255
    image[..., :3] = (image[..., :3] - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    x = torch.from_numpy(image.transpose(2, 0, 1)).unsqueeze(0).to(device)
    views = [view.undo(torch.sigmoid(model(view.apply(x)))[0, 0]) for view in VIEWS[settings.tta]]
    return torch.stack(views).mean(dim=0).cpu().numpy()


def _decide(
    members: list[Member], maps: list[np.ndarray], height: int, width: int, settings: Settings
) -> tuple[str, float]:
    """Annotation, and the probability that the image is forged."""
    roles, weights = [m.role for m in members], [settings.weights[m.name] for m in members]
    maps = [prob.astype(np.float16).astype(np.float32) for prob in maps]  # as the decision was fitted
    small = np.stack([resize_image(prob, FEATURE_SIZE) for prob in maps]).astype(np.float16)
    by_name = {member.name: prob for member, prob in zip(members, small, strict=True)}
    features = map_features(blend(small, roles, weights), by_name, settings.pixel_threshold)
    probability = settings.decision.probability(features)
    if not is_forged(probability, "default"):
        return "authentic", probability
    full = np.stack([resize_map(prob, height, width) for prob in maps])
    labels = find_instances(
        blend(full, roles, weights), settings.pixel_threshold, settings.min_area_share, cleanup=settings.cleanup
    )
    masks = [labels == number for number in range(1, labels.max() + 1)]
    return ";".join(str(run_lengths(mask)) for mask in masks) or "authentic", probability


def run_lengths(mask: np.ndarray) -> list[int]:
    """`[start, length, …]` of a mask (H, W), as Kaggle's kernels have it."""
    forged = np.where(mask.T.flatten())[0]
    runs, previous = [], -2
    for pixel in forged:
        if pixel > previous + 1:
            runs.extend((int(pixel) + 1, 0))
        runs[-1] += 1
        previous = pixel
    return runs


def _print(figures: dict[str, float], *, as_json: bool) -> None:
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps(rounded) if as_json else "\n".join(f"{name:<18} {value}" for name, value in rounded.items()))


if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict({"train": train, "submit": submit}, description=__doc__)
    except UserError as error:
        sys.exit(f"error: {error}")

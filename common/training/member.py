"""Training of a segmentation member, as all scripts do it: split of the data, first weights, loss, cache, fit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import albumentations as A
import torch
from torch import Tensor, nn

from common.config.segmentation import SpecialistConfig, TrainConfig
from common.data.dataset import Edit, ForgeryDataset, collate_whole, make_loader
from common.data.packed import PackedList
from common.data.pixel_cache import Form, PixelCache
from common.data.samples import Sample, assign_folds, fingerprint, load_samples
from common.data.sampling import WeightedSampler
from common.devices import main_process_prints, process_state
from common.errors import UserError, flag_of
from common.networks.pretrained import load_encoder_weights
from common.networks.segmentation import NETWORK_FIELDS, AttentionFPN, build_network, load_network
from common.training.checkpoint import load_checkpoint
from common.training.engine import Data, Objective, build_seeded, fit
from common.training.losses import CombinedLoss
from common.training.optimizing import freeze_unused
from common.training.run_files import check_files
from common.training.validation import validate

Config = TypeVar("Config", bound=TrainConfig)


@dataclass(frozen=True)
class Split:
    """The images of a run, split by folds."""

    train: PackedList[Sample]
    val: PackedList[Sample]
    fingerprint: str
    """Of all images of the data folder."""


def load_split(config: TrainConfig) -> Split:
    """Read the data folder and split it into the fold that validates and the others.

    Raises:
        UserError: As `check_files`, `load_samples` and `assign_folds`.
    """
    check_files(config)
    state = process_state()
    # The other processes then find the index that the main process has written, and need not repeat its messages.
    with state.main_process_first(), main_process_prints():
        samples = load_samples(config.data_dir, skip_bad_files=config.skip_bad_files)
    folds = assign_folds(samples, config.folds, config.fold_seed)
    train = PackedList(sample for sample, fold in zip(samples, folds, strict=True) if fold != config.fold)
    val = PackedList(sample for sample, fold in zip(samples, folds, strict=True) if fold == config.fold)
    for images, part in ((train, "train on"), (val, "validate on")):
        for label in sorted({"forged", "authentic"} - {sample.label for sample in images}):
            state.print(
                f"note: no image to {part} is {label}: metrics that need one are nan. Add some, or fewer --folds"
            )
    state.print(f"{config.name}: {len(train)} images to train on, {len(val)} to validate on (fold {config.fold})")
    return Split(train, val, fingerprint(samples))


def start_network(config: Config, split: Split) -> tuple[AttentionFPN, Config]:
    """The network with its first weights: of a checkpoint (`init`), or of a pretrained encoder.

    Returns:
        The network, and the configuration with what was loaded: the encoder weights, or network, image size and encoder
        weights of the other member.

    Raises:
        UserError: The checkpoint is missing, or was trained on images that validate here; or as
            `load_encoder_weights`.
    """
    if config.init == "none":
        model = build_seeded(config.seed, lambda: build_network(config))
        if not config.resume:  # then the checkpoint has the weights
            with process_state().main_process_first(), main_process_prints():  # the others find them in the hub's cache
                loaded = load_encoder_weights(model.encoder, config.encoder_name, config.encoder_weights)
            config = replace(config, encoder_weights=loaded)
        return model, config

    path, remedy = Path(config.init), "Name another one"
    if path.suffix not in (".pth", ".safetensors"):
        path = config.models_dir / f"{config.init}_best.pth"
        remedy = f"Train {config.init} first, with the same --models-dir"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist, and {config.name} starts from it. {remedy}, or start from a pretrained encoder "
            "with --init none."
        )
    checkpoint = load_checkpoint(path)
    theirs = checkpoint["config"]
    if checkpoint.get("data_fingerprint") != split.fingerprint:
        process_state().print(
            f"note: {path} was trained on other data; if they share images with this fold, its metrics are too good"
        )
    elif differing := [f for f in ("folds", "fold_seed", "fold") if theirs[f] != getattr(config, f)]:
        flags = ", ".join(flag_of(field, theirs[field]) for field in differing)
        raise UserError(
            f"{path} was trained with {flags}: it has seen images that validate here. Use the same, or another "
            "--models-dir."
        )
    if theirs["in_channels"] != config.in_channels:
        raise UserError(f"{path} reads {theirs['in_channels']} channels, {config.name} {config.in_channels}.")
    taken = {field: theirs[field] for field in (*NETWORK_FIELDS, "image_size", "encoder_weights")}
    if not isinstance(config, SpecialistConfig):  # whose crops are its own
        taken["framing"] = theirs.get("framing", "squeeze")  # checkpoints of before have none
    process_state().print(f"{config.name}: starts from {path} ({taken['encoder_name']}, {taken['image_size']} px)")
    return load_network(checkpoint, path), replace(config, **taken)


def make_datasets(
    config: TrainConfig, split: Split, augmentation: A.Compose, *, edit: Edit | None = None
) -> tuple[ForgeryDataset, ForgeryDataset]:
    """The training set, with augmentation and `edit`, and the validation set, without."""
    framed = partial(
        ForgeryDataset, image_size=config.image_size, in_channels=config.in_channels, framing=config.framing
    )
    return framed(split.train, augmentation=augmentation, edit=edit), framed(split.val)


def segmentation_step(loss: nn.Module, model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The loss of a batch of `ForgeryDataset` items; `loss` takes `(logits, target)`, both (N, 1, H, W)."""
    return loss(model(batch["image"]), batch["mask"])


def fit_member(
    config: TrainConfig,
    split: Split,
    model: nn.Module,
    train_set: ForgeryDataset,
    val_set: ForgeryDataset,
    sampler: WeightedSampler,
    before_epoch: Callable[[int], bool] | None = None,
) -> None:
    """Train with focal and Dice loss (`common.training.engine.fit`), and print the metrics of the best epoch.

    Args:
        config: Of the run.
        split: Where the data sets come from.
        model: With its first weights.
        train_set: Drawn from by the sampler.
        val_set: Read in order.
        sampler: Of the training images.
        before_epoch: As `fit`.
    """
    loss = CombinedLoss(
        alpha=config.focal_alpha,
        gamma=config.focal_gamma,
        focal_weight=config.focal_weight,
        dice_weight=config.dice_weight,
    )
    torch.backends.cudnn.benchmark = True  # sizes stay the same
    freeze_unused(model, 1, config.in_channels, config.image_size, config.image_size)
    keep_decoded(config, split, train_set, val_set)
    metrics = fit(
        config,
        model,
        Objective(
            step=partial(segmentation_step, loss), validate=partial(validate, recall_weight=config.recall_weight)
        ),
        Data(
            make_loader(train_set, config.batch_size, config.workers, sampler),
            make_loader(val_set, config.batch_size, config.workers, collate=collate_whole),
            split.fingerprint,
        ),
        before_epoch=before_epoch,
    )
    process_state().print(
        f"{config.name}: dice {metrics['dice']:.4f}, pixel F1 {metrics['pixel_f1']:.4f}, "
        f"recall {metrics['pixel_recall']:.4f}, image AUC {metrics['image_auc']:.4f}, "
        f"false positives {metrics['image_fpr']:.1%} → {config.models_dir / config.name}_best.pth"
    )


def keep_decoded(config: TrainConfig, split: Split, *datasets: ForgeryDataset) -> None:
    """Give the data sets a cache of decoded images, shared by those of the same form; a set that has one keeps it."""
    caches: dict[Form, PixelCache] = {}
    for dataset in datasets:
        if not config.cache_gb or dataset.cache is not None:
            continue
        if dataset.form not in caches:
            samples = [*split.train, *split.val]
            cache = PixelCache(config.cache_folder, samples, dataset.form, 1e9 * config.cache_gb)
            caches[dataset.form] = cache
            if cache.note:
                process_state().print(f"{config.name}: {cache.note}")
        dataset.use_cache(caches[dataset.form])

"""What script 8 puts together: labelled clips, their cached crops, the network with its first weights, loss, test."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.data.dataset import make_loader
from common.data.sampling import EpochSampler
from common.data.splits import SPLITS, of_split
from common.devices import main_process_prints, process_state
from common.errors import UserError
from common.metrics.calibration import calibrated, fit_calibration
from common.metrics.detection import RANKED, detection_metrics
from common.training.checkpoint import load_checkpoint
from common.training.engine import Validation, fit
from common.training.losses import ClassFocalLoss
from common.training.optimizing import freeze_unused
from common.video.cache import ClipCache
from common.video.clip_faces import MIN_FOUND
from common.video.clips import Clip, check_clips, clip_key, fingerprint, read_clip_folders, read_clip_table
from common.video.config import VideoConfig
from common.video.dataset import ClipDataset, clip_augmentation, collate_clips
from common.video.faces import NoFace, make_face_detector
from common.video.network import SPOTTER_FIELDS, VIDEO_KEYS, TemporalCNNGRU, load_backbone_weights, load_spotter

DECISION = {"threshold": 0.5, "min_coverage": 0.3}
"""What a checkpoint decides with where nothing else was asked for."""


def load_clips(config: VideoConfig) -> tuple[list[Clip], ClipCache]:
    """List the labelled clips, and decode into the cache what is not there yet.

    Returns:
        The clips that could be read, and their crops.

    Raises:
        UserError: `compile` is asked for; or as the readers of `common.video.clips`, `make_face_detector`, and
            `ClipCache.fill`.
    """
    if config.compile:
        raise UserError(
            "--compile is for scripts 1 to 6: clips differ in length, and each new one would be compiled for."
        )
    config = as_trained(config) if config.evaluate else config
    if config.csv is not None:
        clips = read_clip_table(config.csv, config.identity, config.seed)
    else:
        clips = read_clip_folders(config.data_dir, config.identity, config.seed)
    if config.evaluate:
        clips = of_split(clips, "test")
    else:
        check_clips(clips)  # before hours of decoding
    # The others find the clips in the cache.
    with process_state().main_process_first(), main_process_prints():
        faces = make_face_detector(config.faces, model=config.face_model, boxes=config.boxes)
        cache = ClipCache(config.cache_dir, faces, frames=config.frames, size=config.image_size)
        clips = cache.fill(clips, config.skip_bad_files)
    if not isinstance(faces, NoFace):
        clips = with_faces(clips, cache)
    if not config.evaluate:
        check_clips(clips)
    counts = ", ".join(f"{len(of_split(clips, split))} {split}" for split in SPLITS)
    identities = len({identity for clip in clips for identity in clip.identities})
    process_state().print(f"{config.name}: {counts} clips; {identities or 'no known'} identities")
    return clips, cache


def with_faces(clips: Sequence[Clip], cache: ClipCache) -> list[Clip]:
    """Those whose face would decide in a prediction; how many others there are is printed.

    Raises:
        UserError: No clip is left.
    """
    found = {clip: cache.read(clip) for clip in clips}
    usable = [clip for clip in clips if found[clip].found.sum() >= MIN_FOUND or found[clip].coverage == 1]
    if lost := len(clips) - len(usable):
        process_state().print(
            f"left out: {lost} of {len(clips)} clips; their face was found in fewer than {MIN_FOUND} frames"
        )
    if not usable:
        raise UserError("no clip has a face. Are the images face crops? Then say --faces crops.")
    return usable


def checkpoint_path(config: VideoConfig) -> Path:
    """The checkpoint that is named, or that a training writes."""
    return config.checkpoint or config.models_dir / f"{config.name}_best.pth"


def as_trained(config: VideoConfig) -> VideoConfig:
    """The configuration with what decided in the checkpoint's training about splits and crops.

    Raises:
        UserError: There is no such checkpoint.
    """
    path = checkpoint_path(config)
    trained = load_checkpoint(path, VIDEO_KEYS)["config"]
    try:
        return replace(config, **{name: trained[name] for name in ("seed", "identity", "frames", "image_size")})
    except KeyError as error:
        raise UserError(f"{path} is no checkpoint of script 8: its config lacks {error}.") from error


def start_spotter(config: VideoConfig) -> tuple[TemporalCNNGRU, VideoConfig]:
    """The network with its first weights, and the configuration with what was really loaded and its last defaults.

    Raises:
        UserError: No such encoder, or its weights can't be had.
    """
    set_seed(config.seed)  # the same weights, whatever was drawn before
    model = TemporalCNNGRU(**{field: getattr(config, field) for field in SPOTTER_FIELDS if hasattr(config, field)})
    loaded = config.encoder_weights
    if not config.resume:  # then the checkpoint has the weights
        with process_state().main_process_first(), main_process_prints():  # the others find them in the hub's cache
            loaded = load_backbone_weights(model, loaded)
    freeze_unused(model, 1, 1, 3, config.image_size, config.image_size)
    decision = {name: getattr(config, name) for name in DECISION if getattr(config, name) is not None}
    return model, replace(config, encoder_weights=loaded, **DECISION | decision)


class ClipStep:
    """The loss of a batch of clips: of their verdicts, and a little of their frames'."""

    def __init__(self, clips: Sequence[Clip], gamma: float, frame_weight: float) -> None:
        """Hold the loss; the classes' weights are such that both weigh the same among these clips."""
        fakes = sum(clip.fake for clip in clips)
        weights = torch.tensor([len(clips) / (2 * (len(clips) - fakes)), len(clips) / (2 * fakes)])
        self.loss, self.frame_weight = ClassFocalLoss(weights, gamma), frame_weight

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss."""
        logits, frames = model(batch["frames"], batch["lengths"], return_frames=True)
        label, loss = batch["label"], self.loss(logits, batch["label"])
        if self.frame_weight == 0:
            return loss
        count = frames.shape[1]
        each = self.loss.each(frames.flatten(0, 1), label.repeat_interleave(count)).unflatten(0, (-1, count))
        there = torch.arange(count, device=label.device) < batch["lengths"][:, None]
        # The mean of each clip first: so that long and short ones weigh the same.
        return loss + self.frame_weight * ((each * there).sum(1) / batch["lengths"]).mean()


def fit_spotter(
    config: VideoConfig, model: TemporalCNNGRU, clips: Sequence[Clip], cache: ClipCache
) -> dict[str, float]:
    """Train, the encoder from `frozen_epochs` on, and keep the best epoch by the clips' validation AUC.

    Returns:
        The metrics of the best epoch (see `validate_spotter`).

    Raises:
        UserError: As `fit`.
    """
    train, val = of_split(clips, "train"), of_split(clips, "val")
    augmentation = clip_augmentation(config.image_size) if config.augment else None
    train_loader = make_loader(
        ClipDataset(train, cache, augmentation),
        config.batch_size,
        config.workers,
        EpochSampler(len(train), config.seed),
        collate_clips,
    )
    val_loader = make_loader(ClipDataset(val, cache), config.batch_size, config.workers, collate=collate_clips)

    kept = {"face_detector": cache.detector.name, "seen": sorted({clip_key(clip.path) for clip in [*train, *val]})}

    def set_stage(epoch: int) -> bool:
        model.set_stage(train_backbone=epoch >= config.frozen_epochs)
        return True

    return fit(
        config,
        model,
        ClipStep(train, config.focal_gamma, config.frame_weight),
        partial(validate_spotter, kept=kept),
        train_loader,
        val_loader,
        f"{fingerprint(clips)} {cache.detector.name}",
        criterion="auc",
        shown=("auc", "frame_auc", "ap", "accuracy"),
        before_epoch=set_stage,
        some_unused=config.frozen_epochs > 0,
        patience_from=config.frozen_epochs,
    )


@torch.no_grad()
def score_clips(accelerator: Accelerator, model: nn.Module, loader: DataLoader) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scores in [0, 1] of a loader's clips, in the order of its data set: of each clip, (n,), and of its frames.

    A score is the sigmoid of fake − real logit, not calibrated. Every process gets all of them.

    Raises:
        UserError: The network's output is not finite.
    """
    # In 32 bits, as videos are scored later: the class's own `forward` is without the wrapper of mixed precision.
    model = accelerator.unwrap_model(model).eval()
    device = next(model.parameters()).device
    clip_scores, frame_scores = {}, {}
    for batch in loader:
        lengths = batch["lengths"].to(device)
        logits, frames = type(model).forward(model, batch["frames"].to(device), lengths, return_frames=True)
        found = [(both[..., 1] - both[..., 0]).double().sigmoid() for both in (logits, frames)]
        # Padded to what the longest clip of any process has; several may have seen a clip twice, to come out even.
        found[1] = accelerator.pad_across_processes(found[1], dim=1)
        index, lengths, scores, frames = accelerator.gather((batch["index"].to(device), lengths, *found))
        for position, length, score, own in zip(index.tolist(), lengths.tolist(), scores, frames, strict=True):
            clip_scores[position], frame_scores[position] = score.item(), own[:length].cpu().numpy()
    order = range(len(loader.dataset))
    scores = np.array([clip_scores[position] for position in order])
    if not np.isfinite(scores).all():
        raise UserError("the training diverged: the network's output is no longer finite. Lower --lr.")
    return scores, [frame_scores[position] for position in order]


def validate_spotter(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader, kept: Mapping[str, Any] = MappingProxyType({})
) -> Validation:
    """Score the validation clips; the AUC of the clips picks the best epoch.

    The metrics are those of `detection_metrics` of the clips' calibrated probability, and `frame_auc`, that of all
    frames by their own score. The `calibration` is kept besides, and what is given as `kept`.

    Raises:
        UserError: The training diverged.
    """
    scores, frame_scores = score_clips(accelerator, model, loader)
    fake = np.array([clip.fake for clip in loader.dataset.clips])
    calibration = fit_calibration(scores, fake)
    if calibration["slope"] == 0 and accelerator.is_main_process:
        tqdm.write("note: the network does not tell the validation's clips apart; it gives all the same probability")
    metrics = clip_metrics(scores, fake, calibration)
    metrics["frame_auc"] = clip_metrics(*of_frames(frame_scores, fake), calibration)["auc"]
    return Validation(metrics, metrics["auc"], {"calibration": calibration, **kept})


def of_frames(frame_scores: Sequence[np.ndarray], fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of all frames of clips, each with its clip's label."""
    return np.concatenate(frame_scores), np.repeat(fake, [len(scores) for scores in frame_scores])


def clip_metrics(
    scores: np.ndarray, fake: np.ndarray, calibration: dict[str, float], threshold: float = 0.5
) -> dict[str, float]:
    """`detection_metrics` of calibrated scores; rankings are of the raw ones, which a slope of 0 would tie."""
    probs = np.array([calibrated(score, **calibration) for score in scores])
    raw = detection_metrics(scores, fake)
    return detection_metrics(probs, fake, threshold) | {name: raw[name] for name in RANKED}


def evaluate_spotter(config: VideoConfig, clips: Sequence[Clip], cache: ClipCache) -> pd.DataFrame:
    """Test models/<name>_best.pth on the test split.

    Returns:
        `detection_metrics` of the `clips` and of all their `frames`, a row each, by the column `of`; their counts are
        `real` and `fake`.

    Raises:
        UserError: There is no checkpoint, it was trained on clips of the split, or the split lacks a class.
    """
    path = checkpoint_path(config)
    checkpoint = load_checkpoint(path, VIDEO_KEYS)
    clips = of_split(clips, "test")
    seen = [clip.path for clip in clips if clip_key(clip.path) in set(checkpoint.get("seen", ()))]
    if seen:
        raise UserError(f"{path} was trained on {len(seen)} of the {len(clips)} clips to test, such as {seen[0]}.")
    if (then := checkpoint.get("face_detector")) != (now := cache.detector.name):
        process_state().print(
            f"note: the faces that {path} was trained on came from: {then}; those of this test from: {now}"
        )
    fake = np.array([clip.fake for clip in clips], bool)
    if fake.all() or not fake.any():
        raise UserError("the test split needs real and fake clips.")
    process_state()  # before the accelerator, which would take several processes without a GPU for several runs
    accelerator = Accelerator()
    loader = make_loader(ClipDataset(clips, cache), config.batch_size, config.workers, collate=collate_clips)
    with main_process_prints():
        model = load_spotter(checkpoint, path).to(accelerator.device)
    scores, frame_scores = score_clips(accelerator, model, accelerator.prepare(loader))
    threshold = checkpoint["config"]["threshold"] if config.threshold is None else config.threshold
    judge = partial(clip_metrics, calibration=checkpoint["calibration"], threshold=threshold)
    rows = {"clips": judge(scores, fake), "frames": judge(*of_frames(frame_scores, fake))}
    table = pd.DataFrame([{"of": name, **metrics} for name, metrics in rows.items()])
    return table.rename(columns={"n_real": "real", "n_generated": "fake"})

"""Training and test of script 8: loading of clips, the network's first weights, the loss, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.data.dataset import make_loader
from common.data.leaks import leak_note
from common.data.sampling import EpochSampler
from common.data.splits import SPLITS, of_split
from common.devices import main_process_prints, process_state
from common.errors import UserError
from common.metrics.calibration import calibrated, fit_calibration
from common.metrics.detection import RANKED, detection_metrics
from common.training.checkpoint import load_checkpoint
from common.training.engine import Data, Objective, build_seeded, fit
from common.training.losses import ClassFocalLoss
from common.training.optimizing import freeze_unused
from common.training.run_files import Validation
from common.video.cache import ClipCache
from common.video.clip_faces import MIN_FOUND
from common.video.clips import (
    Clip,
    check_clips,
    clip_key,
    fingerprint,
    identity_groups,
    read_clip_folders,
    read_clip_table,
    with_self_blended,
)
from common.video.config import ClipsConfig, EvaluationConfig, VideoConfig
from common.video.dataset import ClipDataset, clip_augmentation, collate_clips
from common.video.faces import NoFace, make_face_detector
from common.video.files import clip_header
from common.video.network import SPOTTER_FIELDS, VIDEO_KEYS, TemporalCNNGRU, load_backbone_weights, load_spotter
from common.video.pictures import draw_reliability


def load_clips(config: VideoConfig) -> tuple[list[Clip], ClipCache]:
    """List the labelled clips of a training, and decode into the cache those that are not there yet.

    If neither training nor validation has fakes, they are made of the real clips (`common.video.blending`), with a
    printed note; in the test split too, if it has none.

    Returns:
        The clips that could be read, with those that are made of them, and the cache of their crops.

    Raises:
        UserError: As `make_face_detector`, the readers and `check_clips` of `common.video.clips`, and `ClipCache.fill`;
            or fakes are to be made where no faces are found.
    """
    clips, cache = _read_clips(config, config.identity, config.seed, config.frames, config.image_size)
    blend = not any(clip.fake for clip in clips if clip.split != "test")
    check_clips(with_self_blended(clips) if blend else clips)  # before decoding, which may take hours
    if blend:
        if isinstance(cache.detector, NoFace):
            raise UserError(
                "there are no fakes to train on. They can be made of the real clips by blending each face with itself, "
                f"but not with the face detector {cache.detector.name}, which finds no faces. Choose another, or give "
                "fake clips."
            )
        tested = sum(clip.fake for clip in clips)
        alone = f" (the {tested} that there are belong to the test split)" if tested else ""
        process_state().print(
            f"note: there are no fake clips to train on{alone}; they are made of the real ones, by blending each face "
            "with itself. The network learns the traces of blending, and no others"
        )
    clips = _with_crops(clips, cache, skip_bad_files=config.skip_bad_files)
    if process_state().is_main_process and not blend:
        labels, people = [clip.fake for clip in clips], identity_groups(clips)
        if note := leak_note([clip.path for clip in clips], labels, people, ("real", "fake clips"), clip_header):
            print(f"note: {note}")
    clips = with_self_blended(clips) if blend else clips
    check_clips(clips)
    return clips, cache


def load_test_clips(config: EvaluationConfig) -> tuple[list[Clip], ClipCache]:
    """As `load_clips` for the test split, with the checkpoint's seed and identities, frames and crops.

    Without fakes it has self-blended ones if the network was trained on such; this is printed.

    Raises:
        UserError: As `load_clips`; or the checkpoint is missing or of another kind.
    """
    checkpoint = load_checkpoint(config.checkpoint, VIDEO_KEYS)
    trained = checkpoint["config"]
    if missing := {"identity", "seed", "frames", "image_size"} - trained.keys():
        lacking = ", ".join(sorted(missing))
        raise UserError(f"{config.checkpoint} is no checkpoint of script 8: its config lacks {lacking}.")
    settings = trained["identity"], trained["seed"], trained["frames"], trained["image_size"]
    clips, cache = _read_clips(config, *settings)
    clips = _with_crops(of_split(clips, "test"), cache, skip_bad_files=config.skip_bad_files)
    if checkpoint.get("self_blended") and not any(clip.fake for clip in clips):
        process_state().print(
            "note: there are no fake clips to test on; they are made of the real ones, as in training"
        )
        clips = with_self_blended(clips)
    return clips, cache


def _read_clips(config: ClipsConfig, identity: str, seed: int, frames: int, size: int) -> tuple[list[Clip], ClipCache]:
    with main_process_prints():
        faces = make_face_detector(config.faces, model=config.face_model, boxes=config.boxes)
    if config.csv is not None:
        clips = read_clip_table(config.csv, identity, seed)
    else:
        clips = read_clip_folders(config.data_dir, identity, seed)
    return clips, ClipCache(config.cache_dir, faces, frames=frames, size=size)


def _with_crops(clips: Sequence[Clip], cache: ClipCache, *, skip_bad_files: bool) -> list[Clip]:
    """Fill the cache; the clips in it whose face would decide in a prediction. How many there are is printed."""
    say = process_state().print
    with process_state().main_process_first(), main_process_prints():  # the others find the clips in the cache
        cached = {clip: cache.read(clip) for clip in cache.fill(clips, skip_bad_files=skip_bad_files)}
    usable = list(cached)
    if not isinstance(cache.detector, NoFace):
        usable = [clip for clip, crops in cached.items() if crops.found.sum() >= MIN_FOUND or crops.coverage == 1]
        if lost := len(cached) - len(usable):
            say(f"left out: {lost} of {len(cached)} clips; their face was found in fewer than {MIN_FOUND} frames")
        if not usable:
            raise UserError("no clip has a face. If the images are face crops, choose the face detector crops.")
    counts = ", ".join(f"{len(found)} {split}" for split in SPLITS if (found := of_split(usable, split)))
    identities = len({identity for clip in usable for identity in clip.identities})
    say(f"{counts} clips; {identities or 'no known'} identities")
    return usable


def start_spotter(config: VideoConfig) -> tuple[TemporalCNNGRU, VideoConfig]:
    """The network with its first weights, and the configuration with its steps and the source of those weights.

    Raises:
        UserError: There is no such encoder, or its weights can't be fetched.
    """
    config = replace(config, steps=config.frames)
    network = {field: getattr(config, field) for field in SPOTTER_FIELDS}
    model = build_seeded(config.seed, lambda: TemporalCNNGRU(**network))
    loaded = config.encoder_weights
    if not config.resume:  # otherwise the checkpoint has the weights
        with process_state().main_process_first(), main_process_prints():  # the others find them in the hub's cache
            loaded = load_backbone_weights(model, loaded)
    freeze_unused(model, 1, 1, 3, config.image_size, config.image_size)
    return model, replace(config, encoder_weights=loaded)


class ClipStep:
    """Loss of a batch: focal loss of the clips, plus, with a weight, that of their frames."""

    def __init__(self, clips: Sequence[Clip], gamma: float, frame_weight: float) -> None:
        """Balance the classes: the weights of both sum to the same over these clips."""
        fakes = sum(clip.fake for clip in clips)
        weights = torch.tensor([len(clips) / (2 * (len(clips) - fakes)), len(clips) / (2 * fakes)])
        self.loss, self.frame_weight = ClassFocalLoss(weights, gamma), frame_weight

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The scalar loss."""
        logits, frames = model(batch["frames"], batch["lengths"], return_frames=True)
        label, loss = batch["label"], self.loss(logits, batch["label"])
        if self.frame_weight == 0:
            return loss
        count = frames.shape[1]
        each = self.loss.each(frames.flatten(0, 1), label.repeat_interleave(count)).unflatten(0, (-1, count))
        valid = torch.arange(count, device=label.device) < batch["lengths"][:, None]
        # The mean of each clip first, so that long and short ones have the same weight.
        return loss + self.frame_weight * ((each * valid).sum(1) / batch["lengths"]).mean()


def train_spotter(
    config: VideoConfig, model: TemporalCNNGRU, clips: Sequence[Clip], cache: ClipCache
) -> dict[str, float]:
    """Train, the encoder after the first `frozen_epochs`, and keep the epoch with the best validation AUC of clips.

    Returns:
        The metrics of the best epoch (see `validate_spotter`).

    Raises:
        UserError: As `fit`.
    """
    train, val = of_split(clips, "train"), of_split(clips, "val")
    augmentation = clip_augmentation(config.image_size) if config.augment else None
    data = Data(
        train=make_loader(
            ClipDataset(train, cache, augmentation),
            config.batch_size,
            config.workers,
            EpochSampler(len(train), config.seed),
            collate_clips,
        ),
        val=make_loader(ClipDataset(val, cache), config.batch_size, config.workers, collate=collate_clips),
        fingerprint=f"{fingerprint(clips)} {cache.detector.name}",
    )
    kept = {
        "face_detector": cache.detector.name,
        "seen": sorted({clip_key(clip.path) for clip in [*train, *val]}),
        "self_blended": not any(clip.fake and not clip.self_blended for clip in [*train, *val]),
        "stills_only": _stills_only([*train, *val], cache),
    }
    if kept["stills_only"]:
        process_state().print(
            "note: some class of training or validation has single images alone: no verdicts on clips of several frames"
        )

    def set_stage(epoch: int) -> bool:
        model.set_stage(train_backbone=epoch >= config.frozen_epochs)
        return True

    objective = Objective(
        step=ClipStep(train, config.focal_gamma, config.frame_weight),
        validate=partial(validate_spotter, clips=val, kept=kept),
        criterion="auc",
        shown=("auc", "frame_auc", "ap", "accuracy"),
    )
    return fit(
        config,
        model,
        objective,
        data,
        before_epoch=set_stage,
        some_unused=config.frozen_epochs > 0,
        patience_from=config.frozen_epochs,
    )


def _stills_only(clips: Sequence[Clip], cache: ClipCache) -> bool:
    """Whether some class of some split has no clip of several frames."""
    moving = {(clip.split, clip.fake) for clip in clips if len(cache.read(clip).found) > 1}
    return moving != {(clip.split, clip.fake) for clip in clips}


@torch.no_grad()
def score_clips(accelerator: Accelerator, model: nn.Module, loader: DataLoader) -> tuple[np.ndarray, list[np.ndarray]]:
    """Score a loader's clips, in the order of its dataset; every process gets all scores.

    Returns:
        Sigmoid of the fake minus the real logit, not calibrated: of the clips, (n,), and of each clip's frames.

    Raises:
        UserError: The network's output is not finite.
    """
    # In 32 bits, as videos are scored later: the class's own `forward` has no wrapper for mixed precision.
    model = accelerator.unwrap_model(model).eval()
    device = next(model.parameters()).device
    rows = []
    for batch in loader:
        batch = {name: values.to(device) for name, values in batch.items()}
        logits, frames = type(model).forward(model, batch["frames"], batch["lengths"], return_frames=True)
        scores = [(both[..., 1] - both[..., 0]).double().sigmoid() for both in (logits, frames)]
        scores[1] = accelerator.pad_across_processes(scores[1], dim=1)
        gathered = accelerator.gather_for_metrics((batch["index"], batch["lengths"], *scores))
        rows += zip(*(values.cpu().numpy() for values in gathered), strict=True)
    rows.sort(key=lambda row: row[0])
    scores = np.array([score for _, _, score, _ in rows])
    if not np.isfinite(scores).all():
        raise UserError("the training diverged: the network's output is no longer finite. Lower --lr.")
    return scores, [frames[:length] for _, length, _, frames in rows]


def validate_spotter(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader, *, clips: Sequence[Clip], kept: Mapping[str, Any]
) -> Validation:
    """Score the validation clips; the AUC of the clips picks the best epoch.

    The metrics are `detection_metrics` of the clips' calibrated probabilities, and `frame_auc`, the AUC of all frames
    by their own scores. The checkpoint keeps the `calibration` and the entries of `kept`.

    Raises:
        UserError: The training diverged.
    """
    scores, frame_scores = score_clips(accelerator, model, loader)
    fake = np.array([clip.fake for clip in clips])
    calibration = fit_calibration(scores.tolist(), fake.tolist())
    if calibration["slope"] == 0 and accelerator.is_main_process:
        tqdm.write("note: the network does not separate the classes of the validation; all clips get one probability")
    metrics = clip_metrics(scores, fake, calibration)
    metrics["frame_auc"] = clip_metrics(*of_frames(frame_scores, fake), calibration)["auc"]
    return Validation(metrics, metrics["auc"], {"calibration": calibration, **kept})


def of_frames(frame_scores: Sequence[np.ndarray], fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of all frames of clips; each frame has its clip's label."""
    return np.concatenate(frame_scores), np.repeat(fake, [len(scores) for scores in frame_scores])


def clip_metrics(
    scores: np.ndarray, fake: np.ndarray, calibration: dict[str, float], threshold: float = 0.5
) -> dict[str, float]:
    """`detection_metrics` of calibrated scores; rankings are of the raw ones, which a slope of 0 would tie."""
    probs = np.array([calibrated(score, **calibration) for score in scores])
    raw = detection_metrics(scores, fake)
    return detection_metrics(probs, fake, threshold) | {name: raw[name] for name in RANKED}


def evaluate_spotter(config: EvaluationConfig, clips: Sequence[Clip], cache: ClipCache) -> pd.DataFrame:
    """Test a checkpoint on the test split of clips.

    Returns:
        `detection_metrics` of the `clips` and of all their `frames`, a row each, named in the column `of`; the counts
        are `real` and `fake`.

    Raises:
        UserError: There is no checkpoint, it was trained on clips of the split, or the split lacks a class.
    """
    checkpoint, clips, fake = _checked_test(config, clips, cache)
    if (then := checkpoint.get("face_detector")) != (now := cache.detector.name):
        process_state().print(
            f"note: the faces that {config.checkpoint} was trained on came from: {then}; those of this test from: {now}"
        )
    scores, frame_scores = _test_scores(config, _trained(config, checkpoint), ClipDataset(clips, cache))
    threshold = checkpoint["config"]["threshold"] if config.threshold is None else config.threshold
    metrics = partial(clip_metrics, calibration=checkpoint["calibration"], threshold=threshold)
    rows = {"clips": metrics(scores, fake), "frames": metrics(*of_frames(frame_scores, fake))}
    table = pd.DataFrame([{"of": name, **values} for name, values in rows.items()])
    return table.rename(columns={"n_real": "real", "n_generated": "fake"})


def reliability_by_length(
    config: EvaluationConfig, clips: Sequence[Clip], cache: ClipCache
) -> tuple[pd.DataFrame, Figure]:
    """Whether the probabilities of the test split's clips hold if the clips are shorter.

    Returns:
        A row for the clips with all their frames, with at most a third of the checkpoint's number, and with one:
        `frames` (at most so many), `clips`, `mean probability`, `share of fakes`, which it should equal, and `auc` and
        `calibration_error` of `detection_metrics`. Without clips of several frames, one row. And their reliability
        diagram, with a curve for each row.

    Raises:
        UserError: As `evaluate_spotter`.
    """
    checkpoint, clips, fake = _checked_test(config, clips, cache)
    longest = max(len(cache.read(clip).found) for clip in clips)
    model, rows, probs = _trained(config, checkpoint), [], {}
    for most in sorted({1, min(-(-longest // 3), longest), longest}):
        scores, _ = _test_scores(config, model, ClipDataset(clips, cache, most_frames=most))
        probs[most] = np.array([calibrated(score, **checkpoint["calibration"]) for score in scores])
        metrics = clip_metrics(scores, fake, checkpoint["calibration"])
        row = {"frames": most, "clips": len(clips), "mean probability": probs[most].mean()}
        row["share of fakes"] = fake.mean()
        rows.append(row | {name: metrics[name] for name in ("calibration_error", "auc")})
    return pd.DataFrame(rows), draw_reliability(probs, fake)


def _checked_test(
    config: EvaluationConfig, clips: Sequence[Clip], cache: ClipCache
) -> tuple[dict[str, Any], list[Clip], np.ndarray]:
    """The checkpoint, the test split, and which of its clips are fake, after a check that they fit each other."""
    path = config.checkpoint
    checkpoint = load_checkpoint(path, VIDEO_KEYS)
    clips = of_split(clips, "test")
    seen = [clip.path for clip in clips if clip_key(clip.path) in set(checkpoint.get("seen", ()))]
    if seen:
        raise UserError(f"{path} was trained on {len(seen)} of the {len(clips)} clips to test, such as {seen[0]}.")
    fake = np.array([clip.fake for clip in clips], bool)
    if fake.all() or not fake.any():
        raise UserError("the test split needs real and fake clips.")
    return checkpoint, clips, fake


def _trained(config: EvaluationConfig, checkpoint: dict[str, Any]) -> TemporalCNNGRU:
    with main_process_prints():
        return load_spotter(checkpoint, config.checkpoint)


def _test_scores(
    config: EvaluationConfig, model: TemporalCNNGRU, data: ClipDataset
) -> tuple[np.ndarray, list[np.ndarray]]:
    """As `score_clips`, for a data set."""
    process_state()  # before the accelerator, which would take several processes without a GPU for several runs
    accelerator = Accelerator()
    loader = make_loader(data, config.batch_size, config.workers, collate=collate_clips)
    return score_clips(accelerator, model.to(accelerator.device), accelerator.prepare(loader))

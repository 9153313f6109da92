"""The training loop. It is handed model, loss and loaders, and makes none of them."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common.config import TrainConfig
from common.errors import UserError
from common.files import write_json
from common.training.checkpoint import load_checkpoint, save_checkpoint, versions
from common.training.validation import Validation, validate

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

# Fields that may differ between a run and its continuation: they do not shape the weights.
FREE_FIELDS = {"data_dir", "models_dir", "workers", "tracker", "resume", "skip_bad_files", "encoder_weights"}


def fit(
    config: TrainConfig,
    model: nn.Module,
    loss: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
    fingerprint: str,
    before_epoch: Callable[[int], bool] | None = None,
) -> dict[str, float]:
    """Train, validate after every epoch, keep the best by validation Dice (and recall, by `config.recall_weight`).

    Writes `<name>_best.pth`, `<name>_last.pth` after every epoch, and `<name>_metrics.json` at the end. All randomness
    of an epoch follows from the seed and its number, so that a run that was interrupted and resumed ends with the
    same weights on a CPU.

    Args:
        config: What to do; see its fields.
        model: Logits (N, 1, H, W) for images.
        loss: Takes `(logits, target)`.
        train_loader: Its sampler has `set_epoch`.
        val_loader: Of a `ForgeryDataset`, in order.
        fingerprint: Of the data (`common.data.samples.fingerprint`).
        before_epoch: Called with the number of every epoch before it begins; False ends the training. It may change
            the sampler's weights.

    Returns:
        The metrics of the best epoch (see `validate`).

    Raises:
        UserError: The training diverged, or `--resume` finds another configuration or other data.
    """
    accelerator = _accelerator(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    scheduler = _scheduler(config, optimizer, math.ceil(len(train_loader) / config.accumulation))
    model, optimizer, train_loader, val_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, val_loader, scheduler
    )
    run = _Run(config, accelerator, model, optimizer, scheduler, fingerprint)
    first = run.resume() if config.resume else 0
    if config.epochs == 0:
        run.finish_epoch(-1, validate(accelerator, model, val_loader))

    images = len(train_loader.dataset)
    with tqdm(
        desc=config.name,
        total=config.epochs * images,
        initial=first * images,
        unit="img",
        disable=None if accelerator.is_main_process else True,
    ) as bar:
        for epoch in range(first, config.epochs):
            try:
                if before_epoch is not None and not before_epoch(epoch):
                    break
                set_seed(config.seed + epoch, device_specific=True)
                train_loader.set_epoch(epoch)
                started = time.perf_counter()
                mean_loss = train_one_epoch(accelerator, model, loss, optimizer, scheduler, train_loader, bar)
                rate = images / (time.perf_counter() - started)
                validation = validate(accelerator, model, val_loader)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(run.advice(epoch)) from None
            if accelerator.is_main_process:
                shown = ("dice", "pixel_f1", "pixel_auc", "image_auc", "image_fpr")
                figures = ", ".join(f"{name} {validation.metrics[name]:.3f}" for name in shown)
                bar.write(f"epoch {epoch + 1}/{config.epochs}: loss {mean_loss:.4f}, {figures}, {rate:.1f} img/s")
            accelerator.log(validation.metrics | {"loss": mean_loss, "images_per_second": rate}, step=epoch)
            run.finish_epoch(epoch, validation)
    # Not `end_training`: it would take the processes apart, and a script may have more to do with them.
    for tracker in accelerator.trackers:
        tracker.finish()
    metrics = run.finish()
    accelerator.wait_for_everyone()
    return metrics


def train_one_epoch(
    accelerator: Accelerator,
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    loader: DataLoader,
    bar: tqdm,
) -> float:
    """One pass over a prepared loader; the mean loss, over all processes."""
    model.train()
    total, steps = torch.zeros((), device=accelerator.device), 0
    for batch in loader:
        with accelerator.accumulate(model):
            value = loss(model(batch["image"]), batch["mask"])
            accelerator.backward(value)
            optimizer.step()
            scheduler.step()  # accelerate's: waits for the accumulated step
            optimizer.zero_grad()
        total, steps = total + value.detach(), steps + 1
        bar.update(len(batch["image"]) * accelerator.num_processes)
    return accelerator.reduce(total / steps, "mean").item()


class _Run:
    """The files of a run: what to write after an epoch, and where to go on."""

    def __init__(self, config, accelerator, model, optimizer, scheduler, fingerprint) -> None:
        self.config, self.accelerator, self.fingerprint = config, accelerator, fingerprint
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.best_path = config.models_dir / f"{config.name}_best.pth"
        self.last_path = config.models_dir / f"{config.name}_last.pth"
        self.best_score, self.best_epoch = -math.inf, -1
        self.best_metrics: dict[str, float] = {}
        self.seconds, self.started = 0.0, time.perf_counter()
        self.saved = False

    def finish_epoch(self, epoch: int, validation: Validation) -> None:
        """Save the last state, and the best if this is it."""
        score = self._score(validation.metrics)
        is_best = score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, epoch
            self.best_metrics = validation.metrics
        if not self.accelerator.is_main_process:
            return
        checkpoint = {
            "model_state_dict": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "epoch": epoch,
            "best_dice": self.best_metrics["dice"],
            "config": self.config.plain(),
            "metrics": validation.metrics,
            "threshold": validation.threshold,
            "calibration": validation.calibration,
            "fold": self.config.fold,
            "versions": versions(),
            "data_fingerprint": self.fingerprint,
        }
        if is_best:
            save_checkpoint(checkpoint, self.best_path)
        continuation = {
            "scheduler_state_dict": self.scheduler.state_dict(),
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "best_metrics": self.best_metrics,
            "seconds": self._elapsed(),
        }
        save_checkpoint(checkpoint | continuation, self.last_path)
        self.saved = True

    def resume(self) -> int:
        """Load the last state; the epoch to go on with."""
        if not self.last_path.is_file():
            raise UserError(f"--resume: {self.last_path} does not exist; start the run without --resume.")
        last = load_checkpoint(self.last_path)
        then, now = last["config"], self.config.plain()
        free = FREE_FIELDS | ({"epochs"} if self.config.schedule == "constant" else set())
        changed = [f"{k} ({then.get(k)} → {now[k]})" for k in now if k not in free and then.get(k) != now[k]]
        if changed:
            raise UserError(f"--resume: {self.last_path} was trained with other settings: {', '.join(changed)}.")
        if last["data_fingerprint"] != self.fingerprint:
            raise UserError(f"--resume: the data in {self.config.data_dir} are not those of {self.last_path}.")
        self.accelerator.unwrap_model(self.model).load_state_dict(last["model_state_dict"])
        self.optimizer.load_state_dict(last["optimizer_state_dict"])
        self.scheduler.load_state_dict(last["scheduler_state_dict"])
        self.best_score, self.best_epoch = last["best_score"], last["best_epoch"]
        self.best_metrics, self.seconds = last["best_metrics"], last["seconds"]
        self.config = replace(self.config, encoder_weights=then["encoder_weights"])
        self.saved = True
        return last["epoch"] + 1

    def finish(self) -> dict[str, float]:
        """Write the metrics file; the best metrics."""
        if self.accelerator.is_main_process:
            result = self.best_metrics | {"epoch": self.best_epoch, "seconds": round(self._elapsed(), 1)}
            path = self.config.models_dir / f"{self.config.name}_metrics.json"
            write_json(result | {"config": self.config.plain()}, path)
        return self.best_metrics

    def advice(self, epoch: int) -> str:
        """What is lost when the run stops in this epoch, and how to go on."""
        if not self.saved:
            return "no epoch was finished, nothing of this run is saved"
        return f"{self.last_path} holds the run up to epoch {epoch}; go on with --resume"

    def _score(self, metrics: dict[str, float]) -> float:
        """What picks the best epoch."""
        recall = metrics["pixel_recall"]
        share = 0.0 if math.isnan(recall) else self.config.recall_weight  # without a forgery there is no recall
        return (share * recall if share else 0.0) + (1 - share) * metrics["dice"]

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started


def _accelerator(config: TrainConfig) -> Accelerator:
    precision = config.precision
    if precision == "auto":
        # Without hardware support bf16 is 7 times slower in training: only a GPU that has it gets it.
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else "fp32"
    elif precision != "fp32" and not torch.cuda.is_available():
        raise UserError(f"--precision {precision} needs a GPU; use auto or fp32.")
    try:
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            gradient_accumulation_steps=config.accumulation,
            log_with=None if config.tracker == "none" else config.tracker,
            project_config=ProjectConfiguration(logging_dir=str(config.models_dir / "runs")),
        )
    except ValueError as error:
        raise UserError(f"--precision {precision}: {error}") from error
    if config.tracker != "none" and not accelerator.log_with:
        raise UserError(f"--tracker {config.tracker} is not installed; install it, or choose tensorboard or none.")
    accelerator.init_trackers(config.name, config=config.plain())
    return accelerator


def _scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    if config.schedule == "constant" or config.epochs == 0:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * steps_per_epoch)

"""The training loop. It is handed model, step, validation and loaders, and makes none of them."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.config.run import RunConfig
from common.errors import UserError
from common.files import write_json
from common.training.checkpoint import load_checkpoint, save_checkpoint, versions
from common.training.optimizing import schedule_of

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

# What a run needs of a checkpoint to go on from it.
CONTINUATION_KEYS = (
    *("model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "epoch", "config", "data_fingerprint"),
    *("best_epoch", "best_score", "best_metrics", "seconds"),
)

Step = Callable[[nn.Module, dict[str, Any]], torch.Tensor]
"""The scalar loss of a batch; the batch's `index` has an entry an image."""


@dataclass(frozen=True)
class Validation:
    """What one validation found."""

    metrics: dict[str, float]
    score: float
    """What picks the best epoch, the larger the better; nan is the worst."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint keeps besides, for those who decide with this network: plain types."""


def fit(
    config: RunConfig,
    model: nn.Module,
    step: Step,
    validate: Callable[[Accelerator, nn.Module, DataLoader], Validation],
    train_loader: DataLoader,
    val_loader: DataLoader,
    fingerprint: str,
    *,
    criterion: str = "dice",
    shown: Sequence[str] = ("dice", "pixel_f1", "pixel_auc", "image_auc", "image_fpr"),
    before_epoch: Callable[[int], bool] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    some_unused: bool = False,
    patience_from: int = 0,
) -> dict[str, float]:
    """Train, validate after every epoch, keep the best by the validation's score.

    Writes `<name>_best.pth`, `<name>_last.pth` after every epoch, and `<name>_metrics.json` at the end. All randomness
    of an epoch follows from the seed and its number, so that a run that was interrupted and resumed ends with the
    same weights on a CPU.

    Args:
        config: What to do; see its fields.
        model: Whatever `step` and `validate` call. What is ever to be trained requires gradients now, even where
            `before_epoch` freezes it for the first epochs: several processes share the gradients of no other.
        step: The loss of a batch.
        validate: Scores the network on the validation loader.
        train_loader: Its sampler has `set_epoch`.
        val_loader: In order.
        fingerprint: Of the data (`common.data.samples.fingerprint`).
        criterion: The metric that the checkpoint names as `best_<criterion>`.
        shown: The metrics that are printed after an epoch.
        before_epoch: Called with the number of every epoch before it begins; False ends the training. It may change
            the sampler's weights, and which parameters require gradients.
        parameters: AdamW's groups, with rates and decays of their own (`common.training.optimizing.layer_groups`);
            without them, all parameters of the model get those of the configuration.
        some_unused: Whether a step may leave without a gradient what required one when it was handed over, as where
            `before_epoch` freezes it. Several processes fail without being told.
        patience_from: The first epoch that the configuration's `patience` counts, as where more of the network begins
            to be trained.

    Returns:
        The metrics of the best epoch.

    Raises:
        UserError: The training diverged, or `--resume` finds another configuration or other data.
    """
    accelerator = _accelerator(config, some_unused)
    optimizer = torch.optim.AdamW(
        model.parameters() if parameters is None else parameters, lr=config.lr, weight_decay=config.weight_decay
    )
    scheduler = schedule_of(config, optimizer, math.ceil(len(train_loader) / config.accumulation))
    model, optimizer, train_loader, val_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, val_loader, scheduler
    )
    run = _Run(config, accelerator, model, optimizer, scheduler, fingerprint, criterion)
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
            if 0 < config.patience < epoch - max(run.best_epoch, patience_from - 1):
                if accelerator.is_main_process:
                    bar.write(f"no better epoch than {run.best_epoch + 1} in the last {config.patience}: the end")
                break
            try:
                if before_epoch is not None and not before_epoch(epoch):
                    break
                set_seed(config.seed + epoch, device_specific=True)
                train_loader.set_epoch(epoch)
                started = time.perf_counter()
                mean_loss = train_one_epoch(
                    accelerator, model, step, optimizer, scheduler, train_loader, bar, config.clip_grad
                )
                rate = images / (time.perf_counter() - started)
                validation = validate(accelerator, model, val_loader)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(run.advice(epoch)) from None
            if accelerator.is_main_process:
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
    step: Step,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    loader: DataLoader,
    bar: tqdm,
    clip_grad: float = 0.0,
) -> float:
    """One pass over a prepared loader; the mean loss, over all processes."""
    model.train()
    total, steps = torch.zeros((), device=accelerator.device), 0
    for batch in loader:
        with accelerator.accumulate(model):
            value = step(model, batch)
            accelerator.backward(value)
            if clip_grad and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip_grad)
            optimizer.step()
            scheduler.step()  # accelerate's: waits for the accumulated step
            optimizer.zero_grad()
        total, steps = total + value.detach(), steps + 1
        bar.update(len(batch["index"]) * accelerator.num_processes)
    return accelerator.reduce(total / steps, "mean").item()


class _Run:
    """The files of a run: what to write after an epoch, and where to go on."""

    def __init__(self, config, accelerator, model, optimizer, scheduler, fingerprint, criterion) -> None:
        self.config, self.accelerator, self.fingerprint = config, accelerator, fingerprint
        self.criterion = criterion
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.best_path = config.models_dir / f"{config.name}_best.pth"
        self.last_path = config.models_dir / f"{config.name}_last.pth"
        self.best_score, self.best_epoch = -math.inf, -1
        self.best_metrics: dict[str, float] = {}
        self.seconds, self.started = 0.0, time.perf_counter()
        self.saved = False

    def finish_epoch(self, epoch: int, validation: Validation) -> None:
        """Save the last state, and the best if this is it."""
        score = -math.inf if math.isnan(validation.score) else validation.score
        is_best = not self.best_metrics or score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, epoch
            self.best_metrics = validation.metrics
        if not self.accelerator.is_main_process:
            return
        config = self.config.plain()
        checkpoint = {
            "model_state_dict": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "epoch": epoch,
            f"best_{self.criterion}": self.best_metrics[self.criterion],
            "config": config,
            "metrics": validation.metrics,
            "versions": versions(),
            "data_fingerprint": self.fingerprint,
        }
        checkpoint |= validation.kept | ({"fold": config["fold"]} if "fold" in config else {})
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
        last = load_checkpoint(self.last_path, CONTINUATION_KEYS)
        now = self.config.plain()
        # A field that the checkpoint does not name was not there yet: the training was as its default is.
        then = type(self.config)(name=self.config.name).plain() | last["config"]
        open_ended = self.config.schedule in ("constant", "warm_restarts")
        free = self.config.FREE | ({"epochs"} if open_ended else set())
        changed = [f"{k} ({then.get(k)} → {now[k]})" for k in now if k not in free and then.get(k) != now[k]]
        if changed:
            raise UserError(f"--resume: {self.last_path} was trained with other settings: {', '.join(changed)}.")
        if last["data_fingerprint"] != self.fingerprint:
            raise UserError(f"--resume: the data are not those that {self.last_path} was trained on.")
        self.accelerator.unwrap_model(self.model).load_state_dict(last["model_state_dict"])
        self.optimizer.load_state_dict(last["optimizer_state_dict"])
        self.scheduler.load_state_dict(last["scheduler_state_dict"])
        self.best_score, self.best_epoch = last["best_score"], last["best_epoch"]
        self.best_metrics, self.seconds = last["best_metrics"], last["seconds"]
        self.config = replace(self.config, **{name: then[name] for name in self.config.INHERITED})
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

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started


def _accelerator(config: RunConfig, some_unused: bool) -> Accelerator:
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
            # Not with every `before_epoch`: the search walks the graph in each step, and mining's hook freezes nothing.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=some_unused)],
            project_config=ProjectConfiguration(logging_dir=str(config.models_dir / "runs")),
        )
    except ValueError as error:
        raise UserError(f"--precision {precision}: {error}") from error
    if config.tracker != "none" and not accelerator.log_with:
        raise UserError(f"--tracker {config.tracker} is not installed; install it, or choose tensorboard or none.")
    plain = config.plain().items()
    accelerator.init_trackers(config.name, {k: str(v) if isinstance(v, list) else v for k, v in plain})
    return accelerator

"""The training loop, of a model, a loss, a validation and loaders that are given."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    ProjectConfiguration,
    broadcast,
    set_seed,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.config.run import RunConfig
from common.devices import process_state
from common.errors import UserError
from common.locks import release
from common.training.history import History
from common.training.optimizing import schedule_of
from common.training.run_files import Run, Validation

Network = TypeVar("Network", bound=nn.Module)
Step = Callable[[nn.Module, dict[str, Any]], Tensor]
"""The scalar loss of a batch; the batch's `index` has an entry per image."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training minimises, and what selects its best epoch."""

    step: Step
    """The loss of a batch."""
    validate: Callable[[Accelerator, nn.Module, DataLoader], Validation]
    """Scores the network on the validation loader."""
    criterion: str = "dice"
    """The metric that the checkpoint names as `best_<criterion>`."""
    shown: Sequence[str] = ("dice", "pixel_f1", "pixel_auc", "image_auc", "image_fpr")
    """The metrics that are printed after an epoch, and drawn."""


@dataclass(frozen=True)
class Data:
    """What a training reads."""

    train: DataLoader
    """Its sampler has `set_epoch`."""
    val: DataLoader
    """In order."""
    fingerprint: str
    """Of the data (`common.data.samples.fingerprint`)."""


def build_seeded(seed: int, build: Callable[[], Network]) -> Network:
    """Build a network whose random weights depend on the seed alone, not on what was drawn before.

    With `fit`, which seeds each epoch, the one place where a training sets its seeds.
    """
    set_seed(seed)
    return build()


def fit(
    config: RunConfig,
    model: nn.Module,
    objective: Objective,
    data: Data,
    *,
    before_epoch: Callable[[int], bool] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    some_unused: bool = False,
    patience_from: int = 0,
) -> dict[str, float]:
    """Train, validate after every epoch, keep the best by the validation's score.

    Writes `<name>_best.pth`, `<name>_last.pth` and `<name>_history.json` after every epoch, `<name>_metrics.json` and
    `<name>_curve.png` at the end, and gives up the lock that `check_files` took. All randomness of an epoch depends on
    the seed and its number, so that a run that was interrupted and resumed ends with the same weights on a CPU,
    whatever its number of workers. With another number of threads (OMP_NUM_THREADS) sums differ in their last bits,
    and on a GPU from run to run.

    Several processes (`torchrun`, `accelerate launch`) each take a batch a step, and train as one process with as many
    times the batch. But batch norm takes its statistics from a process's own batch, and those that are saved, and
    validated with, are the main process's.

    Args:
        config: What to do; see its fields.
        model: What is ever to be trained requires gradients now, even where `before_epoch` freezes it for the first
            epochs: several processes share the gradients of no other.
        objective: Loss and validation, which call the model.
        data: The loaders.
        before_epoch: Called with the number of every epoch before it begins; False ends the training. It may change
            the sampler's weights, and which parameters require gradients.
        parameters: AdamW's groups, with rates and decays of their own (`common.training.optimizing.layer_groups`);
            by default, all parameters of the model get those of the configuration.
        some_unused: Whether a step may leave parameters without a gradient that required one at first, as where
            `before_epoch` freezes them. Several processes fail unless they know it.
        patience_from: The first epoch that the configuration's `patience` counts.

    Returns:
        The metrics of the best epoch.

    Raises:
        UserError: The training diverged, a continuation finds another configuration or other data, or a process that
            loads images was killed.
    """
    try:
        return _fit(config, model, objective, data, before_epoch, parameters, patience_from, some_unused=some_unused)
    finally:
        release(config.models_dir / config.name)


def _fit(
    config: RunConfig,
    model: nn.Module,
    objective: Objective,
    data: Data,
    before_epoch: Callable[[int], bool] | None,
    parameters: list[dict[str, Any]] | None,
    patience_from: int,
    *,
    some_unused: bool,
) -> dict[str, float]:
    accelerator = _accelerator(config, some_unused=some_unused)
    optimizer = torch.optim.AdamW(
        model.parameters() if parameters is None else parameters,
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    scheduler = schedule_of(config, optimizer, math.ceil(len(data.train) / config.accumulation))
    model, optimizer, train_loader, val_loader, scheduler = accelerator.prepare(
        model, optimizer, data.train, data.val, scheduler
    )
    run = Run(config, accelerator, model, optimizer, scheduler, data.fingerprint, objective.criterion)
    first = run.resume() if config.resume else 0
    history = History(run.config, objective.shown, first) if accelerator.is_main_process else None
    if config.epochs == 0:
        run.finish_epoch(-1, objective.validate(accelerator, model, val_loader))

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
                    bar.write(f"no better epoch than {run.best_epoch + 1} in the last {config.patience}: stopped")
                break
            try:
                if before_epoch is not None and not before_epoch(epoch):
                    break
                set_seed(config.seed + epoch, device_specific=True)
                train_loader.set_epoch(epoch)
                started = time.perf_counter()
                mean_loss, waiting = train_one_epoch(
                    accelerator, model, objective.step, optimizer, scheduler, train_loader, bar, config.clip_grad
                )
                rate = images / (time.perf_counter() - started)
                bar.n = (epoch + 1) * images  # several processes see some twice, to come out even
                # As they are saved: the processes share gradients alone, and each has its own statistics of batch norm.
                broadcast([*accelerator.unwrap_model(model).buffers()])
                validation = objective.validate(accelerator, model, val_loader)
                if accelerator.is_main_process:
                    shown = ", ".join(f"{name} {validation.metrics[name]:.3f}" for name in objective.shown)
                    speed = f"{rate:.1f} img/s, {waiting:.0%} waiting for data"
                    bar.write(f"epoch {epoch + 1}/{config.epochs}: loss {mean_loss:.4f}, {shown}, {speed}")
                pace = {"images_per_second": rate, "waiting_share": waiting}
                figures = validation.metrics | {"loss": mean_loss} | pace
                accelerator.log(figures, step=epoch)
                if history is not None:
                    history.add(epoch, figures)
                run.finish_epoch(epoch, validation)
                if history is not None:
                    history.draw_sometimes(run.best_epoch)
            except KeyboardInterrupt:
                if not accelerator.is_main_process:  # the launcher passes the interrupt on to all; one reports it
                    raise SystemExit(1) from None
                raise KeyboardInterrupt(run.advice()) from None
            except (RuntimeError, ConnectionError, EOFError) as error:
                if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                    raise
                with suppress(RuntimeError):  # of torch's signal handler, which may come a moment after the lost pipe
                    time.sleep(0.5)
                raise UserError(
                    "a process that loads images was killed, perhaps because memory ran out. Use fewer --workers; "
                    f"{run.advice()}."
                ) from error
    # Not `end_training`: it would end the process group, which a script may still need.
    for tracker in accelerator.trackers:
        tracker.finish()
    metrics = run.finish()
    if history is not None:
        history.draw(run.best_epoch)
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
) -> tuple[float, float]:
    """One pass over a prepared loader.

    Returns:
        The mean loss, and the share of the time that was spent waiting for a batch, both over all processes. On a GPU,
        which may still be at work on earlier steps meanwhile, the share is an upper bound.
    """
    model.train()
    total, steps, waited = torch.zeros((), device=accelerator.device), 0, 0.0
    started = asked = time.perf_counter()
    for batch in loader:
        waited += time.perf_counter() - asked
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
        asked = time.perf_counter()
    share = waited / (time.perf_counter() - started)
    means = accelerator.reduce(torch.stack([total / steps, total.new_tensor(share)]), "mean")
    return means[0].item(), means[1].item()


def _accelerator(config: RunConfig, *, some_unused: bool) -> Accelerator:
    # Before the accelerator, which would take several processes without a GPU for several runs.
    gpu = str(process_state().device).startswith("cuda")
    precision = config.precision
    if precision == "auto":
        # Without hardware support bf16 is 7 times slower in training: only a GPU that has it gets it.
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    elif precision != "fp32" and not gpu:
        raise UserError(f"--precision {precision} needs a GPU; use auto or fp32.")
    try:
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            gradient_accumulation_steps=config.accumulation,
            # Else a copy waits for the GPU's earlier steps, which would count as waiting for data.
            dataloader_config=DataLoaderConfiguration(non_blocking=gpu),
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

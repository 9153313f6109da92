"""The training loop. It is handed model, step, validation and loaders, and makes none of them."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
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
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.config.run import RunConfig
from common.devices import process_state
from common.errors import UserError
from common.training.compiling import CompiledStep
from common.training.optimizing import averaged, schedule_of
from common.training.run_files import Run, Validation

Network = TypeVar("Network", bound=nn.Module)
Step = Callable[[nn.Module, dict[str, Any]], torch.Tensor]
"""The scalar loss of a batch; the batch's `index` has an entry an image."""


def build_seeded(seed: int, build: Callable[[], Network]) -> Network:
    """Build a network whose random weights follow from the seed alone, whatever was drawn before.

    With `fit`, which seeds each epoch, the one place where a training sets its seeds.
    """
    set_seed(seed)
    return build()


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
    same weights on a CPU (not with `compile`, since the first steps of a continuation are not compiled).

    With `ema_decay`, what is validated, and what checkpoints have as `model_state_dict`, is the averaged network.

    Several processes (`torchrun`, `accelerate launch`) each take a batch a step, and train as one with as many times
    the batch. But batch norm takes its statistics from a process's own batch, and those that are kept, and validated
    with, are the main process's.

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
        model.parameters() if parameters is None else parameters,
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    average = averaged(model, config.ema_decay) if config.ema_decay else None
    scheduler = schedule_of(config, optimizer, math.ceil(len(train_loader) / config.accumulation))
    model, optimizer, train_loader, val_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, val_loader, scheduler
    )
    # On the device, and in the precision, that the network itself is validated with.
    scored = model if average is None else accelerator.prepare_model(average.module, evaluation_mode=True)
    run = Run(config, accelerator, model, average, optimizer, scheduler, fingerprint, criterion)
    first = run.resume() if config.resume else 0
    if config.epochs == 0:
        run.finish_epoch(-1, validate(accelerator, scored, val_loader))

    images = len(train_loader.dataset)
    with tqdm(
        desc=config.name,
        total=config.epochs * images,
        initial=first * images,
        unit="img",
        disable=None if accelerator.is_main_process else True,
    ) as bar:
        if config.compile:
            steps = (config.epochs - first) * len(train_loader)
            step = CompiledStep(step, config.batch_size, steps, accelerator.on_main_process(bar.write))
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
                mean_loss, waiting = train_one_epoch(
                    accelerator, model, step, optimizer, scheduler, train_loader, bar, config.clip_grad, average
                )
                rate = images / (time.perf_counter() - started)
                bar.n = (epoch + 1) * images  # several processes see some twice, to come out even
                # As they are saved: the processes share gradients alone, and each has its own statistics of batch norm.
                broadcast([*accelerator.unwrap_model(model).buffers(), *(average.module.buffers() if average else ())])
                validation = validate(accelerator, scored, val_loader)
                if accelerator.is_main_process:
                    figures = ", ".join(f"{name} {validation.metrics[name]:.3f}" for name in shown)
                    speed = f"{rate:.1f} img/s, {waiting:.0%} waiting for data"
                    bar.write(f"epoch {epoch + 1}/{config.epochs}: loss {mean_loss:.4f}, {figures}, {speed}")
                pace = {"images_per_second": rate, "waiting_share": waiting}
                accelerator.log(validation.metrics | {"loss": mean_loss} | pace, step=epoch)
                run.finish_epoch(epoch, validation)
            except KeyboardInterrupt:
                if not accelerator.is_main_process:  # the launcher has passed it on to all; one tells of it
                    raise SystemExit(1) from None
                raise KeyboardInterrupt(run.advice()) from None
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
    average: AveragedModel | None = None,
) -> tuple[float, float]:
    """One pass over a prepared loader.

    Returns:
        The mean loss, and the share of the time that was spent waiting for a batch, both over all processes. While it
        is waited for, a GPU may still be at work on earlier steps: for one, the share is an upper bound.
    """
    model.train()
    total, steps, clock = torch.zeros((), device=accelerator.device), 0, _Clock()
    for batch in clock.waiting(loader):
        with step if isinstance(step, CompiledStep) else nullcontext(), accelerator.accumulate(model):
            value = step(model, batch)
            accelerator.backward(value)
            if clip_grad and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip_grad)
            optimizer.step()
            scheduler.step()  # accelerate's: waits for the accumulated step
            optimizer.zero_grad()
        if average is not None and accelerator.sync_gradients:
            average.update_parameters(accelerator.unwrap_model(model))
        total, steps = total + value.detach(), steps + 1
        bar.update(len(batch["index"]) * accelerator.num_processes)
    means = accelerator.reduce(torch.stack([total / steps, total.new_tensor(clock.share())]), "mean")
    return means[0].item(), means[1].item()


class _Clock:
    """Which share of a loop's time goes by before its next item is there."""

    def __init__(self) -> None:
        self.started, self.waited = time.perf_counter(), 0.0

    def waiting(self, items: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(items)
        while True:
            before = time.perf_counter()
            item = next(iterator, None)
            self.waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    def share(self) -> float:
        return self.waited / (time.perf_counter() - self.started)


def _accelerator(config: RunConfig, some_unused: bool) -> Accelerator:
    # Before the accelerator, which would take several processes without a GPU for several runs.
    gpu = process_state().device.type == "cuda"
    precision = config.precision
    if precision == "auto":
        # Without hardware support bf16 is 7 times slower in training: only a GPU that has it gets it.
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(False) else "fp32"
    elif precision != "fp32" and not gpu:
        raise UserError(f"--precision {precision} needs a GPU; use auto or fp32.")
    try:
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            gradient_accumulation_steps=config.accumulation,
            # Else a batch is copied only when the GPU has done the steps before, which would count as waiting for data.
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

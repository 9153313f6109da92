"""The checkpoints and the metrics file of a training run, and its continuation from them."""

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate import Accelerator
from torch import nn

from common.config.run import RunConfig
from common.errors import UserError, flag_of
from common.files import check_writable, write_json
from common.locks import hold
from common.training.checkpoint import load_checkpoint, save_checkpoint, versions

CONTINUATION_KEYS = (
    *("model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "epoch", "config", "data_fingerprint"),
    *("best_epoch", "best_score", "best_metrics", "seconds"),
)
"""What a continuation needs of a checkpoint."""
REMOVED = {"ema_decay": 0.0, "reduced_decode": False, "mixup": 0.0, "cutmix": 0.0}
"""Fields of earlier versions' configurations that shaped the weights, and the value that is now the only one."""


def check_files(config: RunConfig) -> None:
    """Check, before anything is computed, that the run can write its files and replaces those of no other run.

    They are locked until the run has ended.

    Raises:
        UserError: The folder can't be written, another run writes the same files, or a checkpoint is there and the run
            neither continues nor overwrites.
    """
    best = config.models_dir / f"{config.name}_best.pth"
    check_writable(best)
    hold(config.models_dir / config.name)
    if best.is_file() and not (config.resume or config.overwrite):
        raise UserError(
            f"{best} is there already. Continue its run with --resume (if it is finished, with larger --epochs), "
            "replace it with --overwrite, or choose another --models-dir."
        )


@dataclass(frozen=True)
class Validation:
    """Result of one validation."""

    metrics: dict[str, float]
    score: float
    """What selects the best epoch, the larger the better; nan is the worst."""
    kept: dict[str, Any] = field(default_factory=dict)
    """Further entries of the checkpoint, for decisions with this network: plain types."""


class Run:
    """State of a run that is saved after every epoch. Every process holds one; only the main process writes."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        scheduler: Any,
        fingerprint: str,
        criterion: str,
    ) -> None:
        """Hold what is saved: the prepared model, optimiser and schedule (see `common.training.engine.fit`)."""
        self.config, self.accelerator, self.fingerprint, self.criterion = config, accelerator, fingerprint, criterion
        self.model, self.optimizer, self.scheduler = accelerator.unwrap_model(model), optimizer, scheduler
        self.best_path = config.models_dir / f"{config.name}_best.pth"
        self.last_path = config.models_dir / f"{config.name}_last.pth"
        self.best_score, self.best_epoch = -math.inf, -1
        self.best_metrics: dict[str, float] = {}
        self.seconds, self.started = 0.0, time.perf_counter()
        self.saved: int | None = None

    def finish_epoch(self, epoch: int, validation: Validation) -> None:
        """Save the last state, and the best if this is it."""
        score = -math.inf if math.isnan(validation.score) else validation.score
        is_best = not self.best_metrics or score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, epoch
            self.best_metrics = validation.metrics
        if self.accelerator.is_main_process:
            self._save(epoch, validation, is_best=is_best)
        self.saved = epoch + 1

    def _save(self, epoch: int, validation: Validation, *, is_best: bool) -> None:
        config = self.config.plain()
        checkpoint = {
            "model_state_dict": self.model.state_dict(),
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

    def resume(self) -> int:
        """Load the last state; returns the epoch to go on with."""
        if not self.last_path.is_file():
            raise UserError(f"--resume: {self.last_path} does not exist; start the run without --resume.")
        last = load_checkpoint(self.last_path, CONTINUATION_KEYS)
        now = REMOVED | self.config.plain()
        # A field that the checkpoint does not name was not there yet: the training was as its default is.
        then = REMOVED | type(self.config)(name=self.config.name).plain() | last["config"]
        free = self.config.FREE
        changed = [name for name in now if name not in free and then[name] != now[name]]
        if changed:
            listed = ", ".join(f"{name} ({then[name]} → {now[name]})" for name in changed)
            flags = " ".join(flag_of(name, then[name]) for name in changed if name not in REMOVED)
            again = f" Go on with its own: {flags}" if flags else ""
            raise UserError(f"--resume: {self.last_path} was trained with other settings: {listed}.{again}")
        if last["data_fingerprint"] != self.fingerprint:
            raise UserError(f"--resume: the data are not those that {self.last_path} was trained on.")
        self.model.load_state_dict(last["model_state_dict"])
        self.optimizer.load_state_dict(last["optimizer_state_dict"])
        position = last["scheduler_state_dict"]
        if then["epochs"] != now["epochs"] and self.config.schedule in ("one_cycle", "cosine"):
            # The place of the same epoch in the schedule of the longer run, not the schedule of the run that ended.
            position = {name: position[name] for name in ("last_epoch", "_step_count", "_last_lr")}
        self.scheduler.load_state_dict(position)
        self.best_score, self.best_epoch = last["best_score"], last["best_epoch"]
        self.best_metrics, self.seconds = last["best_metrics"], last["seconds"]
        self.config = replace(self.config, **{name: then[name] for name in self.config.INHERITED})
        self.saved = last["epoch"] + 1
        return self.saved

    def finish(self) -> dict[str, float]:
        """Write the metrics file; returns the best metrics."""
        if self.accelerator.is_main_process:
            result = self.best_metrics | {"epoch": self.best_epoch, "seconds": round(self._elapsed(), 1)}
            path = self.config.models_dir / f"{self.config.name}_metrics.json"
            write_json(result | {"config": self.config.plain()}, path)
        return self.best_metrics

    def advice(self) -> str:
        """What is lost when the run stops now, and how to go on."""
        if self.saved is None:
            return "no epoch was finished, nothing of this run is saved"
        return f"{self.last_path} holds the run up to epoch {self.saved}; go on with --resume"

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

"""`torch.compile` for training steps, and whether it pays."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from common.errors import UserError

PLAIN, WARM_UP, FIRST = 6, 2, 2
"""Steps of a run that are not compiled; those of them that are not timed; those that compile forward and backward."""
TIMED = 4
"""Compiled steps that are timed."""


class CompiledStep:
    """A training step that is compiled, and tells once what that takes and gains.

    The first steps are not compiled, for comparison; they train as all others do. Nor is a batch of another size, the
    last of an epoch, ever: compiling for it would take as long again. As a context it times what is done within.
    """

    def __init__(
        self,
        step: Callable[[nn.Module, dict[str, Any]], torch.Tensor],
        batch_size: int,
        steps: int,
        report: Callable[[str], None],
    ) -> None:
        """Hold the step.

        Args:
            step: The scalar loss of a model and a batch whose `index` has an entry an image.
            batch_size: Images of a whole batch.
            steps: Of the run from here on, for the report.
            report: Is handed the report, a line.
        """
        self.plain, self.compiled = step, torch.compile(step)
        self.batch_size, self.steps, self.report = batch_size, steps, report
        self.seconds: list[float] = []
        self.whole = False

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """Scalar loss."""
        self.whole = len(batch["index"]) == self.batch_size
        way = self.compiled if self.whole and len(self.seconds) >= PLAIN else self.plain
        return way(model, batch)

    def __enter__(self) -> None:
        self.started = self._now()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        """Raises UserError where there is no compiler."""
        if isinstance(error, BackendCompilerFailed):
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                "--compile: the step can't be compiled. It needs a C++ compiler (g++ or clang++ on the path, or the "
                f"one that CXX names); install one, or leave --compile out. ({reason:.200})"
            ) from error
        if error is None and self.whole and self._measures():
            self.seconds.append(self._now() - self.started)
            if not self._measures():
                self.report(break_even(self.seconds, self.steps))

    def _measures(self) -> bool:
        return len(self.seconds) < PLAIN + FIRST + TIMED

    def _now(self) -> float:
        if self._measures() and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def break_even(seconds: list[float], steps: int) -> str:
    """After how many steps compiling has paid.

    Args:
        seconds: Of the first steps: `PLAIN` not compiled, `FIRST` that compile, `TIMED` compiled.
        steps: Of the run.
    """
    plain = statistics.median(seconds[WARM_UP:PLAIN])
    compiled = statistics.median(seconds[PLAIN + FIRST :])
    cost = sum(seconds[PLAIN : PLAIN + FIRST]) - FIRST * compiled
    gain = plain - compiled
    after = cost / gain if gain > 0 else math.inf
    pays = f"pays after {after:.0f} of {steps} steps"
    if after > steps:
        pays = "never pays" if gain <= 0 else f"would pay after {after:.0f} steps; this run has {steps}"
    return f"compile: {cost:.0f} s once, {plain:.3g} → {compiled:.3g} s a step: {pays}"

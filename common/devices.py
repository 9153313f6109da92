"""Device and rank of this process, and printing from the main process alone."""

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

PATIENCE = timedelta(days=2)
"""Timeout of processes that wait for each other, as for the main one to index, decode or fetch data. If one dies, the
launcher ends the others."""


def process_state(**options: Any) -> PartialState:
    """Device, rank and number of processes; the first call joins the processes of `torchrun` or `accelerate launch`.

    Several processes without a GPU are joined by gloo, where accelerate by itself would start several runs.

    Args:
        options: Those of `PartialState`, in the first call.
    """
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.cuda.is_available())
    return PartialState(cpu=cpu, **{"timeout": PATIENCE} | options)


@contextmanager
def main_process_prints() -> Generator[None]:
    """Within the block, drop what processes other than the main one print."""
    # Into a file, not None: libraries flush the output before they start processes.
    main = process_state().is_main_process
    with Path(os.devnull).open("w") as nowhere, nullcontext() if main else redirect_stdout(nowhere):
        yield

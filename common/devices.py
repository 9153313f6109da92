"""The device of this process, and the other processes of its run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

PATIENCE = timedelta(days=2)
"""How long processes wait for each other: the main one goes first where data are indexed, decoded or fetched. One
that dies is not waited for, since the launcher ends the others."""


def process_state(**options: Any) -> PartialState:
    """Device, rank and number of processes; the first call of a run joins them (`torchrun`, `accelerate launch`).

    Several processes without a GPU talk through gloo. Left to itself accelerate takes them for several runs.

    Args:
        options: Of `PartialState`; only those of the first call count.
    """
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.cuda.is_available())
    return PartialState(cpu=cpu, **{"timeout": PATIENCE} | options)


@contextmanager
def main_process_prints() -> Iterator[None]:
    """Keep the other processes from printing what the main one prints."""
    # Into a file, not None: libraries flush the output before they start processes.
    main = process_state().is_main_process
    with Path(os.devnull).open("w") as nowhere, nullcontext() if main else redirect_stdout(nowhere):
        yield

"""The device of this process, and the other processes of its run."""

import os
from typing import Any

import torch
from accelerate import PartialState


def process_state(**options: Any) -> PartialState:
    """Device, rank and number of processes; the first call of a run joins them (`torchrun`, `accelerate launch`).

    Several processes without a GPU talk through gloo. Left to itself accelerate takes them for several runs.

    Args:
        options: Of `PartialState`; only those of the first call count.
    """
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return PartialState(cpu=several and not torch.cuda.is_available(), **options)

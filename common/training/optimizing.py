"""Parameter groups of the optimiser, learning rate schedules, and freezing of unused parameters."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR

from common.config.run import RunConfig

FLOOR = 5e-4
"""First and last rate of `cosine` as a share of the peak (SPAI, CVPR 2025: 2.5e-7 of 5e-4)."""
RESTART_FLOOR = 1e-6
"""The rate at the end of each cycle of `warm_restarts` (original recipe of script 8)."""


def layer_groups(
    model: nn.Module, depth_of: Callable[[str], int], lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of AdamW with layer-wise decay of the learning rate.

    At depth d of a deepest D it is lr · layer_decay^(D − d) (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).
    Parameters of one dimension or none (biases, norms, scalars) get no weight decay.

    Args:
        model: Every parameter is in exactly one group, a frozen one too: it may be trained later.
        depth_of: The depth of a parameter, from its name; 0 is nearest to the image.
        lr: Of the deepest parameters.
        weight_decay: Of matrices and larger.
        layer_decay: In (0, 1]; 1 gives every depth the same rate.

    Returns:
        `params`, `lr` and `weight_decay` of each group, by depth: a continued run needs the same order.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((depth_of(name), parameter.ndim > 1), []).append(parameter)
    deepest = max(depth for depth, _ in groups)
    return [
        {
            "params": groups[depth, decays],
            "lr": lr * layer_decay ** (deepest - depth),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for depth, decays in sorted(groups)
    ]


def schedule_of(config: RunConfig, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The schedule of a configuration, by optimiser steps; the rate of each of the optimiser's groups is its peak."""
    steps = config.epochs * steps_per_epoch
    if config.schedule == "constant" or steps == 0:
        return ConstantLR(optimizer, factor=1.0)
    if config.schedule == "one_cycle":
        return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps)
    if config.schedule == "warm_restarts":
        first = config.restart_epochs * steps_per_epoch
        return CosineAnnealingWarmRestarts(optimizer, T_0=first, T_mult=2, eta_min=RESTART_FLOOR)
    # Not CosineAnnealingLR: its floor is one rate for all groups, here it is a share of each group's peak.
    warmup = config.warmup_epochs * steps_per_epoch
    return LambdaLR(optimizer, lambda step: FLOOR + (1 - FLOOR) * _cosine(step, warmup, steps))


def freeze_unused(model: nn.Module, *shape: int) -> None:
    """Freeze the parameters that the output does not depend on, such as the last layer of a truncated encoder.

    No step trains them, and several processes wait for the gradients of all that require one.

    Args:
        model: Its output is a tensor. Statistics of batch norm stay as they are.
        shape: Of an input; some encoders accept one size only.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    output = model.eval()(torch.zeros(shape, device=trained[0].device))
    model.train(training)
    gradients = torch.autograd.grad(output.sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _cosine(step: int, warmup: float, steps: int) -> float:
    """Height between floor (0) and peak (1): linear warm-up, then half a cosine (Loshchilov and Hutter 2017)."""
    if step < warmup:
        return step / warmup
    # Several processes make a few steps more than were counted if the images do not divide evenly.
    progress = min((step - warmup) / (steps - warmup), 1.0)
    return (1 + math.cos(math.pi * progress)) / 2

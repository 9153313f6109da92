"""What the optimiser is given, groups of parameters and their learning rates; and the average of what it makes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.config.run import RunConfig

FLOOR = 5e-4
"""Where `cosine` begins and ends, as a share of the peak (SPAI, CVPR 2025: 2.5e-7 of 5e-4)."""
RESTART_FLOOR = 1e-6
"""The rate at the end of each cycle of `warm_restarts` (seed: Spotter)."""


def layer_groups(
    model: nn.Module, depth_of: Callable[[str], int], lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of AdamW with layer-wise decay of the learning rate.

    At depth d of a deepest D it is lr · layer_decay^(D − d) (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).
    Parameters of one dimension or none (biases, norms, scalars) get no weight decay.

    Args:
        model: Every parameter comes into exactly one group, a frozen one too: it may be trained later.
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
    """The learning rates that a configuration asks for, from one optimiser step to the next.

    The rate of each of the optimiser's groups is its peak.
    """
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


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a model's weights and buffers (the statistics of batch norm among them).

    After t updates the decay is min(decay, (1 + t) / (10 + t)), as in TensorFlow's `ExponentialMovingAverage`: with
    `decay` from the start, the random first weights would stay in for about 1 / (1 − decay) steps.

    Args:
        model: With its first weights; its copy is the result's `module`.
        decay: In [0, 1): how much of the average an update keeps.
    """

    def update(averages: list[Tensor], now: list[Tensor], updates: Tensor | int) -> None:
        count = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averages, now, updates)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def freeze_unused(model: nn.Module, *shape: int) -> None:
    """Freeze what the output does not depend on, such as the last layer of an encoder whose features alone are used.

    Nothing would train it, and several processes wait for the gradient of all that requires one.

    Args:
        model: Its output is a tensor. Statistics of batch norm stay as they are.
        shape: Of an input that it takes; some encoders take one size alone.
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
    # Several processes make a few steps more than were counted when their shares do not come out even.
    progress = min((step - warmup) / (steps - warmup), 1.0)
    return (1 + math.cos(math.pi * progress)) / 2

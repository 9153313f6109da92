import math

import pytest
import torch
from torch import nn

from common.config.run import RunConfig
from common.training.optimizing import freeze_unused, layer_groups, schedule_of


class Tower(nn.Module):
    """Three depths of one linear layer each, the last with a scale; the first matrix is used twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.again = self.layers[0].weight
        self.scale = nn.Parameter(torch.ones(()))


def depth_of(name):
    return int(name.split(".")[1]) if name.startswith("layers") else {"again": 0, "scale": 2}[name]


def rates(config, groups=(0.1,), steps_per_epoch=4):
    """The rate of each group in each step of the run, and after it."""
    optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in groups])
    scheduler = schedule_of(config, optimizer, steps_per_epoch)
    seen = []
    for _ in range(config.epochs * steps_per_epoch):
        seen.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    return [*seen, scheduler.get_last_lr()]


def test_the_rate_falls_with_the_distance_from_the_deepest_layer():
    model = Tower()
    groups = layer_groups(model, depth_of, lr=0.08, weight_decay=0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (pytest.approx(group["lr"]), group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert found == {
        **{"again": (0.02, 0.05), "layers.1.weight": (0.04, 0.05), "layers.2.weight": (0.08, 0.05)},
        **{"layers.0.bias": (0.02, 0.0), "layers.1.bias": (0.04, 0.0), "layers.2.bias": (0.08, 0.0)},
        "scale": (0.08, 0.0),
    }


def test_every_parameter_is_in_one_group_frozen_or_not():
    model = Tower()
    model.layers[1].requires_grad_(False)
    groups = layer_groups(model, depth_of, 0.1, 0.05, 0.8)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(map(id, model.parameters()))
    assert len(torch.optim.AdamW(groups).param_groups) == 6  # which refuses a parameter in two groups


def test_a_constant_rate():
    assert {rate for (rate,) in rates(RunConfig(name="a", epochs=2))} == {0.1}


def test_one_cycle_has_the_peak_of_each_group():
    seen = rates(RunConfig(name="a", epochs=5, schedule="one_cycle"), (0.1, 0.02))[:-1]
    assert [max(group) for group in zip(*seen, strict=True)] == pytest.approx([0.1, 0.02], rel=0.02)
    assert [first / second for first, second in seen] == pytest.approx([5.0] * 20)


def test_cosine_by_hand():
    """One epoch of warm-up in four steps, then half a cosine over eight; each group between its floor and its peak."""
    config = RunConfig(name="a", epochs=3, schedule="cosine", warmup_epochs=1)
    seen = rates(config, (0.1, 0.02))
    assert len(seen) == 13
    height = {0: 0.0, 1: 0.25, 2: 0.5, 4: 1.0, 6: (1 + math.sqrt(0.5)) / 2, 8: 0.5, 12: 0.0}
    for step, share in height.items():
        for rate, peak in zip(seen[step], (0.1, 0.02), strict=True):
            assert rate == pytest.approx(peak * (5e-4 + (1 - 5e-4) * share)), step


def test_cosine_without_a_warm_up_begins_at_its_peak():
    seen = rates(RunConfig(name="a", epochs=2, schedule="cosine"))
    assert [seen[0], seen[4], seen[8]] == [pytest.approx([r]) for r in (0.1, 0.1 * (1 + 5e-4) / 2, 0.1 * 5e-4)]


def test_the_warm_up_can_end_within_an_epoch():
    seen = [rate for (rate,) in rates(RunConfig(name="a", epochs=2, schedule="cosine", warmup_epochs=0.5))]
    assert seen[1] == pytest.approx(0.1 * (5e-4 + (1 - 5e-4) / 2))
    assert max(seen) == seen[2] == pytest.approx(0.1)


def test_cosine_stays_at_its_floor_after_its_end():
    """Several processes may step a little further."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = schedule_of(RunConfig(name="a", epochs=1, schedule="cosine"), optimizer, 2)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.1 * 5e-4])


def test_warm_restarts_by_hand():
    """Cycles of one, two and four epochs of two steps; each from the peak of the group towards 1e-6."""
    config = RunConfig(name="a", epochs=7, schedule="warm_restarts", restart_epochs=1)
    seen = rates(config, (0.1, 0.02), steps_per_epoch=2)
    height = {0: 1.0, 1: 0.5, 2: 1.0, 3: (1 + math.sqrt(0.5)) / 2, 4: 0.5, 6: 1.0, 10: 0.5, 14: 1.0}
    for step, share in height.items():
        for rate, peak in zip(seen[step], (0.1, 0.02), strict=True):
            assert rate == pytest.approx(1e-6 + (peak - 1e-6) * share), step


@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "cosine", "warm_restarts"])
def test_an_untrained_network_needs_no_schedule(schedule):
    assert rates(RunConfig(name="a", epochs=0, schedule=schedule)) == [[0.1]]


class Encoder(nn.Module):
    """A layer, batch norm, and a classifier that nobody asks; another layer is frozen already."""

    def __init__(self):
        super().__init__()
        self.features, self.norm, self.classifier = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.norm(self.features(x)))


@pytest.mark.parametrize("training", [True, False])
def test_what_no_output_depends_on_is_frozen_and_nothing_else_changes(training):
    model = Encoder().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_unused(model, 2, 3)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"features.weight", "features.bias", "norm.weight", "norm.bias"}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training == training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

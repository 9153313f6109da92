import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.config.run import RunConfig, parse_config
from common.errors import UserError

CONFIG = RunConfig(name="base")


@dataclass(frozen=True, kw_only=True)
class Warming(RunConfig):
    """A recipe with a warm-up, and a shorter one on two cores."""

    schedule: str = "cosine"
    warmup_epochs: float = 5.0

    def quick(self):
        return dataclasses.replace(super().quick(), epochs=4, warmup_epochs=1.0)


@dataclass(frozen=True, kw_only=True)
class Nested(RunConfig):
    scales: tuple[float, ...] = (0.5, 1.5)
    boxes: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    folders: tuple[Path, ...] = (Path("a"),)


def parse(monkeypatch, *arguments, config=CONFIG):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    return parse_config(config)


def test_every_field_is_a_flag_with_help(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help")
    text = capsys.readouterr().out
    suppressed = {"restart_epochs", "warmup_epochs", "clip_grad", "patience"}
    for field in dataclasses.fields(RunConfig):
        assert (f"--{field.name.replace('_', '-')}" in text) == (field.name not in suppressed), field.name
    assert "Images per step and process" in text and "--batch-size INT≥1" in text
    assert "--FREE" not in text and "--free" not in text


def test_a_suppressed_field_is_a_flag_of_those_who_declare_it_again(monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        parse(monkeypatch, "--warmup-epochs", "1")
    assert error.value.code == 2
    assert "--warmup-epochs" in capsys.readouterr().err
    assert parse(monkeypatch, "--warmup-epochs", "1", config=Warming(name="a")).warmup_epochs == 1


def test_unknown_flags_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        parse(monkeypatch, "--learning-rate", "1")
    assert error.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err


def test_an_unknown_profile_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        parse(monkeypatch, "--profile", "slow")
    assert error.value.code == 2
    assert "--profile" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--profile", "quick"), ("--profile=quick",), ("--seed", "1", "--profile", "quick")])
def test_the_profile_changes_the_defaults(monkeypatch, flags):
    config = parse(monkeypatch, *flags)
    assert (config.profile, config.workers, config.epochs) == ("quick", 0, 30)
    assert parse(monkeypatch, *flags, "--workers", "3").workers == 3


def test_the_help_shows_the_profiles_defaults(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help", "--profile", "quick", config=Warming(name="a"))
    assert "(default: 4)" in capsys.readouterr().out


def test_flags_must_suit_the_chosen_profile_alone(monkeypatch):
    """Two epochs are too few for the full recipe's warm-up of five, but not for the quick one's."""
    config = parse(monkeypatch, "--profile", "quick", "--epochs", "2", config=Warming(name="a"))
    assert (config.epochs, config.warmup_epochs) == (2, 1.0)
    with pytest.raises(UserError, match=r"--warmup-epochs is 5\.0"):
        parse(monkeypatch, "--epochs", "2", config=Warming(name="a"))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"batch_size": 0}, "--batch-size is 0; it must be 1 or more"),
        ({"accumulation": 0}, "--accumulation is 0"),
        ({"epochs": -1}, "--epochs is -1; it must be 0 or more"),
        ({"lr": 0.0}, "--lr is 0.0; it must be above 0"),
        ({"workers": -1}, "--workers is -1"),
        ({"seed": -1}, "--seed is -1"),
        ({"clip_grad": -1.0}, "--clip-grad is -1.0; it must be 0 or more"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0; it must be 0 or more"),
        ({"patience": -1}, "--patience is -1"),
        ({"restart_epochs": 0}, "--restart-epochs is 0; it must be 1 or more"),
        ({"warmup_epochs": 1.0}, "--warmup-epochs is 1.0; it must be 0, or with --schedule cosine from 0 to below"),
        ({"warmup_epochs": 1.0, "schedule": "one_cycle"}, "--warmup-epochs is 1.0"),
        ({"warmup_epochs": 30.0, "schedule": "cosine"}, "--warmup-epochs is 30.0"),
        ({"warmup_epochs": -0.5, "schedule": "cosine"}, "--warmup-epochs is -0.5"),
    ],
)
def test_impossible_values_are_refused(fields, wanted):
    with pytest.raises(UserError, match=wanted):
        dataclasses.replace(CONFIG, **fields)


def test_a_field_that_is_declared_again_keeps_its_range():
    with pytest.raises(UserError, match=r"--warmup-epochs is -1\.0; it must be 0 or more"):
        Warming(name="a", warmup_epochs=-1.0)


@pytest.mark.parametrize(
    "fields", [{"warmup_epochs": 29.5}, {"warmup_epochs": 0.0}, {"warmup_epochs": 5.0, "epochs": 0}]
)
def test_a_warm_up_that_can_be(fields):
    dataclasses.replace(CONFIG, schedule="cosine", **fields)


def test_tuples_become_lists_of_plain_values():
    plain = Nested(name="a").plain()
    assert (plain["scales"], plain["boxes"], plain["folders"]) == ([0.5, 1.5], [[1, 2], [3, 4]], ["a"])
    assert (plain["models_dir"], plain["epochs"], plain["resume"]) == ("models", 30, False)
    assert type(plain["lr"]) is float

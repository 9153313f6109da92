import dataclasses
import sys

from common.config import TrainConfig, parse_config
from common.errors import UserError

import pytest

CONFIG = TrainConfig(name="base")


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    return parse_config(CONFIG)


def test_defaults_are_the_seeds():
    expected = {
        "encoder_name": "tu-efficientnet_b2",
        "encoder_weights": "imagenet",
        "decoder_channels": 256,
        "image_size": 512,
        "batch_size": 4,
        "epochs": 30,
        "lr": 3e-4,
        "schedule": "constant",
        "focal_alpha": 0.75,
        "focal_gamma": 3.0,
        "focal_weight": 0.7,
        "dice_weight": 0.3,
        "small_forgery_threshold": 0.03,
        "oversample_factor": 3.0,
    }
    assert {name: getattr(CONFIG, name) for name in expected} == expected


def test_every_field_is_a_flag_with_help(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help")
    text = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in text, field.name


def test_flags_win_over_the_profile(monkeypatch):
    config = parse(monkeypatch, "--profile", "quick", "--epochs", "2", "--encoder-name", "mobilenet_v2")
    assert (config.image_size, config.epochs, config.encoder_name) == (256, 2, "mobilenet_v2")
    assert config.encoder_weights == "auto"


def test_a_named_source_of_weights_survives_the_profile(monkeypatch):
    assert parse(monkeypatch, "--profile", "quick", "--encoder-weights", "none").encoder_weights == "none"
    assert dataclasses.replace(CONFIG, encoder_weights="a.pth").quick().encoder_weights == "a.pth"


def test_unknown_flags_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        parse(monkeypatch, "--learning-rate", "1")
    assert error.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("image_size", 500, "--image-size is 500; it must be a positive multiple of 32"),
        ("batch_size", 0, "--batch-size is 0; it must be 1 or more"),
        ("accumulation", 0, "--accumulation is 0"),
        ("epochs", -1, "--epochs is -1; it must be 0 or more"),
        ("lr", 0.0, "--lr is 0.0; it must be above 0"),
        ("folds", 1, "--folds is 1; it must be 2 or more"),
        ("fold", 5, "--fold is 5; it must be from 0 to 4"),
        ("fold", -1, "--fold is -1"),
        ("workers", -1, "--workers is -1"),
        ("oversample_factor", 0.0, "--oversample-factor is 0.0"),
        ("seed", -1, "--seed is -1"),
    ],
)
def test_impossible_values_are_refused(field, value, wanted):
    with pytest.raises(UserError, match=wanted):
        dataclasses.replace(CONFIG, **{field: value})


def test_plain_values_only():
    assert {type(value) for value in CONFIG.plain().values()} <= {str, int, float, bool}

import re
import sys

import pytest

from common.config.run import parse_config
from common.errors import UserError
from common.video.config import EvaluationConfig, VideoConfig

CONFIG = VideoConfig(name="deepfake_video")


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    return parse_config(CONFIG, {"test": EvaluationConfig})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), (224, 8, 1e-4, 1)),
        (("--encoder-name", "tf_efficientnet_b0"), (224, 8, 1e-4, 1)),
        (("--encoder-name", "tf_efficientnet_b3"), (300, 4, 5e-5, 2)),
        (("--encoder-name", "tf_efficientnet_b3", "--batch-size", "2"), (300, 2, 5e-5, 2)),
    ],
)
def test_the_encoder_sets_size_batch_rate_and_accumulation(monkeypatch, flags, expected):
    """The original recipe's values."""
    config = parse(monkeypatch, *flags)
    assert (config.image_size, config.batch_size, config.lr, config.accumulation) == expected
    assert (config.frames, config.epochs, config.patience, config.frozen_epochs) == (24, 25, 7, 10)


def test_quick_keeps_an_encoder_that_is_named(monkeypatch):
    config = parse(monkeypatch, "--profile", "quick", "--encoder-name", "tf_efficientnet_b3")
    assert (config.encoder_name, config.image_size, config.profile) == ("tf_efficientnet_b3", 128, "quick")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen_epochs": 25}, "--frozen-epochs is 25; it must be 0 or more and below --epochs"),
        ({"frames": 0}, "--frames is 0; it must be 1 or more"),
        ({"frames": 4097}, "--frames is 4097; it must be at most 4096"),
        ({"dropout": 1.1}, "--dropout is 1.1; it must be from 0 to 1"),
        ({"image_size": 32}, "--image-size is 32; it must be 64 or more"),
    ],
)
def test_values_that_no_run_can_have_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        VideoConfig(name="a", **fields)


def test_the_test_is_a_subcommand_with_its_own_flags(monkeypatch):
    config = parse(monkeypatch, "test", "--csv", "clips.csv", "--threshold", "0.4")
    assert isinstance(config, EvaluationConfig) and (str(config.csv), config.threshold) == ("clips.csv", 0.4)
    with pytest.raises(UserError, match=r"--threshold is 1\.0; it must be above 0 and below 1"):
        parse(monkeypatch, "test", "--threshold", "1")
    with pytest.raises(SystemExit):
        parse(monkeypatch, "test", "--lr", "0.1")


@pytest.mark.parametrize("flag", ["--hidden", "--no-attention", "--schedule", "--predict", "--threshold"])
def test_what_is_no_flag_is_refused(monkeypatch, flag):
    with pytest.raises(SystemExit):
        parse(monkeypatch, flag, "1")


def test_a_training_has_at_most_25_flags(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help")
    assert len(set(re.findall(r"^│? *(--[a-z][a-z-]+)", capsys.readouterr().out, re.MULTILINE))) <= 25

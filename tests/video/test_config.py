import sys
from pathlib import Path

import pytest

from common.config.run import parse_config
from common.errors import UserError
from common.video.config import VideoConfig

CONFIG = VideoConfig(name="deepfake_video")


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    return parse_config(CONFIG)


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
    """The seed's values."""
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
        ({"frames": 0}, "--frames is 0"),
        ({"threshold": 1.0}, "--threshold is 1.0"),
        ({"faces": "yunet"}, "--faces is yunet; it must be beside --face-model ONNX"),
        ({"faces": "boxes"}, "or --boxes TABLE"),
        ({"boxes": Path("a.csv")}, "--boxes is a.csv; it must be left out, or beside --faces boxes"),
        ({"identity": "(a"}, r"--identity is \(a; it must be a regular expression"),
        ({"image_size": 32}, "--image-size is 32; it must be 64 or more"),
        ({"predict": Path("a.mp4"), "evaluate": True}, "--predict is a.mp4; it must be left out beside --evaluate"),
    ],
)
def test_values_that_no_run_can_have_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        VideoConfig(name="a", **fields)

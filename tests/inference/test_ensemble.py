from dataclasses import replace

from common.errors import UserError
from common.inference import ensemble as module
from common.inference.ensemble import Ensemble, Member, load_ensemble, resize_map
from common.training.checkpoint import build_network, save_checkpoint

import numpy as np
import pytest
import torch
from torch import nn


class Constant(nn.Module):
    """The same probability everywhere."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = torch.logit(torch.tensor(probability))

    def forward(self, x):
        return self.logit.expand(len(x), 1, *x.shape[2:])


def loaded(name, weight, probability, image_size=32, threshold=0.5):
    member = Member(name=name, script=f"script_{name}.py", in_channels=3, weight=weight, role="average")
    checkpoint = {"threshold": threshold, "calibration": {"slope": 1.0, "intercept": 0.0}}
    return member, Constant(probability), checkpoint | {"config": {"image_size": image_size}}


IMAGES = [np.zeros((40, 50, 3), np.uint8), np.full((10, 20, 3), 255, np.uint8)]


def test_the_blend_is_the_weighted_mean():
    ensemble = Ensemble([loaded("a", 1.5, 0.8), loaded("b", 0.5, 0.2, image_size=16)], torch.device("cpu"))
    maps = ensemble.predict(IMAGES)
    assert maps.shape == (2, 32, 32)
    assert maps == pytest.approx((1.5 * 0.8 + 0.5 * 0.2) / 2)


def test_the_heaviest_member_decides():
    ensemble = Ensemble(
        [loaded("a", 0.5, 0.8, threshold=0.3), loaded("b", 1.2, 0.2, threshold=0.4)], torch.device("cpu")
    )
    assert ensemble.pixel_threshold == 0.4


def test_members_that_are_not_averaged_are_refused():
    member, network, checkpoint = loaded("a", 1.0, 0.5)
    with pytest.raises(NotImplementedError, match="'a'"):
        Ensemble([(replace(member, role="union"), network, checkpoint)], torch.device("cpu"))


def test_resize_map_keeps_its_range():
    prob = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    resized = resize_map(prob, 30, 40)
    assert resized.shape == (30, 40)
    assert (resized.min(), resized.max()) == (0, 1)
    assert resize_map(prob, 2, 2) is prob


@pytest.fixture
def two_members(monkeypatch, tmp_path):
    """A table of two members, of which the first was trained."""
    members = tuple(loaded(name, 1.0, 0.5)[0] for name in ("a", "b"))
    monkeypatch.setattr(module, "MEMBERS", members)
    config = {
        "encoder_name": "tu-mobilenetv3_small_100",
        "in_channels": 3,
        "decoder_channels": 32,
        "segmentation_channels": 32,
        "image_size": 64,
    }
    checkpoint = {
        "model_state_dict": build_network(config).state_dict(),
        "config": config,
        "epoch": 0,
        "best_dice": 0.1,
    }
    checkpoint |= {"metrics": {}, "threshold": 0.25, "calibration": {"slope": 1.0, "intercept": 0.0}}
    save_checkpoint(checkpoint, tmp_path / "a_best.pth")
    return tmp_path


def test_a_missing_checkpoint_is_named_with_its_script(two_members):
    with pytest.raises(UserError, match=r"b_best\.pth \(made by script_b\.py\)\n.*--allow-missing"):
        load_ensemble(two_members, torch.device("cpu"))


def test_allow_missing_goes_on_and_says_so(two_members, capsys):
    ensemble = load_ensemble(two_members, torch.device("cpu"), allow_missing=True)
    assert "without:\n" in capsys.readouterr().out
    assert ensemble.pixel_threshold == 0.25
    maps = ensemble.predict(IMAGES)
    assert maps.shape == (2, 64, 64)
    assert ((maps > 0) & (maps < 1)).all()


def test_nothing_at_all_is_an_error_also_then(two_members):
    (two_members / "a_best.pth").unlink()
    with pytest.raises(UserError, match=r"a_best\.pth.*\n.*b_best\.pth"):
        load_ensemble(two_members, torch.device("cpu"), allow_missing=True)

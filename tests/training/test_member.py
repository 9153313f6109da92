from dataclasses import replace

import pytest
import torch
from torch import nn

from common.config.segmentation import TrainConfig
from common.data.dataset import ForgeryDataset
from common.data.sampling import WeightedSampler
from common.errors import UserError
from common.networks.pixels import unit_range
from common.networks.segmentation import build_network
from common.training.checkpoint import load_checkpoint, save_checkpoint, save_release
from common.training.member import fit_member, load_split, start_network


@pytest.fixture
def config(pairs_dir, tmp_path):
    config = TrainConfig(name="new", data_dir=pairs_dir, models_dir=tmp_path, encoder_weights="none").quick()
    return replace(config, image_size=64, decoder_channels=32)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return self.head(torch.relu(self.body(unit_range(x))))


def fit_anew(config):
    """The last checkpoint of a network that begins with the same weights each time."""
    split = load_split(config)
    train_set, val_set = (ForgeryDataset(part, config.image_size) for part in (split.train, split.val))
    sampler = WeightedSampler([1.0] * len(train_set), config.seed)
    torch.manual_seed(0)
    fit_member(config, split, Small(), train_set, val_set, sampler)
    return load_checkpoint(config.models_dir / "new_last.pth")


def test_the_cache_changes_no_weight_and_no_metric(config):
    config = replace(config, epochs=2, tracker="none")
    plain = fit_anew(replace(config, cache_gb=0.0))
    assert not config.cache_folder.exists()
    for _ in range(2):  # while it is filled, and from it
        cached = fit_anew(replace(config, overwrite=True))
        assert cached["metrics"] == pytest.approx(plain["metrics"], rel=0, abs=0, nan_ok=True)
        for name, value in plain["model_state_dict"].items():
            assert torch.equal(cached["model_state_dict"][name], value), name
    (file,) = config.cache_folder.iterdir()
    assert file.stat().st_size == 20 * (4 + 64 * 64 * 4)  # all images of the folder, one file for both data sets


def test_a_run_without_room_for_its_cache_says_so_and_goes_on(config, capsys):
    fit_anew(replace(config, epochs=0, tracker="none", cache_gb=5e-5))
    assert "new: 3 of 20 images fit into the cache" in capsys.readouterr().out


@pytest.fixture
def base(config):
    """A checkpoint of another member, of the same folds, and its network."""

    def save(fingerprint, **fields):
        theirs = config.plain() | {"name": "base", "decoder_channels": 64, "image_size": 96} | fields
        network = build_network(theirs)
        checkpoint = {"model_state_dict": network.state_dict(), "config": theirs, "epoch": 0, "best_dice": 0.0}
        checkpoint |= {"metrics": {}, "threshold": 0.5, "calibration": {}, "data_fingerprint": fingerprint}
        save_checkpoint(checkpoint, config.models_dir / "base_best.pth")
        return network

    return save


def test_a_split_keeps_pairs_together_and_covers_all(config):
    split = load_split(config)
    assert (len(split.train), len(split.val)) == (16, 4)
    assert not {sample.group for sample in split.train} & {sample.group for sample in split.val}


def test_the_folds_have_a_seed_of_their_own(config):
    names, other, redrawn = (
        [sample.case_id for sample in load_split(changed).val]
        for changed in (config, replace(config, seed=1), replace(config, fold_seed=1))
    )
    assert names == other != redrawn


@pytest.mark.parametrize("seed", [0, 7])
def test_the_first_weights_depend_on_the_seed_alone(config, seed):
    config = replace(config, seed=seed)
    split = load_split(config)
    torch.manual_seed(seed)
    expected = build_network(config).state_dict()
    torch.rand(3)  # whatever was drawn before
    model, after = start_network(config, split)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert after == config


def test_it_starts_from_the_other_members_network(config, base, capsys):
    split = load_split(config)
    theirs = base(split.fingerprint)
    model, after = start_network(replace(config, init="base"), split)
    for name, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert (after.decoder_channels, after.image_size) == (64, 96)  # the network and its size are theirs
    assert "starts from" in capsys.readouterr().out


@pytest.mark.parametrize("fields", [{"fold": 1}, {"fold_seed": 1}, {"folds": 4}])
def test_a_checkpoint_that_saw_the_validation_fold_is_refused(config, base, fields):
    split = load_split(config)
    base(split.fingerprint, **fields)
    flag = f"--{next(iter(fields))}".replace("_", "-")
    with pytest.raises(UserError, match=f"trained with {flag} .*it has seen images that validate here"):
        start_network(replace(config, init="base"), split)


@pytest.mark.parametrize("name", ["elsewhere.pth", "elsewhere.safetensors"])
def test_it_starts_from_a_file(config, base, tmp_path, name):
    split = load_split(config)
    theirs, path = base(split.fingerprint), config.models_dir / "base_best.pth"
    if name.endswith(".safetensors"):
        save_release(load_checkpoint(path), tmp_path / name)
    else:
        path.rename(tmp_path / name)
    model, after = start_network(replace(config, init=str(tmp_path / name)), split)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-3, atol=1e-3)  # a release has half precision
    assert after.image_size == 96
    with pytest.raises(UserError, match=r"none\.pth does not exist, .* Name another one, or .* --init none"):
        start_network(replace(config, init="none.pth"), split)


def test_a_checkpoint_of_other_data_is_noted(config, base, capsys):
    base("of other data", fold=1)
    start_network(replace(config, init="base"), load_split(config))
    assert "trained on other data" in capsys.readouterr().out


def test_a_missing_checkpoint_is_named(config):
    with pytest.raises(UserError, match=r"base_best\.pth does not exist, and new starts from it. Train base first"):
        start_network(replace(config, init="base"), load_split(config))


def test_other_channels_are_refused(config, base):
    split = load_split(config)
    base(split.fingerprint, in_channels=4)
    with pytest.raises(UserError, match="reads 4 channels, new 3"):
        start_network(replace(config, init="base"), split)


class AllForged(nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return self.logit.expand(len(x), 1, *x.shape[2:])


def test_the_configured_share_of_recall_picks_the_best_epoch(config, capsys):
    config = replace(config, recall_weight=1.0, epochs=0, tracker="none")
    split = load_split(config)
    val_set = ForgeryDataset(split.val, config.image_size)
    fit_member(config, split, AllForged(), val_set, val_set, WeightedSampler([1.0] * len(val_set), config.seed))
    last = load_checkpoint(config.models_dir / "new_last.pth")
    assert last["best_score"] == last["metrics"]["pixel_recall"] == 1.0 > last["metrics"]["dice"]
    assert "recall 1.0000" in capsys.readouterr().out

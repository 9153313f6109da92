import importlib
import os
import pickle
import socket
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.config.segmentation import TrainConfig
from common.errors import UserError
from common.networks.segmentation import build_network, load_network
from common.networks.weight_files import read_state_dict
from common.training.checkpoint import PLACES, REQUIRED_KEYS, load_checkpoint, save_checkpoint, save_release

CONFIG = TrainConfig(
    name="tiny", encoder_name="tu-mobilenetv3_small_100", decoder_channels=32, segmentation_channels=32
)


@pytest.fixture
def checkpoint():
    return dict.fromkeys(REQUIRED_KEYS, 0) | {
        "model_state_dict": build_network(CONFIG).state_dict(),
        "config": CONFIG.plain(),
    }


def test_network_comes_back_from_the_checkpoint_alone(tmp_path, checkpoint):
    path = tmp_path / "models" / "tiny_best.pth"
    save_checkpoint(checkpoint, path)
    network = load_network(load_checkpoint(path), path)
    assert not network.training
    assert all(torch.equal(v, checkpoint["model_state_dict"][k]) for k, v in network.state_dict().items())


def test_before_the_folds_had_a_seed_of_their_own_they_were_drawn_by_the_runs(tmp_path, checkpoint):
    path = tmp_path / "tiny_best.pth"
    config = checkpoint["config"] | {"seed": 3}
    for expected in (0, 3):
        save_checkpoint(checkpoint | {"config": config}, path)
        assert load_checkpoint(path)["config"]["fold_seed"] == expected
        config = {name: value for name, value in config.items() if name != "fold_seed"}


def test_plain_types_only(tmp_path, checkpoint):
    """`weights_only=True` refuses what would run code."""

    class Payload:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = tmp_path / "evil.pth"
    torch.save(checkpoint | {"metrics": Payload()}, path)
    with pytest.raises(UserError, match=r"evil\.pth holds more than weights and plain values") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value) and "False" not in str(caught.value)


CALLS = {
    "os.system": (os.system, ("touch {0}",)),
    "exec": (exec, ("open({0!r}, 'w').close()",)),
    "eval": (eval, ("open({0!r}, 'w').close()",)),
    "open": (open, ("{0}", "w")),
    "subprocess": (subprocess.check_call, (["touch", "{0}"],)),
    "os.mkdir": (os.mkdir, ("{0}",)),
    "import": (importlib.import_module, ("antigravity",)),
    "path": (Path.touch, (Path("{0}"),)),
}


class Call:
    """Pickled, it is a call."""

    def __init__(self, function, arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def filled(argument, marker):
    if isinstance(argument, list):
        return [filled(entry, marker) for entry in argument]
    return type(argument)(str(argument).format(marker))


@pytest.mark.parametrize("form", ["archive", "before archives", "bare pickle", "under the weights"])
@pytest.mark.parametrize("name", CALLS)
def test_no_file_of_weights_runs_code(tmp_path, checkpoint, name, form):
    """Neither as a checkpoint nor as first weights of an encoder, whatever its suffix."""
    marker = tmp_path / "ran"
    function, arguments = CALLS[name]
    call = Call(function, tuple(filled(argument, marker) for argument in arguments))
    evil = checkpoint | ({"model_state_dict": {"weight": call}} if form == "under the weights" else {"metrics": call})
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"evil{suffix}"
        with path.open("wb") as file:
            if form == "bare pickle":
                pickle.dump(evil, file)
            else:
                torch.save(evil, file, _use_new_zipfile_serialization=form != "before archives")
        for read in (load_checkpoint, read_state_dict):
            with suppress(UserError):  # plain weights beside what is not run may be read
                read(path)
            assert not marker.exists()
    with pytest.raises(UserError, match=r"evil\.pth holds more than weights"):
        load_checkpoint(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"a": 1})])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.pth"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_named(tmp_path, checkpoint):
    path = tmp_path / "half.pth"
    save_checkpoint(checkpoint, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"half\.pth can't be read"):
        load_checkpoint(path)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("ending", ["_best.pth", ".safetensors"])
def test_damaged_bytes_are_noticed(tmp_path, checkpoint, ending, mapped):
    """In the middle of the weights, where nothing but the checksum shows it."""
    path = tmp_path / f"tiny{ending}"
    (save_checkpoint if ending == "_best.pth" else save_release)(checkpoint, path)
    load_checkpoint(path, mapped=mapped)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    for damage in (bytes(1), bytes(40_000)):
        content[middle : middle + len(damage)] = damage
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"tiny{ending} can't be read as a checkpoint .*checksum"):
            load_checkpoint(path, mapped=mapped)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(tmp_path, checkpoint, value):
    """Compared with a threshold, such a number calls everything authentic."""
    path, weights = tmp_path / "tiny_best.pth", checkpoint["model_state_dict"]
    name = next(name for name in reversed(weights) if weights[name].is_floating_point())
    weight = weights[name].clone()
    weight.view(-1)[-1] = value
    for change, message in (
        ({"model_state_dict": weights | {name: weight}}, rf"weights that are not finite \({name}\)"),
        ({"calibration": {"slope": 1.0, "intercept": value}}, "calibration that is not finite"),
        ({"threshold": value}, "threshold that is not finite"),
        ({"config": checkpoint["config"] | {"crop_factors": [2.0, value]}}, "config that is not finite"),
    ):
        save_checkpoint(checkpoint | change, path)
        with pytest.raises(UserError, match=rf"tiny_best\.pth (holds|has a) {message}"):
            load_checkpoint(path, mapped=True)
    save_checkpoint(checkpoint | {"metrics": {"pixel_recall_tiny": value}}, path)  # none were in the validation
    assert load_checkpoint(path)["metrics"]


def test_missing_keys_are_named(tmp_path):
    torch.save({"model_state_dict": {}, "epoch": 1}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"lacks best_dice, config, config\.in_channels, metrics, threshold"):
        load_checkpoint(tmp_path / "x.pth")


def test_another_kind_of_checkpoint_names_its_own_keys(tmp_path):
    torch.save({"model_state_dict": {}, "best_auc": 0.5}, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth", ("model_state_dict", "best_auc"))["best_auc"] == 0.5
    with pytest.raises(UserError, match=r"x\.pth is no checkpoint .* lacks epoch, best_dice, config"):
        load_checkpoint(tmp_path / "x.pth")
    with pytest.raises(UserError, match="lacks text"):
        load_checkpoint(tmp_path / "x.pth", ("best_auc", "text"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth does not exist"):
        load_checkpoint(tmp_path / "none.pth")


def test_weights_of_another_network_are_refused(tmp_path, checkpoint):
    checkpoint["config"]["decoder_channels"] = 64
    with pytest.raises(UserError, match=r"x\.pth: the weights do not fit"):
        load_network(checkpoint, tmp_path / "x.pth")


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_name": "tu-hf_hub:timm/resnet18.a1_in1k"},
        {"encoder_name": "tu-hf-hub:timm/resnet18.a1_in1k"},
        {"encoder_name": "tu-local-dir:/tmp"},
        {"encoder_name": "hf_hub:timm/resnet18"},
        {"encoder_name": "tu-"},
        {"encoder_name": 7},
        {"encoder_name": None},
        {"decoder_channels": 10**9},
        {"decoder_channels": 4096},
        {"decoder_channels": "many"},
        {"segmentation_channels": 32 * 10**9},
        {"segmentation_channels": -32},
        {"in_channels": 10**12},
        {"in_channels": 4},
    ],
)
def test_a_config_that_is_not_of_the_weights_builds_nothing(tmp_path, checkpoint, change, monkeypatch):
    """Neither from the network, nor of a size that the file has not."""

    def refuse(*_, **__):
        raise AssertionError("asks the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match=r"x\.pth: (no network can be built from its config|the weights do not fit)"):
        load_network(checkpoint | {"config": checkpoint["config"] | change}, path)


def test_a_released_network_is_the_trained_one_in_half_precision(tmp_path, checkpoint):
    trained, released = tmp_path / "tiny_best.pth", tmp_path / "tiny.safetensors"
    checkpoint |= {"metrics": {"dice": 0.25, "pixel_recall_tiny": float("nan")}, "optimizer_state_dict": {"state": {}}}
    save_checkpoint(checkpoint, trained)
    save_release(checkpoint, released)
    assert released.stat().st_size < 0.6 * trained.stat().st_size
    loaded = load_checkpoint(released)
    assert loaded["config"] == {k: v for k, v in checkpoint["config"].items() if k not in PLACES}
    assert len(loaded["config"]) == len(checkpoint["config"]) - 3
    assert loaded["metrics"]["dice"] == 0.25
    assert "optimizer_state_dict" not in loaded
    for name, value in loaded["model_state_dict"].items():
        assert value.dtype == checkpoint["model_state_dict"][name].dtype
        assert torch.allclose(value, checkpoint["model_state_dict"][name], rtol=1e-3, atol=1e-7)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        probs = [torch.sigmoid(load_network(load_checkpoint(p), p)(images)) for p in (trained, released)]
    assert (probs[0] - probs[1]).abs().max() < 5e-3


def test_a_release_of_before_the_checksum_is_read(tmp_path, checkpoint):
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    save_release(checkpoint, new)
    with safe_open(new, "pt") as file:
        header = {"checkpoint": file.metadata()["checkpoint"]}
    save_file(load_file(new), old, header)
    weights = load_checkpoint(old)["model_state_dict"]
    assert all(torch.equal(weights[name], value) for name, value in load_checkpoint(new)["model_state_dict"].items())


@pytest.mark.parametrize("weights", [[1], {"a": 1}, "text", None])
def test_weights_that_are_none_are_named(tmp_path, checkpoint, weights):
    path = tmp_path / "x_best.pth"
    save_checkpoint(checkpoint | {"model_state_dict": weights}, path)
    with pytest.raises(UserError, match=r"x_best\.pth can't be read as a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("encoder", ["mit_b0", "mobilenet_v2", "resnet18", "tu-resnet18", "tu-test_efficientnet"])
def test_networks_of_all_families_come_back(tmp_path, encoder):
    """Some can't be built without memory."""
    config = replace(CONFIG, encoder_name=encoder)
    path, built = tmp_path / "a_best.pth", build_network(config).state_dict()
    save_checkpoint(dict.fromkeys(REQUIRED_KEYS, 0) | {"model_state_dict": built, "config": config.plain()}, path)
    found = load_network(load_checkpoint(path), path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in built.items())


def test_a_broken_release_is_named(tmp_path, checkpoint):
    path = tmp_path / "tiny.safetensors"
    save_release(checkpoint, path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:1000], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"tiny\.safetensors can't be read as a checkpoint"):
            load_checkpoint(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"tiny\.safetensors can't be read as a checkpoint"):
        load_checkpoint(path)


def test_weights_beyond_half_precision_are_not_released(tmp_path, checkpoint):
    name = next(iter(checkpoint["model_state_dict"]))
    checkpoint["model_state_dict"][name] = checkpoint["model_state_dict"][name] + 1e6
    with pytest.raises(UserError, match=name):
        save_release(checkpoint, tmp_path / "tiny.safetensors")
    assert not (tmp_path / "tiny.safetensors").exists()

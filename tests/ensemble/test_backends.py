"""A tiny network, exported and run by ONNX Runtime."""

import socket
import sys

import numpy as np
import pytest
import torch

from common.ensemble import backends
from common.ensemble.backends import (
    BREAK_EVEN,
    OnnxNetwork,
    choose_backend,
    export,
    kept_path,
    largest_difference,
    load_with,
)
from common.errors import UserError
from common.networks.segmentation import load_network
from common.training.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def save(save_network):
    """Writes a network of four channels, with logits of a spread as trained ones have; another seed, other weights."""
    return lambda path, seed=0: save_network(path, weights=seed, scale=50, in_channels=4)


@pytest.fixture(scope="module")
def trained(save, tmp_path_factory):
    """A checkpoint with its export, made without an internet connection."""
    path = save(tmp_path_factory.mktemp("models") / "a_best.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *address: pytest.fail(f"connects to {address}"))
        made = export(path, load_checkpoint(path), path.parent / "exported")
        assert made.path == kept_path(path)
        assert 0 < made.difference < 1e-4
    return path


def load(path, backend, **options):
    return load_with(backend, path, load_checkpoint(path), **options)


def test_a_kept_export_gives_what_torch_gives_for_any_number_of_images(trained):
    plain, other = load(trained, "torch"), load(trained, "onnxruntime")
    assert isinstance(plain, torch.nn.Module)
    assert isinstance(other, OnnxNetwork)
    rng = np.random.default_rng(1)
    for count in (1, 5, 2):
        images = torch.from_numpy(rng.integers(0, 256, (count, 5, 64, 64), dtype=np.uint8))[:, :4]  # not contiguous
        with torch.inference_mode():
            expected = plain(images)
        assert expected.std() > 0.1
        assert other(images).shape == (count, 1, 64, 64)
        assert torch.allclose(other(images), expected, atol=1e-3)


def test_what_is_kept_is_not_made_again_until_the_checkpoint_changes(save, tmp_path):
    path = save(tmp_path / "a_best.pth")
    (tmp_path / "exported").mkdir()
    other = tmp_path / "exported" / "a_b-00000000.onnx"
    other.write_text("of another member")
    load(path, "onnxruntime")
    first = kept_path(path)
    made = first.stat().st_mtime_ns
    load(path, "onnxruntime")
    assert first.stat().st_mtime_ns == made
    second = kept_path(save(path, seed=1))
    assert second != first
    changed = load(path, "onnxruntime")
    names = {file.stem for file in (tmp_path / "exported").iterdir()}
    assert names == {second.stem, other.stem}  # the stale one is gone, and nothing half-made is left
    assert largest_difference(load(path, "torch"), changed, 4, 64) < 1e-4


def test_a_broken_export_is_made_again(save, tmp_path, capsys):
    path = save(tmp_path / "a_best.pth")
    kept = kept_path(path)
    kept.parent.mkdir()
    kept.write_text("broken")
    assert largest_difference(load(path, "torch"), load(path, "onnxruntime"), 4, 64) < 1e-4
    assert f"{kept} can't be read and is exported again" in capsys.readouterr().out
    assert kept.stat().st_size > 1000


def test_a_folder_that_cannot_be_written_is_gone_without(save, tmp_path, capsys):
    path = save(tmp_path / "a_best.pth")
    (tmp_path / "exported").write_text("no folder")
    backends._print_once.cache_clear()
    for _ in range(2):
        assert largest_difference(load(path, "torch"), load(path, "onnxruntime"), 4, 64) < 1e-4
    assert capsys.readouterr().out.count("exported can't be written: the networks are exported again") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of a file's size")
def test_a_full_disk_is_gone_without(save, tmp_path):
    """A real limit on what this process can write."""
    import resource

    path = save(tmp_path / "a_best.pth")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        made = export(path, load_checkpoint(path), tmp_path / "exported")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert made.path is None
    assert made.difference < 1e-4
    assert list((tmp_path / "exported").iterdir()) == []


def test_what_differs_from_torch_is_refused(save, tmp_path, monkeypatch, capsys):
    path = save(tmp_path / "a_best.pth")
    real = OnnxNetwork.__call__
    monkeypatch.setattr(OnnxNetwork, "__call__", lambda self, images: real(self, images) + 0.1)
    with pytest.raises(
        UserError, match=r"a_best\.pth: ONNX Runtime differs from torch by 0\.02.*Use the backend torch"
    ):
        load(path, "onnxruntime")
    assert not kept_path(path).exists()
    assert isinstance(load(path, "onnxruntime", fall_back=True), torch.nn.Module)
    assert "torch runs a_best.pth: " in capsys.readouterr().out


def test_a_network_that_gives_no_number_is_refused(save, tmp_path):
    path = save(tmp_path / "a_best.pth")
    checkpoint = load_checkpoint(path)
    checkpoint["model_state_dict"]["head.0.bias"][:] = float("nan")
    with pytest.raises(UserError, match="by nan"):
        export(path, checkpoint, tmp_path)


def test_the_largest_difference_is_of_probabilities():
    def constant(logit):
        return lambda images: torch.full((len(images), 1, 8, 8), logit)

    assert largest_difference(constant(0.0), constant(float(np.log(3))), 3, 8) == pytest.approx(0.25)


@pytest.mark.parametrize("missing", [("onnxruntime",), ("onnx",), ("onnxruntime", "onnx")])
def test_a_runtime_that_is_not_installed_says_how_to_get_it(trained, missing, monkeypatch):
    find = backends.importlib.util.find_spec
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    message = f"needs {' and '.join(missing)}: pip install {' '.join(missing)}. Or use the backend torch"
    with pytest.raises(UserError, match=f"the backend onnxruntime {message}"):
        choose_backend("onnxruntime", CPU, [trained], 0)
    with pytest.raises(UserError, match=message):
        load(trained, "onnxruntime")
    backend, reason = choose_backend("auto", CPU, [trained], 1e12)
    assert backend == "torch"
    assert f"pip install {' '.join(missing)}" in reason
    assert choose_backend("torch", CPU, [trained], 0)[0] == "torch"


def test_auto_exports_only_where_it_pays(save, trained, tmp_path):
    fresh = save(tmp_path / "b_best.pth")
    assert choose_backend("auto", CPU, [trained], 0) == ("onnxruntime", "these networks are exported already")
    assert choose_backend("auto", CPU, [trained, fresh], BREAK_EVEN - 1)[0] == "torch"
    assert choose_backend("auto", CPU, [trained, fresh], BREAK_EVEN)[0] == "onnxruntime"
    assert choose_backend("auto", torch.device("cuda"), [trained], BREAK_EVEN) == ("torch", "on cuda")
    assert choose_backend("onnxruntime", CPU, [fresh], 0)[0] == "onnxruntime"


def test_the_digest_is_of_the_content(save, tmp_path):
    path = save(tmp_path / "a_best.pth")
    checkpoint, first = load_checkpoint(path), kept_path(path)
    save_checkpoint(checkpoint, tmp_path / "copy" / "a_best.pth")
    assert kept_path(tmp_path / "copy" / "a_best.pth").name == first.name
    save_checkpoint(checkpoint | {"epoch": 1}, path)
    assert kept_path(path) != first
    assert load_network(load_checkpoint(path), path)  # and nothing is left open that would hinder

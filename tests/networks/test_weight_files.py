import os
import pickle
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.networks.weight_files import read_state_dict

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Config(dict):
    """As yacs' CfgNode: a dictionary of its own class, with a state."""

    def __init__(self, **fields):
        super().__init__(fields)
        self.frozen = True


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def same(weights) -> bool:
    return weights.keys() == WEIGHTS.keys() and all(torch.equal(weights[key], WEIGHTS[key]) for key in WEIGHTS)


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": OrderedDict(w)}])
def test_the_file_itself_or_its_entry_is_read(tmp_path, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"))


def test_foreign_classes_beside_the_weights_are_read_as_shells(tmp_path):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": WEIGHTS,
        "optimizer": optimizer.state_dict(),
        "config": Config(data=Config(size=224), names=["a", "b"], tags={"x"}),
        "max_accuracy": np.float64(0.5),
        "path": tmp_path,
        "epoch": 7,
    }
    torch.save(checkpoint, tmp_path / "w.pth")
    allowed = set(torch.serialization.get_safe_globals())
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "w.pth", weights_only=True)
    assert same(read_state_dict(tmp_path / "w.pth"))
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("function", [os.mkdir, eval])
def test_code_in_a_file_does_not_run(tmp_path, function):
    """Such a file may be refused or read without its bomb; the folder that the bomb makes never exists."""
    target = tmp_path / "made by the file"
    argument = str(target) if function is os.mkdir else f"__import__('os').mkdir({str(target)!r})"
    torch.save({"model": WEIGHTS, "config": Bomb(function, argument)}, tmp_path / "w.pth")
    try:
        assert same(read_state_dict(tmp_path / "w.pth"))
    except UserError as error:
        assert function is os.mkdir
        assert "w.pth" in str(error)
    assert not target.exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # the bomb is a real one
    assert target.exists()


class Scripted(torch.nn.Module):
    """A network with a parameter, a buffer and parts, to be saved as TorchScript."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.randn(3))
        self.register_buffer("size", torch.tensor(224))
        self.parts = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts(x.half() * self.scale.half())


def script_file(path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings(action="ignore"):  # torch advises against TorchScript
        torch.jit.save(torch.jit.trace(network := Scripted(), torch.ones(2, 3)), path)
    return network.state_dict()


def test_a_torchscript_archive_is_read_without_its_code(tmp_path):
    expected = script_file(tmp_path / "w.pt")
    weights = read_state_dict(tmp_path / "w.pt")
    assert weights.keys() == expected.keys()
    assert all(
        torch.equal(weights[key], expected[key]) and weights[key].dtype == expected[key].dtype for key in expected
    )


def rewritten(source, target, change, compression=zipfile.ZIP_STORED):
    """The archive with its pickle changed."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w", compression) as copy:
        for name in archive.namelist():
            content = archive.read(name)
            copy.writestr(name, change(content) if name.endswith("/data.pkl") else content)


@pytest.mark.parametrize("function", [os.mkdir, eval])
def test_code_in_the_pickle_of_a_torchscript_archive_does_not_run(tmp_path, function):
    script_file(tmp_path / "good.pt")
    target = tmp_path / "made by the file"
    argument = str(target) if function is os.mkdir else f"__import__('os').mkdir({str(target)!r})"
    rewritten(tmp_path / "good.pt", tmp_path / "w.pt", lambda _: pickle.dumps(Bomb(function, argument), 2))
    with pytest.raises(UserError, match=r"w\.pt "):
        read_state_dict(tmp_path / "w.pt")
    assert not target.exists()


def test_a_broken_or_compressed_torchscript_archive_is_refused(tmp_path):
    script_file(tmp_path / "good.pt")
    rewritten(tmp_path / "good.pt", tmp_path / "cut.pt", lambda content: content[: len(content) // 2])
    rewritten(tmp_path / "good.pt", tmp_path / "bomb.pt", lambda content: content, zipfile.ZIP_DEFLATED)
    for name in ("cut.pt", "bomb.pt"):
        with pytest.raises(UserError, match=name):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [], {"model": {"a": 1}}, WEIGHTS | {"epoch": 3}, torch.ones(2)])
def test_what_holds_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds no state dict"):
        read_state_dict(tmp_path / "w.pth")


def test_a_missing_file_is_named_with_the_hint(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: no such file\. Look elsewhere\."):
        read_state_dict(tmp_path / "none.pth", "Look elsewhere.")

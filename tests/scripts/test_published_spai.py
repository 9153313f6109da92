"""The published weights of SPAI in the programs that read them: converted, or refused by one message."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.generated.network import SPAI_KEYS
from common.training.checkpoint import load_checkpoint
from tests.generated.test_published import (
    MINIATURE,
    PUBLISHED,
    mask,
    published_shapes,
    unused_shapes,
    write_published,
)


def random_weights(sizes) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = published_shapes(**sizes) | unused_shapes(**sizes)
    weights = {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}
    return weights | {"mfvit.frequencies_mask": mask(sizes["side"])}


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "pictures").mkdir()
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8), (240, 230))
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), image)
    return tmp_path / "pictures" / "a.png"


def programs(path, picture, folder) -> dict[str, tuple]:
    """Each program that reads the published file, with its arguments; the submission finds it by its name."""
    train = ("script_7_spai_fusion.py", "--fusion", "none", "--epochs", 0, "--data-dir", folder / "classes")
    submission = ("--models-dir", folder / "models", "--output", folder / "submission.csv", "--allow-missing")
    return {
        "explain": ("explain.py", picture, "--spai", path, "--output", folder / "generated.png"),
        "submission": ("make_submission.py", "--input", picture.parent, *submission),
        "convert": ("script_7_spai_fusion.py", "convert", path, "--output", folder / "converted_best.pth"),
        "init": (*train, "--init", path, "--models-dir", folder / "trained", "--tracker", "none", "--workers", 0),
    }


@pytest.mark.parametrize("program", ["explain", "submission", "convert", "init"])
def test_each_program_refuses_another_networks_file_by_one_message(program, picture, tmp_path, call_program):
    """A miniature of the published network, with all the names that it has of its two layers."""
    path = write_published(random_weights(MINIATURE), tmp_path / "spai_best.pth")
    models(tmp_path, path)
    classes(tmp_path, picture)
    result = call_program(*programs(path, picture, tmp_path)[program])
    assert result.returncode == 1
    error = result.stderr.strip().splitlines()
    assert [line for line in error if line.startswith("error: ")] == error[-1:]
    assert "spai_best.pth: these are not the published weights of SPAI for this network: 200 missing" in error[-1]
    assert "Traceback" not in result.stderr


def models(folder, path) -> None:
    """A folder with the released networks of the ensemble and the detector."""
    (folder / "models").mkdir()
    for name in (path, *Path("models/release").glob("*.safetensors")):
        (folder / "models" / name.name).symlink_to(name.absolute())


def classes(folder, picture) -> None:
    """The picture as real and as fake, in training and validation."""
    for kind in ("real", "fake"):
        for split in ("train", "val"):
            (folder / "classes" / split / kind).mkdir(parents=True)
            (folder / "classes" / split / kind / f"{kind}{split}.png").write_bytes(picture.read_bytes())


@pytest.mark.slow
def test_each_program_reads_the_published_file(picture, tmp_path, call_program):
    """At its full size, with random weights: converted once, and then used."""
    weights = random_weights(PUBLISHED)
    path = write_published(weights, tmp_path / "spai_best.pth")
    models(tmp_path, path)
    classes(tmp_path, picture)
    for program, arguments in programs(path, picture, tmp_path).items():
        result = call_program(*arguments)
        assert result.returncode == 0, (program, result.stderr)
        assert "error" not in result.stderr
    assert (tmp_path / "spai_best.converted.pth").is_file() and (tmp_path / "generated.png").is_file()
    assert (tmp_path / "trained" / "spai_plain_best.pth").is_file()
    converted = load_checkpoint(tmp_path / "converted_best.pth", SPAI_KEYS)["model_state_dict"]
    assert torch.equal(converted["patch_attention.query"], weights["patch_aggregator"])
    for large in tmp_path.rglob("*.pth"):  # pytest keeps the folder, of 3 GB
        large.unlink()

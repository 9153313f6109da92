"""The reference computes what the programs compute: else its ratios would compare two different things."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from common.config.segmentation import OversamplingConfig
from common.ensemble.members import MEMBERS
from common.metrics.rle import parse_annotation
from common.networks.segmentation import build_network
from common.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    """The six networks, tiny and random, that see something to report in every image."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    for member in MEMBERS:
        if member.role not in ("average", "union"):
            continue
        config = OversamplingConfig(name=member.name, encoder_weights="none").quick().plain()
        config |= {"in_channels": member.in_channels, "image_size": 64}
        model = build_network(config)
        weights = model.state_dict()
        for name in ("head.0.weight", "gate.conv.6.weight"):  # as they begin, all pixels have nearly one probability
            weights[name] = torch.randn(weights[name].shape, generator=generator)
        checkpoint = {"epoch": 0, "best_dice": 0.0, "metrics": {}, "threshold": 0.5, "config": config}
        checkpoint |= {"calibration": {"slope": 1.0, "intercept": 3.0}, "model_state_dict": weights}
        save_checkpoint(checkpoint, folder / f"{member.name}_best.pth")
    return folder


@pytest.fixture
def images_dir(tmp_path, copied_images):
    """One that is large for 64 px, with tiles, and one that is not; PNG and JPEG."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(copied_images[1]).save(folder / "large.jpg", quality=92)
    Image.fromarray(copied_images[0][:100, :120]).save(folder / "small.png")
    return folder


@pytest.mark.slow
def test_the_submission_is_that_of_the_program(run_program, tmp_path, models_dir, images_dir):
    ours, plain = tmp_path / "ours.csv", tmp_path / "plain" / "plain.csv"
    plain.parent.mkdir()
    result = run_program(
        *("make_submission.py", "--input", images_dir, "--models-dir", models_dir, "--output", ours),
        *("--no-copy-move", "--no-generated"),
    )
    assert result.returncode == 0, result.stderr
    result = run_program(
        *("-m", "benchmarks.reference", "submit", "--input", images_dir, "--models-dir", models_dir),
        *("--output", plain, "--json"),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["images"] == 2
    assert min(figures.values()) > 0
    ours_scores, plain_scores = (pd.read_csv(path.with_name("scores.csv")) for path in (ours, plain))
    assert list(ours_scores["case_id"]) == list(plain_scores["case_id"]) == ["large", "small"]
    np.testing.assert_allclose(ours_scores["forged_probability"], plain_scores["forged_probability"], atol=1e-3)
    rows = zip(pd.read_csv(ours)["annotation"], pd.read_csv(plain)["annotation"], strict=True)
    for (our, reference), shape in zip(rows, ((192, 256), (100, 120)), strict=True):
        one, other = (parse_annotation(text, *shape).any(axis=0) for text in (our, reference))
        assert 0.01 < other.mean() < 0.99
        assert (one & other).sum() >= 0.99 * (one | other).sum()


@pytest.mark.slow
def test_the_reference_has_the_process_settings_of_no_program(run_program, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")  # as a program that starts it hands it down
    code = "import benchmarks.reference, os, sys; print('GOMP_SPINCOUNT' in os.environ, sys.excepthook.__module__)"
    assert run_program("-c", code).stdout.split() == ["False", "sys"]


@pytest.mark.slow
def test_the_trained_network_is_one_of_script_1(run_program, pairs_dir, tmp_path):
    result = run_program(
        *("-m", "benchmarks.reference", "train", "--data-dir", pairs_dir, "--images", 32, "--json"),
        *("--save", tmp_path / "reference_best.pth"),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["images"] == 32
    assert figures["images_per_second"] > 0
    assert 0 < figures["loss"] < 1
    trained = load_checkpoint(tmp_path / "reference_best.pth")
    result = run_program(
        *("script_1_highres_no_ela.py", "--data-dir", pairs_dir, "--models-dir", tmp_path, "--profile", "quick"),
        *("--init", "reference", "--epochs", 0, "--tracker", "none"),
    )
    assert result.returncode == 0, result.stderr
    scored = load_checkpoint(tmp_path / "highres_no_ela_best.pth")
    assert all(torch.equal(scored["model_state_dict"][name], w) for name, w in trained["model_state_dict"].items())

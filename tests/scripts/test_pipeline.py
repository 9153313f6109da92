"""`make train`, the fit and the submission on a few images: the real programs, one after the other."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from common.data.samples import assign_folds, load_samples
from common.ensemble.settings import Settings
from common.forensics.copy_move import VERSION

ROOT = Path(__file__).parent.parent.parent
SMALL = "--encoder-weights none --image-size 64 --decoder-channels 32 --epochs 1 --tracker none"
MEMBERS = ["highres_no_ela", "hard_negative", "high_recall", "enhanced_aug", "ela", "small_forgery_specialist"]


def make(*arguments):
    # The interpreter of the tests stands for .venv, and no set-up is needed (-o).
    command = ["make", "-o", ".venv/installed", f"BIN={Path(sys.executable).parent}", *map(str, arguments)]
    # `make test` hands its own flags down.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)


@pytest.fixture(scope="module")
def variables(pairs_dir, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    return [f"DATA={pairs_dir}", f"MODELS={models}", "PROFILE=quick", "FOLDS=2", "FOLD=1", f"FLAGS={SMALL}"]


@pytest.fixture(scope="module")
def trained(variables, call_program):
    """The folder of models, and what `make train` printed: the first member by make itself, the others as it would."""
    models = Path(variables[1].removeprefix("MODELS="))
    result = make(models / f"{MEMBERS[0]}_metrics.json", *variables)
    assert result.returncode == 0, result.stderr
    printed, commands = result.stdout, make("-n", "train", *variables).stdout.splitlines()
    assert len(commands) == len(MEMBERS) - 1
    for _, script, *flags in map(shlex.split, commands):
        result = call_program(script, *flags)
        assert result.returncode == 0, result.stderr
        printed += result.stdout
    return models, printed


def test_all_members_are_trained(trained):
    models, _ = trained
    for name in MEMBERS:
        checkpoint = torch.load(models / f"{name}_best.pth", weights_only=True)
        assert checkpoint["config"]["name"] == name
        assert json.loads((models / f"{name}_metrics.json").read_text())["dice"] == checkpoint["best_dice"]
    recipes = {name: torch.load(models / f"{name}_best.pth", weights_only=True)["config"] for name in MEMBERS}
    assert recipes["ela"]["in_channels"] == 4
    assert [recipes[name]["init"] for name in MEMBERS] == ["none", *["highres_no_ela"] * 2, *["none"] * 3]
    assert recipes["high_recall"]["recall_weight"] == 0.6


def test_mining_finds_training_images_only_and_says_what_changed(trained, pairs_dir):
    models, output = trained
    samples = load_samples(pairs_dir)
    folds = assign_folds(samples, 2, 0)
    validating = {sample.case_id for sample, fold in zip(samples, folds, strict=True) if fold == 1}
    for name, label in (("hard_negative", "authentic"), ("hard_false_negative", "forged")):
        found, among = map(int, re.search(rf"round 1: (\d+) {name.replace('_', ' ')}s among (\d+)", output).groups())
        assert among == 5  # of ten, those of the training fold
        listed = pd.read_csv(models / f"{name}_round_1.csv", dtype={"case_id": str})
        assert len(listed) == found
        assert not set(listed["case_id"]) & validating
        assert ((listed["size"] == "authentic") == (label == "authentic")).all()
    assert output.count("forged: recall") == 2 * 6
    assert output.count("misses by size") == 2


def test_what_is_trained_is_skipped(trained, variables):
    result = make("train", *variables)
    assert "script_" not in result.stdout


def test_a_run_that_broke_off_goes_on(variables, tmp_path):
    (tmp_path / "ela_last.pth").touch()
    commands = make("-n", "train", *variables, f"MODELS={tmp_path}").stdout.splitlines()
    assert ["--resume" in command for command in commands] == ["script_5_ela.py" in command for command in commands]
    assert len(commands) == len(MEMBERS)


def test_folds_are_trained_into_folders_of_their_own(variables, tmp_path):
    commands = make("-n", "folds", *variables, "FOLD=0", "FOLDS=3", f"MODELS={tmp_path}").stdout
    for fold in (1, 2):
        assert f'--models-dir "{tmp_path}/fold_{fold}" --profile quick --folds 3 --fold {fold}' in commands
    assert "leave FOLD=2 out" in make("-n", "folds", *variables, "FOLD=2").stderr


@pytest.fixture(scope="module")
def fitted(trained, variables):
    """The folder of models, and what `make fit` printed."""
    result = make("fit", *variables, "FLAGS_fit=--folds 2")
    assert result.returncode == 0, result.stderr
    return trained[0], result.stdout


def test_the_fit_is_written_and_a_submission_uses_it(fitted, pairs_dir, call_program, tmp_path):
    models, output = fitted
    assert "10 images out of fold, 5 of them forged" in output
    steps = ["average", "+ union", "+ copy-move", "few features", "+ decision", "+ regions", "fitted weights"]
    steps += ["without copy-move"]
    for row in [*MEMBERS, "copy_move", "any pixel", *steps]:
        assert f"\n{row} " in output
    settings = Settings.load(models / "ensemble.json")
    assert set(settings.weights) == set(settings.checkpoints) == {*MEMBERS, "copy_move"}
    assert settings.checkpoints["copy_move"] == f"version {VERSION}"

    arguments = ["--input", pairs_dir / "train_images" / "forged", "--models-dir", models]
    arguments += ["--output", tmp_path / "submission.csv", "--instances", "groups"]
    result = call_program("make_submission.py", *arguments, "--tta", "flips")
    assert result.returncode == 0, result.stderr
    assert len(pd.read_csv(tmp_path / "submission.csv")) == 10
    assert "is left aside" not in result.stdout
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores["forged_probability"].between(0, 1).all()


def test_the_status_of_all_this(fitted, variables):
    result = make("status", *variables)
    assert result.returncode == 0, result.stderr
    table, steps = result.stdout.split("\n\nnext:\n")
    states = {row[0]: row[2] for row in map(str.split, table.splitlines()[4:])}
    assert states == dict.fromkeys(MEMBERS, "trained") | {
        "spai_fusion": "missing",
        "deepfake_video": "missing",
        "ensemble": "fitted",
    }
    assert steps.split()[:2] == ["make", "submission"]
    history = json.loads((fitted[0] / "ela_history.json").read_text())
    assert history["epochs"]["1"]["dice"] == json.loads((fitted[0] / "ela_metrics.json").read_text())["dice"]


@pytest.mark.slow
def test_a_second_fit_needs_no_network(fitted, pairs_dir, call_program):
    models, _ = fitted
    files = sorted(models.glob("oof_*.npy"))
    assert [path.name.rsplit("_", 1)[0] for path in files] == ["oof_copy_move", "oof_none"]
    before = [path.stat().st_mtime_ns for path in files]
    result = call_program("fit_ensemble.py", "--data-dir", pairs_dir, "--models-dir", models, "--folds", "2")
    assert result.returncode == 0, result.stderr
    assert [path.stat().st_mtime_ns for path in files] == before


@pytest.mark.slow
def test_a_fit_without_evidence_is_one_for_submissions_without(fitted, variables, pairs_dir, run_program, tmp_path):
    models = shutil.copytree(fitted[0], tmp_path / "models")
    result = make("fit", *variables, f"MODELS={models}", "FLAGS_fit=--no-copy-move")
    assert result.returncode == 0, result.stderr
    assert "+ copy-move" not in result.stdout
    assert set(Settings.load(models / "ensemble.json").weights) == set(MEMBERS)
    arguments = ["--input", pairs_dir / "train_images" / "forged" / "9.png", "--models-dir", models]
    arguments += ["--output", tmp_path / "submission.csv"]
    assert "is left aside" not in run_program("make_submission.py", *arguments, "--no-copy-move").stdout
    assert "fitted for other copy-move evidence, or none" in run_program("make_submission.py", *arguments).stdout


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("fit_ensemble.py", ("--allow-missing",), "no trained network, and copy-move evidence alone needs no fit"),
        ("fit_ensemble.py", ("--workers", "0"), "error: --workers is 0"),
        ("script_2_hard_negative_mining.py", (), "error: {models}/highres_no_ela_best.pth does not exist"),
        ("script_2_hard_negative_mining.py", ("--extra-authentic", "nowhere"), "error: nowhere is not a folder"),
        ("script_3_hard_fn_mining.py", ("--rounds", "0"), "error: --rounds is 0; it must be 1 or more"),
        ("script_4_enhanced_augmentation.py", ("--paste-probability", "2"), "error: --paste-probability is 2.0"),
        ("script_6_small_forgery_specialist.py", ("--max-area-share", "0.0001"), "has no forgery below 0.01%"),
        ("fit_ensemble.py", (), "missing checkpoints:"),
        ("fit_ensemble.py", ("--folds", "1"), "error: --folds is 1; it must be 2 or more"),
    ],
)
def test_a_wrong_start_is_one_clear_message(call_program, pairs_dir, tmp_path, script, flags, message):
    result = call_program(script, "--data-dir", pairs_dir, "--models-dir", tmp_path, *flags)
    assert result.returncode == 1
    assert message.format(models=tmp_path) in result.stderr
    assert "Traceback" not in result.stderr

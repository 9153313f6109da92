"""The real program on a tiny network of two folds."""

import csv
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from common.ensemble.loading import load_ensemble
from common.ensemble.members import identities
from common.ensemble.settings import Settings


@pytest.fixture
def models_dir(save_network, tmp_path):
    for fold, folder in enumerate(("models", "models/fold_1")):
        save_network(tmp_path / folder / "highres_no_ela_best.pth", fold=fold)
    return tmp_path / "models"


def test_the_files_are_for_other_programs(run_program, models_dir, tmp_path):
    result = run_program("export_models.py", "--models-dir", models_dir, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["highres_no_ela", "fold_1/highres_no_ela"]
    for row in rows:
        assert 0 <= float(row[3]) < 1e-3
        (file,) = (tmp_path / "out" / row[0].strip()).parent.glob("*.onnx")
        assert str(file) == row[4].strip()
        session = onnxruntime.InferenceSession(file)
        (logits,) = session.run(["logits"], {"images": np.zeros((3, 3, 64, 64), np.uint8)})
        assert logits.shape == (3, 1, 64, 64)
        assert logits.dtype == np.float32
    assert not (models_dir / "exported").exists()


def test_no_network_is_one_message(call_program, tmp_path):
    result = call_program("export_models.py", "--models-dir", tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path} has no trained network. Train one, or name another --models-dir.\n"


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", None])
def test_a_checkpoint_that_is_none_is_one_message(call_program, models_dir, content):
    path = models_dir / "highres_no_ela_best.pth"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    result = call_program("export_models.py", "--models-dir", models_dir)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith(f"error: {path} can't be read as a checkpoint")


def test_a_release_makes_the_same_submission(call_program, models_dir, pairs_dir, tmp_path):
    refused = call_program("export_models.py", "--models-dir", models_dir, "--format", "safetensors")
    assert refused.returncode == 1
    assert "needs a folder to write to" in refused.stderr
    release = tmp_path / "release"
    result = call_program(
        "export_models.py", "--models-dir", models_dir, "--format", "safetensors", "--output", release
    )
    assert result.returncode == 0, result.stderr
    assert "without settings: fit them" in result.stdout
    assert sorted(path.relative_to(release).as_posix() for path in release.rglob("*.safetensors")) == [
        "fold_1/highres_no_ela.safetensors",
        "highres_no_ela.safetensors",
    ]
    scores = {}
    for folder, flags in ((models_dir, ["--allow-missing"]), (release, [])):
        output = tmp_path / folder.name / "submission.csv"
        images = pairs_dir / "train_images" / "forged"
        made = call_program(
            "make_submission.py",
            "--input",
            images,
            "--models-dir",
            folder,
            "--output",
            output,
            "--no-copy-move",
            *flags,
        )
        assert made.returncode == 0, made.stderr
        with output.with_name("scores.csv").open() as file:
            scores[folder.name] = [float(row["forged_probability"]) for row in csv.DictReader(file)]
    assert scores["models"] == pytest.approx(scores["release"], abs=5e-3)


def test_settings_of_other_checkpoints_are_not_released(call_program, models_dir, tmp_path):
    settings = replace(
        load_ensemble(models_dir, allow_missing=True).settings, checkpoints={"highres_no_ela": "0", "copy_move": "1"}
    )
    settings.save(models_dir / "ensemble.json")
    result = call_program(
        *("export_models.py", "--models-dir", models_dir, "--format", "safetensors", "--output", tmp_path / "out")
    )
    assert result.returncode == 1
    assert "was fitted for other checkpoints" in result.stderr
    settings = replace(settings, checkpoints=identities(models_dir, copy_move=True))
    settings.save(models_dir / "ensemble.json")
    result = call_program(
        *("export_models.py", "--models-dir", models_dir, "--format", "safetensors", "--output", tmp_path / "out")
    )
    assert result.returncode == 0, result.stderr
    assert Settings.load(tmp_path / "out" / "ensemble.json").checkpoints == identities(tmp_path / "out", copy_move=True)


def test_networks_of_an_earlier_export_are_not_mixed_in(call_program, models_dir, tmp_path):
    flags = ("export_models.py", "--models-dir", models_dir, "--format", "safetensors", "--output", tmp_path / "out")
    assert call_program(*flags).returncode == 0
    assert call_program(*flags).returncode == 0  # the same again
    (tmp_path / "out" / "highres_no_ela.safetensors").rename(tmp_path / "out" / "ela.safetensors")
    result = call_program(*flags)
    assert result.returncode == 1
    assert "holds other networks" in result.stderr and "ela.safetensors" in result.stderr

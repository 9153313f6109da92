"""The real program on a tiny network of two folds."""

import numpy as np
import onnxruntime
import pytest


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

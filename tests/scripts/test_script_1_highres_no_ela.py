"""The real program on a few images."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.ensemble.status import find_runs

ROOT = Path(__file__).parent.parent.parent
SMALL = ("--profile", "quick", "--encoder-weights", "none", "--image-size", "64", "--decoder-channels", "32")


@pytest.fixture
def train(call_program, pairs_dir, tmp_path):
    def train(*flags):
        return call_program(
            "script_1_highres_no_ela.py", "--data-dir", pairs_dir, "--models-dir", tmp_path, *SMALL, *flags
        )

    return train


def test_it_trains_validates_and_writes_its_files(train, tmp_path):
    result = train("--epochs", "2")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "highres_no_ela: 16 images to train on, 4 to validate on (fold 0)"
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2", "highres_no_ela"]
    assert "Traceback" not in result.stderr
    metrics = json.loads((tmp_path / "highres_no_ela_metrics.json").read_text())
    assert f"dice {metrics['dice']:.4f}" in lines[-1]
    checkpoint = torch.load(tmp_path / "highres_no_ela_best.pth", weights_only=True)
    assert checkpoint["config"]["encoder_name"] == "tu-tf_efficientnet_lite0"
    assert checkpoint["best_dice"] == metrics["dice"]
    history = json.loads((tmp_path / "highres_no_ela_history.json").read_text())
    assert history["epochs"][str(metrics["epoch"] + 1)]["dice"] == metrics["dice"]
    program, *flags = history["command"]
    assert Path(program).name == "script_1_highres_no_ela.py" and flags[-2:] == ["--epochs", "2"]
    with Image.open(tmp_path / "highres_no_ela_curve.png") as picture:
        assert picture.size == (880, 660)


def test_an_untrained_network_can_be_saved_as_the_baseline(train, tmp_path):
    assert train("--epochs", "0").returncode == 0
    assert (tmp_path / "highres_no_ela_best.pth").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--learning-rate", "1"), "--learning-rate"),
        (("--data-dir", "nowhere"), "error: nowhere has no folder train_images"),
        (("--encoder-weights", "nowhere.pth"), "error: encoder weights nowhere.pth: no such file. Give a file, or"),
        (("--folds", "50"), "error: 10 groups of images can't be split into 50 folds"),
        (("--fold", "5"), "error: --fold is 5; it must be from 0 to 4"),
        (("--resume",), "does not exist; start the run without --resume"),
    ],
)
def test_a_wrong_flag_is_one_clear_message(train, flags, message):
    result = train(*flags)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_file_stops_the_run_before_it_starts(call_program, pairs_dir, tmp_path):
    data = tmp_path / "data"
    subprocess.run(["cp", "-r", pairs_dir, data], check=True)
    broken = data / "train_images" / "forged" / "3.png"
    broken.write_bytes(broken.read_bytes()[:500])
    command = ("script_1_highres_no_ela.py", "--data-dir", data, "--models-dir", tmp_path, *SMALL, "--epochs", "1")
    result = call_program(*command)
    assert result.returncode == 1
    assert "forged/3.png" in result.stderr
    assert "leave them out with skip_bad_files" in result.stderr
    result = call_program(*command, "--skip-bad-files")
    assert result.returncode == 0, result.stderr
    assert "left out" in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_says_how_to_go_on_and_resume_finishes(train, pairs_dir, tmp_path):
    folders = ("--data-dir", str(pairs_dir), "--models-dir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "script_1_highres_no_ela.py", *folders, *SMALL, "--epochs", "4"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background passes an ignored SIGINT on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    last = tmp_path / "highres_no_ela_last.pth"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert stdout.splitlines()[0] == "highres_no_ela: 16 images to train on, 4 to validate on (fold 0)"
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    done = torch.load(last, weights_only=True)["epoch"]
    assert done < 3
    assert not list(tmp_path.glob("*.partial"))
    run, *_ = find_runs(tmp_path)
    assert run.state == "broken off" and run.command == [
        "script_1_highres_no_ela.py",
        *folders,
        *SMALL,
        "--epochs",
        "4",
    ]

    result = train("--epochs", "4", "--resume")
    assert result.returncode == 0, result.stderr
    assert list(json.loads((tmp_path / "highres_no_ela_history.json").read_text())["epochs"]) == ["1", "2", "3", "4"]
    assert find_runs(tmp_path)[0].state == "trained"
    assert [line.split(":")[0] for line in result.stdout.splitlines() if line.startswith("epoch")] == [
        f"epoch {number}/4" for number in range(done + 2, 5)
    ]

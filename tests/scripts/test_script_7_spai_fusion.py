import csv
import json
import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.errors import UserError
from common.generated.config import ConversionConfig, EvaluationConfig, SpaiConfig
from common.generated.network import SPAI_KEYS
from common.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
QUICK = ("--profile", "quick", "--epochs", 1, "--warmup-epochs", 0, "--stage-one-epochs", 0, "--tracker", "none")
SMALL = ("--batch-size", 8, "--views", 2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of 70×90 and twelve noisy ones, and a table of them."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    rows = ["file,label,split,generator,prompt"]
    for number in range(24):
        noise = 60 if number % 2 else 0
        image = cv2.resize(rng.integers(60, 190, (4, 5, 3), dtype=np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
        image = (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)
        name = f"{'fake' if noise else 'real'}/{number}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), image)
        split = ("train", "train", "train", "val", "val", "test")[number // 4]
        rows.append(f"{name},{('real', 'fake')[noise > 0]},{split},{('', 'gan')[noise > 0]},")
    (folder / "images.csv").write_text("\n".join(rows))
    return folder


def test_a_table_trains_and_tests_and_is_tested_again(run_program, call_program, pictures, tmp_path):
    flags = ("--csv", pictures / "images.csv", "--models-dir", tmp_path)
    done = run_program("script_7_spai_fusion.py", *flags, *QUICK, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "12 train, 8 val, 4 test images" in done.stdout
    assert f"→ {tmp_path / 'spai_fusion_best.pth'}" in done.stdout
    checkpoint = load_checkpoint(tmp_path / "spai_fusion_best.pth", SPAI_KEYS)
    assert checkpoint["config"]["fusion"] == "semantic"
    assert json.loads((tmp_path / "spai_fusion_metrics.json").read_text())["auc"] == checkpoint["best_auc"]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| none")]
    assert [row.split("|")[2].strip() for row in rows] == ["gan", "average"]

    test = (*flags, "--workers", 0, "--degrade", "jpeg", "noise", "--table", tmp_path / "test.csv")
    again = call_program("script_7_spai_fusion.py", "test", *test)
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stdout.splitlines() if line.startswith("| none")] == rows
    table = list(csv.DictReader((tmp_path / "test.csv").open()))
    assert [row["degradation"] for row in table] == ["none", "none", "jpeg", "jpeg", "noise", "noise"]
    assert [row["generator"] for row in table] == 3 * ["gan", "average"]


def test_residuals_train_and_photographs_calibrate(call_program, pictures, tmp_path):
    flags = ("--data-dir", pictures, "--network", "residual", "--models-dir", tmp_path, *QUICK, *SMALL)
    done = call_program("script_7_spai_fusion.py", *flags)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "residual_best.pth"
    assert load_checkpoint(path, SPAI_KEYS)["validation"]["degradation"][-1] == "noise"
    rate = ("--target-fpr", 0.1, "--workers", 0)
    done = call_program("script_7_spai_fusion.py", "calibrate", path, "--real", pictures / "real", *rate)
    assert done.returncode == 0, done.stderr
    assert "by 12 photographs" in done.stdout and "at most 10 % are called generated" in done.stdout
    done = call_program("script_7_spai_fusion.py", "calibrate", path, "--real", pictures / "real", "--target-fpr", 0)
    assert done.returncode != 0 and "--target-fpr is 0" in done.stderr and "Traceback" not in done.stderr


def test_folders_train_plain_spai(call_program, pictures, tmp_path):
    flags = ("--data-dir", pictures, "--fusion", "none", "--models-dir", tmp_path, *QUICK, *SMALL)
    done = call_program("script_7_spai_fusion.py", *flags)
    assert done.returncode == 0, done.stderr
    weights = load_checkpoint(tmp_path / "spai_plain_best.pth", SPAI_KEYS)["model_state_dict"]
    assert not any(name.startswith("fusion.") for name in weights)


@pytest.fixture(scope="module")
def main():
    """The program's own, without a process."""
    return runpy.run_path(str(ROOT / "script_7_spai_fusion.py"))["main"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SpaiConfig(name="spai_fusion", data_dir=Path("nowhere")), "there is no folder nowhere"),
        (SpaiConfig(name="spai_fusion", csv=Path("nowhere.csv")), "nowhere.csv"),
        (EvaluationConfig(data_dir=Path("nowhere")), "there is no folder nowhere"),
        (ConversionConfig(published=Path("nowhere.pth")), "nowhere.pth: no such file"),
    ],
)
def test_what_is_wrong_is_said(main, config, message, tmp_path):
    place = {"output": tmp_path / "x.pth"} if isinstance(config, ConversionConfig) else {"models_dir": tmp_path}
    with pytest.raises(UserError, match=message):
        main(replace(config, **place))
    assert not list(tmp_path.iterdir())


def test_an_error_is_one_message(call_program, tmp_path):
    done = call_program("script_7_spai_fusion.py", "--csv", tmp_path / "nowhere.csv")
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and "nowhere.csv" in done.stderr and "Traceback" not in done.stderr


def test_a_broken_image_is_named_before_training(main, pictures, tmp_path, capsys):
    table = (pictures / "images.csv").read_text()
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [row if "/" not in row else f"{pictures}/{row}" for row in table.splitlines()]
    (tmp_path / "images.csv").write_text("\n".join([*rows, "broken.png,real,train,,"]))
    quick = SpaiConfig(name="spai_fusion", csv=tmp_path / "images.csv", models_dir=tmp_path, tracker="none").quick()
    config = replace(quick, epochs=0, stage_one_epochs=0, views=2)
    with pytest.raises(UserError, match=r"1 bad files among 25 images:\n.*broken\.png"):
        main(config)
    assert not list(tmp_path.glob("*.pth"))
    main(replace(config, skip_bad_files=True))
    assert "broken.png" in capsys.readouterr().out
    assert (tmp_path / "spai_fusion_best.pth").is_file()


@pytest.mark.slow
def test_the_full_recipe_takes_a_step(run_program, pictures, tmp_path):
    """ViT-B/16 at 224 px with everything on, one image at a time: no numbers, only that it fits together."""
    done = run_program(
        *("script_7_spai_fusion.py", "--csv", pictures / "images.csv", "--models-dir", tmp_path),
        *("--backbone-weights", "none", "--epochs", 1, "--warmup-epochs", 0, "--stage-one-epochs", 0),
        *("--batch-size", 2, "--views", 1, "--tracker", "none", "--workers", 0, "--patch-stride", 224),
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    weights = torch.load(tmp_path / "spai_fusion_best.pth", weights_only=True)["model_state_dict"]
    assert weights["projectors.11.layers.7.weight"].shape == (1024, 1024)

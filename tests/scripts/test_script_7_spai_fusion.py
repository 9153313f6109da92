import csv
import json

from common.training.checkpoint import SPAI_KEYS, load_checkpoint

import cv2
import numpy as np
import pytest
import torch

QUICK = ("--profile", "quick", "--epochs", 1, "--warmup-epochs", 0, "--stage-one-epochs", 0, "--tracker", "none")
SMALL = ("--batch-size", 8, "--views", 2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of 70×90 and twelve noisy ones, and a table of them."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    rows = ["image,class,split,generator,prompt"]
    for number in range(24):
        noise = 60 if number % 2 else 0
        image = cv2.resize(rng.integers(60, 190, (4, 5, 3), dtype=np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
        image = (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)
        name = f"{'fake' if noise else 'real'}/{number}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), image)
        split = ("train", "train", "train", "val", "val", "test")[number // 4]
        rows.append(f"{name},{int(noise > 0)},{split},{('', 'gan')[noise > 0]},")
    (folder / "images.csv").write_text("\n".join(rows))
    return folder


def test_a_table_trains_and_tests_and_is_tested_again(run_program, pictures, tmp_path):
    flags = ("--csv", pictures / "images.csv", "--models-dir", tmp_path, *QUICK, *SMALL)
    done = run_program("script_7_spai_fusion.py", *flags, "--table", tmp_path / "test.csv")
    assert done.returncode == 0, done.stderr
    assert "12 train, 8 val, 4 test images" in done.stdout
    assert f"→ {tmp_path / 'spai_fusion_best.pth'}" in done.stdout
    checkpoint = load_checkpoint(tmp_path / "spai_fusion_best.pth", SPAI_KEYS)
    assert checkpoint["config"]["fusion"] == "semantic"
    assert json.loads((tmp_path / "spai_fusion_metrics.json").read_text())["auc"] == checkpoint["best_auc"]
    rows = list(csv.DictReader((tmp_path / "test.csv").open()))
    assert [row["generator"] for row in rows] == ["gan", "average"]

    again = run_program(
        "script_7_spai_fusion.py", *flags, "--evaluate", "--degrade", "jpeg,noise", "--table", tmp_path / "more.csv"
    )
    assert again.returncode == 0, again.stderr
    more = list(csv.DictReader((tmp_path / "more.csv").open()))
    assert [row["degradation"] for row in more] == ["none", "none", "jpeg", "jpeg", "noise", "noise"]
    assert more[0] == rows[0]


def test_folders_train_plain_spai(run_program, pictures, tmp_path):
    done = run_program(
        *("script_7_spai_fusion.py", "--real", pictures / "real", "--fake", pictures / "fake", "--fusion", "none"),
        *("--models-dir", tmp_path, *QUICK, *SMALL),
    )
    assert done.returncode == 0, done.stderr
    weights = load_checkpoint(tmp_path / "spai_fusion_best.pth", SPAI_KEYS)["model_state_dict"]
    assert not any(name.startswith("fusion.") for name in weights)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "error: name the images: either --csv TABLE, or --real DIR and --fake DIR"),
        (("--csv", "nowhere.csv"), "nowhere.csv"),
        (("--convert", "nowhere.pth"), "nowhere.pth: no such file"),
        (("--fusion", "half"), "--fusion"),
    ],
)
def test_what_is_wrong_is_one_message(run_program, flags, message, tmp_path):
    done = run_program("script_7_spai_fusion.py", "--models-dir", tmp_path, *flags)
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_broken_image_is_named_before_training(run_program, pictures, tmp_path):
    table = (pictures / "images.csv").read_text()
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [row if "/" not in row else f"{pictures}/{row}" for row in table.splitlines()]
    (tmp_path / "images.csv").write_text("\n".join([*rows, "broken.png,0,train,,"]))
    flags = ("--csv", tmp_path / "images.csv", "--models-dir", tmp_path, *QUICK, *SMALL)
    done = run_program("script_7_spai_fusion.py", *flags)
    assert done.returncode != 0 and "broken.png" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.pth"))
    skipped = run_program("script_7_spai_fusion.py", *flags, "--skip-bad-files")
    assert skipped.returncode == 0 and "broken.png" in skipped.stdout


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

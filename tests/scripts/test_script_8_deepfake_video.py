import json
import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.training.checkpoint import load_checkpoint
from common.video.config import EvaluationConfig, VideoConfig
from common.video.files import write_video
from common.video.network import VIDEO_KEYS

ROOT = Path(__file__).parents[2]
SCRIPT = "script_8_deepfake_video.py"
SMALL = (
    *("--profile", "quick", "--encoder-name", "mobilenetv3_small_100", "--encoder-weights", "none"),
    *("--tracker", "none", "--image-size", 64, "--frames", 4, "--frozen-epochs", 0, "--faces", "crops"),
)


def picture(rng, noise):
    image = cv2.resize(rng.integers(60, 190, (4, 5, 3), dtype=np.uint8), (80, 64), interpolation=cv2.INTER_CUBIC)
    return (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Sixteen videos of six frames and four pictures, half of them noisy, and a table with made-up identities."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    rows = ["file,label,identity,split"]
    for number in range(20):
        label = ("real", "fake")[number % 2]
        split = ("train", "train", "train", "val", "test")[number // 4]
        (folder / label).mkdir(exist_ok=True)
        if number >= 16:
            path = folder / label / f"{number}.png"
            cv2.imwrite(str(path), picture(rng, 60 * (number % 2)))
        else:
            path = folder / label / f"{number}.mp4"
            write_video(path, [picture(rng, 60 * (number % 2)) for _ in range(6)], 6.0)
        rows.append(f"{path.relative_to(folder)},{label},person {number // 4},{split}")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def trained(run_program, clips, tmp_path_factory):
    """What a training printed, and its folder of models."""
    folder = tmp_path_factory.mktemp("models")
    flags = ("--csv", clips / "clips.csv", "--models-dir", folder, "--cache-dir", folder / "cache", *SMALL)
    done = run_program(SCRIPT, *flags, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_a_table_trains_and_tests(trained):
    printed, folder = trained
    assert "12 train, 4 val, 4 test clips; 5 identities" in printed
    assert f"→ {folder / 'deepfake_video_best.pth'}" in printed
    assert "| frames |" in printed
    checkpoint = load_checkpoint(folder / "deepfake_video_best.pth", VIDEO_KEYS)
    assert checkpoint["config"]["encoder_name"] == "mobilenetv3_small_100"
    assert json.loads((folder / "deepfake_video_metrics.json").read_text())["auc"] == checkpoint["best_auc"]


def test_a_trained_network_is_tested_again_from_the_cache_alone(trained, clips, call_program):
    printed, folder = trained
    flags = ("--csv", clips / "clips.csv", "--cache-dir", folder / "cache", "--faces", "crops", "--workers", 0)
    done = call_program(SCRIPT, "test", "--checkpoint", folder / "deepfake_video_best.pth", *flags)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert shown.startswith("4 test clips; 1 identities\n")
    assert shown.splitlines()[-4:] == printed.splitlines()[-4:]
    assert len(list((folder / "cache").rglob("*.npy"))) == 1


def test_a_run_goes_on_where_it_ended(trained, clips, main, capsys):
    _, folder = trained
    config = VideoConfig(name="deepfake_video").quick()
    config = replace(config, csv=clips / "clips.csv", models_dir=folder, cache_dir=folder / "cache", faces="crops")
    config = replace(config, encoder_name="mobilenetv3_small_100", image_size=64, frames=4, frozen_epochs=0)
    main(replace(config, epochs=3, resume=True, tracker="none"))
    epochs = [line[:9] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert epochs == ["epoch 3/3"]
    # The weights that it began with are those that it was given then, whatever is asked for now.
    assert load_checkpoint(folder / "deepfake_video_last.pth", VIDEO_KEYS)["config"]["encoder_weights"] == "none"


@pytest.fixture(scope="module")
def main():
    """The program's own, without a process."""
    return runpy.run_path(str(ROOT / SCRIPT))["main"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_dir": Path("nowhere")}, "there is no folder nowhere"),
        ({"csv": Path("nowhere.csv")}, "nowhere.csv"),
        ({"identity": "(a"}, r"'\(a' is no regular expression"),
        ({"faces": "yunet"}, "'yunet' needs a model"),
        ({"faces": "boxes"}, "'boxes' needs a table"),
        ({"boxes": Path("a.csv")}, "a.csv is a table of boxes for the face detector 'boxes', but 'auto' is chosen"),
    ],
)
def test_what_is_wrong_is_said(main, clips, fields, message, tmp_path):
    fields = {"data_dir": clips} | fields
    with pytest.raises(UserError, match=message):
        main(VideoConfig(name="deepfake_video", models_dir=tmp_path, cache_dir=tmp_path / "cache", **fields))
    assert not list(tmp_path.iterdir())


def test_a_test_needs_a_checkpoint(main, tmp_path):
    with pytest.raises(UserError, match=r"deepfake_video_best\.pth does not exist"):
        main(EvaluationConfig(checkpoint=tmp_path / "deepfake_video_best.pth", cache_dir=tmp_path / "cache"))

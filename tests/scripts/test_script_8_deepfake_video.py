import csv
import json
import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.training.checkpoint import load_checkpoint
from common.video.config import VideoConfig
from common.video.files import write_video
from common.video.network import VIDEO_KEYS

ROOT = Path(__file__).parents[2]
SCRIPT = "script_8_deepfake_video.py"
SMALL = (
    *(
        "--profile",
        "quick",
        "--encoder-name",
        "mobilenetv3_small_100",
        "--encoder-weights",
        "none",
        "--tracker",
        "none",
    ),
    *("--image-size", 64, "--frames", 4, "--hidden", 8, "--frozen-epochs", 0, "--faces", "crops"),
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


def test_a_trained_network_is_tested_again_from_the_cache_alone(trained, clips, main, capsys):
    printed, folder = trained
    config = VideoConfig(name="deepfake_video", csv=clips / "clips.csv", evaluate=True, faces="crops", workers=0)
    main(replace(config, models_dir=folder, cache_dir=folder / "cache"))
    shown = capsys.readouterr().out
    assert shown.splitlines()[-4:] == printed.splitlines()[-4:]
    assert len(list((folder / "cache").rglob("*.npy"))) == 1


def test_a_run_goes_on_where_it_ended(trained, clips, main, capsys):
    _, folder = trained
    config = VideoConfig(name="deepfake_video").quick()
    config = replace(config, csv=clips / "clips.csv", models_dir=folder, cache_dir=folder / "cache", faces="crops")
    config = replace(config, encoder_name="mobilenetv3_small_100", image_size=64, frames=4, hidden=8, frozen_epochs=0)
    main(replace(config, epochs=3, resume=True, tracker="none"))
    epochs = [line[:9] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert epochs == ["epoch 3/3"]
    # The weights that it began with are those that it was given then, whatever is asked for now.
    assert load_checkpoint(folder / "deepfake_video_last.pth", VIDEO_KEYS)["config"]["encoder_weights"] == "none"


def test_everything_in_a_folder_is_scored_or_named(run_program, trained, clips, tmp_path):
    _, folder = trained
    (tmp_path / "in" / "frames").mkdir(parents=True)
    for name in ("real/0.mp4", "fake/1.mp4", "fake/17.png"):
        (tmp_path / "in" / Path(name).name).symlink_to(clips / name)
    for number in range(3):
        (tmp_path / "in" / "frames" / f"{number}.png").symlink_to(clips / "fake" / "17.png")
    (tmp_path / "in" / "notes.txt").write_text("no video")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"nothing")
    done = run_program(
        *(SCRIPT, "--predict", tmp_path / "in", "--output", tmp_path / "out"),
        "--models-dir",
        folder,
        "--faces",
        "crops",
    )
    assert done.returncode == 0, done.stderr
    rows = {row["file"]: row for row in csv.DictReader((tmp_path / "out" / "results.csv").open())}
    assert set(rows) == {"0.mp4", "1.mp4", "17.png", "frames", "notes.txt", "broken.mp4"}
    assert {name for name, row in rows.items() if row["error"]} == {"notes.txt", "broken.mp4"}
    result = json.loads((tmp_path / "out" / "1.mp4" / "result.json").read_text())
    assert result["verdict"] == rows["1.mp4"]["verdict"] in ("fake", "real")
    assert len(result["tracks"][0]["frames"]) == 4
    files = {path.name for path in (tmp_path / "out" / "1.mp4").iterdir()}
    assert files == {"result.json", "contact_sheet.png", "timeline.png", "annotated.mp4", "heatmaps.npz"}
    assert np.load(tmp_path / "out" / "1.mp4" / "heatmaps.npz")["heatmaps"].shape == (4, 28, 28)
    assert f"→ {tmp_path / 'out' / 'results.csv'}; 2 could not be scored" in done.stdout


def test_a_single_file_that_can_t_be_scored_is_a_failure(main, trained, tmp_path, capsys):
    _, folder = trained
    (tmp_path / "notes.txt").write_text("no video")
    config = VideoConfig(name="deepfake_video", models_dir=folder, faces="crops", output=tmp_path / "out")
    with pytest.raises(SystemExit) as status:
        main(replace(config, predict=tmp_path / "notes.txt"))
    assert status.value.code == 1


@pytest.mark.parametrize(("threshold", "verdict"), [(1e-6, "fake"), (1 - 1e-6, "real"), (None, None)])
def test_the_threshold_is_the_flag_s_or_the_training_s(main, trained, clips, tmp_path, threshold, verdict):
    _, folder = trained
    config = VideoConfig(name="deepfake_video", models_dir=folder, faces="crops", output=tmp_path, pictures=False)
    main(replace(config, predict=clips / "fake" / "17.png", threshold=threshold))
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    assert float(row["threshold"]) == (threshold or 0.5)
    assert verdict in (None, row["verdict"])


@pytest.fixture(scope="module")
def main():
    """The program's own, without a process."""
    return runpy.run_path(str(ROOT / SCRIPT))["main"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_dir": Path("nowhere")}, "nowhere holds neither"),
        ({"csv": Path("nowhere.csv")}, "nowhere.csv"),
        ({"evaluate": True}, "deepfake_video_best.pth does not exist"),
        ({"predict": Path("nowhere.mp4"), "faces": "centre"}, "_best.pth does not exist. Train it with script_8"),
    ],
)
def test_what_is_wrong_is_said(main, fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main(VideoConfig(name="deepfake_video", models_dir=tmp_path, cache_dir=tmp_path / "cache", **fields))
    assert not list(tmp_path.iterdir())

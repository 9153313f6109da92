"""The real program on a few images."""

import csv
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from common.data.images import read_image
from common.ensemble.settings import Settings
from common.errors import UserError
from common.generated.detector import load_detector
from common.metrics.rle import parse_annotation
from common.submission.inputs import open_parts
from common.submission.predictor import score_video
from common.video.detector import load_video_detector
from common.video.files import write_video

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models_dir(call_program, pairs_dir, tmp_path_factory):
    """A network that learned to see the bright squares of `pairs_dir`."""
    folder = tmp_path_factory.mktemp("models")
    result = call_program(
        "script_1_highres_no_ela.py", "--data-dir", pairs_dir, "--models-dir", folder, "--profile", "quick",
        "--encoder-weights", "none", "--image-size", "64", "--decoder-channels", "32", "--epochs", "10",
        "--lr", "3e-3", "--schedule", "one_cycle", "--folds", "2", "--tracker", "none",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def submit(call_program, models_dir, tmp_path):
    def submit(folder, *flags, run=call_program):
        flags = ("--input", folder, "--models-dir", models_dir, "--output", tmp_path / "submission.csv", *flags)
        flags = ("--allow-missing", "--workers", "1", *flags)  # script 1 alone was trained
        result = run("make_submission.py", *flags)
        assert result.returncode == 0, result.stderr
        return pd.read_csv(tmp_path / "submission.csv", dtype=str), pd.read_csv(
            tmp_path / "scores.csv", dtype={"case_id": str, "error": str}
        )

    return submit


def set_calibration(models_dir, folder, **calibration):
    """A copy of the models whose image-level decision is known."""
    checkpoint = torch.load(models_dir / "highres_no_ela_best.pth", weights_only=True)
    torch.save(checkpoint | {"calibration": calibration}, folder / "highres_no_ela_best.pth")
    return folder


def test_every_image_has_its_row_at_its_own_resolution(submit, run_program, models_dir, tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    rng = np.random.default_rng(1)
    shapes = {"a.png": (80, 60), "b.jpg": (33, 201), "c.tif": (64, 64), "sub/d.webp": (120, 90), "e.bmp": (7, 5)}
    for name, (height, width) in shapes.items():
        image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
        image[: height // 2, : width // 2] = 250
        cv2.imwrite(str(images / name), image)
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    always = set_calibration(models_dir, tmp_path, slope=0.0, intercept=5.0)
    threshold = "0.1"
    flags = (
        "--models-dir",
        always,
        "--maps",
        tmp_path / "maps",
        "--pixel-threshold",
        threshold,
        "--instances",
        "merge",
    )
    submission, scores = submit(images, *flags, run=run_program)

    assert submission["case_id"].tolist() == ["a", "b", "broken", "c", "e", "sub/d"]
    assert list(submission.columns) == ["case_id", "annotation"]
    scores = scores.set_index("case_id")
    assert "broken.png" in scores.loc["broken", "error"]
    assert np.isnan(scores.loc["broken", "forged_probability"])
    annotations = submission.set_index("case_id")["annotation"]
    assert annotations["broken"] == "authentic"
    for name, (height, width) in shapes.items():
        case_id = name.rsplit(".", 1)[0]
        row = scores.loc[case_id]
        assert (row["height"], row["width"]) == (height, width)
        assert row["forged_probability"] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-5)
        masks = parse_annotation(annotations[case_id], height, width)
        assert len(masks) == row["n_instances"]
        prob = np.load(tmp_path / "maps" / f"{case_id}.npy")
        assert prob.dtype == np.float16
        assert prob.shape == (height, width)
        assert masks.any(axis=0).mean() == pytest.approx(row["area_share"], abs=1e-5)
        assert row["area_share"] == pytest.approx((prob >= float(threshold)).mean(), abs=0.02)
    assert scores["n_instances"].max() == 1


def test_regions_lie_where_the_square_is(submit, models_dir, pairs_dir, tmp_path):
    """Neither transposed nor shifted: the map is brighter inside."""
    always = set_calibration(models_dir, tmp_path, slope=0.0, intercept=5.0)
    submit(pairs_dir / "train_images" / "forged", "--models-dir", always, "--maps", tmp_path / "maps")
    inside, outside = [], []
    for number in range(4, 10):
        mask = np.load(pairs_dir / f"train_masks/{number}.npy")[0] > 0
        prob = np.load(tmp_path / "maps" / f"{number}.npy")
        inside.append(prob[mask].mean())
        outside.append(prob[~mask].mean())
    assert np.mean(inside) > np.mean(outside) + 0.05


def test_rows_follow_the_sample_submission(submit, pairs_dir, tmp_path):
    images = tmp_path / "test_images"
    shutil.copytree(pairs_dir / "train_images" / "authentic", images)
    (tmp_path / "sample_submission.csv").write_text("case_id,annotation\n7,authentic\n404,authentic\n0,authentic\n")
    submission, scores = submit(images)
    assert submission["case_id"].tolist() == scores["case_id"].tolist() == ["7", "404", "0"]
    assert "no such image" in scores.set_index("case_id").loc["404", "error"]


@pytest.mark.parametrize(("mode", "forged"), [("high-precision", False), ("default", True)])
def test_the_mode_moves_the_decision(submit, models_dir, pairs_dir, tmp_path, mode, forged):
    """Every image with probability 0.7: forged by default (0.65), not with high precision (0.80)."""
    always = set_calibration(models_dir, tmp_path, slope=0.0, intercept=float(np.log(0.7 / 0.3)))
    submission, scores = submit(
        pairs_dir / "train_images" / "forged", "--models-dir", always, "--mode", mode, "--pixel-threshold", "0"
    )
    assert ((submission["annotation"] != "authentic") == forged).all()
    assert (scores["n_instances"] == forged).all()


def test_one_file_is_enough(submit, pairs_dir):
    submission, _ = submit(pairs_dir / "train_images" / "forged" / "9.png")
    assert submission["case_id"].tolist() == ["9"]


def test_annotations_are_quoted(submit, models_dir, pairs_dir, tmp_path):
    always = set_calibration(models_dir, tmp_path, slope=0.0, intercept=5.0)
    submit(pairs_dir / "train_images" / "forged", "--models-dir", always, "--pixel-threshold", "0")
    with (tmp_path / "submission.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[1] == ["0", f"[1, {72 * 96}]"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--input", "nowhere"), "error: nowhere is not a folder"),
        (("--input", "docs/LOG.md"), "LOG.md"),
        (("--mode", "best"), "--mode"),
        (("--tta", "all"), "--tta"),
        (("--min-area-share", "2"), "error: --min-area-share is 2.0; it must be from 0 to less than 1"),
        (("--pixel-threshold", "-0.1"), "error: --pixel-threshold is -0.1"),
        (("--batch-size", "0"), "error: --batch-size is 0"),
        (("--workers", "0"), "error: --workers is 0"),
        (("--num-shards", "2"), "error: --num-shards and --shard-index go together"),
        (("--output", "/proc/nothing/submission.csv"), "can't be written"),
        (("--output", "scores.csv"), "error: --output scores.csv is the name of the table of scores"),
        (("--output", "docs"), "error: --output docs: docs is a folder"),
        (("--input", "missing.tar"), "error: missing.tar is not a folder"),
    ],
)
def test_a_wrong_flag_is_one_clear_message(call_program, models_dir, pairs_dir, tmp_path, flags, message):
    arguments = {"--input": pairs_dir / "train_images" / "forged", "--models-dir": models_dir}
    arguments |= {"--output": tmp_path / "s.csv", flags[0]: flags[1]}
    flags = [part for pair in arguments.items() for part in pair]
    result = call_program("make_submission.py", "--allow-missing", *flags)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "go on without, and decide by copy-move evidence alone, by allow_missing"),
        (("--allow-missing", "--no-copy-move"), "error: no member of the average is trained"),
    ],
)
def test_nothing_trained_is_one_clear_message(call_program, pairs_dir, tmp_path, flags, message):
    arguments = ["--input", pairs_dir / "train_images" / "forged", "--models-dir", tmp_path / "nowhere", *flags]
    result = call_program("make_submission.py", *arguments, "--output", tmp_path / "s.csv")
    assert result.returncode == 1
    assert message in result.stderr
    assert "nowhere/highres_no_ela_best.pth (made by script_1_highres_no_ela.py)" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def copied_dir(copied_images, tmp_path):
    """A folder of `copied_images`, 0.png to 3.png."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for number, image in enumerate(copied_images):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return folder


def test_a_folder_of_models_that_is_not_there(call_program, pairs_dir, tmp_path):
    """A slip of the pen must not end in a submission without the networks."""
    arguments = ["--input", pairs_dir / "train_images" / "forged", "--models-dir", tmp_path / "nowhere"]
    result = call_program("make_submission.py", *arguments, "--output", tmp_path / "s.csv", "--allow-missing")
    assert result.returncode == 1
    assert "nowhere. Train a network, or name an empty folder" in result.stderr


def test_copies_are_found_without_a_network(run_program, copied_dir, copied_mask, tmp_path):
    """In the first minute: nothing trained, two processes. Source and copy are one instance."""
    (tmp_path / "empty").mkdir()
    arguments = ["--input", copied_dir, "--models-dir", tmp_path / "empty", "--output", tmp_path / "submission.csv"]
    arguments += ["--workers", "2", "--batch-size", "3", "--instances", "groups", "--maps", tmp_path / "maps"]
    result = run_program("make_submission.py", "--allow-missing", *arguments)
    assert result.returncode == 0, result.stderr
    assert "no network is trained: copy-move evidence alone decides" in result.stdout
    annotations = pd.read_csv(tmp_path / "submission.csv", dtype=str)["annotation"]
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert (annotations == "authentic").tolist() == [True, False, True, False]
    for number in (1, 3):
        (mask,) = parse_annotation(annotations[number], 192, 256)
        assert (mask & copied_mask).sum() > 0.7 * (mask | copied_mask).sum()
        assert scores["forged_probability"][number] == pytest.approx(scores["copy_move_score"][number], abs=1e-3)
        assert scores["copy_move_inliers"][number] > 0
        prob = np.load(tmp_path / "maps" / f"{number}.npy")
        assert set(np.unique(prob)) == {0, 1}


def test_evidence_joins_the_network_and_can_be_left_out(submit, models_dir, copied_dir, tmp_path):
    """A network that calls nothing forged, and the evidence beside it."""
    never = set_calibration(models_dir, tmp_path, slope=0.0, intercept=-5.0)
    _, joined = submit(copied_dir, "--models-dir", never, "--min-area-share", "0.05")
    assert (joined["forged_probability"] > 0.65).tolist() == [False, True, False, True]
    assert (joined["n_instances"] == 1).tolist() == [False, True, False, True]
    _, without = submit(copied_dir, "--models-dir", never, "--no-copy-move")
    assert without["forged_probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(5)), abs=1e-5)
    assert without["copy_move_score"].isna().all()


def asked(path, images):
    """What a detector says of image files."""
    return load_detector(path, torch.device("cpu")).predict([read_image(image) for image in images])


def test_generated_is_an_axis_of_its_own(submit, models_dir, pairs_dir, save_detector, tmp_path):
    """Not fitted: the decision is the same with and without the detector."""
    models = shutil.copytree(models_dir, tmp_path / "models")
    path = save_detector(models / "spai_fusion_best.pth")
    images = shutil.copytree(pairs_dir / "train_images" / "forged", tmp_path / "images")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    _, scores = submit(images, "--models-dir", models, "--no-copy-move")
    scores = scores.set_index("case_id")
    found = asked(path, [images / f"{number}.png" for number in range(10)])
    readable = scores.loc[[str(number) for number in range(10)]]
    assert readable["generated_probability"].tolist() == pytest.approx([f.probability for f in found], abs=1e-5)
    assert readable["generated_verdict"].tolist() == [f.verdict for f in found]
    assert len(set(readable["generated_verdict"])) > 1
    assert "broken.png" in scores.loc["broken", "error"]
    assert scores.loc["broken", ["generated_probability", "generated_verdict"]].isna().all()
    _, without = submit(images, "--models-dir", models, "--no-copy-move", "--no-generated")
    assert without[["generated_probability", "generated_verdict"]].isna().all(axis=None)
    own = ["generated_probability", "generated_verdict"]
    pd.testing.assert_frame_equal(without.drop(columns=own), scores.reset_index().drop(columns=own))


def test_a_detector_beside_nothing_else(call_program, copied_dir, save_detector, tmp_path):
    """Copy-move evidence decides alone, and the detector answers its own question; alone it decides nothing."""
    models = tmp_path / "models"
    path = save_detector(models / "spai_best.pth", metrics={}, validation={"probs": [], "generated": []})
    arguments = ["--input", copied_dir, "--models-dir", models, "--output", tmp_path / "submission.csv"]
    result = call_program("make_submission.py", "--allow-missing", "--workers", "1", *arguments)
    assert result.returncode == 0, result.stderr
    assert "no network is trained: copy-move evidence alone decides" in result.stdout
    assert result.stdout.count("never calibrated") == 1
    missing = result.stdout.partition("the ensemble goes on without:")[2].partition("no network")[0]
    assert "highres_no_ela" in missing and "spai" not in missing
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert (scores["n_instances"] > 0).tolist() == [False, True, False, True]
    found = asked(path, [copied_dir / f"{number}.png" for number in range(4)])
    assert scores["generated_probability"].tolist() == pytest.approx([f.probability for f in found], abs=1e-5)
    result = call_program("make_submission.py", "--allow-missing", "--no-copy-move", *arguments)
    assert result.returncode == 1
    assert "no member of the average is trained" in result.stderr


@pytest.mark.slow
def test_a_fit_reads_the_detector_and_the_submission_follows(
    submit, call_program, models_dir, pairs_dir, save_detector, tmp_path
):
    """One that finds the pasted squares generated, by a calibration that is turned to do so."""
    models = shutil.copytree(models_dir, tmp_path / "models")
    path = save_detector(models / "spai_best.pth")
    logits = {
        label: np.array([f.score.logit for f in asked(path, sorted((pairs_dir / "train_images" / label).iterdir()))])
        for label in ("forged", "authentic")
    }
    forged, authentic = logits["forged"].mean(), logits["authentic"].mean()
    slope = 20 * np.sign(forged - authentic)
    calibration = {"slope": float(slope), "intercept": float(-slope * (forged + authentic) / 2)}
    save_detector(path, calibration=calibration)
    arguments = ["--data-dir", pairs_dir, "--models-dir", models, "--allow-missing", "--no-copy-move"]
    result = call_program("fit_ensemble.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert "\nwithout spai " in result.stdout
    settings = Settings.load(models / "ensemble.json")
    assert settings.decision.reads_generated
    assert list(settings.weights) == ["highres_no_ela"]
    assert list(settings.checkpoints) == ["highres_no_ela", "spai"]
    images = pairs_dir / "train_images" / "forged"
    _, scores = submit(images, "--models-dir", models, "--no-copy-move")
    _, without = submit(images, "--models-dir", models, "--no-copy-move", "--no-generated")
    assert (scores["forged_probability"] != without["forged_probability"]).any()
    result = call_program("fit_ensemble.py", *arguments, "--no-generated")
    assert result.returncode == 0, result.stderr
    assert "without spai" not in result.stdout
    assert list(Settings.load(models / "ensemble.json").checkpoints) == ["highres_no_ela"]


@pytest.fixture
def mixed_dir(copied_dir):
    """`copied_dir` with videos: one called like an image, one in a subfolder, and a broken one."""
    rng = np.random.default_rng(0)
    for name, shape in {"1.mp4": (64, 96, 3), "sub/clip.mov": (80, 64, 3)}.items():
        write_video(copied_dir / name, rng.integers(0, 256, (8, *shape), dtype=np.uint8), 8.0)
    (copied_dir / "broken.mp4").write_text("no video")
    (copied_dir / ".hidden.mp4").write_text("no video")
    return copied_dir


VIDEOS = ["1.mp4", "broken.mp4", "sub/clip.mov"]


@pytest.fixture(scope="module")
def program():
    """What make_submission.py defines, without a process."""
    return runpy.run_path(str(ROOT / "make_submission.py"))


@pytest.fixture
def decide(program, mixed_dir, tmp_path):
    """Decides `mixed_dir` by copies alone: the submission, and the scores by case."""

    def decide(**fields):
        output = tmp_path / "submission.csv"
        folders = {"input": mixed_dir, "models_dir": tmp_path / "models", "output": output}
        program["main"](program["SubmissionConfig"](allow_missing=True, workers=1, **folders, **fields))
        scores = pd.read_csv(output.with_name("scores.csv"), dtype={"case_id": str, "error": str})
        return pd.read_csv(output, dtype=str), scores.set_index("case_id")

    return decide


def test_videos_are_scored_after_the_images(decide, mixed_dir, save_video_detector, tmp_path, capsys):
    path = save_video_detector(tmp_path / "models" / "deepfake_video_best.pth")
    submission, scores = decide(faces="crops")
    printed = capsys.readouterr().out
    assert "4 images: 2 forged, 2 authentic; 3 videos: " in printed and "1 not scored" in printed
    assert submission["case_id"].tolist() == list("0123")
    assert scores.index.tolist() == [*"0123", *VIDEOS]
    assert scores["kind"].tolist() == ["image"] * 4 + ["video"] * 3
    detector = load_video_detector(path, torch.device("cpu"), faces="crops")
    for name in ("1.mp4", "sub/clip.mov"):
        found, row = detector.predict(mixed_dir / name), scores.loc[name]
        assert row["fake_probability"] == pytest.approx(found.probability, abs=1e-5)
        assert (row["fake_verdict"], row["threshold"]) == (found.verdict, found.threshold)
        assert np.isnan(row["forged_probability"]) and row.isna()["error"]
    assert scores.loc["1.mp4", ["height", "width"]].tolist() == [64, 96]
    assert "broken.mp4" in scores.loc["broken.mp4", "error"]
    assert scores.loc[["broken.mp4", *"0123"], ["fake_probability", "fake_verdict"]].isna().all(axis=None)
    # Without them the images are decided as before.
    _, without = decide(videos=False)
    pd.testing.assert_frame_equal(without, scores.loc[list("0123")], check_dtype=False)
    (tmp_path / "masks").mkdir()
    evaluation = runpy.run_path(str(ROOT / "evaluate.py"))
    config = evaluation["EvaluateConfig"](submission=tmp_path / "submission.csv", masks=tmp_path / "masks")
    evaluation["main"](config)
    assert "4 authentic" in capsys.readouterr().out


def test_whatever_a_video_breaks_is_its_error(program, mixed_dir, save_video_detector, tmp_path):
    class Breaking:
        name = "breaking"

        def find(self, image, path, index):
            raise cv2.error("no size")

    path = save_video_detector(tmp_path / "deepfake_video_best.pth")
    detector = load_video_detector(path, torch.device("cpu"), faces="crops")
    detector.faces = Breaking()
    config = program["SubmissionConfig"](input=mixed_dir)
    assert score_video(config, detector, mixed_dir / "1.mp4") == {"error": "error: no size"}


def test_videos_without_a_detector_have_rows_that_say_so(decide, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    submission, scores = decide()
    assert submission["case_id"].tolist() == list("0123")
    errors = scores["error"]
    assert errors[list("0123")].isna().all()
    assert (
        errors[VIDEOS].str.contains(r"models/deepfake_video_best\.pth.*script_8_deepfake_video\.py.*--no-videos").all()
    )
    assert "3 videos: 3 not scored" in capsys.readouterr().out


def test_a_single_video_needs_no_other_network(call_program, program, mixed_dir, save_video_detector, tmp_path):
    save_video_detector(tmp_path / "models" / "deepfake_video_b3_best.pth")
    places = {"input": mixed_dir / "1.mp4", "models_dir": tmp_path / "models", "output": tmp_path / "s.csv"}
    flags = [part for name, path in places.items() for part in (f"--{name.replace('_', '-')}", path)]
    result = call_program("make_submission.py", *flags, "--faces", "centre")
    assert result.returncode == 0, result.stderr
    assert "images" not in result.stdout and "1 videos: 1 inconclusive" in result.stdout
    assert (tmp_path / "s.csv").read_text().splitlines() == ["case_id,annotation"]
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores["case_id"].tolist() == ["1.mp4"] and scores["fake_verdict"].tolist() == ["inconclusive"]
    assert scores["reason"][0] == "a face was found in 0 of 6 sampled frames, a verdict needs 30% of them"
    with pytest.raises(UserError, match=r"1\.mp4 holds no images"):
        program["main"](program["SubmissionConfig"](videos=False, **places))


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal to a group of processes")
@pytest.mark.slow  # 400 images, and on a busy machine the minute may not do
def test_an_interrupt_leaves_neither_processes_nor_half_a_file(copied_images, tmp_path):
    """Ctrl-C, which reaches all processes of the terminal, while copies are looked for."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(400):
        cv2.imwrite(str(images / f"{number}.png"), copied_images[number % 4])
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "make_submission.py", "--input", images, "--models-dir", tmp_path / "empty"]
    command += ["--allow-missing", "--workers", "2", "--batch-size", "2", "--output", tmp_path / "out" / "s.csv"]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not list(tmp_path.glob("out/s.csv.parts/*.partial")):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(2)  # the processes have begun
        os.killpg(process.pid, signal.SIGINT)
        # Ends when the last process has closed its end of the pipes.
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []


def run_in_parts(program, folder, source, **fields):
    """Run the program in parts of one image: its tables as bytes."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    places = {"input": source, "models_dir": folder / "models", "output": folder / "out" / "s.csv"}
    flags = {"allow_missing": True, "workers": 1, "part_size": 1} | fields
    program["main"](program["SubmissionConfig"](**places | flags))
    tables = places["output"], places["output"].with_name("scores.csv")
    return [table.read_bytes() for table in tables if table.exists()]


@pytest.fixture(scope="module")
def whole(program, copied_images, tmp_path_factory):
    """The tables of a run that nothing interrupts, of the images in `copied_dir`."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "images").mkdir()
    for number, image in enumerate(copied_images):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image[..., ::-1])
    return run_in_parts(program, folder, folder / "images")


@pytest.fixture
def run_main(program, copied_dir, tmp_path):
    """`run_in_parts`, by default of `copied_dir`."""
    return lambda source=copied_dir, **fields: run_in_parts(program, tmp_path, source, **fields)


def test_shards_make_the_same_tables(run_main, whole, tmp_path, capsys):
    """Whoever ends last merges; a shard that is started again does nothing twice."""
    assert run_main(num_shards=2, shard_index=1) == []
    printed = capsys.readouterr().out
    assert "shard 1 of 2 is done; 2 of 4 parts are missing, those of shard 0" in printed
    assert "If one was lost, start it again with its own --shard-index." in printed
    parts = tmp_path / "out" / "s.csv.parts"
    before = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert sorted(before) == [f"00000{n}{end}" for n in (1, 3) for end in ("-0.csv", "-1.csv", ".json")]
    assert run_main(num_shards=2, shard_index=1) == []
    assert "continues: 2 of 2 parts are done" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in parts.iterdir()} == before
    assert run_main(num_shards=2, shard_index=0) == whole
    assert "\n4 images: 2 forged, 2 authentic → " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["s.csv", "scores.csv"]


def test_a_run_goes_on_where_it_was(run_main, whole, tmp_path, capsys):
    run_main(num_shards=4, shard_index=2)
    capsys.readouterr()
    assert run_main() == whole
    printed = capsys.readouterr().out
    assert printed.startswith("continues: 1 of 4 parts are done, ")
    assert "4 images: 2 forged, 2 authentic" in printed
    run_main(num_shards=2, shard_index=0)
    capsys.readouterr()
    run_main(min_area_share=0.5, num_shards=2, shard_index=0)
    assert "2 parts in " in (printed := capsys.readouterr().out) and "are done again" in printed
    assert "parts are done," not in printed


def test_an_image_that_was_replaced_is_decided_anew(run_main, whole, copied_dir, capsys):
    """Of three parts that are done one has another image now, as the whole run had it."""
    right = (copied_dir / "1.png").read_bytes()
    (copied_dir / "1.png").write_bytes((copied_dir / "0.png").read_bytes())
    run_main(num_shards=4, shard_index=0), run_main(num_shards=4, shard_index=1), run_main(num_shards=4, shard_index=3)
    (copied_dir / "1.png").write_bytes(right)
    capsys.readouterr()
    assert run_main() == whole
    printed = capsys.readouterr().out
    assert "1 parts in " in printed and "are of files that have changed since, and are done again" in printed
    assert "continues: 2 of 4 parts are done" in printed


def test_a_launchers_missing_parts_name_no_flag(program, copied_dir, tmp_path):
    config = program["SubmissionConfig"](input=copied_dir, output=tmp_path / "s.csv", part_size=1, models_dir=tmp_path)
    parts = open_parts(config)
    with parts.written(parts.parts[1], Counter()):
        pass
    message = program["unfinished"](parts, 1, 2, launched=True)
    assert "3 of 4 parts are missing, those of shards 0, 1." in message
    assert message.endswith("If one was lost, run the same command again.")


def test_a_manifest_and_shards_are_inputs_too(run_main, whole, copied_dir, tmp_path):
    names = sorted(path.name for path in copied_dir.iterdir())
    (copied_dir / "m.csv").write_text("file\n" + "\n".join(names))
    assert run_main(copied_dir / "m.csv") == whole
    for number in range(2):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as tar:
            for name in names[2 * number : 2 * number + 2]:
                tar.add(copied_dir / name, name)
    assert run_main(tmp_path / "s-{0..1}.tar") == whole


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf8_does_not_end_the_run(run_main, copied_dir):
    os.rename(copied_dir / "3.png", os.fsencode(copied_dir) + b"/caf\xe9.png")  # noqa: PTH104
    Path(os.fsdecode(os.fsencode(copied_dir) + b"/br\xf6ken.png")).write_bytes(b"")
    submission, scores = (table.decode().splitlines() for table in run_main())
    assert [line.partition(",")[0] for line in submission] == ["case_id", "0", "1", "2", r"br\xf6ken", r"caf\xe9"]
    assert "no image" in scores[4] and r"br\xf6ken.png" in scores[4]
    assert "authentic" not in submission[5]


@pytest.mark.slow
def test_a_launchers_ranks_share_the_parts(whole, copied_dir, tmp_path):
    """Two real processes: one summary, and the same tables."""
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["make_submission.py", "--input", copied_dir, "--models-dir", tmp_path / "models", "--allow-missing"]
    command += ["--workers", "2", "--part-size", "1", "--output", tmp_path / "ranks" / "s.csv"]
    result = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("copy-move evidence alone decides") == 1
    assert result.stdout.count("4 images: 2 forged, 2 authentic → ") == 1
    assert [(tmp_path / "ranks" / name).read_bytes() for name in ("s.csv", "scores.csv")] == whole


def test_flags_win_over_the_fitted_regions(submit, models_dir, pairs_dir, tmp_path):
    """A region of forged pixels: drawn, smaller above a higher threshold, or dropped as too small."""
    always = set_calibration(models_dir, tmp_path, slope=0.0, intercept=5.0)
    image = pairs_dir / "train_images" / "forged" / "9.png"
    flags = ("--models-dir", always)
    _, plain = submit(image, *flags, "--pixel-threshold", "0.2")
    _, higher = submit(image, *flags, "--pixel-threshold", "0.3")
    _, none = submit(image, *flags, "--pixel-threshold", "0.2", "--min-area-share", "0.99")
    assert plain["area_share"][0] > higher["area_share"][0]
    assert none["n_instances"][0] == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(models_dir, tmp_path):
    """Ten times the images, the same peak: a child process reports its own."""
    image = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    code = (
        "import sys, resource, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (16, 160):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            cv2.imwrite(str(folder / f"{number}.bmp"), image)
        command = [sys.executable, "-c", code, "make_submission.py", "--input", folder, "--models-dir", models_dir]
        command += ["--output", tmp_path / "s.csv", "--allow-missing"]
        result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
        peaks.append(int(result.stdout.split("peak")[1]))
    assert peaks[1] < 1.1 * peaks[0]

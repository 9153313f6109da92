import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.masks import read_mask
from common.metrics import rle

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "competition_sample"
FLAGS = ("--submission", "s.csv", "--masks", "data/test_masks")
KEYS = {
    "of1", "of1_all_authentic", "lift", "image_precision", "image_recall", "image_fpr", "image_f1", "image_mcc",
    "image_auc", "calibration_error", "pixel_f1", "pixel_iou", "pixel_auc", "pixel_f1_best", "n_forged", "n_authentic",
    "by_size",
}  # fmt: skip


def write_submission(folder, rows):
    lines = ["case_id,annotation", *(f'{case_id},"{text}"' for case_id, text in rows)]
    (folder / "s.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path):
    """Truth `[101, 102]` on 720 × 960 predicted as `[101, 103]`, a missed 10 × 10 corner, and authentic images."""
    for name in ("test_masks", "test_images"):
        (tmp_path / "data" / name).mkdir(parents=True)
    np.save(tmp_path / "data" / "test_masks" / "1.npy", rle.decode([101, 102], 720, 960).astype(np.uint8)[None])
    corner = np.zeros((100, 20), np.uint8)
    corner[:10, :10] = 1
    np.save(tmp_path / "data" / "test_masks" / "2.npy", corner)
    for case_id in ("1", "2", "3"):
        size = (960, 720) if case_id == "1" else (20, 100)
        Image.new("RGB", size, "grey").save(tmp_path / "data" / "test_images" / f"{case_id}.png")
    write_submission(tmp_path, [("1", "[101, 103]"), ("2", "authentic"), ("3", "authentic"), ("4", "[1, 5];[9, 2]")])
    return tmp_path


@pytest.fixture
def evaluate(call_program, folder):
    return lambda *flags: call_program("evaluate.py", *FLAGS, *flags, folder=folder)


def add_maps(folder):
    (folder / "maps").mkdir()
    for mask in (folder / "data" / "test_masks").glob("*.npy"):
        np.save(folder / "maps" / mask.name, (0.25 + 0.5 * read_mask(mask)[0]).astype(np.float16))


def test_hand_known_figures(folder):
    """The real program."""
    add_maps(folder)
    Image.fromarray(np.full((5, 5), 51, np.uint8)).save(folder / "maps" / "3.png")
    (folder / "data" / "groups.csv").write_text("case_id,group,kind\n1,x,copymove\n2,y,splice\n3,x,\n")
    command = [sys.executable, ROOT / "evaluate.py", *FLAGS, "--maps", "maps"]
    command += ["--json", "out/figures.json", "--report", "out/report"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "out" / "figures.json").read_text())
    assert set(figures) == KEYS
    f1 = 2 * 102 / (102 + 103)
    expected = {
        "of1": (f1 + 0 + 1 + 0) / 4,
        "of1_all_authentic": 0.5,
        "lift": (f1 + 1) / 4 - 0.5,
        "image_precision": 0.5,
        "image_recall": 0.5,
        "image_fpr": 0.5,
        "image_f1": 0.5,
        "image_mcc": 0.0,
        "pixel_f1": f1 / 2,
        "pixel_iou": 102 / 103 / 2,
        "pixel_auc": 1.0,
        "pixel_f1_best": 1.0,
        "n_forged": 2,
        "n_authentic": 2,
    }
    assert {key: figures[key] for key in expected} == pytest.approx(expected)
    sizes = figures["by_size"]
    assert [sizes[size]["n"] for size in ("tiny", "small", "medium", "large", "xlarge")] == [
        1,
        0,
        0,
        1,
        0,
    ]  # 5 % exactly is large
    assert sizes["tiny"]["of1"] == sizes["tiny"]["lift"] == pytest.approx(f1)
    assert sizes["tiny"]["image_recall"] == sizes["large"]["pixel_f1_best"] == 1.0
    assert sizes["large"]["of1"] == 0.0
    assert sizes["small"]["of1"] is None
    assert "| copymove        |      1 | 0.9951 | 0.9951 |" in done.stdout
    assert "best for the set" in done.stdout and "0.750" in done.stdout
    assert "report: out/report/report.html" in done.stdout
    assert "data:image/jpeg" in (folder / "out" / "report" / "report.html").read_text()


def test_without_maps_their_figures_are_null(evaluate, folder):
    done = evaluate("--json", "figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "figures.json").read_text())
    assert set(figures) == KEYS
    assert figures["pixel_auc"] is None and figures["pixel_f1_best"] is None
    assert "by kind" not in done.stdout and "AUC" not in done.stdout


def test_nested_case_ids_and_the_prefix_of_the_training_layout(evaluate, folder):
    (folder / "data" / "test_masks" / "deep").mkdir()
    (folder / "data" / "test_masks" / "2.npy").rename(folder / "data" / "test_masks" / "deep" / "2.npy")
    truth = rle.format_annotation([rle.encode(read_mask(folder / "data" / "test_masks" / "deep" / "2.npy")[0])])
    write_submission(folder, [("forged/1", "[101, 102]"), ("authentic/1", "authentic"), ("deep/2", truth)])
    done = evaluate("--json", "figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "figures.json").read_text())
    assert (figures["of1"], figures["n_forged"], figures["n_authentic"]) == (1.0, 2, 1)


@pytest.mark.parametrize("flags", [(), ("--images", "data/train_images")])
def test_masks_of_the_training_layout_have_their_pictures(evaluate, folder, flags):
    for name in ("train_masks", "train_images/forged", "train_images/authentic"):
        (folder / "data" / name).mkdir(parents=True)
    np.save(folder / "data" / "train_masks" / "7.npy", np.ones((1, 30, 50), np.uint8))
    for label, colour in (("forged", "red"), ("authentic", "blue")):
        Image.new("RGB", (50, 30), colour).save(folder / "data" / "train_images" / label / "7.png")
    write_submission(folder, [("7", "authentic")])
    done = evaluate("--masks", "data/train_masks", "--report", "report", *flags)
    assert done.returncode == 0, done.stderr
    uri = re.search(r"data:image/jpeg;base64,([^\"]*)", (folder / "report" / "report.html").read_text())[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))
    assert np.allclose(picture.mean(axis=(0, 1)), (255, 0, 0), atol=5)


def test_pictures_are_read_as_the_masks_are_drawn(evaluate, folder):
    exif = Image.Exif()
    exif[0x0112] = 8  # shown as 720 × 960, as the mask is; stored as 960 × 720
    Image.new("RGB", (720, 960)).save(folder / "data" / "test_images" / "1.png", exif=exif)
    done = evaluate("--report", "report")
    assert done.returncode == 1 and "add --masks-are-upright" in done.stderr
    done = evaluate("--report", "report", "--masks-are-upright")
    assert done.returncode == 0, done.stderr


def test_no_masks_at_all_is_said(evaluate, folder):
    for mask in (folder / "data" / "test_masks").iterdir():
        mask.unlink()
    done = evaluate("--json", "figures.json", "--report", "report")
    assert done.returncode == 0, done.stderr
    assert "note: data/test_masks holds no masks" in done.stdout
    assert json.loads((folder / "figures.json").read_text())["image_fpr"] == 0.5


def test_the_table_beside_the_submission_is_used_if_it_belongs_to_it(evaluate, folder):
    head = "case_id,kind,forged_probability,threshold,n_instances\n"
    (folder / "scores.csv").write_text(head + "1,image,0.9,0.65,1\n2,image,0.3,0.65,0\n4,image,0.7,0.65,2\n")
    done = evaluate("--json", "figures.json", "--report", "report")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "figures.json").read_text())["image_auc"] == 0.5
    assert "scores.csv</bdi>" in (folder / "report" / "report.html").read_text()
    (folder / "scores.csv").write_text(head + "1,image,0.9,0.65,7\n")
    done = evaluate("--json", "figures.json")
    assert done.returncode == 0 and "note: no probabilities: scores.csv is not of this submission: 1 has" in done.stdout
    assert json.loads((folder / "figures.json").read_text())["image_auc"] is None
    done = evaluate("--scores", "scores.csv")
    assert done.returncode == 1 and "error: scores.csv is not of this submission" in done.stderr
    done = evaluate("--scores", "nowhere.csv")
    assert done.returncode == 1 and "--scores nowhere.csv is not a file" in done.stderr


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the competition's sample pairs are not at hand")
def test_the_competitions_own_masks_score_one(evaluate, folder):
    masks = SAMPLE / "train_masks"
    truth = {path.stem: rle.format_annotation([rle.encode(c) for c in np.load(path)]) for path in masks.glob("*.npy")}
    rows = [("authentic/" + case_id, "authentic") for case_id in truth]
    write_submission(folder, rows + [("forged/" + case_id, text) for case_id, text in truth.items()])
    done = evaluate("--masks", masks, "--json", "figures.json", "--report", "report")
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["of1"] == figures["pixel_f1"] == figures["image_mcc"] == 1.0
    assert figures["of1_all_authentic"] == 0.5


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([("1", "forged"), ("2", "authentic")], (), "s.csv, line 2 (case_id 1): list 1 is 'forged'"),
        ([("1", "authentic"), ("2", "authentic")], ("--images", "nowhere", "--report", "r"), "nowhere is not a folder"),
        ([("1", "authentic")], ("--images", "data"), "--images data is for the pictures of the report. Add --report"),
    ],
)
def test_bad_input_is_one_message(evaluate, folder, rows, flags, message):
    write_submission(folder, rows)
    done = evaluate(*flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_flag_is_refused(evaluate, folder):
    done = evaluate("--mask-dir", "x")
    assert done.returncode == 2
    assert "mask-dir" in done.stderr

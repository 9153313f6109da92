"""Nothing in a file ends a program: an answer, or an error that names the file, in bounded time and memory."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import cv2
import numpy as np
import pytest

from tests.faults.corpus import HEIGHT, WIDTH, make_corpus, picture, sound_pictures

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is bounded as on Linux")

SECONDS = 20
"""That one reader may take for one file, on a busy machine. (The slowest one takes two.)"""
MEMORY = 600_000_000
"""Bytes that it may take beyond what the process had."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    assert len(make_corpus(folder)) >= 200
    return folder


@pytest.fixture(scope="session")
def attempts(corpus) -> list[dict]:
    """How the readers took the files."""
    command = [sys.executable, "-m", "tests.faults.readers", str(corpus)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert rows, run.stderr
    assert rows[-1]["kind"] == "end", f"the process ended with {run.returncode} in {rows[-1]}: {run.stderr[-500:]}"
    return [row for row in rows if row["kind"] not in ("begin", "end")]


def test_every_reader_answers_or_names_the_file(attempts):
    assert len(attempts) >= 2500
    assert not [row for row in attempts if row["kind"] == "wrong"]


def test_time_and_memory_are_bounded(attempts):
    assert not [row for row in attempts if row["seconds"] > SECONDS or row["more_memory"] > MEMORY]


def test_what_is_refused_is_refused_for_what_it_is(attempts):
    """A corpus that is refused for its names, say, would pass all tests above."""
    outcome = {(row["file"], row["reader"]): row for row in attempts}
    for name, reader, kind, word in [
        ("images/claims_huge.png", "read_image", "refused", "FORGERY_MAX_PIXELS"),
        ("images/claims_huge.jxl", "read_image", "refused", "FORGERY_MAX_PIXELS"),
        ("images/claims_most.webp", "read_image", "refused", "FORGERY_MAX_PIXELS"),
        ("images/circle.tif", "read_image", "refused", "circle"),
        ("images/part_lerc.tif", "read_image", "refused", "more than the page says"),
        ("images/layers_lerc.tif", "read_image", "refused", "20000 values of each pixel"),
        ("images/bomb_lerc.tif", "read_image", "refused", "can't be unpacked"),
        ("images/empty_scans_5000.jpg", "read_image", "refused", "scans"),
        ("images/frames_20000.gif", "read_image", "result", ""),
        ("images/rgb_tail.png", "read_image", "result", ""),
        ("images/rgb_cut_0.5.png", "read_image", "refused", "truncated"),
        ("masks/shape_0.npy", "read_mask", "refused", "1,000,000,000,000 bytes"),
        ("masks/mask_tail.npy", "read_mask", "result", ""),
        ("models/code.pth", "load_checkpoint", "refused", "code.pth"),
        ("videos/clip_tail.mp4", "open_video", "result", ""),
        ("papers/paper_tail.pdf", "read_figures", "result", ""),
        ("tables/head_only.csv", "read_table", "result", ""),
        ("tables/long_field.csv", "read_table", "result", ""),
        ("tables/empty_columns.csv", "read_table", "refused", "line 3: the field 'c'"),
    ]:
        row = outcome[name, reader]
        assert row["kind"] == kind and word in row["note"], row


def test_the_corpus_is_the_same_each_time(corpus, tmp_path):
    again = make_corpus(tmp_path)
    different = [path for path in again if path.read_bytes() != (corpus / path.relative_to(tmp_path)).read_bytes()]
    assert not different


def rows_of(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def case_id(path: Path, paths: list[Path]) -> str:
    """The suffix belongs to it where files share a stem."""
    return path.name if sum(other.stem == path.stem for other in paths) > 1 else path.stem


@pytest.mark.slow
def test_a_submission_has_a_row_for_each_file(corpus, run_program, tmp_path):
    (tmp_path / "models").mkdir()
    output = tmp_path / "submission.csv"
    flags = ("--allow-missing", "--models-dir", tmp_path / "models", "--output", output)
    run = run_program("make_submission.py", "--input", corpus / "images", *flags, timeout=600)
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr[-2000:]
    files = sorted((corpus / "images").iterdir())
    expected = sorted(case_id(path, files) for path in files)
    assert sorted(row["case_id"] for row in rows_of(output)) == expected
    scores = {row["case_id"]: row for row in rows_of(tmp_path / "scores.csv")}
    assert sorted(scores) == expected
    for path in files:
        row = scores[case_id(path, files)]
        assert (path.name in row["error"]) == (row["forged_probability"] == ""), row
    assert scores["claims_deep"]["error"]


@pytest.mark.slow
def test_tars_too(corpus, run_program, tmp_path):
    """All images in one shard, between sound ones."""
    import tarfile

    files = sorted((corpus / "images").iterdir())
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for number, path in enumerate(files):
            tar.add(path, f"{number:03d}{path.suffix}")
    (tmp_path / "models").mkdir()
    flags = ("--allow-missing", "--models-dir", tmp_path / "models", "--output", tmp_path / "submission.csv")
    run = run_program("make_submission.py", "--input", tmp_path / "all.tar", *flags, timeout=600)
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr[-2000:]
    rows = rows_of(tmp_path / "scores.csv")
    assert sorted(row["case_id"] for row in rows) == [f"{number:03d}" for number in range(len(files))]
    for row in rows:
        assert bool(row["error"]) == (row["forged_probability"] == "")
        assert not row["error"] or row["case_id"] in row["error"]


@pytest.mark.slow
def test_a_check_lists_all_bad_files(corpus, run_program, tmp_path):
    folders = [tmp_path / "train_images/authentic", tmp_path / "train_images/forged", tmp_path / "train_masks"]
    for folder in folders:
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted((corpus / "images").iterdir())):
        copyfile(path, folders[0] / f"{number}_{path.name}")
    masks = sorted((corpus / "masks").iterdir())
    for path in masks:
        cv2.imwrite(str(folders[1] / f"{path.stem}.png"), picture())
        copyfile(path, folders[2] / path.name)
    for name, content in sound_pictures().items():
        (folders[1] / f"sound_{name}").with_suffix(f".{name}").write_bytes(content)
        np.save(folders[2] / f"sound_{name.split('.')[0]}.npy", np.ones((1, HEIGHT, WIDTH), np.uint8))
    run = run_program("prepare_data.py", "check", tmp_path, timeout=600)
    text = run.stdout + run.stderr
    assert "Traceback" not in text, text[-2000:]
    assert run.returncode == 1
    for name in ("claims_huge.png", "circle.tif", "shape_0", "header_deep", "npz"):
        assert name in text, name


@pytest.mark.slow
def test_an_explanation_names_what_it_could_not_read(corpus, attempts, run_program, tmp_path):
    wrong = {Path(row["file"]).name for row in attempts if (row["reader"], row["kind"]) == ("read_image", "refused")}
    for name in sorted(wrong):
        copyfile(corpus / "images" / name, tmp_path / name)
    rng = np.random.default_rng(5)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"sound_{number}.png"), rng.integers(0, 256, (96, 96, 3), np.uint8))
    run = run_program("explain.py", tmp_path, "--output", tmp_path / "explained", timeout=600)
    text = run.stdout + run.stderr
    assert "Traceback" not in text, text[-2000:]
    rows = rows_of(tmp_path / "explained/findings.csv")
    unreadable = {row["image"] for row in rows if row["relation"] == "unreadable" and row["note"]}
    assert len(wrong) >= 250 and unreadable == wrong
    assert {row["image"] for row in rows} - unreadable == {f"sound_{number}.png" for number in range(3)}

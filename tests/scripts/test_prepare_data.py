"""prepare_data.py as a user runs it."""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.samples import load_samples

ROOT = Path(__file__).parents[2]
CASIA = ROOT.parent / "shared" / "data" / "casia1"
SMALL = ("--train-pairs", "6", "--test-images", "4")


def command(*arguments) -> list[str]:
    return [sys.executable, "prepare_data.py", *map(str, arguments)]


@pytest.fixture(scope="module")
def run(call_program):
    def run(*arguments) -> subprocess.CompletedProcess:
        result = call_program("prepare_data.py", *arguments)
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return run


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("_index.csv")  # which whoever reads a folder leaves there
    }


@pytest.fixture(scope="module")
def demo(run_program, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("made") / "demo"
    result = run_program("prepare_data.py", "demo", "--output", output, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "6 training pairs, 4 test images (2 forged)" in result.stdout
    assert f"--data-dir {output}" in result.stdout
    return output


def test_demo_has_the_competitions_layout(demo):
    samples = load_samples(demo)
    authentic = {s.case_id: (s.height, s.width) for s in samples if not s.forged}
    forged = {s.case_id: (s.height, s.width) for s in samples if s.forged}
    assert authentic == forged and len(forged) == 6
    with (demo / "sample_submission.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [set(row.values()) - {"authentic"} for row in rows] == [{p} for p in (r["case_id"] for r in rows)]
    assert sorted(f"{row['case_id']}.png" for row in rows) == sorted(p.name for p in (demo / "test_images").iterdir())
    assert len(list((demo / "test_masks").glob("*.npy"))) == 2


def test_demo_is_decided_by_its_seed(run, demo, tmp_path):
    run("demo", "--output", tmp_path / "same", *SMALL)
    assert contents(tmp_path / "same") == contents(demo)


def test_demo_from_a_folder_that_is_there_already(run, tmp_path):
    photos = tmp_path / "photos" / "sub"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in "abcd":
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((400, 300)).save(photos / f"{name}.jpg")
    arguments = ("demo", "--from", photos.parent, "--output", tmp_path / "data", "--drawn-share", "0", *SMALL)
    assert run(*arguments).returncode == 0
    groups = {s.group for s in load_samples(tmp_path / "data")}
    assert groups and all(set(group) <= set("abcd+") for group in groups)
    again = run(*arguments)
    assert again.returncode == 1 and "or overwrite it" in again.stderr
    (photos / "e.jpg").write_bytes(b"broken")
    broken = run(*arguments, "--overwrite")
    assert broken.returncode == 1 and "e.jpg" in broken.stderr
    assert len(load_samples(tmp_path / "data")) == 12  # the old folder is still there


def test_figures_of_ones_own_pictures(run, copied_images, tmp_path):
    (tmp_path / "fields").mkdir()
    for number in range(8):
        Image.fromarray(copied_images[number % 4]).save(tmp_path / "fields" / f"{number}.png")
    made = run("figures", tmp_path / "fields", tmp_path / "data", "--train", 4, "--test", 2)
    assert made.returncode == 0, made.stderr
    assert "4 training figures, 2 test figures" in made.stdout
    assert run("check", tmp_path / "data").stdout.startswith("OK:")
    few = run("figures", tmp_path / "fields", tmp_path / "data", "--train", 3, "--overwrite")
    assert few.returncode == 1 and "--train must be 4 or more" in few.stderr
    assert len(load_samples(tmp_path / "data")) == 4  # the old folder is still there


@pytest.fixture
def source(tmp_path) -> Path:
    """Three forged images with masks, two authentic ones."""
    folder = tmp_path / "source"
    for part in ("images", "masks", "authentic"):
        (folder / part).mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (30, 20)).save(folder / "images" / f"{name}.jpg")
        mask = Image.new("L", (30, 20))
        mask.paste(255, (5, 5, 20, 15))
        mask.save(folder / "masks" / f"{name}_gt.png")
    for name in "xy":
        Image.new("RGB", (30, 20)).save(folder / "authentic" / f"{name}.png")
    return folder


def test_import_of_a_folder(run, source, tmp_path):
    result = run("import", source, tmp_path / "data")
    assert result.returncode == 0, result.stderr
    assert "5 training images (3 forged)" in result.stdout and "folds will leak" in result.stdout
    checked = run("check", tmp_path / "data")
    assert checked.returncode == 0 and checked.stdout.startswith("OK:")


def test_import_stops_at_bad_files_or_leaves_them_out(run, source, tmp_path):
    (source / "images" / "a.jpg").write_bytes(b"")
    (source / "masks" / "b_gt.png").unlink()
    Image.new("L", (9, 9), 255).save(source / "masks" / "c_gt.png")
    (source / "authentic" / "x.png").write_text("a text")
    stopped = run("import", source, tmp_path / "data")
    assert stopped.returncode == 1 and stopped.stdout == ""
    for part in ("4 files", "a.jpg", "b.jpg", "c_gt.png", "9×9", "x.png", "--skip-bad-files"):
        assert part in stopped.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
    skipped = run("import", source, tmp_path / "data", "--skip-bad-files")
    assert skipped.returncode == 0 and "left out: 4 files" in skipped.stdout and "x.png" in skipped.stdout
    assert [p.name for p in (tmp_path / "data").rglob("*.*")] == ["groups.csv", "y.png"]


@pytest.mark.skipif(not CASIA.is_dir(), reason="CASIA v1 is not beside the repository")
def test_import_of_real_photographs(run, tmp_path):
    """A slice of CASIA v1 with its index.csv: groups and kinds arrive, the test images are of other groups."""
    source = tmp_path / "casia"
    with (CASIA / "index.csv").open() as file:
        reader = csv.DictReader(file)
        rows = list(reader)[::12]
    source.mkdir()
    with (source / "index.csv").open("w") as file:
        writer = csv.DictWriter(file, reader.fieldnames)
        writer.writeheader()
        writer.writerows(rows)
    for name in filter(None, (row[column] for row in rows for column in ("file", "mask"))):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(CASIA / name, source / name)
    result = run("import", source, tmp_path / "data", "--holdout", "0.25", "--link", "--skip-bad-files")
    assert result.returncode == 0, result.stderr
    assert "note: authentic and forged images are told apart by how their files are stored" in result.stdout
    samples = load_samples(tmp_path / "data")
    stems = {Path(row["file"]).stem: row for row in rows}
    assert all(s.group == stems[s.case_id]["group"] and s.kind == stems[s.case_id]["kind"] for s in samples)
    test = {stems[path.stem]["group"] for path in (tmp_path / "data" / "test_images").iterdir()}
    assert test and not test & {s.group for s in samples}
    assert len(samples) / len(rows) == pytest.approx(0.75, abs=0.06)
    assert run("check", tmp_path / "data").returncode == 0


def test_check_lists_all_faults(run, demo, tmp_path):
    clean = run("check", demo)
    assert clean.returncode == 0 and clean.stdout.startswith("OK:") and "6 in train_images/forged" in clean.stdout
    faulty = tmp_path / "faulty"
    shutil.copytree(demo, faulty)
    first, second, *_ = sorted((faulty / "train_masks").iterdir())
    first.unlink()
    np.save(second, np.zeros((1, 7, 7), np.uint8))
    (faulty / "groups.csv").write_text("case_id,group\nnobody,a\n")
    result = run("check", faulty)
    assert result.returncode == 1
    for part in (
        "forged image without mask (1)",
        "shape mismatch (1)",
        "empty mask (1)",
        f"  train_masks/{second.name}: marks no pixel",
        "groups.csv: names 'nobody'",
        "4 faults",
    ):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("demo", "--trian-pairs", "3"), "--train-pairs"),
        (("demo", "--train-pairs", "0"), "--train-pairs"),
        (("demo", "--from", "nowhere"), "nowhere"),
        (("import", "tests", "there", "--holdout", "20"), "--holdout"),
        (("import", "tests"), "OUTPUT"),
        (("check", "tests"), "train_images"),
    ],
)
def test_wrong_arguments_are_named(run, tmp_path, arguments, part):
    if arguments[:1] == ("demo",):
        arguments = (*arguments, "--output", tmp_path / "data")
    result = run(*arguments)
    assert result.returncode != 0 and part in result.stderr + result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal on Windows")
def test_ctrl_c_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        command("demo", "--output", tmp_path / "demo"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background passes an ignored SIGINT on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode != 0 and "interrupted" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_examples_for_a_first_look(run, tmp_path):
    made = run("examples", "--output", tmp_path / "examples")
    assert made.returncode == 0
    assert "6 test images (figure_with_a_panel_twice, " in made.stdout
    assert len(list((tmp_path / "examples" / "test_masks").iterdir())) == 4
    again = run("examples", "--output", tmp_path / "examples")
    assert again.returncode == 1 and "exists. Choose another output folder" in again.stderr


def test_pairs_of_ones_own_images(run, copied_images, tmp_path):
    (tmp_path / "own").mkdir()
    for number, image in enumerate(copied_images):
        Image.fromarray(image).save(tmp_path / "own" / f"{number}.png")
    made = run("pairs", tmp_path / "own", tmp_path / "data", "--figures", 2, "--drawn", 1)
    assert made.returncode == 0
    assert "7 authentic images, each with a forged twin" in made.stdout
    assert len(load_samples(tmp_path / "data")) == 14
    negative = run("pairs", tmp_path / "own", tmp_path / "other", "--drawn", -1)
    assert negative.returncode == 1
    assert "--drawn and --photographs must be 0 or more" in negative.stderr


@pytest.mark.parametrize("kind", ["import", "demo"])
def test_the_working_folder_is_no_output(call_program, tmp_path, tmp_path_factory, kind):
    source = tmp_path_factory.mktemp("source")
    for name in ("images", "masks", "authentic"):
        (source / name).mkdir()
        Image.new("L", (64, 64), 255 * (name == "masks")).save(source / name / "1.png")
    flags = ("import", source, ".") if kind == "import" else ("demo", "--output", ".", *SMALL)
    result = call_program("prepare_data.py", *flags, folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: . can't be made: it is a folder already. Name a new one in it, such as data.\n"
    assert not list(tmp_path.iterdir())

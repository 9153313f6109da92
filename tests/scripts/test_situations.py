"""Situations in which a program once gave a wrong answer, or none, without a word. docs/LOG.md has the table."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.locks import hold, release
from common.networks.pretrained import load_encoder_weights
from common.networks.segmentation import build_network
from common.networks.weight_files import WRAPPERS
from common.training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(path.name for path in ROOT.glob("*.py"))
OFTEN_ASKED = (
    "script_1_highres_no_ela.py",
    "script_7_spai_fusion.py",
    "script_8_deepfake_video.py",
    "make_submission.py",
)


@pytest.fixture
def empty(tmp_path) -> Path:
    """A folder without models: copy-move evidence alone decides."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def submit(call_program, empty, tmp_path):
    """Runs make_submission.py; what it printed, and the rows of scores.csv by case id."""

    def submit(source: Path, *flags: object, status: int = 0) -> tuple[str, dict[str, dict[str, str]]]:
        places = ["--models-dir", empty, "--output", tmp_path / "out" / "s.csv", "--workers", 1]
        done = call_program("make_submission.py", "--input", source, "--allow-missing", *places, *flags)
        assert done.returncode == status, done.stderr
        if status:
            return done.stderr, {}
        with (tmp_path / "out" / "scores.csv").open(newline="") as file:
            return done.stdout, {row["case_id"]: row for row in csv.DictReader(file)}

    return submit


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


# --- Every file is a row, or is counted


def test_files_of_other_kinds_are_counted_and_all_images_have_rows(submit, copied_images, tmp_path):
    folder = tmp_path / "in"
    for name in ("1.gif", "2.jp2", "3.avif", "4.png"):
        write(folder / name, copied_images[1])
    for name in ("paper.pdf", "notes.txt", "more.PDF"):
        (folder / name).write_text("no image")
    (folder / "photo.heic").write_bytes(b"no image")
    printed, rows = submit(folder)
    assert "left out, since they are no images or videos that are scored: 2 .pdf, 1 .txt" in printed
    assert sorted(rows) == ["1", "2", "3", "4", "photo"]
    assert "photo.heic cannot be read" in rows["photo"]["error"]
    assert {rows[number]["n_instances"] for number in "1234"} == {"1"}


def test_pages_that_are_left_out_are_counted(submit, copied_images, tmp_path):
    pages = [Image.fromarray(image) for image in copied_images]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / "stack.tif", save_all=True, append_images=pages[1:])
    printed, rows = submit(tmp_path / "in")
    assert "note: 3 pages were left out" in printed and list(rows) == ["stack"]


def test_images_of_one_stem_are_two_rows(submit, copied_images, tmp_path):
    for name in ("a.jpg", "a.png"):
        write(tmp_path / "in" / name, copied_images[0])
    _, rows = submit(tmp_path / "in")
    assert list(rows) == ["a.jpg", "a.png"]


def test_a_single_picture_has_its_verdict_printed(submit, copied_images, tmp_path):
    printed, rows = submit(write(tmp_path / "figure.png", copied_images[1]))
    probability = rows["figure"]["forged_probability"]
    assert printed.splitlines()[-1] == f"figure: forged, probability of a forgery {probability}"


# --- Orientation


@pytest.fixture
def turned(copied_images, tmp_path) -> Path:
    """A folder with one image that viewers show turned by 90°."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return write(tmp_path / "in" / "a.png", copied_images[1], exif=exif).parent


def test_regions_say_what_they_refer_to_and_can_be_turned(submit, turned, tmp_path):
    masks = {}
    for flag in ((), ("--masks-are-upright",)):
        printed, rows = submit(turned, "--maps", tmp_path / "maps", "--maps-as", "png", *flag)
        assert "note: 1 images have an EXIF orientation" in printed
        masks[flag] = np.asarray(Image.open(tmp_path / "maps" / "a_mask.png"))
        assert (int(rows["a"]["height"]), int(rows["a"]["width"])) == masks[flag].shape
    as_stored, upright = masks.values()
    assert as_stored.shape == (192, 256) and upright.shape == (256, 192)
    again = np.rot90(as_stored, -1) > 0  # clockwise
    assert np.count_nonzero(again & (upright > 0)) > 0.9 * np.count_nonzero(again | (upright > 0))


def test_an_explanation_is_shown_upright(call_program, turned, tmp_path):
    done = call_program("explain.py", turned / "a.png", "--output", tmp_path / "out.png")
    assert "note: shown upright, by its EXIF orientation 6" in done.stdout
    assert re.search(r"1 copy found", done.stdout)


def test_masks_of_upright_pictures_are_turned_at_the_import(call_program, turned, tmp_path):
    source = tmp_path / "source"
    mask = np.zeros((256, 192), np.uint8)
    mask[5:30, 100:180] = 255
    write(source / "masks" / "a.png", mask)
    write(source / "authentic" / "b.png", mask)
    (source / "images").symlink_to(turned)
    wrong = call_program("prepare_data.py", "import", source, tmp_path / "data")
    assert wrong.returncode == 1 and "--masks-are-upright" in wrong.stderr
    done = call_program("prepare_data.py", "import", source, tmp_path / "data", "--masks-are-upright")
    assert done.returncode == 0 and "have an EXIF orientation" in done.stdout
    stored = np.load(tmp_path / "data" / "train_masks" / "a.npy")[0]
    np.testing.assert_array_equal(np.rot90(stored, -1), mask > 0)
    checked = call_program("prepare_data.py", "check", tmp_path / "data")
    assert checked.returncode == 0 and "1 images with a mask have an EXIF orientation" in checked.stdout


def test_a_mask_that_may_be_turned_is_said_to_be_read_as_stored(call_program, copied_images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    write(tmp_path / "source" / "images" / "a.jpg", copied_images[0], exif=exif)
    write(tmp_path / "source" / "authentic" / "b.jpg", copied_images[0])
    mask = np.zeros((192, 256), np.uint8)
    mask[:20, :30] = 255
    write(tmp_path / "source" / "masks" / "a.png", mask)
    done = call_program("prepare_data.py", "import", tmp_path / "source", tmp_path / "data")
    assert "note: 1 forged images have an EXIF orientation, a.jpg first" in done.stdout


# --- Masks


def test_strange_masks_are_reported(call_program, copied_images, tmp_path):
    source = tmp_path / "source"
    labels = np.zeros((192, 256), np.uint8)
    labels[10:40, 20:60], labels[100:150, 30:80] = 1, 2
    for name in ("labels", "full", "transposed"):
        write(source / "images" / f"{name}.png", copied_images[0])
    write(source / "authentic" / "x.png", copied_images[2])
    write(source / "masks" / "labels.png", labels)
    write(source / "masks" / "full.png", np.full((192, 256), 255, np.uint8))
    write(source / "masks" / "transposed.png", np.ascontiguousarray(labels.T))
    done = call_program("prepare_data.py", "import", source, tmp_path / "data", "--skip-bad-files")
    assert "1 masks cover more than 95% of their image; are they masks?\n  full.png" in done.stdout
    assert re.search(r"transposed\.png: the mask is 256×192, its image 192×256: it is transposed", done.stdout)
    assert np.load(tmp_path / "data" / "train_masks" / "labels.npy").shape == (2, 192, 256)
    checked = call_program("prepare_data.py", "check", tmp_path / "data")
    assert checked.returncode == 1 and "mask covers the image (1)" in checked.stdout


# --- Colour


@pytest.mark.parametrize(
    ("channel", "share"),
    [(2, 1.0), (2, 0.3), (None, 0.3), *(pytest.param(c, 1.0, marks=pytest.mark.slow) for c in (None, 0, 1))],
)
def test_fluorescence_of_one_colour_matches_as_gray_does(submit, copied_images, tmp_path, channel, share):
    gray = (copied_images[1].min(axis=2) * share).astype(np.uint8)
    picture = np.repeat(gray[..., None], 3, axis=2)
    if channel is not None:
        picture[..., [c for c in range(3) if c != channel]] = 0
    _, rows = submit(write(tmp_path / "a.png", picture))
    assert rows["a"]["n_instances"] == "1" and float(rows["a"]["copy_move_score"]) > 0.9


# --- Nothing is replaced, and places are checked first


def test_a_trained_network_is_not_replaced_unasked(call_program, pairs_dir, tmp_path):
    small = ["--profile", "quick", "--image-size", 64, "--decoder-channels", 32, "--encoder-weights", "none"]
    flags = [*small, "--data-dir", pairs_dir, "--models-dir", tmp_path, "--tracker", "none", "--cache-gb", 0]
    assert call_program("script_1_highres_no_ela.py", *flags, "--epochs", 1).returncode == 0
    best = tmp_path / "highres_no_ela_best.pth"
    content = best.read_bytes()
    again = call_program("script_1_highres_no_ela.py", *flags, "--epochs", 1)
    assert again.returncode == 1 and again.stderr.startswith(f"error: {best} is there already")
    assert all(word in again.stderr for word in ("--resume", "--overwrite", "--models-dir"))
    assert best.read_bytes() == content
    more = call_program("script_1_highres_no_ela.py", *flags, "--epochs", 3, "--resume")
    assert more.returncode == 0, more.stderr
    assert re.findall(r"^epoch (\d/\d)", more.stdout, re.MULTILINE) == ["2/3", "3/3"]
    assert load_checkpoint(tmp_path / "highres_no_ela_last.pth")["config"]["epochs"] == 3
    assert call_program("script_1_highres_no_ela.py", *flags, "--epochs", 1, "--overwrite").returncode == 0


def test_maps_may_lie_outside_the_working_folder_and_be_looked_at(submit, copied_images, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    source = write(tmp_path / "in" / "sub" / "a.png", copied_images[1]).parents[1]
    maps = Path(os.path.relpath(tmp_path / "maps", ROOT))
    assert ".." in maps.parts
    submit(source, "--maps", maps)
    assert np.load(tmp_path / "maps" / "sub" / "a.npy").shape == (192, 256)
    submit(source, "--maps", maps, "--maps-as", "png")
    mask, overlay, prob = (np.asarray(Image.open(tmp_path / f"maps/sub/a_{n}.png")) for n in ("mask", "overlay", "map"))
    assert mask.shape == prob.shape == (192, 256) and overlay.shape == (192, 256, 3)
    assert set(np.unique(mask)) == {0, 255} and (prob[mask > 0] > 200).all()


def test_a_map_that_can_not_be_written_costs_no_row_and_is_not_passed_over(call_program, copied_images, tmp_path):
    """The map's name is longer than its image's."""
    for name in ("名" * 82, "b"):
        write(tmp_path / "in" / f"{name}.png", copied_images[1])
    (tmp_path / "models").mkdir()
    flags = ("--models-dir", tmp_path / "models", "--allow-missing", "--maps", tmp_path / "maps", "--maps-as", "png")
    done = call_program("make_submission.py", "--input", tmp_path / "in", "--output", tmp_path / "s.csv", *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "2 images: 1 forged, 1 failed" in done.stdout
    rows = (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == 2 and not any("authentic" in row for row in rows)
    assert (tmp_path / "maps" / "b_mask.png").exists()


@pytest.mark.parametrize(
    ("held", "command"),
    [
        ("s.csv", ("make_submission.py", "--input", "{0}/in", "--output", "{0}/s.csv", "--allow-missing")),
        pytest.param(
            "scores.csv",
            ("make_submission.py", "--input", "{0}/in", "--output", "{0}/other.csv", "--allow-missing"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "maps",
            ("make_submission.py", "--input", "{0}/in", "--output", "{0}/s.csv", "--maps", "{0}/maps"),
            marks=pytest.mark.slow,
        ),
        ("models/highres_no_ela", ("script_1_highres_no_ela.py", "--profile", "quick", "--models-dir", "{0}/models")),
        ("models/ensemble.json", ("fit_ensemble.py", "--models-dir", "{0}/models")),
        ("out/findings.csv", ("explain.py", "{0}/in", "--output", "{0}/out")),
        ("e.json", ("evaluate.py", "--submission", "{0}/s.csv", "--masks", "{0}/in", "--json", "{0}/e.json")),
        ("data", ("prepare_data.py", "demo", "--output", "{0}/data", "--overwrite")),
    ],
)
def test_what_another_program_writes_is_refused(run_program, empty, copied_images, tmp_path, held, command):
    write(tmp_path / "in" / "a.png", copied_images[1])
    (tmp_path / held).parent.mkdir(exist_ok=True)
    hold(tmp_path / held)
    try:
        done = run_program(*(part.format(tmp_path) for part in command))
    finally:
        release(tmp_path / held)
    assert done.returncode == 1
    said = f"error: {tmp_path / held} is being written by another program: process {os.getpid()} on "
    assert done.stderr.splitlines()[-1].startswith(said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_can_not_be_written_is_named_before_the_work(submit, copied_images, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    source = write(tmp_path / "in" / "a.png", copied_images[1]).parent
    text, _ = submit(source, "--maps", tmp_path / "locked" / "maps", status=1)
    assert "can't be written" in text


def test_a_file_in_place_of_a_folder_is_named_before_the_work(submit, call_program, copied_images, tmp_path):
    (tmp_path / "file").touch()
    source = write(tmp_path / "in" / "a.png", copied_images[1]).parent
    text, _ = submit(source, "--maps", tmp_path / "file" / "maps", status=1)
    assert text.startswith("error: ") and "can't be written" in text
    done = call_program("explain.py", source / "a.png", "--output", tmp_path / "file" / "a.png")
    assert done.returncode == 1 and "can't be written" in done.stderr and not done.stdout


def test_images_of_one_name_are_explained_in_two_pictures(call_program, copied_images, tmp_path):
    for folder in ("authentic", "forged"):
        write(tmp_path / folder / "10.png", copied_images[0])
        call_program("explain.py", Path(folder) / "10.png", folder=tmp_path)
    assert len(list((tmp_path / "outputs").rglob("10*.png"))) == 2


# --- Output


@pytest.fixture(scope="module")
def picture(copied_images, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("picture") / "a.png", copied_images[1])


def test_a_terminal_of_another_encoding(picture, tmp_path):
    """The degree sign of the table is none of its letters."""
    command = [sys.executable, "explain.py", str(picture), "--output", str(tmp_path / "o.png")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "+0\\xb0 |" in done.stdout


def test_a_closed_pipe_ends_quietly(picture, tmp_path):
    command = f'"{sys.executable}" explain.py "{picture}" --output "{tmp_path / "o.png"}" | head -1'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("1 copy found") and done.stderr == ""


@pytest.mark.parametrize(
    "program", [p if p in OFTEN_ASKED else pytest.param(p, marks=pytest.mark.slow) for p in PROGRAMS]
)
def test_help_needs_no_network(program):
    """Torch alone takes longer than the three seconds that --help may take."""
    code = f"import sys, runpy; sys.argv = ['{program}', '--help']\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout and done.stdout.splitlines()[-1].split()[0] == "False"


# --- Weights of others


@pytest.fixture(scope="module")
def network():
    config = {"encoder_name": "tu-mobilenetv3_small_100", "decoder_channels": 32, "segmentation_channels": 32}
    return build_network(config | {"in_channels": 3})


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "encoder.", "model.", "module.encoder.model."])
@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_encoder_weights_of_other_programs_load(network, tmp_path, prefix, wrapper):
    own = network.encoder.get_submodule("model").state_dict()
    weights = {prefix + name: torch.full_like(value, 3) for name, value in own.items()}
    weights |= {"decoder.weight": torch.zeros(3)} if "encoder" in prefix else {}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "w.pth")
    load_encoder_weights(network.encoder, "tu-mobilenetv3_small_100", str(tmp_path / "w.pth"))
    assert all((value == 3).all() for value in own.values())


def test_our_own_checkpoint_gives_encoder_weights(network, save_network, tmp_path):
    path = save_network(tmp_path / "x_best.pth", encoder_name="tu-mobilenetv3_small_100", encoder_weights="none")
    theirs = load_checkpoint(path)["model_state_dict"]
    load_encoder_weights(network.encoder, "tu-mobilenetv3_small_100", str(path))
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, theirs[f"encoder.{name}"])


def test_another_script_s_checkpoint_is_named(call_program, save_network, tmp_path):
    path = save_network(tmp_path / "highres_no_ela_best.pth")
    checkpoint = load_checkpoint(path)
    checkpoint["config"]["name"] = "highres_no_ela"
    save_checkpoint(checkpoint, path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    for flag in ("--video", "--spai"):
        done = call_program("explain.py", tmp_path / "a.png", flag, path)
        assert done.returncode == 1
        assert f"{path} is a checkpoint of highres_no_ela, not of the kind needed here" in done.stderr


def test_makefile_variables_may_hold_spaces(tmp_path):
    variables = [f"DATA={tmp_path}/my data", f"MODELS={tmp_path}/my models", "MEMBERS=ela highres_no_ela"]
    (tmp_path / "my models").mkdir()
    (tmp_path / "my models" / "ela_last.pth").touch()
    command = ["make", "-n", "-o", ".venv/installed", "submission", *variables]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    commands = done.stdout.splitlines()
    assert [("--resume" in line, f'"{tmp_path}/my models"' in line) for line in commands] == [
        *[(True, True), (False, True), (False, True)]
    ]
    assert f'--input "{tmp_path}/my data/test_images"' in commands[-1]


def test_tables_of_scores_name_columns_alike():
    from common.submission.config import SCORE_COLUMNS
    from common.video.report import COLUMNS

    assert {"case_id", "fake_probability", "fake_verdict", "threshold", "error"} <= {*COLUMNS} & {*SCORE_COLUMNS}

"""The real program on a photograph with a copy-move, on one without, and on what it can't explain."""

import runpy
from pathlib import Path

from common.data.synthesis import copy_move
from common.errors import UserError
from common.evaluation.explanation import COLOURS

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image
from skimage import data


@pytest.fixture(scope="module")
def program():
    """What the program defines."""
    return runpy.run_path(str(Path(__file__).parents[2] / "explain.py"))


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """A photograph of 300 × 300 with a plain copy-move, its file, and the mask of source and copy."""
    image, mask = copy_move(
        np.ascontiguousarray(data.astronaut()[:300, 100:400]),
        np.random.default_rng(3),
        area_share=0.12,
        plain_probability=1.0,
    )
    path = tmp_path_factory.mktemp("images") / "figure 1.png"
    Image.fromarray(image).save(path)
    return path, image, mask > 0


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_copy_is_found_listed_and_outlined(run_program, forged, tmp_path):
    path, image, mask = forged
    output = tmp_path / "deep" / "found.png"
    done = run_program("explain.py", path, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1 copy found") and lines[-1] == f"picture: {output}"
    (row,) = [line for line in lines if line.startswith("| 1 ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[1]) >= 0.5 and (cells[4], cells[6]) == ("+0°", "no")
    assert float(cells[5]) == pytest.approx(1, abs=0.02)
    for cell in cells[2:4]:  # the centres lie in the two regions
        x, y = map(int, cell.split(","))
        assert mask[y, x]
    assert float(cells[7].split()[0]) == pytest.approx(100 * mask.mean(), rel=0.35)

    picture = read(output)
    assert picture.shape[1] == 1620
    # Two panels of 780 pixels, 20 apart, below the title; the second holds nothing of this orange but what is drawn.
    shown = picture[62 : 62 + 780, 820 : 820 + 780]
    colour = np.abs(shown - np.round(255 * np.array(matplotlib.colors.to_rgb(COLOURS[0])))).max(axis=2) < 25
    truth = np.asarray(Image.fromarray(mask).resize((780, 780), Image.Resampling.NEAREST))
    for half in (truth, ~truth):
        assert colour[half].sum() > 100
    dark = shown.max(axis=2) <= 128
    assert dark[~truth].mean() > 0.8
    bright = np.asarray(Image.fromarray(image).resize((780, 780))).max(axis=2) > 140
    assert dark[truth & bright].mean() < 0.3


def test_what_lies_below_the_least_score_is_not_drawn(run_program, forged, tmp_path):
    path, *_ = forged
    done = run_program("explain.py", path, "--output", tmp_path / "found.png", "--min-score", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no copies found; 1 left out below 1, the best at ")
    assert read(tmp_path / "found.png").shape[1] == 820


def test_an_image_that_shows_nothing_twice_is_shown_alone(run_program, tmp_path):
    ramp = np.linspace(20, 230, 300) + np.linspace(-15, 15, 240)[:, None]
    image = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "ramp.png")
    done = run_program("explain.py", tmp_path / "ramp.png", "--output", tmp_path / "ramp_explained.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing is shown twice: no copy-move found\n")
    picture = read(tmp_path / "ramp_explained.png")
    assert picture.shape[1] == 820
    shown = Image.fromarray(picture[42 : 42 + 624, 20:800].astype(np.uint8)).resize((300, 240), Image.Resampling.BOX)
    assert np.abs(np.asarray(shown).astype(int) - image).mean() < 4


@pytest.fixture
def folder(tmp_path):
    """An image, half of one, and a text under an image's name."""
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "image.png")
    whole = (tmp_path / "image.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("image", "output", "message"),
    [
        ("broken.png", "found.png", "broken.png cannot be read as an image"),
        ("image.png", "text.png/found.png", "found.png can't be written"),
    ],
)
def test_what_is_wrong_is_one_message(run_program, folder, image, output, message):
    done = run_program("explain.py", folder / image, "--output", folder / output)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": "none.png"}, "there is no file .*none.png"),
        ({"image": "."}, "is a folder. Name one image in it."),
        ({"output": "."}, "is a folder. Name a file in it."),
        ({"output": "found.jpg"}, "found.jpg must end in .png."),
        ({"output": "image.png"}, "is the image itself. Name another file."),
        ({"min_score": 1.5}, "--min-score is 1.5; it must be from 0 to 1."),
        ({"min_score": float("nan")}, "--min-score is nan"),
    ],
)
def test_wrong_flags_are_named(program, folder, values, message):
    values = {name: folder / value if isinstance(value, str) else value for name, value in values.items()}
    with pytest.raises(UserError, match=message):
        program["ExplainConfig"](**{"image": folder / "image.png"} | values)


def test_the_picture_is_named_after_the_image(program, folder):
    config = program["ExplainConfig"](image=folder / "image.png")
    assert config.path.as_posix() == "outputs/image_explained.png"


def test_an_unknown_flag_is_refused(run_program):
    done = run_program("explain.py", "image.png", "--threshold", "0.5")
    assert done.returncode == 2
    assert "threshold" in done.stderr

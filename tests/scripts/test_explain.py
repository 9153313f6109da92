"""The real program on a photograph with a copy-move, one without, small networks, clips, and on wrong input."""

import csv
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

from common.data.images import read_image
from common.errors import UserError
from common.explaining.many import images_of
from common.generated.config import SpaiConfig
from common.generated.detector import load_detector
from common.generated.network import Spai
from common.generated.training import architecture
from common.making.synthesis import copy_move
from common.page import COLOURS
from common.training.checkpoint import save_checkpoint
from common.video.files import write_video


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


def test_what_lies_below_the_least_score_is_not_drawn(call_program, forged, tmp_path):
    path, *_ = forged
    done = call_program("explain.py", path, "--output", tmp_path / "found.png", "--min-score", "1")
    assert done.returncode == 0, done.stderr
    assert re.match(r"no copies found; \d+ below 1 not shown, the best (0\.9|1\.0)", done.stdout)
    assert read(tmp_path / "found.png").shape[1] == 820


def test_an_image_that_shows_nothing_twice_is_shown_alone(call_program, tmp_path):
    ramp = np.linspace(20, 230, 300) + np.linspace(-15, 15, 240)[:, None]
    image = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "ramp.png")
    done = call_program("explain.py", tmp_path / "ramp.png", "--output", tmp_path / "ramp_explained.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no copy-move found\n")
    picture = read(tmp_path / "ramp_explained.png")
    assert picture.shape[1] == 820
    shown = Image.fromarray(picture[42 : 42 + 624, 20:800].astype(np.uint8)).resize((300, 240), Image.Resampling.BOX)
    assert np.abs(np.asarray(shown).astype(int) - image).mean() < 4


def test_a_folder_of_figures_gets_one_ranked_table(call_program, forged, tmp_path):
    """With pictures of what was found; files that can't be read are named, and the status is 1."""
    path, image, _ = forged
    folder = tmp_path / "paper"
    (folder / "more").mkdir(parents=True)
    page = np.full((660, 960, 3), 255, np.uint8)
    page[20:320, 20:320] = page[20:320, 340:640] = data.immunohistochemistry()[:300, :300]
    page[340:640, 20:320] = data.astronaut()[:300, 100:400]
    Image.fromarray(page).save(folder / "more" / "figure.png")
    Image.fromarray(image).save(folder / "forged.png")
    Image.new("RGB", (64, 64), "grey").save(folder / "gray.png")
    Image.new("RGB", (64, 64), "grey").save(folder / "gray.jpg")
    (folder / "broken.png").write_bytes(b"nothing")
    done = call_program("explain.py", folder, path, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "unreadable: broken.png: " in done.stderr
    assert "6 images: reuse in 3, nothing in 2, 1 unreadable; " in done.stdout
    table = list(csv.DictReader((tmp_path / "out" / "findings.csv").open()))
    # The same photograph, forged and not, in three of them: what they share is listed too.
    rows = [row for row in table if not row["other_image"]]
    across = [row for row in table if row["other_image"]]
    assert {tuple(sorted((row["image"], row["other_image"]))) for row in across} == {
        ("figure 1.png", "forged.png"),
        ("figure 1.png", "more/figure.png"),
        ("forged.png", "more/figure.png"),
    }
    same = next(row for row in across if {row["image"], row["other_image"]} == {"figure 1.png", "forged.png"})
    assert (same["relation"], same["panels"]) == ("reuse", "1 and 1") and float(same["score"]) > 0.9
    assert [row["relation"] for row in rows] == ["reuse"] * 3 + ["unreadable"] + ["none"] * 2
    scores = [float(row["score"]) for row in rows[:3]]
    assert scores == sorted(scores, reverse=True) and scores[-1] >= 0.5
    figure = next(row for row in rows if row["image"] == "more/figure.png")
    assert (figure["panels"], figure["mirrored"]) == ("1 and 2", "0")
    assert {row["image"] for row in rows} == {
        *("more/figure.png", "forged.png", "figure 1.png", "broken.png", "gray.png", "gray.jpg")
    }
    pictures = {found.relative_to(tmp_path / "out").as_posix() for found in (tmp_path / "out").rglob("*.png")}
    assert pictures == {row["picture"] for row in [*rows[:3], *across]}


@pytest.mark.parametrize("made", [False, True])
def test_one_image_gets_a_page_in_a_folder(call_program, forged, tmp_path, made):
    path, output = forged[0], tmp_path / ("v1.0" if made else "found")  # one with a suffix is a folder if there is one
    if made:
        output.mkdir()
    done = call_program("explain.py", path, "--output", output)
    assert done.returncode == 0 and "1 image: reuse in 1" in done.stdout, done.stderr
    names = {path.name for path in output.iterdir()}
    assert names == {"findings.csv", "report.html", f"{path.name}_explained.png"}
    assert "is shown again" in (output / "report.html").read_text(encoding="utf-8")


def test_figures_of_a_paper_are_compared_and_kept(call_program, copied_images, tmp_path):
    """With one another, and with those of an earlier paper."""
    one, _, other, _ = copied_images
    mirrored = np.ascontiguousarray(one[:, ::-1])
    save_pages(tmp_path / "first.pdf", [one, other])
    save_pages(tmp_path / "second.pdf", [mirrored])
    library = tmp_path / "screened"
    done = call_program("explain.py", tmp_path / "first.pdf", "--output", tmp_path / "out1", "--library", library)
    assert done.returncode == 0, done.stderr
    assert "2 images: reuse in 0, nothing in 2, 0 unreadable" in done.stdout
    assert f"library: {library}, 2 panels of 1 files" in done.stdout
    done = call_program("explain.py", tmp_path / "second.pdf", "--output", tmp_path / "out2", "--library", library)
    assert done.returncode == 0, done.stderr
    assert "1 image: reuse in 1, nothing in 0, 0 unreadable; 1 finding across images" in done.stdout
    (row,) = csv.DictReader((tmp_path / "out2" / "findings.csv").open())
    assert (row["image"], row["other_image"]) == (
        "second.pdf, page 1, figure 1",
        "screened: first.pdf, page 1, figure 1",
    )
    assert (row["relation"], row["mirrored"]) == ("reuse", "1") and float(row["score"]) > 0.9
    assert read(tmp_path / "out2" / row["picture"]).shape[1] == 1620
    # A library that grew answers the same to the same file, and does not hold it twice.
    again = call_program("explain.py", tmp_path / "second.pdf", "--output", tmp_path / "out3", "--library", library)
    assert again.stdout.replace("out3", "out2") == done.stdout and "3 panels of 2 files" in again.stdout
    # Both papers at once, without a library.
    done = call_program("explain.py", tmp_path / "first.pdf", tmp_path / "second.pdf", "--output", tmp_path / "out4")
    (row, none) = csv.DictReader((tmp_path / "out4" / "findings.csv").open())
    assert {row["image"], row["other_image"]} == {"first.pdf, page 1, figure 1", "second.pdf, page 1, figure 1"}
    assert (none["image"], none["relation"]) == ("first.pdf, page 2, figure 1", "none")


def test_files_that_can_not_be_read_lose_nothing(call_program, copied_images, tmp_path):
    """The others are explained and kept; counts add up; the output may be the folder itself."""
    folder = tmp_path / "all"
    (folder / "d.png").mkdir(parents=True)
    save_pages(folder / "paper.pdf", copied_images[1:2])
    Image.fromarray(copied_images[0]).save(folder / ("n" * 230 + ".png"))
    Image.fromarray(copied_images[0][:, ::-1]).save(folder / "mirrored.png")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7")
    (folder / "._paper.pdf").write_bytes(b"nothing")
    Figure().savefig(folder / "drawn.pdf")
    done = call_program("explain.py", folder, "--output", folder, "--library", tmp_path / "screened")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    # A folder that is named as an image counts as one that can't be read.
    assert "6 images: reuse in 3, nothing in 1, 2 unreadable; 1 finding across images" in done.stdout
    assert "of 4 files" in done.stdout
    rows = list(csv.DictReader((folder / "findings.csv").open()))
    assert all((folder / row["picture"]).is_file() for row in rows if row["picture"])
    assert [row["note"] for row in rows if row["image"] == "drawn.pdf"] == ["no figures with pixels"]


def save_pages(path, images):
    """A PDF of pages with one image each, as Pillow writes it: JPEG."""
    pages = [Image.fromarray(image) for image in images]
    pages[0].save(path, save_all=True, append_images=pages[1:], quality=92)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"nothing", "paper.pdf can't be read as a PDF"), (None, "has no figures with pixels")],
)
def test_a_paper_that_can_not_be_read_is_named(call_program, tmp_path, content, message):
    path = tmp_path / "paper.pdf"
    if content is None:
        Figure().savefig(path)
    else:
        path.write_bytes(content)
    done = call_program("explain.py", path, "--output", tmp_path / "out")
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["a", "b/figure.png"], ["a/figure.png", "a/more/figure.png", "b/figure.png"]),
        (["a/figure.png", "b/figure.png"], ["a/figure.png", "b/figure.png"]),
        (["a/more", "b"], ["a/more/figure.png", "b/figure.png"]),
        (["a", "a/figure.png", "a/../a/more"], ["figure.png", "more/figure.png"]),
        (["a"], ["figure.png", "more/figure.png"]),
    ],
)
def test_images_of_one_name_are_all_explained_and_each_once(tmp_path, named, expected):
    for name in ("a/figure.png", "a/more/figure.png", "b/figure.png", "a/figure.png_explained.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = images_of([tmp_path / name for name in named], tmp_path / "a")
    assert sorted(found) == expected
    assert len({path.resolve() for path in found.values()}) == len(expected)
    assert "figure.png_explained.png" in images_of([tmp_path / "a"], tmp_path / "out")


def test_a_folder_of_drawn_pictures_alone_is_refused(call_program, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "figure.png_explained.png")
    done = call_program("explain.py", tmp_path, "--output", tmp_path)
    assert done.returncode != 0 and "holds no images but those that were drawn here" in done.stderr


def save_spai(path, *, fusion="semantic", prompts=None, lower=0.0, upper=1.0, seed=0):
    """A random network of the quick profile's sizes, whose text tokens are as many as the lines of `prompts`."""
    torch.manual_seed(seed)
    config = SpaiConfig(name="spai", fusion=fusion, prompts=prompts).quick()
    wording = [] if prompts is None else prompts.read_text().splitlines()
    model = Spai(**architecture(config), text_tokens=len(wording))
    if wording:
        model.set_text(torch.randn_like(model.text))
    checkpoint = {
        "model_state_dict": model.state_dict(),
        "epoch": 1,
        "best_auc": 0.5,
        "config": config.plain(),
        "metrics": {"auc": 0.5},
        "calibration": {"slope": 1.0, "intercept": 0.0},
        "validation": {"probs": [upper] * 49 + [lower] * 49, "generated": [False] * 49 + [True] * 49},
        "target_fpr": 0.02,
        "prompts": wording,
    }
    save_checkpoint(checkpoint, path)
    return path


@pytest.fixture
def portrait(tmp_path):
    """The file of a photograph of 200 × 150 pixels: 3 × 2 patches of 64, and remainders of 8 and 22."""
    path = tmp_path / "portrait.png"
    Image.fromarray(np.ascontiguousarray(data.astronaut()[:200, 150:300])).save(path)
    return path


def test_where_the_network_looked_is_listed_and_drawn(call_program, portrait, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photograph\na rendering")
    checkpoint = save_spai(tmp_path / "spai_best.pth", prompts=prompts)
    done = call_program("explain.py", portrait, "--spai", checkpoint, "--output", tmp_path / "found.png")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (found,) = load_detector(checkpoint, torch.device("cpu")).predict([read_image(portrait)])
    lines = done.stdout.splitlines()
    assert lines[0] == f"insufficient evidence, probability that it is generated {found.probability:.4f}"
    assert lines[1] == "neither verdict is known to be wrong for at most 2 % of such images"
    assert lines[-1] == f"picture: {tmp_path / 'found.png'}"
    table = {cells[0].strip(): cells[1:] for line in lines if (cells := line.strip("|").split("|"))[1:]}
    kinds = ["the picture as a whole", "its parts, 2×2", "its parts, 4×4", "the patch itself", "all prompts"]
    assert set(table) >= {*kinds, "prompt 1: a photograph", "prompt 2: a rendering"}
    weights = found.score.attention @ found.score.semantic_attention
    assert table["its parts, 4×4"][1].strip() == f"{100 * weights[5:21].sum():.1f} %"
    assert sum(float(table[kind][1].split()[0]) for kind in kinds) == pytest.approx(100, abs=0.3)

    # Three panels of 513 × 684 pixels, 20 apart: the photograph, and the same in the colours of two maps. In the first
    # of them grey stripes where no patch of 64 pixels lies.
    picture = read(tmp_path / "found.png")
    assert picture.shape[1] == 3 * 513 + 4 * 20
    photograph, patches, cells = (picture[88 : 88 + 684, x : x + 513] for x in (20, 553, 1086))
    shrunk = np.asarray(Image.fromarray(photograph.astype(np.uint8)).resize((150, 200), Image.Resampling.BOX))
    assert np.abs(shrunk.astype(int) - read(portrait)).mean() < 6
    right, bottom = round(513 * 128 / 150), round(684 * 192 / 200)
    assert (np.ptp(patches[: bottom - 1, : right - 1], axis=2) > 30).all() and (np.ptp(cells, axis=2) > 30).all()
    assert np.ptp(patches[:, right + 1 :], axis=2).max() == np.ptp(patches[bottom + 1 :], axis=2).max() == 0


def test_a_network_without_fusion_has_no_semantic_map(program, portrait, tmp_path, capsys):
    checkpoint = save_spai(tmp_path / "spai_best.pth", fusion="none", upper=0.0, lower=-1.0)
    program["main"](program["ExplainConfig"](sources=(portrait,), spai=checkpoint, output=tmp_path / "found.png"))
    verdict, meaning, *rest = capsys.readouterr().out.splitlines()
    assert verdict.startswith("generated, probability that it is generated 0.")
    assert meaning == "of real images like those of the validation, at most 2 % are called generated"
    assert rest == ["", f"picture: {tmp_path / 'found.png'}"]
    assert read(tmp_path / "found.png").shape[1] == 2 * 585 + 20 + 2 * 20  # two panels


def test_the_wording_of_prompts_is_the_checkpoints(program, portrait, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photograph\na rendering")
    checkpoint = save_spai(tmp_path / "spai_best.pth", prompts=prompts, lower=1.0, upper=1.0)
    prompts.write_text("three\nother\nprompts")
    program["main"](program["ExplainConfig"](sources=(portrait,), spai=checkpoint, output=tmp_path / "found.png"))
    printed = capsys.readouterr().out
    assert printed.startswith("real, probability that it is generated 0.")
    assert "of generated images like those of the validation, at most 2 % are called real" in printed
    assert "| prompt 1: a photograph " in printed and "other" not in printed


@pytest.mark.parametrize(
    ("image", "checkpoint", "message"),
    [
        ("image.png", "none.pth", "none.pth does not exist"),
        ("image.png", "text.png", "text.png holds more than weights and plain values, or is damaged"),
        ("image.png", "member.pth", "member.pth is no checkpoint of this project, or not of the kind needed here"),
        ("broken.png", "member.pth", "broken.png cannot be read as an image"),
    ],
)
def test_a_wrong_checkpoint_is_one_message(program, folder, image, checkpoint, message):
    save_checkpoint({"model_state_dict": {}, "best_dice": 0.5}, folder / "member.pth")
    config = program["ExplainConfig"](sources=(folder / image,), spai=folder / checkpoint, output=folder / "found.png")
    with pytest.raises(UserError, match=message):
        program["main"](config)
    assert not (folder / "found.png").exists()


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
def test_what_is_wrong_is_one_message(call_program, folder, image, output, message):
    done = call_program("explain.py", folder / image, "--output", folder / output)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "none.png"}, "there is no file .*none.png"),
        ({"source": ".", "spai": "spai.pth"}, "--spai explains single images; .* is none"),
        ({"source": "clip.mp4", "spai": "spai.pth"}, r"--spai explains single images; .*clip\.mp4 is none"),
        ({"source": "clip.mp4", "output": "text.png"}, "text.png is a file. Name a folder."),
        ({"source": "clip.mp4", "threshold": 1.5}, "--threshold is 1.5; it must be from 0 to 1"),
        ({"source": "clip.mp4", "min_score": 0.8}, "--min-score is for copy-moves, not for videos"),
        ({"boxes": "boxes.csv"}, "--boxes is for videos, not for copy-moves"),
        ({"target_fpr": 0.1}, "--target-fpr is for generated images, not for copy-moves"),
        ({"video": "video.pth", "spai": "spai.pth"}, "--spai is for images, --video for clips"),
        ({"spai": "spai.pth", "output": "."}, "is a folder. Name a file in it."),
        ({"spai": "spai.pth", "output": "found"}, "found must end in .png"),
        ({"output": "found.jpg"}, "found.jpg must end in .png, or be a folder."),
        ({"output": "image.png"}, "is the image itself. Name another file."),
        ({"min_score": 1.5}, "--min-score is 1.5; it must be from 0 to 1."),
        ({"min_score": float("nan")}, "--min-score is nan"),
        ({"spai": "spai.pth", "min_score": 0.8}, "--min-score is for copy-moves, not for generated images"),
        ({"spai": "spai.pth", "altered": True}, "--altered is for copy-moves"),
        ({"spai": "spai.pth", "target_fpr": 1.0}, "--target-fpr is 1.0; it must be above 0 and below 1"),
    ],
)
def test_wrong_flags_are_named(program, folder, values, message):
    values = {name: folder / value if isinstance(value, str) else value for name, value in values.items()}
    (folder / "clip.mp4").touch()
    with pytest.raises(UserError, match=message):
        program["ExplainConfig"](sources=(values.pop("source", folder / "image.png"),), **values)


def test_the_picture_is_named_after_the_image(program, folder):
    """And after its folder: authentic/10.png and forged/10.png have two pictures."""
    config = program["ExplainConfig"](sources=(folder / "image.png",))
    assert config.output_path == Path("outputs", folder.name, "image.png_explained.png")
    config = program["ExplainConfig"](sources=(folder / "image.png",), spai=folder / "spai.pth", page=2)
    assert config.output_path == Path("outputs", folder.name, "image.png_page_2_generated.png")


def test_an_unknown_flag_is_refused(call_program):
    done = call_program("explain.py", "image.png", "--pixel-threshold", "0.5")
    assert done.returncode == 2
    assert "pixel-threshold" in done.stderr


def test_copies_need_no_torch(run_program):
    code = "import runpy, sys; runpy.run_path('explain.py'); print('torch' in sys.modules)"
    assert run_program("-c", code).stdout == "False\n"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos, a picture, three frames in a folder, and two files that are no clips."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    (folder / "frames").mkdir()
    for name in ("0.mp4", "1.mp4"):
        write_video(folder / name, rng.integers(0, 256, (6, 64, 80, 3), dtype=np.uint8), 6.0)
    for name in ("17.png", "frames/0.png", "frames/1.png", "frames/2.png"):
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no video")
    (folder / "broken.mp4").write_bytes(b"nothing")
    return folder


def test_every_file_in_a_folder_of_clips_is_scored_or_named(run_program, clips, save_video_detector, tmp_path):
    checkpoint, output = save_video_detector(tmp_path / "video_best.pth"), tmp_path / "out"
    done = run_program("explain.py", clips, "--video", checkpoint, "--faces", "crops", "--output", output)
    assert done.returncode == 0, done.stderr
    rows = {row["case_id"]: row for row in csv.DictReader((output / "results.csv").open())}
    assert set(rows) == {"0.mp4", "1.mp4", "17.png", "frames", "notes.txt", "broken.mp4"}
    assert {name for name, row in rows.items() if row["error"]} == {"notes.txt", "broken.mp4"}
    result = json.loads((output / "1.mp4" / "result.json").read_text())
    assert result["verdict"] == rows["1.mp4"]["fake_verdict"] in ("fake", "real")
    assert len(result["tracks"][0]["frames"]) == 6
    files = {path.name for path in (output / "1.mp4").iterdir()}
    assert files == {"result.json", "contact_sheet.png", "timeline.png", "annotated.mp4", "heatmaps.npz"}
    assert np.load(output / "1.mp4" / "heatmaps.npz")["heatmaps"].shape == (6, 28, 28)
    assert f"results: {output / 'results.csv'}; 2 could not be scored" in done.stdout


def explain_clip(program, tmp_path, source, checkpoint=None, **fields):
    """The row of a single file in results.csv."""
    fields = {"sources": (source,), "video": checkpoint, "output": tmp_path / "out"} | fields
    program["main"](program["ExplainConfig"](**fields))
    (row,) = csv.DictReader((tmp_path / "out" / "results.csv").open())
    return row


@pytest.mark.parametrize("name", ["notes.txt", "broken.mp4"])
def test_a_single_file_that_can_not_be_scored_is_a_failure(program, clips, save_video_detector, tmp_path, name):
    checkpoint = save_video_detector(tmp_path / "video_best.pth")
    with pytest.raises(SystemExit) as status:
        explain_clip(program, tmp_path, clips / name, checkpoint, faces="crops")
    assert status.value.code == 1


@pytest.mark.parametrize(("threshold", "verdict"), [(1e-6, "fake"), (1 - 1e-6, "real"), (None, None)])
def test_the_threshold_is_the_flags_or_the_trainings(program, clips, save_video_detector, tmp_path, threshold, verdict):
    checkpoint = save_video_detector(tmp_path / "video_best.pth")
    row = explain_clip(program, tmp_path, clips / "17.png", checkpoint, faces="crops", threshold=threshold)
    assert float(row["threshold"]) == (threshold or 0.5)
    assert verdict in (None, row["fake_verdict"])


def test_a_video_is_scored_by_the_checkpoint_in_models(program, clips, save_video_detector, tmp_path, monkeypatch):
    """And explained below outputs/videos."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"models/ has no deepfake_video\*_best\.pth\. Train one with script_8"):
        program["main"](program["ExplainConfig"](sources=(clips / "0.mp4",)))
    save_video_detector(tmp_path / "models" / "deepfake_video_best.pth")
    program["main"](program["ExplainConfig"](sources=(clips / "0.mp4",), faces="centre"))
    assert (tmp_path / "outputs" / "videos" / "0.mp4" / "timeline.png").exists()


def test_without_a_network_for_videos_the_images_of_a_folder_are_explained(
    program, forged, tmp_path, monkeypatch, capsys
):
    """Those of its subfolders too; with one, subfolders are clips of frames."""
    folder = tmp_path / "paper"
    (folder / "figures").mkdir(parents=True)
    shutil.copy(forged[0], folder / "figures" / "one.png")
    monkeypatch.chdir(tmp_path)
    config = program["ExplainConfig"](sources=(folder,), output=tmp_path / "out")
    assert config.subject == "copy-moves"
    (folder / "movie.mp4").touch()
    program["main"](config)
    said = capsys.readouterr().out
    assert "1 image: reuse in 1" in said and "note: 1 video is left out" in said
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "deepfake_video_best.pth").touch()
    assert config.subject == "videos"
    (folder / "movie.mp4").unlink()
    assert config.subject == "videos"
    shutil.copy(forged[0], folder / "two.png")
    assert config.subject == "copy-moves"


def test_a_folder_of_neither_images_nor_videos_is_named(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"notes holds no images, PDFs or videos\. Name another folder"):
        program["main"](program["ExplainConfig"](sources=(tmp_path / "notes",)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoint": Path("none.pth")}, "none.pth does not exist. Train it with script_8"),
        ({"faces": "yunet"}, "yunet"),
        ({"faces": "boxes", "boxes": Path("none.csv")}, "none.csv can't be read"),
    ],
)
def test_a_wrong_detector_of_videos_is_one_message(program, clips, save_video_detector, tmp_path, fields, message):
    fields = {"checkpoint": save_video_detector(tmp_path / "video_best.pth")} | fields
    with pytest.raises(UserError, match=message):
        explain_clip(program, tmp_path, clips / "0.mp4", **fields)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def flagging(save_network, tmp_path_factory):
    """A folder with a network that takes every pixel for forged."""
    folder = tmp_path_factory.mktemp("flagging")
    save_network(folder / "highres_no_ela_best.pth", logit=5)
    return folder


def test_altered_regions_are_listed_and_outlined(call_program, flagging, tmp_path):
    texture = np.random.default_rng(0).integers(90, 160, (200, 260, 3), dtype=np.uint8)
    Image.fromarray(texture).save(tmp_path / "picture.png")
    output = tmp_path / "out.png"
    flags = ("explain.py", tmp_path / "picture.png", "--output", output)
    plain = call_program(*flags)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout == f"no copy-move found\n\npicture: {output}\n"
    done = call_program(*flags, "--altered", "--models-dir", flagging)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no copy-move found; 1 region looks pasted, filled or redrawn\n")
    assert f"altered regions: networks of {flagging} (highres_no_ela)" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| 1 ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == ["0.99", "130, 100", "1e+02 %"]
    red = np.abs(read(output) - np.array([255, 90, 90])).max(axis=2) < 30
    assert red.sum() > 300


def test_altered_regions_of_many_have_rows_of_their_own(call_program, flagging, tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(90, 160, (200, 260, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
    done = call_program(
        *("explain.py", tmp_path / "in", "--output", tmp_path / "out", "--altered", "--models-dir", flagging)
    )
    assert done.returncode == 0, done.stderr
    assert "2 images: reuse in 0, altered regions in 2, nothing in 0" in done.stdout
    with (tmp_path / "out" / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["relation"], row["x"], row["y"]) for row in rows] == [
        ("a.png", "altered", "130", "100"),
        ("b.png", "altered", "130", "100"),
    ]
    assert all((tmp_path / "out" / row["picture"]).is_file() for row in rows)


def test_a_missing_folder_of_networks_is_named(call_program, forged, tmp_path):
    done = call_program("explain.py", forged[0], "--altered", "--models-dir", tmp_path / "other_models")
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: --models-dir {tmp_path / 'other_models'} is no folder. Name the folder of the networks.\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_images_of_any_name_are_explained(call_program, copied_images, tmp_path):
    """None is lost, and none of their bytes moves a cursor, begins a formula or breaks a line."""
    folder, still = tmp_path / "in", np.full((40, 60, 3), 90, np.uint8)
    folder.mkdir()
    names = [
        r"$\frac$.png",
        "=cmd()+$x.png",
        "a\nb.png",
        "\x1b[31m\r.png",
        os.fsdecode(b"caf\xe9.png"),
        "<b>|![](x).png",
    ]
    for name in names:
        image = copied_images[1] if name == names[1] else still
        (folder / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "@broken\x07\n.png").write_bytes(b"none")
    done = call_program("explain.py", folder, "--output", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert not re.search(r"[\x07\x1b\r\udc80-\udcff]", done.stdout + done.stderr)
    assert r"unreadable: @broken\x07\n.png: " in done.stderr
    content = (tmp_path / "out" / "findings.csv").read_text()
    rows = list(csv.DictReader(content.splitlines()))
    assert [row["relation"] for row in rows] == ["reuse", "unreadable"] + ["none"] * 5
    assert rows[0]["image"] == "'=cmd()+$x.png" and (tmp_path / "out" / rows[0]["picture"].lstrip("'")).is_file()
    assert rows[1]["image"] == r"'@broken\x07\n.png"
    shown = {r"$\frac$.png", r"a\nb.png", r"\x1b[31m\r.png", r"caf\xe9.png", "<b>|![](x).png"}
    assert {row["image"] for row in rows[2:]} == shown
    (alone,) = [path for path in folder.iterdir() if b"caf" in os.fsencode(path)]
    one = call_program("explain.py", alone, "--output", folder / "\x1b[1mfound.png")
    assert one.returncode == 0 and r"picture: " in one.stdout and "\x1b" not in one.stdout
    (folder / r"a\nb.png").write_bytes(b"none")
    done = call_program("explain.py", folder, "--output", tmp_path / "out")
    assert done.returncode == 1 and "would have one name in the table" in done.stderr

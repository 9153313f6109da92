"""What is written of clips: figures, pictures, an annotated video, and a table in which no file is missing."""

import csv
import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.video import load_video_detector, predict_folder
from common.video.files import open_video, read_frames, write_video
from common.video.report import COLUMNS, write_clip_results

CPU = torch.device("cpu")
N, RATE, SIDE, SPEED = 24, 10.0, 60, 6


def box_in(frame):
    """Of the face that moves to the right."""
    return 20 + SPEED * frame, 120, 20 + SPEED * frame + SIDE, 120 + SIDE


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """24 grey frames, 240×320, ten a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    noise = np.random.default_rng(0).integers(100, 130, (240, 320, 3), dtype=np.uint8)
    write_video(path, [noise] * N, RATE)
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Six grey frames, 64×96, ten a second."""
    path = tmp_path_factory.mktemp("short") / "clip.mp4"
    write_video(path, [np.full((64, 96, 3), 110, np.uint8)] * 6, RATE)
    return path


@pytest.fixture(scope="module")
def checkpoint(save_video_detector, tmp_path_factory):
    return save_video_detector(tmp_path_factory.mktemp("models") / "deepfake_video_best.pth")


@pytest.fixture(scope="module")
def score(checkpoint, clip, tmp_path_factory):
    """Of a clip in which one face moves all the time and another one, in the corner, is there at the beginning."""
    table = tmp_path_factory.mktemp("boxes") / "boxes.csv"
    rows = [(n, *box_in(n)) for n in range(N) if n != 9]  # one of those that are sampled
    rows += [(n, 230, 60, 290, 110) for n in range(10)]
    lines = [",".join(map(str, (clip.name, *row))) for row in rows]
    table.write_text("\n".join(["file,frame,left,top,right,bottom", *lines]))
    detector = load_video_detector(checkpoint, CPU, faces="boxes", boxes=table, min_coverage=0.6)
    found = detector.predict(clip)
    assert found.track is found.tracks[0]
    # Maps that are known: in each frame its right half.
    heatmaps = np.zeros_like(found.track.heatmaps)
    heatmaps[..., 14:] = 1
    track = replace(found.track, heatmaps=heatmaps)
    return replace(found, track=track, tracks=(track, *found.tracks[1:]))


@pytest.fixture(scope="module")
def report(score, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "clip.mp4"
    write_clip_results(score, folder)
    return folder


@pytest.fixture
def detector(checkpoint):
    return load_video_detector(checkpoint, CPU, faces="crops")


def table_of(folder):
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def test_the_result_has_the_figures_of_the_score(report, score, clip):
    result = json.loads((report / "result.json").read_text())
    assert result["file"] == str(clip)
    assert (result["probability"], result["verdict"]) == (round(score.probability, 6), score.verdict)
    assert (result["threshold"], result["checkpoint"]) == (0.5, score.checkpoint)
    assert (result["n_frames"], result["width"], result["height"], result["rotation"]) == (N, 320, 240, 0)
    assert (result["duration_s"], result["frame_rate"]) == pytest.approx((2.4, 10.0))
    assert result["warnings"] == list(score.warnings) and "2 faces" in result["warnings"][0]
    # In the sampled frame in which the moving face was missed, the other one was found.
    assert (result["track"], result["coverage"]) == (score.track.number, 1)
    assert result["heat_outside"] == round(score.track.heat_outside, 4) > 0
    assert [track["track"] for track in result["tracks"]] == [1, 2]
    for track, own in zip(result["tracks"], score.tracks, strict=True):
        assert (track["probability"], track["coverage"]) == (round(own.probability, 6), round(own.faces.coverage, 4))
        for name, values in {
            "index": own.faces.indices, "time": own.faces.times.round(3), "score": own.frame_scores.round(6),
            "box": own.faces.boxes.round(1), "face_found": own.faces.found,
        }.items():  # fmt: skip
            np.testing.assert_array_equal([frame[name] for frame in track["frames"]], values)
    moving = result["tracks"][0]["frames"]
    # The sampled frame without a box in the table has one between its neighbours'.
    assert sum(not frame["face_found"] for frame in moving) == 1
    for frame in moving:
        assert frame["box"] == pytest.approx(box_in(frame["index"]))


def test_heatmaps_are_those_of_the_deciding_face(report, score):
    with np.load(report / "heatmaps.npz") as saved:
        assert score.track.number == 1
        np.testing.assert_array_equal(saved["heatmaps"], score.track.heatmaps)
        assert saved["heatmaps"].shape == (6, 28, 28)
        for name in ("indices", "times", "boxes", "found"):
            np.testing.assert_array_equal(saved[name], getattr(score.track.faces, name))
        np.testing.assert_array_equal(saved["areas"], score.track.faces.areas)


def test_pictures_are_there_and_nothing_else(report):
    assert {path.name for path in report.iterdir()} == {
        *("result.json", "contact_sheet.png", "timeline.png", "annotated.mp4", "heatmaps.npz")
    }
    for name in ("contact_sheet.png", "timeline.png"):
        with Image.open(report / name) as picture:
            assert min(picture.size) > 300


def test_the_annotated_video_is_the_whole_clip_with_boxes_that_follow_the_faces(report, score):
    """A box's colour has black on both sides; the clip has none."""
    video = open_video(report / "annotated.mp4")
    assert (len(video.times), video.width, video.height) == (N, 320, 240)
    assert video.fps == pytest.approx(RATE)
    sampled = score.faces.indices
    for frame in read_frames(video, range(N)):
        dark = frame.image.max(axis=2) < 75
        # Beyond the outermost sampled frames it rests.
        left, top, right, bottom = box_in(min(max(frame.index, sampled[0]), sampled[-1]))
        sides = dark[top + 10 : bottom - 10]
        for edge in (left, right):
            assert sides[:, edge - 3 : edge + 4].any(axis=1).mean() > 0.95
        assert not sides[:, left + 6 : right - 5].any()
        # The other face ends with the span of time that its last sampled frame stands for.
        last = score.tracks[1].faces.indices[-1]
        nearest = sampled[np.abs(sampled - frame.index).argmin()]
        assert (dark[75:95, 227:234].any(axis=1).mean() > 0.95) == (nearest <= last)


def test_heat_is_drawn_in_the_area_of_the_deciding_face_alone(report, score):
    for place in (0, 3):
        (frame,) = read_frames(open_video(report / "annotated.mp4"), [int(score.faces.indices[place])])
        warm = frame.image[..., 0].astype(int) - frame.image[..., 2] > 25
        left, _, right, bottom = score.track.faces.areas[place].round().astype(int)
        middle = (left + right) // 2
        below = slice(bottom - 4, bottom - 1)  # of the box, that is
        assert warm[below, middle + 6 : right - 6].mean() > 0.9
        assert not warm[below, : middle - 6].any() and not warm[below, right + 6 :].any()
        assert not warm[bottom + 4 :].any()


def test_a_wide_clip_is_annotated_in_a_smaller_size(detector, tmp_path):
    write_video(tmp_path / "wide.mp4", [np.full((100, 1600, 3), 90, np.uint8)] * 2, 5.0)
    write_clip_results(detector.predict(tmp_path / "wide.mp4"), tmp_path / "out")
    video = open_video(tmp_path / "out" / "annotated.mp4")
    assert (video.width, video.height, len(video.times)) == (1280, 80, 2)


def test_an_image_is_annotated_as_an_image(detector, tmp_path):
    image = np.full((90, 121, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "face.png"), image)
    write_clip_results(detector.predict(tmp_path / "face.png"), tmp_path / "out")
    annotated = cv2.imread(str(tmp_path / "out" / "annotated.png"))
    assert annotated.shape == image.shape and (annotated != image).any()
    assert not (tmp_path / "out" / "annotated.mp4").exists()
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["duration_s"] is None and result["frame_rate"] is None
    assert len(result["tracks"][0]["frames"]) == 1


@pytest.fixture
def folder(short, tmp_path):
    """Two good clips, one of frames, an image; broken ones, and what is no clip at all."""
    folder = tmp_path / "input"
    (folder / "sub" / "frames").mkdir(parents=True)
    (folder / "clip.mp4").write_bytes(short.read_bytes())
    (folder / "sub" / "clip.mp4").write_bytes(short.read_bytes())
    for number in range(3):
        cv2.imwrite(str(folder / "sub" / "frames" / f"{number}.png"), np.full((64, 64, 3), 40 * number, np.uint8))
    cv2.imwrite(str(folder / "face.jpg"), np.full((64, 64, 3), 90, np.uint8))
    (folder / "text.mp4").write_text("no video")
    (folder / "notes.txt").write_text("words")
    (folder / "sub" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / ".hidden.mp4").write_text("no video")
    return folder


GOOD = ["clip.mp4", "face.jpg", "sub/clip.mp4", "sub/frames"]
BAD = ["notes.txt", "sub/broken.png", "text.mp4"]


def test_every_file_of_a_folder_has_its_row(detector, folder, tmp_path, capsys):
    output = tmp_path / "output"
    assert predict_folder(detector, folder, output) == len(BAD)
    table = table_of(output)
    assert sorted(table) == sorted(GOOD + BAD)
    for name in GOOD:
        row, result = table[name], json.loads((output / name / "result.json").read_text())
        assert list(row) == list(COLUMNS)
        assert float(row["fake_probability"]) == pytest.approx(result["probability"], abs=1e-6)
        assert (row["fake_verdict"], row["reason"], row["error"]) == (result["verdict"], "", "")
        assert (int(row["n_frames"]), int(row["track"]), int(row["n_tracks"])) == (result["n_frames"], 1, 1)
        assert row["warnings"] == "; ".join(result["warnings"])
    assert float(table["clip.mp4"]["duration_s"]) == pytest.approx(0.6)
    assert table["face.jpg"]["duration_s"] == "" and "one frame only" in table["face.jpg"]["warnings"]
    for name in BAD:
        assert name.rpartition("/")[2] in table[name]["error"]
        assert {table[name][column] for column in COLUMNS if column not in ("case_id", "error")} == {""}
        assert not (output / name).exists()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(GOOD) + len(BAD)
    assert next(line for line in printed if line.startswith("text.mp4: ")).startswith("text.mp4: error: ")


def test_results_within_the_folder_are_not_scored_again(detector, short, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(short.read_bytes())
    (tmp_path / "notes.txt").write_text("words")
    for _ in range(2):
        predict_folder(detector, tmp_path, tmp_path / "results")
        assert sorted(table_of(tmp_path / "results")) == ["clip.mp4", "notes.txt"]
    assert (tmp_path / "results" / "clip.mp4" / "annotated.mp4").is_file()


def test_results_don_t_take_the_place_of_the_clips(detector, folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=r"holds clip\.mp4.*Name another folder"):
        predict_folder(detector, folder, folder)
    with pytest.raises(UserError, match=r"holds clip\.mp4"):
        predict_folder(detector, folder / "clip.mp4", folder)
    assert sorted(folder.rglob("*")) == before


def test_results_don_t_go_among_frames(detector, tmp_path):
    """Where a frame may be called like a result, and would be removed."""
    (tmp_path / "in" / "frames").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in" / "frames" / "timeline.png"), np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(UserError, match=r"holds frames, where its results would go"):
        predict_folder(detector, tmp_path / "in", tmp_path / "in")
    assert (tmp_path / "in" / "frames" / "timeline.png").exists()


def test_what_an_earlier_run_wrote_is_gone(detector, short, tmp_path):
    folder, output = tmp_path / "input", tmp_path / "output"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(short.read_bytes())
    cv2.imwrite(str(folder / "b.png"), np.full((64, 64, 3), 90, np.uint8))
    assert predict_folder(detector, folder, output) == 0
    assert len(list(output.glob("*/*"))) == 10
    (output / "a.mp4" / "notes.txt").write_text("mine")
    (output / "a.mp4" / "annotated.png").write_text("of a run in which it was an image")
    (folder / "b.png").write_text("no image")
    assert predict_folder(detector, folder, output) == 1
    names = {"result.json", "contact_sheet.png", "timeline.png", "heatmaps.npz", "annotated.mp4", "notes.txt"}
    assert {path.name for path in (output / "a.mp4").iterdir()} == names
    assert list((output / "b.png").iterdir()) == []


def test_names_need_not_be_utf_8(detector, short, tmp_path, capsys):
    folder, output = tmp_path / "input", tmp_path / "output"
    folder.mkdir()
    names = [os.fsdecode(name) for name in (b"\xff.mp4", b"\xff.png", b"\xffbroken.mp4")]
    try:
        (folder / names[0]).write_bytes(short.read_bytes())
    except OSError:
        pytest.skip("this file system knows UTF-8 only")
    (folder / names[1]).write_bytes(cv2.imencode(".png", np.full((64, 64, 3), 90, np.uint8))[1].tobytes())
    (folder / names[2]).write_text("no video")
    (folder / "\x1b[31m\n.mp4").write_text("no video")
    assert predict_folder(detector, folder, output) == 2
    with (output / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["case_id"]: row for row in csv.DictReader(file)}
    shown = [r"\xff.mp4", r"\xff.png", r"\xffbroken.mp4", r"\x1b[31m\n.mp4"]
    assert sorted(rows) == sorted(shown)
    assert [name for name in shown if rows[name]["error"]] == shown[2:]
    assert json.loads((output / shown[0] / "result.json").read_text())["file"] == str(folder / names[0])
    printed = capsys.readouterr().out
    assert r"\xff.png: " in printed and r"\x1b[31m\n.mp4: error: " in printed and "\x1b[31m" not in printed
    (folder / r"\xff.mp4").write_bytes(short.read_bytes())
    with pytest.raises(UserError, match=r"xff\.mp4' and .*would have one name"):
        predict_folder(detector, folder, output)


@pytest.mark.parametrize(("count", "others", "hint"), [(2, 0, True), (1, 0, False), (2, 1, False)])
def test_frames_that_are_scored_one_by_one_are_noted(detector, tmp_path, capsys, count, others, hint):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((64, 64, 3), 90, np.uint8))
    for number in range(others):
        (folder / f"{number}.txt").touch()
    predict_folder(detector, folder, tmp_path / "output")
    note = f"note: each image of {folder} is scored by itself; to score them as one clip of frames, name the folder"
    assert capsys.readouterr().out.startswith(note) is hint
    assert len(table_of(tmp_path / "output")) == count + others


def test_a_single_file(detector, short, tmp_path):
    assert predict_folder(detector, short, tmp_path / "output") == 0
    assert list(table_of(tmp_path / "output")) == ["clip.mp4"]


def test_why_there_is_no_verdict_is_in_result_and_table(save_video_detector, short, tmp_path):
    path = save_video_detector(tmp_path / "stills.pth", stills_only=True)
    predict_folder(load_video_detector(path, CPU, faces="crops"), short, tmp_path / "output")
    row, result = (
        table_of(tmp_path / "output")["clip.mp4"],
        json.loads((tmp_path / "output/clip.mp4/result.json").read_text()),
    )
    assert row["fake_verdict"] == result["verdict"] == "inconclusive"
    for said in (row["reason"], result["reason"]):
        assert said.startswith("the network was trained or calibrated on single images")


def test_a_score_without_heatmaps_has_no_pictures(detector, short, tmp_path):
    with pytest.raises(ValueError, match=r"clip\.mp4 was scored without heatmaps"):
        write_clip_results(detector.predict(short, explain=False), tmp_path / "output")


@pytest.mark.parametrize(("threshold", "verdict"), [(1e-6, "fake"), (1 - 1e-6, "real"), (None, None)])
def test_the_threshold_is_in_the_table(checkpoint, folder, tmp_path, threshold, verdict):
    detector = load_video_detector(checkpoint, CPU, faces="crops", threshold=threshold)
    assert predict_folder(detector, folder / "face.jpg", tmp_path / "output") == 0
    row = table_of(tmp_path / "output")["face.jpg"]
    assert float(row["threshold"]) == (threshold or 0.5)
    assert verdict in (None, row["fake_verdict"])


def test_nothing_to_score(detector, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no files"):
        predict_folder(detector, tmp_path / "empty", tmp_path / "output")
    with pytest.raises(UserError, match=r"nowhere does not exist\. Name a video, an image or a folder\."):
        predict_folder(detector, tmp_path / "nowhere", tmp_path / "output")
    assert not (tmp_path / "output").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"results\.csv can't be written"):
        predict_folder(detector, tmp_path, tmp_path / "file")


class BreaksAt:
    """Sees the whole frame as a face, but in one clip."""

    name = "crops"

    def __init__(self, clip_name, error):
        self.clip_name, self.error = clip_name, error

    def find(self, image, path, index):
        if path.name == self.clip_name:
            raise self.error
        return np.array([[0.0, 0.0, image.shape[1], image.shape[0], 1.0]])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (cv2.error("no size"), "error: no size"),
        (MemoryError(), "MemoryError"),
        (ValueError("no size"), "ValueError: no size"),
    ],
)
def test_whatever_one_clip_breaks_the_others_are_scored(checkpoint, folder, tmp_path, error, said):
    detector = load_video_detector(checkpoint, CPU, faces="crops")
    detector.faces = BreaksAt("face.jpg", error)
    assert predict_folder(detector, folder, tmp_path / "output") == len(BAD) + 1
    table = table_of(tmp_path / "output")
    assert sorted(name for name, row in table.items() if row["fake_verdict"]) == [n for n in GOOD if n != "face.jpg"]
    assert table["face.jpg"]["error"] == said


def test_an_interrupt_leaves_the_rows_that_are_done(checkpoint, folder, tmp_path):
    detector = load_video_detector(checkpoint, CPU, faces="crops")
    detector.faces = BreaksAt("face.jpg", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        predict_folder(detector, folder, tmp_path / "output")
    table = table_of(tmp_path / "output")
    assert list(table) == ["clip.mp4"] and table["clip.mp4"]["fake_verdict"] in ("fake", "real")

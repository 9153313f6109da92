import base64
import csv
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from common.app.cases import Case, Cases
from common.app.drawing import outline
from common.app.examining import examine
from common.app.models import load_models
from common.app.reading import Dropped
from common.app.serving import Server, case_values, summary
from common.app.working import work
from common.metrics.rle import AUTHENTIC, decode, parse_annotation


def decoded(uri):
    """The picture of a data URI, as it is stored."""
    kind, data = uri.split(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


def filled(path, shape):
    """The region inside the outline of an SVG."""
    mask = np.zeros(shape, np.uint8)
    for part in path.strip("MZ").split("ZM"):
        places = np.array([[float(x) for x in place.split()] for place in part.split("L")])
        cv2.fillPoly(mask, [np.rint(places - 0.5).astype(np.int32)], 1)
    return mask.astype(bool)


def shares(one, other):
    """Intersection over union."""
    return (one & other).sum() / (one | other).sum()


def test_a_figure_is_shown_with_its_findings_in_words(serve, forged, copied_mask):
    ask, _ = serve("page", {"cells.png": forged})
    found = ask("figure")
    np.testing.assert_array_equal(decoded(found["picture"])[..., ::-1], forged)
    (one,) = found["findings"]
    assert one["title"] == "Shown again" and not one["natural"] and one["score"] > 0.8
    assert one["sentence"] == "The upper left of the image is shown again in the lower right of the image."
    assert "points match; likeness of the pixels" in one["evidence"]
    source, target = (filled(path, forged.shape[:2]) for path in one["copies"][0])
    assert shares(source | target, copied_mask) > 0.8
    (lines,) = one["lines"]
    ends = np.floor(np.array(lines).reshape(-1, 2, 2)).astype(int)
    assert 5 < len(ends) <= 20
    # They match from inside the source to inside the copy, but for the outlines' rounding.
    assert source[ends[:, 0, 1], ends[:, 0, 0]].mean() > 0.9 and target[ends[:, 1, 1], ends[:, 1, 0]].mean() > 0.9
    assert found["views"] == ["error level", "noise"] and found["generated"] is None


def test_the_threshold_and_the_mode_change_mask_and_verdict(serve, forged):
    ask, _ = serve("page", {"cells.png": forged})
    found = ask("decision")
    assert found["forged"] and found["regions"] == 1 and found["counted"] == ["c1"]
    with Image.open(io.BytesIO(base64.b64decode(found["mask"].split(",")[1]))) as picture:
        mask = np.asarray(picture.convert("RGBA"))
    assert (mask[..., 3] > 0).sum() == found["pixels"] and "Called forged" in found["text"]
    none = ask("decision", threshold=1)
    assert not none["forged"] and none["mask"] == "" and none["pixels"] == 0 and "Called authentic" in none["text"]


def test_two_places_are_laid_over_one_another(serve, forged):
    ask, _ = serve("page", {"cells.png": forged})
    found = ask("compare", finding="c1", copy=0)
    source, laid, difference = (decoded(one["picture"]) for one in found["pictures"])
    inside = filled(found["outline"], source.shape[:2])
    assert found["flicker"] and inside.mean() > 0.05
    assert difference[inside].mean() < 20 < difference[~inside].mean()
    assert np.abs(source.astype(int) - laid)[inside].mean() < 10


@pytest.mark.parametrize("view", ["error level", "noise"])
def test_other_views_have_the_size_of_the_figure(serve, forged, view):
    ask, _ = serve("page", {"cells.png": forged})
    assert decoded(ask("view", view=view)["picture"]).shape == forged.shape


def test_the_map_of_each_network_is_shown(save_network, forged, tmp_path):
    save_network(tmp_path / "highres_no_ela_best.pth", logit=9)
    models, cases = load_models(tmp_path), Cases()
    assert "each network" not in views_of(models, cases, forged, tmp_path)[1]["views"]
    save_network(tmp_path / "high_recall_best.pth", logit=-9)
    models = load_models(tmp_path)
    ask, figure = views_of(models, cases, forged, tmp_path)
    assert figure["views"][-2:] == ["networks' map", "each network"]
    pictures = {one["name"]: decoded(one["picture"]) for one in ask("view", view="each network")["pictures"]}
    assert list(pictures) == ["highres_no_ela", "high_recall"]
    assert all(picture.shape == forged.shape for picture in pictures.values())
    assert pictures["highres_no_ela"].mean() > 150 and pictures["high_recall"].mean() < 20


def views_of(models, cases, image, folder):
    """What a page asks of a case with one figure, and what it is told of the figure."""
    server = Server(models=models, cases=cases, corrections=folder / "marks.jsonl")
    functions = {function.__name__: function for function in server.functions()}
    case = cases.open("page")
    case.figures.append(examine(image, models, file="a.png", digest="ab" * 32))
    asked = {"token": case.token, "figure": 0, "mode": "default", "threshold": 0.5}
    return (lambda name, **more: functions[name](asked | more)), functions["figure"](asked)


def test_marks_are_noted_and_can_be_taken_back(serve, forged, tmp_path):
    ask, _ = serve("page", {"cells.png": forged})
    marked = ask("mark", finding="c1", verdict="natural", reason="same blot")
    assert marked["marks"] == {"c1": {"verdict": "natural", "reason": "same blot"}}
    assert not marked["forged"] and not marked["counted"] and marked["mask"] == ""
    assert len(list((tmp_path / "kept" / "authentic").iterdir())) == 1
    back = ask("mark", finding="c1", verdict=None)
    assert back["forged"] and back["marks"] == {} and not list((tmp_path / "kept" / "authentic").iterdir())
    lines = [json.loads(line) for line in (tmp_path / "marks.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["natural", None] and lines[0]["file"] == "cells.png"


def test_what_is_handed_over(serve, forged, copied_mask):
    ask, _ = serve("page", {"=cells.png": forged})

    def file(kind):
        found = ask("download", kind=kind)
        return found["name"], base64.b64decode(found["data"])

    name, data = file("mask")
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert name == "=cells_mask.png" and mask.shape == forged.shape[:2] and set(np.unique(mask)) == {0, 255}
    _, data = file("row")
    head, row = csv.reader(io.StringIO(data.decode()))
    assert head == ["case_id", "annotation"] and row[0] == "=cells"
    np.testing.assert_array_equal(parse_annotation(row[1], *mask.shape).any(axis=0), mask > 0)
    _, data = file("json")
    (figure,) = json.loads(data)["figures"]
    assert figure["annotation"] == row[1] and figure["findings"][0]["counted"]
    regions = [parse_annotation(str(runs), *mask.shape)[0] for runs in figure["findings"][0]["regions"]]
    assert shares(np.any(regions, axis=0), mask > 0) > 0.9
    _, data = file("report")
    assert b"1 finding to look at" in data and b"is shown again" in data and b"<script" not in data
    ask("mark", finding="c1", verdict="wrong")
    assert file("row")[1].decode().splitlines()[1] == f"=cells,{AUTHENTIC}"
    assert b"<dt>A reviewer says</dt>\n<dd>wrong</dd>" in file("report")[1]


def test_figures_of_one_drop_are_compared(serve, copied_images, tmp_path):
    """The second figure shows a part of the first one's."""
    one, other = copied_images[0], copied_images[2].copy()
    other[60:160, 90:230] = one[30:130, 20:160]
    ask, case = serve("page", {"one.png": one, "other.png": other})
    assert list(case.shared) == ["x1"]
    for place, window in enumerate((np.s_[30:130, 20:160], np.s_[60:160, 90:230])):
        (found,) = ask("figure", figure=place)["findings"]
        assert found["between"] and "of one.png" in found["sentence"] and "of other.png" in found["sentence"]
        drawn, truth = filled(found["copies"][0][0], one.shape[:2]), np.zeros(one.shape[:2], bool)
        truth[window] = True
        assert shares(drawn, truth) > 0.7
        assert len(ask("compare", figure=place, finding="x1")["pictures"]) == 3
        assert ask("decision", figure=place)["counted"] == []
    assert b"one.png" in base64.b64decode(ask("download", kind="report")["data"])
    (shared,) = json.loads(base64.b64decode(ask("download", kind="json")["data"]))["between_figures"]
    assert shared["figures"] == [0, 1] and shared["verdict"] is None
    # What is said of it is said of it in both figures, and kept with its regions in both.
    assert ask("mark", figure=1, finding="x1", verdict="right")["marks"] == {"x1": {"verdict": "right", "reason": ""}}
    assert ask("decision", figure=0)["marks"] == {"x1": {"verdict": "right", "reason": ""}}
    line = json.loads((tmp_path / "marks.jsonl").read_text())
    assert (line["file"], line["other_file"], line["verdict"]) == ("one.png", "other.png", "right")
    assert line["sha256"] != line["other_sha256"] and (line["other_width"], line["other_height"]) == other.shape[1::-1]
    for runs, window in zip(line["regions"], (np.s_[30:130, 20:160], np.s_[60:160, 90:230]), strict=True):
        truth = np.zeros(one.shape[:2], bool)
        truth[window] = True
        assert shares(decode(runs, *truth.shape), truth) > 0.7
    (shared,) = json.loads(base64.b64decode(ask("download", kind="json", threshold=1)["data"]))["between_figures"]
    assert shared["verdict"] == "right"
    assert b"<dt>A reviewer says</dt>\n<dd>right</dd>" in base64.b64decode(ask("download", kind="report")["data"])
    assert ask("mark", finding="x1", verdict=None)["marks"] == {}
    assert len((tmp_path / "marks.jsonl").read_text().splitlines()) == 2
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def test_another_page_sees_nothing_and_questions_are_checked(serve, forged, copied_images):
    ask, _ = serve("one", {"cells.png": forged})
    other, _ = serve("two", {"quiet.png": copied_images[0]})
    assert other("figure")["name"] == "quiet.png" and other("figure")["findings"] == []
    assert "Drop it again" in ask("figure", token="x")["error"]
    for name, more in (
        ("figure", {"figure": 1}),
        ("figure", {"figure": -1}),
        ("figure", {"figure": "0"}),
        ("decision", {"mode": "bold"}),
        ("decision", {"threshold": 2}),
        ("compare", {"finding": "c9"}),
        ("compare", {"finding": ["c1"], "copy": 0}),
        ("compare", {"finding": "c1", "copy": 9}),
        ("view", {"view": "networks' map"}),
        ("mark", {"finding": "c9", "verdict": "right"}),
        ("mark", {"finding": "x1", "verdict": "right"}),
        ("mark", {"finding": "c1", "verdict": "maybe"}),
        ("mark", {"finding": "c1", "verdict": "natural", "reason": "<b>"}),
        ("download", {"kind": "all"}),
    ):
        assert set(ask(name, **more)) == {"error"}, (name, more)
    assert not serve.server.corrections.exists()


def test_a_clip_is_scored_with_its_timeline(save_video_detector, tmp_path):
    save_video_detector(tmp_path / "deepfake_video_best.pth")
    models, case = load_models(tmp_path), Case()
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 96))
    for frame in np.random.default_rng(0).integers(0, 256, (12, 96, 96, 3), dtype=np.uint8):
        writer.write(frame)
    writer.release()
    # A hidden file too: browsers upload any name.
    (tmp_path / "clip.avi").rename(tmp_path / ".clip.avi")
    assert list(work([Dropped(tmp_path / ".clip.avi", "clip.avi")], models, case)) and not case.unread
    (clip,) = summary(case, models)["clips"]
    assert clip["name"] == "clip.avi" and clip["verdict"] in ("fake", "real", "inconclusive")
    assert decoded(clip["timeline"]).shape[1] > 500 and decoded(clip["contact_sheet"]).size
    (values,) = case_values(case, models, "default", 0.5)["clips"]
    assert values["probability"] == clip["probability"] and 0 < values["probability"] < 1
    # Of one that can't be scored the reason names the file, and not where it lies on the server.
    (tmp_path / "0.avi").write_bytes(b"nothing")
    assert list(work([Dropped(tmp_path / "0.avi", "holiday.avi")], models, case))
    (unread,) = case.unread
    assert unread.file == "holiday.avi" and "holiday.avi" in unread.text and str(tmp_path) not in unread.text


def test_without_a_network_of_script_8_a_clip_is_named(copies_alone, tmp_path):
    case = Case()
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    list(work([Dropped(tmp_path / "clip.mp4", "clip.mp4")], copies_alone, case))
    assert "script_8_deepfake_video.py" in summary(case, copies_alone)["unread"][0]["text"]


def test_a_network_of_script_7_gives_probability_and_attention(save_detector, forged, tmp_path):
    save_detector(tmp_path / "spai_best.pth")
    models, cases = load_models(tmp_path), Cases()
    server = Server(models=models, cases=cases, corrections=tmp_path / "marks.jsonl")
    ask = {function.__name__: function for function in server.functions()}
    case = cases.open("page")
    case.figures.append(examine(forged, models, file="a.png", digest="ab" * 32))
    asked = {"token": case.token, "figure": 0, "mode": "default", "threshold": 0.5}
    figure = ask["figure"](asked)
    assert figure["views"][-1] == "generated" and 0 < figure["generated"]["probability"] < 1
    found = ask["view"](asked | {"view": "generated"})
    assert decoded(found["sheet"]).shape[1] > 500 and "probability that it is generated" in found["text"]
    (values,) = case_values(case, models, "default", 0.5)["figures"]
    assert values["generated_probability"] == pytest.approx(figure["generated"]["probability"], abs=1e-4)


def test_an_outline_is_that_of_the_region():
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:50] = True
    mask[10:20, 20:30] = False
    assert (filled(outline(mask), mask.shape) | mask == filled(outline(mask), mask.shape)).all()
    assert outline(mask).count("M") == 2
    assert outline(np.ones((2, 3), bool), (100, 200), 10).startswith("M105.0 205.0")

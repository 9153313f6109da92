import base64
import io
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pypdfium2
import pytest
from PIL import Image

from common import html
from common.errors import UserError
from common.evaluation import report
from common.evaluation.report import MOST_EXAMPLES, choose_examples, tables, write_report
from common.evaluation.scoring import read_submission, score_submission, with_probabilities

HOSTILE = (
    r"$\frac$ {|}",
    "![](http://x)<script>alert(1)</script>",
    "=1+1",
    "\" onerror='alert(1)' x=\"",
    "{{ 7 * 7 }}{% include 'x' %}",
    "</bdi></style><img src=http://example.org/x.png>",
    "\x1b[31m\n",
    "photo\u202egnp",
    "&amp;&lt;",
)


class Page(HTMLParser):
    """What a page of an evaluation holds; it fails where a browser would run or load anything."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.names, self.plots, self.pictures, self.cells, self.headings = [], [], [], [], [], []
        self._open, self._texts = [], {"body": []}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join("".join(self._texts["body"]).split())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        known = {"lang", "charset", "http-equiv", "content", "name", "class", "src", "alt"}
        assert given.keys() <= known and tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "a")
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self._open.append(tag)
        if tag in ("bdi", "td", "h3"):
            self._texts[tag] = []
        if tag == "tr":
            self.cells.append([])
        if tag == "img":
            kind, data = given["src"].split(";base64,")
            data = base64.b64decode(data, validate=True)
            if kind == "data:image/svg+xml":
                self.plots.append(given["alt"])
                assert b"<image" not in data and b"<script" not in data
            else:
                assert kind == "data:image/jpeg"
                self.pictures.append(np.asarray(Image.open(io.BytesIO(data)), np.int16))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("bdi", "td", "h3"):
            text = "".join(self._texts.pop(tag))
            if tag == "bdi":
                self.names.append(text)
            else:
                (self.cells[-1] if tag == "td" else self.headings).append(" ".join(text.split()))

    def handle_data(self, data):
        if "body" in self._open:
            for parts in self._texts.values():
                parts.append(data)


def write_csv(path, rows):
    path.write_text("\n".join(["case_id,annotation", *(f'{case_id},"{text}"' for case_id, text in rows)]) + "\n")
    return path


@pytest.fixture
def evaluated(tmp_path):
    """A hit, a miss and a false alarm with maps, on 40 × 60 images of which `c` has no file."""
    for name in ("test_masks", "test_images", "maps"):
        (tmp_path / name).mkdir()
    mask = np.zeros((1, 40, 60), np.uint8)
    mask[0, :20, :30] = 1
    for case_id in "ab":
        np.save(tmp_path / "test_masks" / f"{case_id}.npy", mask)
        Image.new("RGB", (60, 40), "white").save(tmp_path / "test_images" / f"{case_id}.png")
    for case_id, level in {"a": 0.9, "b": 0.2, "c": 0.3}.items():
        np.save(tmp_path / "maps" / f"{case_id}.npy", (mask[0] * level).astype(np.float16))
    half = ", ".join(f"{40 * column + 1}, 20" for column in range(30))
    submission = write_csv(tmp_path / "s.csv", [("a", f"[{half}]"), ("b", "authentic"), ("c", "[1, 50]")])
    submission = read_submission(submission, tmp_path / "test_masks", tmp_path / "maps")
    return tmp_path, submission, score_submission(submission)


def test_tables_show_the_figures(evaluated):
    text = tables(evaluated[2])
    cells = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in text.splitlines() if row.count("|") == 3}
    assert cells["oF1"] == cells["oF1 of all-authentic"] == "0.3333"
    assert cells["lift over all-authentic"] == "+0.0000"
    assert cells["image FPR"] == "1.0000"
    assert cells["image AUC of the maps' 99.9 % quantile"] == "0.5000"
    assert "| xlarge          |      2 | 0.5000 |" in text
    assert "tiny" not in text


def write_scores(path, probabilities, counts, threshold=0.65):
    rows = [f"{case_id},image,{p},{threshold},{counts[case_id]}" for case_id, p in probabilities.items()]
    path.write_text("\n".join(["case_id,kind,forged_probability,threshold,n_instances", *rows]) + "\n")
    return path


def test_the_page_of_a_report(evaluated):
    folder, submission, evaluation = evaluated
    images = {case_id: folder / "test_images" / f"{case_id}.png" for case_id in "ab"}
    scores = write_scores(folder / "scores.csv", {"a": 0.9, "b": 0.2, "c": 0.7}, {"a": 1, "b": 0, "c": 1})
    evaluation = with_probabilities(evaluation, scores)
    path = write_report(folder / "deep" / "report", evaluation, submission, images, {"Submission": folder / "s.csv"})
    assert path == folder / "deep" / "report" / "report.html"
    assert {entry.name for entry in path.parent.iterdir()} == {"report.html", "images.csv"}
    page = Page(path)
    assert "oF1 0.3333, where calling every image authentic scores 0.3333: a lift of +0.0000." in page.text
    assert (
        "2 images are forged, of which 50.0 % were called forged; 1 is authentic, of which 100.0 % were." in page.text
    )
    assert page.names[0] == str(folder / "s.csv")
    assert ["image FPR", "1.0000"] in page.cells
    assert ["xlarge", "2", "0.5000", "0.5000", "0.5000", "0.5000", "1.0000", "1.0000"] in page.cells
    # At 0.80 the false alarm is gone.
    assert ["high-precision", "0.80", "1.0000", "0.5000", "0.0000", "0.6667"] in page.cells
    assert ["default (this submission)", "0.65", "0.5000", "0.5000", "1.0000", "0.3333"] in page.cells
    assert ["max-recall", "0.55", "0.5000", "0.5000", "1.0000", "–"] in page.cells
    assert [text.split()[0] for text in page.plots] == ["What", "Threshold", "Are", "Are", "Share"]
    rows = pd.read_csv(path.parent / "images.csv", keep_default_na=False, na_values=[""])
    assert rows["of1"].tolist() == [1, 0, 0] and rows["probability"].tolist() == [0.9, 0.2, 0.7]
    # The largest error first; of two that are quite wrong, the one that the probability is more certain of.
    assert page.headings == ["b missed", "c false alarm", "a found"]
    assert "Error 1.00 · probability that it is forged 0.20 · pixel F1 0.00 · xlarge, 25 % of the image" in page.text
    assert "Error 1.00 · probability that it is forged 0.70 · authentic, 1 region marked" in page.text
    # Image, truth, prediction, map of each. Truth is blue, prediction orange.
    assert [picture.shape for picture in page.pictures] == [(320, 480, 3)] * 12
    cooler = [(picture[..., 2] - picture[..., 0]).clip(-60, 60) for picture in page.pictures]
    blue, orange = ([(sign * tone >= 60).mean() for tone in cooler] for sign in (1, -1))
    assert blue[1] > 0.1 and blue[9] > 0.1 and max(blue[0], blue[2], blue[5], blue[6], blue[10]) < 0.05
    assert orange[10] > 0.1 and orange[6] > 0.01 and max(orange[0], orange[1], orange[9]) < 0.01


def test_a_report_without_maps_probabilities_and_images(evaluated):
    folder, _, _ = evaluated
    submission = read_submission(folder / "s.csv", folder / "test_masks")
    page = Page(write_report(folder / "report", score_submission(submission), submission, {}, {}))
    assert len(page.plots) == 1 and len(page.pictures) == 6 and "AUC" not in page.text
    assert "Not known: the probabilities of the images are in scores.csv" in page.text
    assert "No picture: its file is not known (--images)" in page.text  # of `c`, which has no mask either


@pytest.mark.parametrize("rows", [[("c", "authentic")], [("c", "[1, 50]"), ("d", "authentic")]])
def test_a_report_without_forged_images(tmp_path, rows):
    (tmp_path / "masks").mkdir()
    submission = read_submission(write_csv(tmp_path / "s.csv", rows), tmp_path / "masks")
    scores = write_scores(tmp_path / "scores.csv", {"c": 0.7}, {"c": int(rows[0][1] != "authentic")})
    evaluation = with_probabilities(score_submission(submission), scores)
    page = Page(write_report(tmp_path / "report", evaluation, submission, {}, {}))
    assert "No image is forged." in page.text and "nan" not in page.text
    assert len(page.headings) == len(rows) - 1


def test_a_large_gallery_is_a_choice(tmp_path):
    (tmp_path / "masks").mkdir()
    rows = [(str(number), "[1, 50]") for number in range(60)]
    submission = read_submission(write_csv(tmp_path / "s.csv", rows), tmp_path / "masks")
    page = Page(write_report(tmp_path / "report", score_submission(submission), submission, {}, {}))
    assert len(page.headings) == MOST_EXAMPLES
    assert f"{MOST_EXAMPLES} of the 60 images that are forged or were called so" in page.text


def test_an_image_of_another_size_is_named(evaluated):
    folder, submission, evaluation = evaluated
    Image.new("RGB", (30, 30)).save(folder / "test_images" / "a.png")
    with pytest.raises(UserError, match=r"a\.png is 30×30, the mask .*a\.npy 40×60"):
        write_report(folder / "report", evaluation, submission, {"a": folder / "test_images" / "a.png"}, {})
    assert not (folder / "report" / "report.html").exists()


def write_turned(path):
    """A black image, 40 × 60 as stored with its top left 20 × 20 white; viewers turn it clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :20] = 255
    Image.fromarray(pixels).save(path, exif=exif)
    return {path.stem: path}


@pytest.mark.parametrize("upright", [False, True])
def test_pictures_are_those_that_the_masks_refer_to(tmp_path, upright):
    (tmp_path / "masks").mkdir()
    mask = np.zeros((60, 40) if upright else (40, 60), np.uint8)
    mask[:20, :20] = 1
    np.save(tmp_path / "masks" / "x.npy", mask[None])
    images = write_turned(tmp_path / "x.png")
    submission = read_submission(write_csv(tmp_path / "s.csv", [("x", "authentic")]), tmp_path / "masks")
    evaluation = score_submission(submission)
    page = Page(write_report(tmp_path / "report", evaluation, submission, images, {}, upright=upright))
    picture = page.pictures[0]
    assert picture.shape == ((480, 320, 3) if upright else (320, 480, 3))
    corners = picture[40:120, 40:120].mean(), picture[40:120, -120:-40].mean()
    assert corners == pytest.approx((0, 255) if upright else (255, 0), abs=9)
    remedy = "as its EXIF orientation turns it: add" if upright else "as it is stored: leave out"
    with pytest.raises(UserError, match=rf"x\.png is .*It has that size {remedy} --masks-are-upright"):
        write_report(tmp_path / "report", evaluation, submission, images, {}, upright=not upright)


def test_a_map_of_an_authentic_image_has_its_size_too(evaluated):
    folder, submission, evaluation = evaluated
    images = write_turned(folder / "test_images" / "c.png")
    write_report(folder / "report", evaluation, submission, images, {})
    with pytest.raises(UserError, match=r"c\.png is 60×40, the map .*c\.npy 40×60 .* leave out --masks-are-upright"):
        write_report(folder / "report", evaluation, submission, images, {}, upright=True)


def test_a_region_that_leaves_an_authentic_image_is_named_by_its_row(tmp_path):
    (tmp_path / "masks").mkdir()
    submission = write_csv(tmp_path / "s.csv", [("a", "authentic"), ("b", "[2300, 102]")])
    submission = read_submission(submission, tmp_path / "masks")
    evaluation = score_submission(submission)  # without a mask the size is not known
    with pytest.raises(UserError, match=r"s\.csv, line 3 \(case_id b\): .* ends at 2401, outside .* Fix the row"):
        write_report(tmp_path / "report", evaluation, submission, write_turned(tmp_path / "b.png"), {})


def test_chosen_examples_are_a_mix():
    found = [(f"hit{i}", "large", 0.1, 1, 1, 1 - i / 100) for i in range(20)]
    found.append(("hit_tiny", "tiny", 0.001, 1, 1, 0.6))
    rows = [*found, ("poor", "small", 0.01, 1, 2, 0.2), ("miss", "tiny", 0.001, 1, 0, 0.0)]
    rows += [("alarm", "authentic", 0.0, 0, 1, 0.0), ("right", "authentic", 0.0, 0, 0, 1.0)]
    table = pd.DataFrame(rows, columns=["case_id", "size", "area_share", "n_truth", "n_predicted", "of1"])
    chosen = choose_examples(table.assign(probability=math.nan), 8)
    assert [verdict for _, verdict in chosen] == ["hit"] * 5 + ["poor hit", "miss", "false alarm"]
    assert [case_id for case_id, _ in chosen[:3]] == ["hit0", "hit_tiny", "hit1"]


def test_threshold_is_one_for_the_whole_set(evaluated):
    evaluation = evaluated[2]
    # Map `a` is right up to 0.9, map `b` up to 0.2: together only thresholds up to 0.2 serve both.
    assert evaluation.threshold == float(np.float16(0.2))
    assert math.isclose(evaluation.curves["xlarge"].max(), 2)


def hostile(folder, submission):
    """A page whose case ids, kinds and files have hostile names."""
    rows = [replace(row, case_id=HOSTILE[place], kind=HOSTILE[place + 4]) for place, row in enumerate(submission)]
    files = {"Submission": Path(HOSTILE[5]), "Truth": Path("caf\udce9")}
    return write_report(folder / "report", score_submission(rows), rows, {}, files)


def test_names_and_kinds_stay_texts(evaluated, monkeypatch):
    """No markup, no template, no formula."""
    folder, submission, evaluation = evaluated
    plain = Page(write_report(folder / "plain", evaluation, submission, {}, {}))
    # All names in turn, in both classes.
    many = [replace(submission[place % 2 * 2], case_id=name, kind=name) for place, name in enumerate(HOSTILE)]
    path = write_report(folder / "report", score_submission(many), many, {}, dict(enumerate([*HOSTILE, "caf\udce9"])))
    content = path.read_bytes()
    assert not set(content) & {*range(9), *range(11, 32), 127} and "\u202e" not in content.decode()
    page = Page(path)
    assert set(page.tags) == set(plain.tags)
    shown = [*HOSTILE[:6], r"\x1b[31m\n", r"photo\u202egnp", "&amp;&lt;"]
    # In the head and the gallery; kinds of forged images in the gallery and two tables too.
    assert [page.names.count(name) for name in shown] == [5, 2, 5, 2, 5, 2, 5, 2, 5]
    assert page.names.count(r"caf\xe9") == 1
    table = pd.read_csv(path.parent / "images.csv", keep_default_na=False)
    assert table["case_id"].tolist()[:5] == list(HOSTILE[:5])


@pytest.mark.slow
def test_a_browser_asks_nothing_of_the_network(evaluated, watched, tmp_path):
    folder, submission, _ = evaluated
    file = hostile(folder, submission)
    widths = watched.opened(file)
    watched.page.pdf(path=tmp_path / "printed.pdf", prefer_css_page_size=True)
    watched.asks_nothing(file)
    assert len(widths) == 3 + 12 and all(width > 0 for width in widths)  # the SVGs too
    with pypdfium2.PdfDocument(tmp_path / "printed.pdf") as document:
        texts = [page.get_textpage().get_text_range() for page in document]
        assert all(page.get_size() == pytest.approx((595, 842), abs=1) for page in document)
    assert "Images, the largest error first" in "".join(texts)


@pytest.mark.parametrize(
    "path", [Path(report.__file__).with_name("report.html"), Path(html.__file__).with_name("base.html")]
)
def test_the_templates_ask_for_nothing(path):
    template = path.read_text()
    assert "http" not in template.replace("http-equiv", "") and "<script" not in template and "url(" not in template
    assert "| safe" not in template and "autoescape" not in template

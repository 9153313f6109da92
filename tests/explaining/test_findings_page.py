from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest

from common.errors import UserError
from common.explaining import findings_page
from common.explaining.findings_page import Examined, Part, evidence, place_of, write_page
from common.forensics.copy_move import Copy, Group

HOSTILE = (
    "<script>alert(1)</script>.png",
    "javascript:alert(1).png",
    "\" onerror='alert(1)' x=\".png",
    "{{ 7 * 7 }}{% include 'x' %}.png",
    "</bdi></style><img src=http://example.org/x.png>.png",
    "\x1b[31m\n.png",
    "caf\udce9.png",
    "photo\u202egnp\u200f.exe",
    "&amp;&lt;.png",
)


def row(image, picture="picture.png", relation="reuse", **values):
    """A finding as `explain.py` has it."""
    found = {"image": image, "relation": relation, "score": 0.9, "picture": picture, "x": 1, "y": 2, "part": "panel C"}
    found |= {"place": "the lower left of", "pixels": 1200, "share": 3.5}
    if relation != "altered":
        found |= {"place_copy": "the upper right of", "part_copy": "panel F", "pixels_copy": 1210, "share_copy": 3.6}
        found |= {"x_copy": 3, "y_copy": 4, "rotation": 0.0, "scale": 1.0, "mirrored": 1, "copies": 1, "points": 14}
        found |= {"agreement": 0.97}
    return found | values


def quiet(image, relation="none", note=""):
    return {"image": image, "relation": relation, "score": "", "note": note}


def examined(names, **values):
    fixed = {"sources": ["paper"], "tool": "forgery-ensemble 1", "flags": "", "min_score": 0.5}
    return Examined(**fixed | {"files": dict.fromkeys(names, "ab12"), "panels": dict.fromkeys(names, 6)} | values)


@pytest.fixture
def folder(tmp_path):
    """A folder with a picture."""
    cv2.imwrite(str(tmp_path / "picture.png"), np.full((60, 90, 3), 127, np.uint8))
    return tmp_path


def test_a_finding_is_said_in_words(folder, read_page):
    rows = [
        row("a.png", mark="number 1"),
        row("b.png", rotation=-90.4, scale=1.25, mirrored=0, other_image="c.png", score=0.9999),
        row("a.png", relation="altered", part="panel B", score=0.97, mark="altered 1"),
        row("a.png", relation="same field", place="all of", place_copy="all of"),
        row("a.png", relation="enlargement", scale=0.4, place="all of"),
        row("a.png", relation="plot"),
        quiet("d.png", note="page 2 of 3"),
        quiet("e.png", "unreadable", "e.png is no image."),
    ]
    names = ["a.png", "b.png", "c.png", "d.png", "e.png"]
    state = examined(names, looked=True, networks="networks of models (x)", panels={"a.png": 6, "b.png": 1, "c.png": 2})
    write_page(folder / "report.html", rows, state)
    page = read_page(folder / "report.html")
    assert [finding["title"] for finding in page.findings] == [
        "1. Shown again score 0.90",
        "2. Shown again score over 0.99",
        "3. Looks altered score 0.97",
        "4. Same field natural, not counted",
        "5. Enlargement natural, not counted",
        "6. Plots set alike natural, not counted",
    ]
    assert [finding["sentence"] for finding in page.findings] == [
        "a.png: The lower left of panel C is shown again, mirrored left to right, in the upper right of panel F.",
        "The lower left of b.png is shown again, turned by 90° counterclockwise, 1.25 times as large, in the upper "
        "right of panel F of c.png.",
        "a.png: Networks take the lower left of panel B for pasted, filled or redrawn.",
        "a.png: All of panel C and all of panel F show one field.",
        "a.png: The upper right of panel F is shown larger as all of panel C.",
        "a.png: The lower left of panel C and the upper right of panel F are plots that are set alike.",
    ]
    text = page.findings[0]["text"]
    for said in (
        "a.png, panel C, around x 1, y 2; and panel F, around x 3, y 4 (in pixels from the left and from the top)",
        "In the picture: number 1.",
        "14 points of one place match points of the other. Likeness of the pixels: 0.97",
        "Size: 1,200 pixels (3.5 % of panel C) and 1,210 pixels (3.6 % of panel F)",
        "Looked for, and none applies by the program's rules: one field",
        "an inset that shows a part of another one larger (enlargement)",
        "Left out before comparing: letters, scale bars",
    ):
        assert said in text
    assert "One applies, by the program's rules: plots whose axes" in page.findings[5]["text"]
    assert "3 findings to look at. 3 repetitions have a natural explanation" in page.text
    assert "5 files, 3 images or figures of papers, 9 panels" in page.text
    assert "d.png (page 2 of 3)" in page.text and "e.png is no image." in page.text
    # The picture stands with the first of its findings, and the others lead there.
    assert len(page.images) == 1 and page.findings[0]["images"] == 1
    assert "Picture: see finding 1 of the same image." in page.findings[2]["text"]
    assert {link for link in page.links if link.startswith("#finding")} == {f"#finding-{n}" for n in range(1, 7)}
    assert set(page.links) <= {f"#{name}" for name in page.ids}


def test_a_page_without_findings_says_so(tmp_path, read_page):
    write_page(tmp_path / "report.html", [quiet("a.png")], examined(["a.png"], panels={"a.png": 1}))
    page = read_page(tmp_path / "report.html")
    assert "What to look at in 1 figure Nothing to look at was found. In 1 figure nothing was found." in page.text
    assert not page.findings and not page.images
    assert "What this tool cannot see" in page.text and "Nothing looked for them in this run" in page.text


def test_names_are_text_whatever_they_hold(folder, read_page):
    rows = [row(name, other_image=name, part=f"panel {name}", note=name, kinds=name) for name in HOSTILE]
    rows += [quiet(name) for name in HOSTILE] + [quiet(name, "unreadable", name) for name in HOSTILE]
    state = {"sources": HOSTILE, "flags": HOSTILE[0], "tool": HOSTILE[0], "networks": HOSTILE[0], "library": HOSTILE[0]}
    write_page(folder / "report.html", rows, examined(HOSTILE, **state))
    content = (folder / "report.html").read_bytes()
    assert not set(content) & {*range(9), *range(11, 32), 127}
    assert not {"\u202e", "\u200f"} & set(content.decode())
    page = read_page(folder / "report.html")
    write_page(folder / "plain.html", [row("a.png", other_image="b.png", note="c", kinds="d")], examined(["a.png"]))
    assert set(page.tags) <= {*read_page(folder / "plain.html").tags, "ul", "li", "table", "th", "td"}
    for name in ("<script>alert(1)</script>.png", "&amp;&lt;.png", r"\x1b[31m\n.png", r"caf\xe9.png"):
        assert name in page.names
    assert r"photo\u202egnp\u200f.exe" in page.names and "{{ 7 * 7 }}{% include 'x' %}.png" in page.names


def test_a_page_of_many_findings_stays_small(tmp_path, read_page, monkeypatch):
    """Noise is the worst picture; from the fifty-first on they are named."""
    noise = np.random.default_rng(0).integers(0, 256, (1800, 1620, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), noise)
    uri = findings_page._embedded(tmp_path / "0.png")
    assert len(uri) <= findings_page.MOST_BYTES * 4 / 3 + 100
    monkeypatch.setattr(findings_page, "_embedded", lambda path: uri)
    names = [f"{number}.png" for number in range(60)]
    write_page(tmp_path / "report.html", [row(name, name) for name in names], examined(names))
    assert (tmp_path / "report.html").stat().st_size < 25_000_000
    page = read_page(tmp_path / "report.html")
    assert len(page.images) == 50 and len(page.findings) == 60
    assert "it lies beside this page: 59.png" in page.findings[59]["text"]


def test_pictures_are_shrunk_and_not_enlarged(tmp_path, read_page):
    for number, size in enumerate(((700, 2800), (30, 40))):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((*size, 3), 90, np.uint8))
    rows = [row("a.png", "0.png"), row("b.png", "1.png")]
    write_page(tmp_path / "report.html", rows, examined(["a.png", "b.png"]))
    shapes = [image.shape for image in read_page(tmp_path / "report.html").images]
    assert shapes == [(350, 1400, 3), (30, 40, 3)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_a_page_is_whole_or_as_it_was(folder, monkeypatch, error):
    write_page(folder / "report.html", [row("a.png")], examined(["a.png"]))
    before = (folder / "report.html").read_bytes()

    def interrupted(path):
        raise error

    monkeypatch.setattr(findings_page, "_embedded", interrupted)
    with pytest.raises(error):
        write_page(folder / "report.html", [row("b.png")], examined(["b.png"]))
    assert (folder / "report.html").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"picture.png", "report.html"}


@pytest.mark.parametrize(
    ("window", "place"),
    [
        (np.s_[20:24, 30:36], "the upper left of"),
        (np.s_[36:40, 40:50], "the lower left of"),
        (np.s_[28:32, 58:62], "the middle of"),
        (np.s_[28:32, 84:90], "the middle right of"),
        (np.s_[20:22, 55:65], "the upper middle of"),
        (np.s_[20:40, 30:90], "all of"),
        (np.s_[21:40, 30:90], "nearly all of"),
        (np.s_[20:34, 30:90], "most of"),
        (np.s_[20:20, 30:30], "a place in"),
    ],
)
def test_a_place_in_words(window, place):
    """The part is 60 pixels wide and 20 high, at x 30 and y 20."""
    region = np.zeros((50, 100), bool)
    region[window] = True
    found = place_of(region, Part(name="panel B", box=(30, 20, 60, 20), enlarged=2))
    assert (found["place"], found["part"], found["pixels"]) == (place, "panel B", 4 * region.sum())
    assert found["share"] == pytest.approx(100 * region.sum() / 1200, abs=0.01)


def test_evidence_names_the_places_in_the_order_asked_for():
    source, target = np.zeros((2, 40, 80), bool)
    source[:10, :10] = target[30:, 70:] = True
    matrix = np.array([[1.0, 0, 70], [0, 1, 30]])
    copy = Copy(source=source, target=target, matrix=matrix, points=np.zeros((7, 2, 2)), correlation=0.981, score=0.9)
    group, parts = Group(copies=(copy, copy)), [Part(name=name, box=(0, 0, 80, 40)) for name in "ab"]
    found = evidence(group, parts)
    assert (found["points"], found["agreement"], found["copies"]) == (7, 0.98, 2)
    assert (found["place"], found["part"], found["place_copy"], found["part_copy"]) == (
        *("the upper left of", "a"),
        *("the lower right of", "b"),
    )
    turned = evidence(group, parts, turned=True)
    assert (turned["place"], turned["part"], turned["place_copy"], turned["part_copy"]) == (
        *("the lower right of", "a"),
        *("the upper left of", "b"),
    )


@pytest.mark.slow
def test_a_browser_asks_nothing_of_the_network_and_prints_no_finding_over_two_pages(watched, tmp_path):
    sizes = (500, 1100, 1700, 900, 1300, 2400)
    for number, high in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((high, 1620, 3), 200, np.uint8))
    rows = [row(HOSTILE[number], f"{number}.png") for number in range(len(sizes))] + [quiet(name) for name in HOSTILE]
    page_file = tmp_path / "report.html"
    write_page(page_file, rows, examined(HOSTILE, sources=HOSTILE))
    widths = watched.opened(page_file)
    watched.page.click("a[href='#finding-3']")
    assert watched.page.url == f"{page_file.as_uri()}#finding-3"
    watched.page.pdf(path=tmp_path / "printed.pdf", prefer_css_page_size=True)
    watched.asks_nothing(page_file)
    assert len(widths) == len(sizes) and all(0 < width <= 1400 for width in widths)
    with pypdfium2.PdfDocument(tmp_path / "printed.pdf") as document:
        texts = [" ".join(page.get_textpage().get_text_range().split()) for page in document]
    for number in range(1, len(sizes) + 1):
        (text,) = [text for text in texts if f"{number}. Shown again" in text]
        assert text.count("Left out before comparing") == text.count(". Shown again")


def test_the_template_asks_for_nothing():
    template = Path(findings_page.__file__).with_name("findings.html").read_text()
    assert "http" not in template.replace("http-equiv", "") and "<script" not in template and "url(" not in template
    assert "| safe" not in template and "autoescape" not in template

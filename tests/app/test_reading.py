import tempfile
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest
from PIL import Image

from common.app import reading
from common.app.reading import Clip, Dropped, Read, Unread, read_all, remove

NAMES = (
    *("<img src=x onerror=alert(1)>.png", "\x1b[31m\n\u202egnp.png", "a\\b/../../c.png"),
    *("caf\udce9.png", "x" * 300 + ".png"),
)


@pytest.fixture
def picture(tmp_path):
    """A file with 60×80 pixels."""
    path = tmp_path / "upload.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    return path


def test_an_image_is_upright_and_says_so(tmp_path):
    pixels = np.zeros((60, 80, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    (found,) = read_all([Dropped(tmp_path / "a.jpg", "a.jpg")])
    assert isinstance(found, Read) and found.image.shape == (80, 60, 3) and found.orientation == 6
    assert len(found.digest) == 64


@pytest.mark.parametrize("name", NAMES)
def test_names_may_hold_anything(picture, name):
    (found,) = read_all([Dropped(picture, name)])
    assert isinstance(found, Read) and found.file.isprintable() and len(found.file) <= 200
    assert "/" not in found.file and found.file.endswith(".png")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"", "the file is empty"),
        ("a.png", b"no picture", "a.png"),
        ("a.docx", b"PK", ".docx is not read here. It reads images"),
        ("README", b"hello", "without a suffix is not read here"),
        ("a.pdf", b"%PDF-1.4 broken", "can't be read as a PDF"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, name, content, said):
    path = tmp_path / f"upload_{name}"
    path.write_bytes(content)
    (found,) = read_all([Dropped(path, name)])
    assert isinstance(found, Unread) and found.file == name and said in found.text
    assert str(tmp_path) not in found.text


def test_a_clip_is_named(picture):
    assert list(read_all([Dropped(picture, "a.mp4")])) == [Clip("a.mp4", picture)]


def test_a_paper_without_pictures_says_so(tmp_path):
    document = pypdfium2.PdfDocument.new()
    document.new_page(200, 200)
    document.save(tmp_path / "a.pdf")
    (found,) = read_all([Dropped(tmp_path / "a.pdf", "a.pdf")])
    assert isinstance(found, Unread) and "no figures with pixels" in found.text


def test_too_many_are_left_out_and_named(picture, monkeypatch):
    monkeypatch.setattr(reading, "MOST_FILES", 2)
    found = list(read_all([Dropped(picture, f"{n}.png") for n in range(5)]))
    assert [one.file for one in found] == ["0.png", "1.png", "3 more files"] and "at most 2 files" in found[2].text
    monkeypatch.setattr(reading, "MOST_FIGURES", 1)
    found = list(read_all([Dropped(picture, f"{n}.png") for n in range(2)]))
    assert isinstance(found[1], Unread) and "at most 1 figures" in found[1].text


def test_uploads_are_removed_and_nothing_else_is(picture, tmp_path, monkeypatch):
    place = tmp_path / "temporary" / "hash"
    place.mkdir(parents=True)
    upload = place / "a.png"
    upload.write_bytes(picture.read_bytes())
    monkeypatch.setattr(tempfile, "tempdir", str(place.parent))
    remove([Dropped(upload, "a.png"), Dropped(picture, "b.png"), Dropped(Path("/nowhere/c.png"), "c.png")])
    assert not place.exists() and place.parent.exists() and picture.exists()

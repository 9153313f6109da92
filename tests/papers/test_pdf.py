"""Figures of PDFs that are made here, whose pixels are known."""

import base64
import zlib

import cv2
import numpy as np
import pypdfium2
import pytest
from PIL import Image

from common.errors import UserError
from common.papers.pdf import read_figures

# An empty page that AES and the password "b" lock, from qpdf; deflated.
ENCRYPTED = (
    "eNqFUk2O0zAUltgRLvEE6nKI7diOLUWVmGkqIWbUqqXDYtSFEzudQptUqWc0w5YlF2ALnAGxYDEnmBtwj1mAEHb6i7ogUfScz9/7"
    "vufn1+p3ukf4OQ9adw9f/gQYEFTZ2yBJIOyriVkCccgAwte3CwPhibJqVk2g3Q5MqT2R7CWcVFelBQzhq6lewgVETep4k7zS26VG"
    "/6SW1pR2CXRld2b0VB1XN04FuRej1Tf2KrUjbsoamGV1VedO16m02/tWe050z+nUlBN7CRGBsDudWVO7OFPWdExe6SZpaWuj5sGz"
    "33rx9e7R6cOv428f55/739/cv/tx/+Tnp8cf0tHYPvXia+rahu0fqOsrCodWr1cvruxleu1LDztV3luY0pPO3EY6PCfbujD3x/An"
    "2VQ3tKrUqtY7ChEQ9iBhOEaCEkqKQuZKxZowmZkMxVGkC4fmxDCCWY4FZRgJrWSsGNGSRwLHWYacRy+FxIU+HGHkVQeu/85w3t1U"
    "7kK9+xlBojLBDBFIMpEjTDIsCypMnDMteBxzhRDBlHIpUSYNxZiiGCuqJUZUCppj5zZamZ47r90V3dSmCBDwAG0f4IxFDArYYth1"
    "uNkpdxinBxgm0QFGiDzAIjcEW8zWajpz/fZ3NagqP8fNhA2n7w1wCF924CLhSBhKkGJGFRxHAikqWKZpJjUS0uTt/zPcCKdlXt8u"
    "LLDGoZk4VdumA5yKoNVKe93gL71h+d8="
)


def test_single_images_come_as_they_are_stored(write_pdf, fields, tmp_path):
    pages = [[(fields[0], 50, 500, 300), (fields[1], 50, 100, 411)], [], [(fields[2], 10, 10, 97)]]
    figures = list(read_figures(write_pdf(tmp_path / "paper.pdf", pages)))
    assert [figure.name for figure in figures] == ["page 1, figure 1", "page 1, figure 2", "page 3, figure 1"]
    for figure, field in zip(figures, fields, strict=False):
        assert np.array_equal(figure.image, field)


def test_images_side_by_side_are_one_figure(write_pdf, fields, tmp_path):
    # Beside and below each other, 10 points apart; the last one far away.
    placed = [
        (fields[0], 50, 600, 120),
        (fields[1], 180, 600, 120),
        (fields[2], 50, 490, 120),
        (fields[3], 50, 50, 120),
    ]
    first, second = read_figures(write_pdf(tmp_path / "paper.pdf", [placed]))
    assert np.array_equal(second.image, fields[3])
    # At the resolution of its images, 240 pixels on 120 points: 250 points wide, 210 high.
    assert first.image.shape == pytest.approx((420, 500, 3), abs=2)
    assert np.abs(first.image[2:198, 2:238].astype(int) - fields[0][2:198, 2:238]).mean() < 12
    assert (first.image[230:, 260:] == 255).all()  # where there is none


def test_logos_are_no_figures(write_pdf, fields, tmp_path):
    path = write_pdf(tmp_path / "paper.pdf", [[(fields[0][:60, :60], 500, 760, 20), (fields[1], 50, 300, 200)]])
    (figure,) = read_figures(path)
    assert np.array_equal(figure.image, fields[1])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_turned_pages_are_read_as_they_are_shown(write_pdf, fields, tmp_path, rotation):
    path = write_pdf(tmp_path / "paper.pdf", [[(fields[0], 50, 500, 300)]], rotation=rotation)
    (figure,) = read_figures(path)
    assert np.array_equal(figure.image, np.rot90(fields[0], -rotation // 90))


def test_images_in_forms_are_found(write_pdf, fields, tmp_path):
    pages = [[(fields[0], 100, 400, 240), (fields[1], 100, 60, 240)]]
    figures = list(read_figures(write_pdf(tmp_path / "paper.pdf", pages, form=True)))
    assert len(figures) == 2
    for figure, field in zip(figures, fields, strict=False):
        assert figure.image.shape == pytest.approx(field.shape, abs=2)
        assert np.abs(figure.image[2:198, 2:238].astype(int) - field[2:198, 2:238]).mean() < 12


def test_a_page_that_is_one_image_is_one_figure(write_pdf, fields, tmp_path):
    page = np.full((800, 600, 3), 255, np.uint8)
    page[100:300, 100:340] = fields[0]
    (figure,) = read_figures(write_pdf(tmp_path / "scanned.pdf", [[(page, 0, 0, 600)]]))
    assert np.array_equal(figure.image, page)


@pytest.mark.parametrize("crop", [(-10, -10, 620, 820), (-100, -100, 900, 900), (40, 480, 360, 760), (0, 0, 0, 0)])
def test_what_is_shown_of_a_page_is_read(write_pdf, fields, tmp_path, crop):
    path = write_pdf(tmp_path / "paper.pdf", [[(fields[0], 50, 500, 120), (fields[1], 180, 500, 120)]])
    document = pypdfium2.PdfDocument(path)
    document[0].set_cropbox(*crop)
    document.save(tmp_path / "cut.pdf")
    (figure,) = read_figures(tmp_path / "cut.pdf")
    assert figure.image.shape == pytest.approx((200, 500, 3), abs=2)
    assert np.abs(figure.image[2:198, 2:238].astype(int) - fields[0][2:198, 2:238]).mean() < 12


def test_what_lies_beside_the_page_or_is_cut_off_is_not_read(write_pdf, fields, tmp_path):
    placed = [(fields[0], 700, 500, 120), (fields[1], 300, 100, 400)]
    (figure,) = read_figures(write_pdf(tmp_path / "paper.pdf", [placed]))
    # 300 of 400 points of the width are on the page.
    assert figure.image.shape == pytest.approx((200, 180, 3), abs=2)
    assert np.abs(figure.image[2:198, 2:175].astype(int) - fields[1][2:198, 2:175]).mean() < 12


def test_logos_that_recur_are_left_out(write_pdf, fields, tmp_path):
    logo = fields[11][:90]
    pages = [[(logo, 50, 740, 100), (fields[number], 50, 300, 300)] for number in range(4)]
    figures = list(read_figures(write_pdf(tmp_path / "paper.pdf", pages)))
    assert len(figures) == 4
    assert all(np.array_equal(figure.image, field) for figure, field in zip(figures, fields, strict=False))


def test_scanned_pages_are_no_logos(write_pdf, fields, tmp_path):
    page = cv2.resize(fields[0], (600, 800))
    assert len(list(read_figures(write_pdf(tmp_path / "scanned.pdf", [[(page, 0, 0, 600)]] * 4)))) == 4


def test_an_image_that_can_not_be_decoded_loses_no_other(fields, tmp_path):
    path = tmp_path / "paper.pdf"
    pages = [Image.fromarray(field) for field in fields[:3]]
    pages[0].save(path, save_all=True, append_images=pages[1:], quality=90)
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8", content.index(b"\xff\xd8") + 2)  # the second JPEG
    content[start : start + 400] = bytes(400)
    path.write_bytes(content)
    figures = [figure for figure in read_figures(path) if not isinstance(figure, UserError)]
    assert {figure.page for figure in figures} >= {1, 3}
    assert np.abs(figures[-1].image.astype(int) - fields[2]).mean() < 6


def test_many_tiles_are_one_figure(write_pdf, tmp_path):
    tile = np.full((20, 20, 3), 90, np.uint8)
    placed = [(tile, 50 + 10 * (n % 40), 100 + 10 * (n // 40), 10) for n in range(1600)]
    (figure,) = read_figures(write_pdf(tmp_path / "paper.pdf", [placed]))
    assert figure.image.shape == pytest.approx((800, 800, 3), abs=4)


def test_no_figures_in_an_empty_paper(write_pdf, tmp_path):
    assert list(read_figures(write_pdf(tmp_path / "paper.pdf", [[], []]))) == []


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7\nnothing", b"\x89PNG"])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "paper.pdf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"paper\.pdf can't be read as a PDF"):
        list(read_figures(path))


def test_a_truncated_file_is_read_or_named(write_pdf, fields, tmp_path):
    path = write_pdf(tmp_path / "paper.pdf", [[(field, 50, 500, 300)] for field in fields])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        figures = list(read_figures(path))
    except UserError as error:
        assert "paper.pdf" in str(error)
    else:
        assert all(min(figure.image.shape[:2]) >= 80 for figure in figures)


def test_a_password_is_asked_for(tmp_path):
    path = tmp_path / "paper.pdf"
    path.write_bytes(zlib.decompress(base64.b64decode(ENCRYPTED)))
    with pytest.raises(UserError, match="is encrypted"):
        list(read_figures(path))


def test_five_hundred_pages_take_seconds(write_pdf, fields, tmp_path):
    path = write_pdf(tmp_path / "book.pdf", [[(fields[number % 12], 50, 500, 300)] for number in range(500)])
    assert sum(1 for _ in read_figures(path)) == 500

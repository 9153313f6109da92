"""The page that explain.py writes of several images: real runs, read as a browser reads it."""

import csv
import os
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data


def findings(folder):
    """The rows of findings.csv, with the names as they are."""
    with (folder / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value.removeprefix("'") for name, value in row.items()} for row in rows]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_of_figures_gets_one_page(run_program, read_page, tmp_path):
    """A panel shown again, one shown larger, an untouched figure, files that can't be read, names made to do harm."""
    folder, out = tmp_path / "<b>paper", tmp_path / "out"
    folder.mkdir()
    field, photograph = data.immunohistochemistry()[:300, :300], data.astronaut()[:300, 100:400]
    page = np.full((660, 660, 3), 255, np.uint8)
    page[20:320, 20:320], page[340:640, 340:640] = field, field[:, ::-1]
    page[340:640, 20:320] = photograph
    natural = np.full((340, 660, 3), 255, np.uint8)
    natural[20:320, 20:320] = photograph
    natural[20:320, 340:640] = cv2.resize(photograph[80:200, 100:220], (300, 300), interpolation=cv2.INTER_CUBIC)
    still = np.full((40, 60, 3), 90, np.uint8)
    images = {
        "<script>alert(1)<&>.png": page,
        "=\" onerror='alert(1)'.png": natural,
        "javascript:alert(1).png": still,
        "\x1b[31m\n.png": still,
        os.fsdecode(b"caf\xe9.png"): still,
        "photo\u202egnp\u200f.png": still,
    }
    for name, image in images.items():
        Image.fromarray(image).save(folder / name)
    (folder / "broken.png").write_bytes(b"none")
    done = run_program("explain.py", folder, "--output", out, "--min-score", "0.6")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"to read or print: {out / 'report.html'}" in done.stdout

    page, rows = read_page(out / "report.html"), findings(out)
    found = [row for row in rows if row["relation"] in ("reuse", "same field", "enlargement", "plot")]
    assert [row["relation"] for row in found].count("reuse") >= 1 and len(page.findings) == len(found)
    titles = {"reuse": "Shown again score ", "enlargement": "Enlargement natural", "same field": "Same field natural"}
    for number, (row, finding) in enumerate(zip(found, page.findings, strict=True), 1):
        assert finding["title"].startswith(f"{number}. {titles[row['relation']]}")
        for value in (row["image"], row["other_image"], f"around x {row['x']}, y {row['y']}"):
            assert value in finding["text"]
    # Each picture stands with the first finding that has it.
    assert len(page.images) == len({row["picture"] for row in found}) and page.findings[0]["images"] == 1
    within = next(f for row, f in zip(found, page.findings, strict=True) if row["image"] == "<script>alert(1)<&>.png")
    assert within["sentence"].endswith(": All of panel 1 is shown again, mirrored left to right, as all of panel 3.")
    assert "none applies by the program's rules: one field at the same place" in within["text"]

    names = {"<script>alert(1)<&>.png", "=\" onerror='alert(1)'.png", "javascript:alert(1).png", "broken.png"}
    names |= {r"\x1b[31m\n.png", r"caf\xe9.png", r"photo\u202egnp\u200f.png"}
    assert names <= set(page.names) and any(name.endswith("/<b>paper") for name in page.names)
    assert "7 files, 6 images or figures of papers" in page.text and "1 file or page could not be read." in page.text
    assert "broken.png cannot be read as an image" in page.text and "--min-score 0.6" in page.names[1]
    assert {path.name for path in out.iterdir()} == {"findings.csv", "report.html", *(row["picture"] for row in found)}


def test_a_paper_gets_a_page_of_its_figures(call_program, read_page, copied_images, tmp_path):
    pages = [Image.fromarray(copied_images[number]) for number in (1, 0)]
    pages[0].save(tmp_path / "paper.pdf", save_all=True, append_images=pages[1:], quality=92)
    done = call_program("explain.py", tmp_path / "paper.pdf", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = read_page(tmp_path / "out" / "report.html")
    (finding,) = page.findings
    assert finding["sentence"] == (
        "paper.pdf, page 1, figure 1: The upper left of the image is shown again in the lower right of the image."
    )
    assert "1 file, 2 images or figures of papers, 2 panels" in page.text
    assert "paper.pdf, page 2, figure 1" in page.names and "paper.pdf" in page.names
    assert finding["images"] == 1 and page.images[0].shape[1] <= 1400

import csv
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest
from PIL import Image

from common.metrics.rle import parse_annotation

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "APP.md"
HOSTILE = "<img src=x onerror=alert(1)>\u202e'\".png"
SLOWLY = 60_000  # milliseconds that the browser waits: the machine may do other things


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of a running app.py that has no networks, and its folder."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "models").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = ["--port", port, "--models-dir", folder / "models", "--corrections", folder / "marks.jsonl"]
    flags += ["--keep", folder / "kept"]
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "app.py", *map(str, flags)]
        program = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 180
        while "Ctrl-C ends it" not in (folder / "log.txt").read_text():
            assert program.poll() is None and time.monotonic() < end, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", folder
        program.terminate()
        assert program.wait(60) == 0
    assert "the page is closed" in (folder / "log.txt").read_text()
    assert "Traceback" not in (folder / "log.txt").read_text()


class User:
    """Someone with a page of their own, who notes what it asks for and says."""

    def __init__(self, browser, address: str) -> None:
        self.page = browser.new_context(accept_downloads=True).new_page()
        self.page.set_default_timeout(SLOWLY)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.address = address
        self.page.goto(address)

    def drop(self, *files: tuple[str, bytes]) -> None:
        kinds = {"pdf": "application/pdf"}
        payload = [
            {"name": name, "mimeType": kinds.get(name.rpartition(".")[2], "image/png"), "buffer": data}
            for name, data in files
        ]
        field = self.page.locator("#drop input[type=file]")
        field.wait_for(state="attached")
        field.set_input_files(payload)

    def wait(self) -> None:
        """Until all is examined."""
        self.page.locator(".fe-step").wait_for(state="hidden")
        self.page.wait_for_function("document.querySelector('.fe-step') && document.querySelector('.fe-step').hidden")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def becomes(self, selector: str, text: str) -> None:
        self.page.locator(selector, has_text=text).wait_for()

    def slide(self, name: str, value: float) -> None:
        self.page.locator(f"[data-control={name}]").fill(str(value))

    def download(self, kind: str, folder: Path) -> Path:
        with self.page.expect_download() as started:
            self.page.click(f"[data-download={kind}]")
        path = folder / f"download_{kind}"
        started.value.save_as(path)
        return path

    def checked(self) -> None:
        """Nothing was asked of another machine, and nothing went wrong."""
        elsewhere = [url for url in self.asked if not url.startswith((self.address, "data:", "blob:"))]
        assert not elsewhere and not self.said


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def test_a_figure_is_examined_reviewed_and_handed_over(browser, served, copied_images, copied_mask, tmp_path):
    address, folder = served
    user, other = User(browser, address), User(browser, address)
    user.drop((HOSTILE, png(copied_images[1])))
    other.drop(("quiet.png", png(copied_images[0])), ("broken.png", b"no picture"), ("notes.docx", b"PK"))
    user.becomes("[data-verdict]", "1 place to look at")
    user.wait()
    # What is there, in words; one place laid over the other.
    user.becomes(".fe-finding", "The upper left of the image is shown again in the lower right of the image.")
    user.page.click(".fe-finding")
    user.becomes(".fe-compare", "flicker between the two")
    assert user.page.locator(".fe-compare .fe-frame").count() == 4
    assert 5 < user.page.locator(".fe-line").count() <= 20
    user.page.locator("[data-show=points]").uncheck()
    assert user.page.locator(".fe-line").count() == 0
    widths = user.page.eval_on_selector_all(".fe-viewer img", "all => all.map((one) => one.naturalWidth)")
    assert len(widths) >= 6 and min(w for w in widths if w != 0) > 0
    # The threshold, and the mask with it.
    user.page.locator("[data-show=mask]").check()
    mask = user.page.locator("[data-layer=mask]")
    mask.wait_for(state="visible")
    assert int(mask.get_attribute("data-pixels")) > 0.8 * copied_mask.sum()
    user.slide("threshold", 1)
    user.becomes("[data-called]", "Called authentic")
    assert mask.get_attribute("data-pixels") == "0" and not mask.is_visible()
    user.slide("threshold", 0.5)
    user.becomes("[data-called]", "Called forged")
    with user.download("row", tmp_path).open(newline="") as file:
        (row,) = csv.DictReader(file)
    masks = parse_annotation(row["annotation"], *copied_mask.shape)
    assert (masks.any(axis=0) & copied_mask).sum() > 0.8 * (masks.any(axis=0) | copied_mask).sum()
    # The reviewer knows better.
    user.page.locator(".fe-marks select").select_option("same blot")
    user.becomes(".fe-finding", "you: natural (same blot)")
    user.becomes("[data-called]", "Called authentic")
    assert user.download("row", tmp_path).read_text().splitlines()[1].endswith(",authentic")
    (line,) = (folder / "marks.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "same blot" and len(list((folder / "kept" / "authentic").iterdir())) == 1
    # The other one sees their own files alone, and what is wrong with them.
    other.wait()
    other.becomes("[data-verdict]", "quiet.png: Nothing to look at was found")
    unread = other.page.locator(".fe-unread:visible").all_inner_texts()
    assert len(unread) == 2 and "broken.png" in unread[0] and ".docx is not read here. It reads images" in unread[1]
    assert other.page.locator(".fe-finding").count() == 0 and "<img" not in other.page.content().split("<body")[0]
    for one in (user, other):
        one.checked()
        one.page.context.close()


def test_a_script_of_ten_lines_asks_the_same(served, copied_images, tmp_path):
    address, _ = served
    pytest.importorskip("gradio_client")
    (code,) = re.findall(r"```python\n(from gradio_client.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "figure.png").write_bytes(png(copied_images[1]))
    code = code.replace("http://127.0.0.1:7860", address)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith("figure.png forged 0.9") and "is shown again" in second


@pytest.mark.slow
def test_a_paper_of_three_figures(browser, served, copied_images, tmp_path):
    one, two, three = (cv2.resize(image, None, fx=2, fy=2) for image in copied_images[:3])
    three[150:350, 200:480] = one[50:250, 60:340]
    paper = tmp_path / "paper.pdf"
    pages = [Image.fromarray(image) for image in (one, two, three)]
    pages[0].save(paper, save_all=True, append_images=pages[1:])
    with pypdfium2.PdfDocument(paper) as document:
        assert len(document) == 3
    user = User(browser, served[0])
    user.drop(("paper.pdf", paper.read_bytes()))
    user.wait()
    thumbs = user.page.locator(".fe-thumb").all_inner_texts()
    assert [text.split("\n")[0] for text in thumbs] == [f"paper.pdf, page {n}, figure 1" for n in (1, 2, 3)]
    assert all("1 finding" in text for text in thumbs)
    user.page.locator(".fe-thumb").nth(2).click()
    user.becomes("[data-verdict]", "page 3, figure 1: 1 place to look at")
    user.becomes(".fe-finding", "Shown again in another figure")
    user.page.click(".fe-finding")
    user.becomes(".fe-compare", "of paper.pdf, page 1, figure 1")
    user.page.click(".fe-finding [data-mark=wrong]")
    user.becomes("[data-verdict]", "page 3, figure 1: Nothing to look at was found")
    user.page.click(".fe-finding [data-mark=wrong]")
    user.becomes("[data-verdict]", "page 3, figure 1: 1 place to look at")
    report = user.download("report", tmp_path).read_text(encoding="utf-8")
    assert "page 1, figure 1" in report and "2 findings to look at" in report
    answer = json.loads(user.download("json", tmp_path).read_text())
    assert [figure["figure"] for figure in answer["figures"]] == [f"page {n}, figure 1" for n in (1, 2, 3)]
    assert [one["figures"] for one in answer["between_figures"]] == [[0, 2]]
    user.checked()
    user.page.context.close()


@pytest.mark.slow
def test_views_and_adjustments_change_the_picture(browser, served, copied_images):
    user = User(browser, served[0])
    user.drop(("a.png", png(copied_images[1])))
    user.wait()
    user.becomes("[data-verdict]", "1 place")
    stage = user.page.locator(".fe-stage")
    user.page.locator("[data-show=findings]").uncheck()

    def shown() -> np.ndarray:
        user.page.wait_for_timeout(300)
        seen = cv2.imdecode(np.frombuffer(stage.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        return seen[50:450, 100:600].astype(float)  # inside: rims may be a pixel wider

    plain = shown()
    user.page.click("summary")
    user.page.locator("[data-adjust=invert]").check()
    assert np.abs(shown() + plain - 255).mean() < 25 < np.abs(shown() - plain).mean()
    user.page.locator("button", has_text="as it was").click()
    assert np.abs(shown() - plain).mean() < 25
    user.page.locator("[data-adjust=gamma]").fill("3")
    assert shown().mean() > plain.mean() + 20
    user.page.locator("button", has_text="as it was").click()
    for view in ("error level", "noise"):
        user.page.locator("select[aria-label=view]").select_option(view)
        user.page.locator(".fe-over.fe-picture").wait_for(state="visible")
        assert np.abs(shown() - plain).mean() > 5
    user.page.locator("select[aria-label=view]").select_option("the figure")
    user.page.mouse.move(400, 600)
    stage.hover()
    user.page.mouse.wheel(0, -400)
    assert "scale(1)" not in user.page.locator(".fe-moved").get_attribute("style")
    user.checked()


@pytest.mark.slow
def test_the_browser_refuses_what_is_elsewhere(browser, served):
    user = User(browser, served[0])
    refused: list[str] = []
    user.page.on("requestfailed", lambda request: refused.append(request.failure))
    user.page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    user.page.wait_for_timeout(500)
    assert refused == ["csp"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "0"], "--port is 0; it must be from 1 to 65535"),
        (["--max-megabytes", "0"], "--max-megabytes is 0"),
        (["--models-dir", "nowhere"], "--models-dir nowhere is no folder"),
        (["--corrections", "."], "--corrections . is a folder"),
        (["--keep", "README.md"], "--keep README.md is a file"),
        (["--host", "no such host"], "can't be listened on"),
    ],
)
def test_wrong_flags_are_named(call_program, flags, said):
    done = call_program("app.py", *flags)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(call_program, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call_program("app.py", "--port", port, "--corrections", tmp_path / "marks.jsonl")
    assert done.returncode == 1 and f"--port {port} can't be listened on" in done.stderr

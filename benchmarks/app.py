"""The page in the browser: seconds from a drop to the verdict, server time of the threshold, memory over many drops.

    python -m benchmarks.app verdict             # needs Playwright and Debian's chromium, as memory does
    python -m benchmarks.app threshold
    python -m benchmarks.app memory --drops 200

All figures are drawn here; the networks are those of models/, where none is trained the released ones.
"""

from common.process import prepare

prepare()  # before torch is imported

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import tyro

from common.app.cases import Cases
from common.app.models import load_models
from common.app.reading import Dropped
from common.app.serving import Server
from common.app.working import work
from common.ensemble.choices import MODE_THRESHOLDS
from common.making.drawing import draw_blot, draw_cells, draw_gel
from common.making.figures import compose_figure
from common.making.synthesis import copy_move
from common.tables import markdown_table

MODELS = Path("models")
PATIENCE = 300_000
"""Milliseconds that the browser waits for a verdict."""


def drawn(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A figure of side × side pixels, uint8 RGB: a `micrograph` or `blot` with a copy, or `panels` with one twice."""
    if kind == "panels":
        fields = [draw(side // 3, side // 3, rng) for draw in (draw_cells, draw_cells, draw_gel) * 2]
        return cv2.resize(compose_figure(fields, rng, "whole").image, (side, side), interpolation=cv2.INTER_AREA)
    field = (draw_blot if kind == "blot" else draw_cells)(side, side, rng)
    return copy_move(field, rng, area_share=0.08)[0]


def verdict(side: int = 1000, repeats: int = 3) -> None:
    """Drop figures in a browser, and print the seconds until the verdict is shown.

    Args:
        side: Of the figures in pixels.
        repeats: Figures of each kind; one more, before them, warms up.
    """
    rng, rows = np.random.default_rng(0), []
    with served() as (address, program, _), page_of(address) as page:
        drop(page, drawn("micrograph", 300, rng))
        for kind in ("micrograph", "blot", "panels"):
            before = processor_seconds(program)
            seconds = [drop(page, drawn(kind, side, rng)) for _ in range(repeats)]
            spent = (processor_seconds(program) - before) / repeats
            rows.append([kind, f"{np.median(seconds):.1f}", f"{max(seconds):.1f}", f"{spent:.1f}"])
            print(f"{kind}: {rows[-1][1]} s", flush=True)
    print(markdown_table(["figure", "median, s", "slowest, s", "processor time, s"], rows))


def threshold(side: int = 1000, repeats: int = 20) -> None:
    """Print the server's time for a change of threshold or mode, with its mask as it is sent.

    Args:
        side: Of the figures in pixels.
        repeats: Changes of each figure.
    """
    rng, rows = np.random.default_rng(0), []
    models, cases = load_models(MODELS), Cases()
    with TemporaryDirectory() as folder:
        server = Server(models=models, cases=cases, corrections=Path(folder, "marks.jsonl"))
        decision = {function.__name__: function for function in server.functions()}["decision"]
        for kind in ("micrograph", "blot", "panels"):
            path = Path(folder, f"{kind}.png")
            cv2.imwrite(str(path), drawn(kind, side, rng)[..., ::-1])
            case = cases.open("page")
            for _ in work([Dropped(path, path.name)], models, case):
                pass
            asked, before = {"token": case.token, "figure": 0}, time.process_time()
            answers = [
                decision(asked | {"threshold": float(score), "mode": mode})
                for score, mode in zip(rng.uniform(0.1, 0.99, repeats), list(MODE_THRESHOLDS) * repeats, strict=False)
            ]
            spent = 1000 * (time.process_time() - before) / repeats
            times = [answer["milliseconds"] for answer in answers]
            forged = sum(answer["forged"] for answer in answers)
            rows.append(
                [kind, f"{np.median(times):.0f}", f"{max(times):.0f}", f"{spent:.0f}", f"{forged} of {repeats}"]
            )
    print(markdown_table(["figure", "median, ms", "slowest, ms", "processor time, ms", "called forged"], rows))


def memory(drops: int = 200, side: int = 500, per_page: int = 20) -> None:
    """Drop many figures in a browser, and print the memory of the server and the files that it has left.

    Args:
        drops: How many.
        side: Of the figures in pixels.
        per_page: Drops until the page is closed and another one is opened.
    """
    rng, rows = np.random.default_rng(0), []
    with served() as (address, program, uploads):
        for start in range(0, drops, per_page):
            with page_of(address) as page:
                for _ in range(min(per_page, drops - start)):
                    drop(page, drawn("micrograph", side, rng))
            time.sleep(1)  # the server notes that the page is closed
            done = min(start + per_page, drops)
            rows.append([done, f"{resident(program) / 1e6:.0f}", sum(path.is_file() for path in uploads.rglob("*"))])
            print(f"{done} drops: {rows[-1][1]} MB", flush=True)
    print(markdown_table(["drops", "memory, MB", "files left"], rows))
    table = pd.DataFrame(rows, columns=["drops", "megabytes", "files"]).astype(float).iloc[1:]
    slope = np.polyfit(table["drops"], table["megabytes"], 1)[0]
    print(f"from the second row on {1000 * slope:.0f} MB more in 1,000 drops")


@contextmanager
def served() -> Iterator[tuple[str, int, Path]]:
    """A running app.py: its address, its process, and its folder of temporary files."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with TemporaryDirectory() as folder, Path(folder, "log.txt").open("w") as log:
        flags = ["--port", str(port), "--models-dir", str(MODELS), "--corrections", f"{folder}/marks.jsonl"]
        uploads = Path(folder, "temporary")
        uploads.mkdir()
        environment = os.environ | {"TMPDIR": str(uploads)}
        command = [sys.executable, "app.py", *flags]
        program = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        while "Ctrl-C ends it" not in (said := Path(folder, "log.txt").read_text()):
            if program.poll() is not None:
                raise SystemExit(said)
            time.sleep(0.2)
        try:
            yield f"http://127.0.0.1:{port}", program.pid, uploads
        finally:
            program.terminate()
            program.wait()


@contextmanager
def page_of(address: str, width: int = 1280) -> Iterator:
    """A page in a browser whose window has so many pixels of width."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 720})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        yield page
        browser.close()


_NUMBERS = count()


def drop(page, image: np.ndarray) -> float:
    """Drop a figure; the seconds until its verdict is shown."""
    name, data = f"figure_{next(_NUMBERS)}.png", cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    page.locator("#drop input[type=file]").wait_for(state="attached")
    start = time.perf_counter()
    payload = {"name": name, "mimeType": "image/png", "buffer": data}
    page.locator("#drop input[type=file]").set_input_files(payload)
    page.locator("[data-verdict]", has_text=name).wait_for()
    seconds = time.perf_counter() - start
    page.wait_for_function("document.querySelector('.fe-step').hidden")
    return seconds


def processor_seconds(process: int) -> float:
    """Seconds that all cores together have spent on a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"verdict": verdict, "threshold": threshold, "memory": memory}, description=__doc__
    )

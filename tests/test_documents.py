"""What the documents show a reader to type."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def test_the_notebook_example_runs(tmp_path, monkeypatch, capsys, copied_images):
    text = (ROOT / "docs/METHOD.md").read_text(encoding="utf-8")
    code = re.search(r"## In a notebook\n.*?```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/demo").mkdir(parents=True)  # no network: copy-move evidence decides
    cv2.imwrite("figure.png", np.ascontiguousarray(copied_images[1][..., ::-1]))
    exec(compile(code, "docs/METHOD.md", "exec"), {})
    probability = float(re.search(r"0\.\d+|1\.0", capsys.readouterr().out)[0])
    assert probability > 0.5


def documents():
    folders = [ROOT, ROOT / "docs", ROOT / "data", ROOT / "models", ROOT / "benchmarks"]
    return [path for folder in folders for path in sorted(folder.glob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 10_000

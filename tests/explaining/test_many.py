"""Many images explained in one run, in this process."""

import hashlib

import numpy as np

from common.errors import UserError
from common.explaining.many import Run, explain_many
from common.making.drawing import FIGURES
from common.papers import pdf
from common.papers.pdf import PaperFigure


def test_a_paper_with_a_page_that_can_not_be_read_is_kept_with_its_other_pages(monkeypatch, tmp_path):
    image = FIGURES["cells"](200, 240, np.random.default_rng(0))
    read = [PaperFigure(page=1, number=1, image=image), UserError("paper.pdf, page 2 can't be read.")]
    monkeypatch.setattr(pdf, "read_figures", lambda path: read if path.name == "paper.pdf" else read[1:])
    for name in ("paper.pdf", "lost.pdf"):
        (tmp_path / name).write_bytes(name.encode())
    output = tmp_path / "out"
    output.mkdir()
    run = Run(sources=[tmp_path / "paper.pdf", tmp_path / "lost.pdf"], output=output, library=tmp_path / "screened")
    result = explain_many(run)
    assert sorted(str(row["relation"]) for row in result.rows) == ["none", "unreadable", "unreadable"]
    assert result.library is not None
    assert [(source.name, source.panels) for source in result.library.sources] == [("paper.pdf", 1)]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert hashlib.sha256(b"paper.pdf").hexdigest() in page and page.count("– (not read)") == 1

"""The report of a case: one HTML file with pictures, as `explain.py` writes it."""

from pathlib import Path
from tempfile import TemporaryDirectory

from common.app.cases import Case
from common.app.examining import Mark
from common.app.models import Models
from common.explaining.figure import Row, shortened
from common.explaining.findings_page import Examined as Run
from common.explaining.findings_page import write_page
from common.explaining.many import PAGE, across_row, draw_across, rank, tool_name
from common.files import written_whole


def report(case: Case, models: Models, threshold: float) -> bytes:
    """The page of all figures of a case, with the findings from a score on.

    Raises:
        UserError: There is no room for it.
    """
    rows: list[Row] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for place, examined in enumerate(case.figures):
            found = examined.searched.rows(threshold)
            marks = case.marks.get(place, {})
            keys = [key for key in examined.entries if key.startswith("a") or examined.score(key) >= threshold]
            picture = f"{place}.png"
            blank: Row = {"image": examined.name, "note": examined.note, "picture": picture}
            for key, row in zip(keys, found, strict=True):
                rows.append(blank | row | {"note": "; ".join(filter(None, (examined.note, _said(marks.get(key)))))})
            if found:
                with written_whole(folder / picture, "wb") as file:
                    examined.searched.picture(shortened(examined.name), threshold).savefig(file, format="png")
            else:
                rows.append(blank | {"relation": "none", "score": ""})
        rows += _between(case, threshold, folder)
        rows += [{"image": one.file, "relation": "unreadable", "score": "", "note": one.text} for one in case.unread]
        rank(rows)
        write_page(folder / PAGE, rows, _run(case, models, threshold))
        return (folder / PAGE).read_bytes()


def _said(mark: Mark | None) -> str:
    """What a reviewer says of a finding, for its note."""
    return "" if mark is None else f"a reviewer says: {mark.verdict}{mark.reason and f' ({mark.reason})'}"


def _between(case: Case, threshold: float, folder: Path) -> list[Row]:
    """The rows of what figures share, whose pictures are drawn into a folder."""
    rows = []
    for key, shared in case.shared.items():
        row, across = across_row(shared.across), shared.across
        mark = case.shared_marks.get(key)
        if float(row["score"]) < threshold and mark is None:
            continue
        one, other = (case.figures[place].name for place in shared.figures)
        with written_whole(folder / f"{key}.png", "wb") as file:
            draw_across(across, (one, other)).savefig(file, format="png")
        rows.append({"image": one, "other_image": other, "picture": f"{key}.png", "note": _said(mark)} | row)
    return rows


def _run(case: Case, models: Models, threshold: float) -> Run:
    files = {one.file: one.digest for one in case.figures}
    files |= {one.file: "" for one in case.unread if one.file not in files}
    return Run(
        sources=list(files),
        files=files,
        panels={one.name: len(one.searched.panels) for one in case.figures},
        tool=tool_name(),
        flags="",
        min_score=threshold,
        networks=models.said,
        looked=models.networks is not None,
    )

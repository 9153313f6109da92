"""The report of a case: one HTML file with pictures, as `explain.py` writes it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from common.app.cases import Case
from common.app.examining import Mark
from common.app.models import Models
from common.ensemble.altered import Altered
from common.errors import shortened
from common.explaining.figure import Row
from common.explaining.findings_page import Examined as Run
from common.explaining.findings_page import write_page
from common.explaining.many import PAGE, across_row, draw_across, rank, tool_name, with_shared
from common.explaining.words import score_in_words
from common.figures.reuse import Finding
from common.files import written_whole


def report(case: Case, models: Models, threshold: float) -> bytes:
    """The page of all figures of a case, with the findings from a score on, and those that a reviewer has marked.

    Raises:
        UserError: There is no room for it.
    """
    files = _file_names(case)
    names = [", ".join(filter(None, (file, one.figure))) for file, one in zip(files, case.figures, strict=True)]
    rows: list[Row] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for place, (examined, image) in enumerate(zip(case.figures, names, strict=True)):
            marks = case.marks.get(place, {})
            listed = {
                key: entry
                for key, entry in examined.entries.items()
                if isinstance(entry, Altered) or entry.group.score >= threshold or key in marks
            }
            copies = [entry for entry in listed.values() if isinstance(entry, Finding)]
            shown = replace(examined.searched, findings=copies)
            picture = f"{place}.png"
            blank: Row = {"image": image, "note": examined.note, "picture": picture}
            for key, row in zip(listed, shown.rows(0.0), strict=True):
                rows.append(blank | row | {"said": _said(marks.get(key))})
            if listed:
                with written_whole(folder / picture, "wb") as file:
                    shown.picture(shortened(image), 0.0).savefig(file, format="png")
            else:
                rows.append(blank | {"relation": "none", "score": ""})
        rows = with_shared(rows, _between(case, names, threshold, folder))
        rows += [{"image": one.file, "relation": "unreadable", "score": "", "note": one.text} for one in case.unread]
        rank(rows)
        write_page(folder / PAGE, rows, _run(case, models, threshold, files, names))
        return (folder / PAGE).read_bytes()


def _file_names(case: Case) -> list[str]:
    """The name of each figure's file; of several files of one name the second is called `… (2)`, and so on."""
    known: dict[str, list[str]] = {}
    names = []
    for one in case.figures:
        digests = known.setdefault(one.file, [])
        if one.digest not in digests:
            digests.append(one.digest)
        number = digests.index(one.digest) + 1
        names.append(one.file if number == 1 else f"{one.file} ({number})")
    return names


def _said(mark: Mark | None) -> str:
    """What a reviewer says of a finding; empty for nothing."""
    return "" if mark is None else f"{mark.verdict}{mark.reason and f' ({mark.reason})'}"


def _between(case: Case, names: Sequence[str], threshold: float, folder: Path) -> list[Row]:
    """The rows of what figures share, whose pictures are drawn into a folder.

    Args:
        case: The case.
        names: Of its figures.
        threshold: Score from which a finding is listed that no reviewer has marked.
        folder: That of the page.
    """
    rows = []
    for key, shared in case.shared.items():
        row, across = across_row(shared.across), shared.across
        mark = case.shared_marks.get(key)
        if float(row["score"]) < threshold and mark is None:
            continue
        one, other = (names[place] for place in shared.figures)
        with written_whole(folder / f"{key}.png", "wb") as file:
            draw_across(across, (one, other)).savefig(file, format="png")
        rows.append({"image": one, "other_image": other, "picture": f"{key}.png", "said": _said(mark)} | row)
    return rows


def _run(case: Case, models: Models, threshold: float, files: Sequence[str], names: Sequence[str]) -> Run:
    """What the head of the page says; `files` and `names` are those of the figures."""
    digests = {file: one.digest for file, one in zip(files, case.figures, strict=True)}
    digests |= {one.file: "" for one in case.unread if one.file not in digests}
    figures = dict(zip(names, case.figures, strict=True))
    return Run(
        sources=list(digests),
        files=digests,
        panels={name: len(one.searched.panels) for name, one in figures.items()},
        tool=tool_name(),
        flags="",
        min_score=threshold,
        networks=models.said,
        looked=models.networks is not None,
        generated={
            name: f"{one.generated.verdict}, probability {score_in_words(one.generated.probability)}"
            for name, one in figures.items()
            if one.generated is not None
        },
    )

"""The report of a case says what its page says."""

import re
from dataclasses import replace

import pytest
import torch

from common.app.cases import Case
from common.app.examining import Mark
from common.app.reporting import report
from common.generated.detector import Generated
from common.generated.network import ImageScore


def words(data: bytes) -> str:
    """The text of a page, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", data.decode()))


def test_files_of_one_name_are_told_apart(examined, copies_alone):
    other, page = replace(examined, digest="cd" * 32), replace(examined, digest="ef" * 32, figure="page 2, figure 1")
    said = words(
        report(Case(figures=[examined, other, page, replace(page, figure="page 3, figure 1")]), copies_alone, 0.5)
    )
    assert "What to look at in 4 figures: 4 findings" in said
    for digest in ("ab", "cd", "ef"):
        assert said.count(digest * 32) == 1
    for name in (
        "forged.png",
        "forged.png (2)",
        "forged.png (3), page 2, figure 1",
        "forged.png (3), page 3, figure 1",
    ):
        assert f"{name} :" in said


@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_a_marked_finding_is_listed_whatever_its_score(examined, copies_alone, verdict):
    case = Case(figures=[examined])
    assert "Nothing to look at was found" in words(report(case, copies_alone, 1.0))
    case.marks[0] = {"c1": Mark(verdict)}
    said = words(report(case, copies_alone, 1.0))
    assert "1 finding to look at" in said and f"A reviewer says {verdict}" in said
    assert "Repetitions with a score below 1.00 that no reviewer has marked" in said


def test_it_says_whether_anything_looked_for_generated_figures(examined, copies_alone):
    unsaid = "generated as a whole. Nothing looked for them in this run"
    assert unsaid in words(report(Case(figures=[examined]), copies_alone, 0.5))
    generated = Generated(probability=0.93, verdict="generated", score=ImageScore(2.6, [], torch.empty(0), None))
    said = words(report(Case(figures=[replace(examined, generated=generated)]), copies_alone, 0.5))
    assert unsaid not in said and "forged.png generated, probability 0.93" in said

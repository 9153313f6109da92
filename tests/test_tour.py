"""The notebook docs/tour.ipynb, run as a reader does."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell printed, with # for each number: the last digits may differ between machines."""
    return re.sub(r"-?\d+(\.\d+)?", "#", "".join(output.get("text", "") for output in cell.outputs))


@pytest.fixture(scope="module")
def tour():
    return nbformat.read(DOCS / "tour.ipynb", 4)


def test_the_tour_runs_and_shows_what_it_prints(tour):
    run = nbformat.from_dict(tour)
    NotebookClient(run, timeout=300, resources={"metadata": {"path": str(DOCS)}}).execute()
    assert [printed(cell) for cell in code_cells(run)] == [printed(cell) for cell in code_cells(tour)]
    instances, f1, of1 = map(float, re.findall(r"\d+(?:\.\d+)?", re.sub("F1", "", code_cells(run)[-1].outputs[0].text)))
    assert instances == 1
    assert min(f1, of1) > 0.95
    kinds = [[kind for output in cell.outputs for kind in output.get("data", {})] for cell in code_cells(run)]
    assert sum("image/jpeg" in kind for kind in kinds) == 2


def test_the_tour_is_small_and_has_nothing_of_the_machine_it_ran_on(tour):
    text = (DOCS / "tour.ipynb").read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert [cell.execution_count for cell in code_cells(tour)] == list(range(1, len(code_cells(tour)) + 1))
    assert all(not cell.metadata for cell in tour.cells)
    assert not re.search(r"/(home|root|work|tmp|usr)/|ExecuteTime|iopub", text)

"""Which candidate of a composed figure is the copy that was planted."""

import numpy as np
import pytest

from benchmarks.blots import _is_planted
from common.making.blots import ReusedBlot


def reused(transform: str, boxes: list[tuple[int, int, int, int]], kind: str = "lane") -> ReusedBlot:
    mask = np.zeros((100, 400), np.uint8)
    for x, y, wide, high in boxes:
        mask[y : y + high, x : x + wide] = 1
    return ReusedBlot(image=np.zeros((100, 400, 3), np.uint8), mask=mask, kind=kind, transform=transform)


@pytest.mark.parametrize(
    ("transform", "view"), [("shifted", (1, 1)), ("mirrored, exposure", (-1, 1)), ("turned", (-1, -1))]
)
@pytest.mark.parametrize("right", [60, 300])  # neighbours that touch are one part of the mask
def test_the_planted_copy(transform, view, right):
    figure = reused(transform, [(20, 10, 40, 80), (right, 10, 40, 80)])
    one, other = np.array([40, 50]), np.array([right + 20, 50])
    for here, there in ((one, other), (other, one)):
        matrix = np.column_stack([np.diag(view), there - np.array(view) * here])
        assert _is_planted(figure, matrix)
        assert not _is_planted(figure, np.add(matrix, [[0, 0, 12], [0, 0, 0]]))
        assert not _is_planted(figure, matrix * [[1, 1, 1], [1, -1, 1]])
        assert not _is_planted(reused("", [], "none"), matrix)

from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import numpy as np
import pytest

from common.ensemble import evidence as module
from common.ensemble.evidence import examine, gather
from common.errors import UserError
from common.forensics.copy_move import Copy, Group


def group(score, *boxes, points=7):
    """A group of a copy between each two boxes (row, column, height, width) of a 20×40 image."""
    regions = np.zeros((len(boxes), 20, 40), bool)
    for region, (row, column, height, width) in zip(regions, boxes, strict=True):
        region[row : row + height, column : column + width] = True
    copies = [
        Copy(
            source=regions[0],
            target=region,
            matrix=np.eye(2, 3),
            points=np.zeros((points, 2, 2), np.float32),
            correlation=1.0,
            score=score,
        )
        for region in regions[1:]
    ]
    return Group(copies=tuple(copies))


IMAGE = np.zeros((20, 40, 3), np.uint8)


def test_what_passes_is_drawn_by_hand(monkeypatch):
    """Of three groups two pass, whole and whatever their scores: the union is no matter of a pixel threshold."""
    best = group(0.9, (0, 0, 4, 5), (0, 20, 4, 5))
    passes, fails = group(0.5, (2, 0, 4, 5), (10, 20, 4, 5)), group(0.49, (15, 30, 4, 5), (15, 0, 4, 5))
    monkeypatch.setattr(module, "find_reuse", lambda image: SimpleNamespace(reuse=[best, passes, fails]))
    found = examine(IMAGE)
    expected = best.mask | passes.mask
    assert found.prob.dtype == np.float16
    assert (found.prob == expected).all()
    assert [mask.tolist() for mask in found.groups] == [best.mask.tolist(), passes.mask.tolist()]
    assert (found.score, found.inliers, found.area_share) == (0.9, 7, 40 / 800)


def test_of_a_group_only_the_copies_that_pass_are_drawn(monkeypatch):
    sure, weak = group(0.8, (0, 0, 4, 5), (0, 20, 4, 5)), group(0.2, (0, 0, 4, 5), (10, 20, 4, 5))
    both = Group(copies=(*sure.copies, *weak.copies))
    monkeypatch.setattr(module, "find_reuse", lambda image: SimpleNamespace(reuse=[both]))
    found = examine(IMAGE)
    assert (found.groups[0] == sure.mask).all()
    assert ((found.prob > 0) == sure.mask).all()
    assert (found.score, found.inliers, found.area_share) == (0.8, 14, 60 / 800)


def test_what_fails_still_speaks_by_its_score(monkeypatch):
    weak = group(0.3, (0, 0, 4, 5), (0, 20, 4, 5), (10, 20, 4, 5), points=4)
    monkeypatch.setattr(module, "find_reuse", lambda image: SimpleNamespace(reuse=[weak]))
    found = examine(IMAGE)
    assert (found.prob.shape, found.prob.any(), found.groups) == ((1, 1), False, ())
    assert (found.score, found.inliers, found.area_share) == (0.3, 8, 60 / 800)


def test_nothing_found(monkeypatch):
    monkeypatch.setattr(module, "find_reuse", lambda image: SimpleNamespace(reuse=[]))
    found = examine(IMAGE)
    assert (found.prob.shape, found.prob.any(), found.groups) == ((1, 1), False, ())
    assert (found.score, found.inliers, found.area_share) == (0, 0, 0)


def test_processes_find_what_one_finds(copied_images):
    """In the images' order, however long each takes; every second image holds a copy."""
    alone, together = (list(gather(iter(copied_images), workers)) for workers in (1, 2))
    assert [bool(found.groups) for found in alone] == [False, True] * 2
    for one, other in zip(alone, together, strict=True):
        assert (one.score, one.inliers, one.area_share) == (other.score, other.inliers, other.area_share)
        assert (one.prob == other.prob).all()
        assert all((a == b).all() for a, b in zip(one.groups, other.groups, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_no_images(workers):
    assert list(gather([], workers)) == []


def test_a_process_that_was_killed_is_one_clear_message():
    def results():
        yield from ()
        raise BrokenProcessPool

    with pytest.raises(UserError, match=r"ran out.*\(workers\)"):
        list(module.collected(results(), "Use fewer (workers)."))

"""Panels shared by figures that are made here, and a library of them."""

import cv2
import numpy as np
import pytest

from common.components import connected
from common.errors import UserError
from common.figures.panels import Panel
from common.making.drawing import draw_blot
from common.papers import index
from common.papers.across import compare
from common.papers.index import PanelIndex, Points
from common.papers.library import Library
from common.papers.screening import shared_panels
from common.papers.shots import load_shot, take_shots


def shots_of(figures):
    """Panels of figures of one panel each."""
    shots = []
    for number, image in enumerate(figures):
        height, width = image.shape[:2]
        shots += take_shots(image, [Panel(0, 0, width, height, "micrograph")], ["a"], f"figure {number}")
    return shots


def turned(picture):
    return np.ascontiguousarray(np.rot90(picture))


def mirrored(picture):
    return np.ascontiguousarray(picture[:, ::-1])


def brighter(picture):
    return np.clip(picture * 0.8 + 40, 0, 255).astype(np.uint8)


def enlarged(picture):
    return cv2.resize(picture, None, fx=1.25, fy=1.25, interpolation=cv2.INTER_CUBIC)


def a_part(picture):
    return np.ascontiguousarray(picture[60:, 70:])


@pytest.mark.parametrize("change", [turned, mirrored, brighter, enlarged, a_part])
def test_a_panel_shown_again_is_found_and_nothing_else(fields, change):
    figures = [*fields[:6], change(fields[2])]
    found = max(shared_panels(shots_of(figures)), key=lambda across: across.finding.group.score)
    assert sum(across.finding.group.score > 0.5 for across in shared_panels(shots_of(figures))) == 1
    assert {found.one.source, found.other.source} == {"figure 2", "figure 6"}
    assert found.finding.relation == "reuse" and found.finding.group.score > 0.9
    places = found.geometry()
    if change is a_part:
        first = found.one.source == "figure 2"
        x, y = (places["x"], places["y"]) if first else (places["x_copy"], places["y_copy"])
        assert (x, y) == pytest.approx((155, 130), abs=6)  # the middle of the part, in the whole


def test_a_panel_that_many_figures_show_is_found_in_all(fields):
    """The neighbours of its key points are all copies, without any background to compare with."""
    shots = shots_of([*fields[:6], *[fields[0]] * 24])
    figures = np.arange(len(shots))
    points = Points.of(shots)
    found = {(pair.one, pair.other) for pair in PanelIndex(points).candidates(points, figures, figures)}
    same = {0, *range(6, 30)}
    linked = connected([pair for pair in found if same.issuperset(pair)], len(shots))
    assert len({linked[number] for number in same}) == 1
    assert not [pair for pair in found if len(same.intersection(pair)) == 1]


def test_panels_of_one_figure_are_left_to_it(fields):
    one = np.hstack([fields[0], np.full((200, 20, 3), 255, np.uint8), fields[0]])
    panels = [Panel(0, 0, 240, 200, "micrograph"), Panel(260, 0, 240, 200, "micrograph")]
    assert list(shared_panels(take_shots(one, panels, ["a", "b"], "figure 1"))) == []


def test_plots_are_not_compared(fields):
    assert take_shots(fields[0], [Panel(0, 0, 240, 200, "plot")], ["a"], "figure 1") == []


def test_nothing_is_found_where_there_is_nothing():
    assert list(shared_panels([])) == []
    flat = [np.full((120, 120, 3), level, np.uint8) for level in (0, 128, 255)]
    assert list(shared_panels(shots_of(flat))) == []


def test_strips_of_blots_are_compared_without_votes(fields):
    # The first strip of a drawn blot begins within 14 pixels.
    strips = [draw_blot(400, 340, np.random.default_rng(seed))[14:60, 14:326] for seed in (1, 2, 3)]
    figures = [*strips, strips[1]]
    shots = []
    for number, image in enumerate(figures):
        shots += take_shots(image, [Panel(0, 0, 312, 46, "blot")], ["a"], f"figure {number}")
    best, *others = sorted(shared_panels(shots), key=lambda across: -across.finding.group.score)
    assert (best.one.source, best.other.source) == ("figure 1", "figure 3") and best.finding.group.score > 0.5
    assert all(across.finding.group.score < 0.5 for across in others)


def test_a_compressed_index_finds_what_a_flat_one_finds(fields, monkeypatch):
    shots = shots_of([*fields[:8], mirrored(fields[3])])
    points, figures = Points.of(shots), np.arange(9)
    flat = PanelIndex(points).candidates(points, figures, figures)
    monkeypatch.setattr(index, "FLAT", 100)
    compressed = PanelIndex(points)
    assert compressed.index.nlist > 1
    found = compressed.candidates(points, figures, figures)
    assert {(c.one, c.other) for c in flat} == {(c.one, c.other) for c in found} == {(3, 8), (8, 3)}


def test_a_panel_comes_back_from_its_file(fields, tmp_path):
    (shot,) = shots_of(fields[:1])
    saved = shot.saved(tmp_path / "panel.npz")
    back = load_shot(tmp_path / "panel.npz")
    for one in (saved, back):
        assert one.png == b"" and np.array_equal(one.picture(), fields[0])
        assert (one.source, one.panel) == ("figure 0", "a") and np.array_equal(one.descriptor, shot.descriptor)
    assert compare(shot, back).finding.group.score > 0.9


def test_a_library_grows_and_answers(fields, tmp_path):
    library = Library(tmp_path / "library")
    first, second = shots_of(fields[:4]), shots_of([fields[5], mirrored(fields[2])])
    library.add([("first.pdf", "digest 1", first)])
    assert [(c.one, c.other) for c in library.candidates(second)] == [(1, 2)]
    library.add([("second.pdf", "digest 2", second)])
    again = Library(tmp_path / "library")
    assert len(again) == 6 and "digest 2" in again and "digest 3" not in again
    assert [source.name for source in again.sources] == ["first.pdf", "second.pdf"]
    assert np.array_equal(again.shot(2).picture(), fields[2])
    (found,) = shared_panels(second, again, frozenset({"digest 2"}))
    assert (found.one.source, found.other.source) == ("figure 1", "library: figure 2")
    # What is there is not added again, and answers the same before and after.
    again.add([("second.pdf", "digest 2", second)])
    assert len(Library(tmp_path / "library")) == 6


def test_a_library_that_grew_is_sorted_anew(fields, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "FLAT", 400)
    library = Library(tmp_path / "library")
    for number in range(6):
        library.add([(f"{number}.pdf", f"digest {number}", shots_of([fields[number]]))])
    assert Library(tmp_path / "library").index.nlist > 1
    assert [(c.one, c.other) for c in library.candidates(shots_of([turned(fields[4])]))] == [(0, 4)]


def test_a_library_whose_saving_was_stopped_recovers(fields, tmp_path):
    library = Library(tmp_path / "library")
    library.add([("first.pdf", "digest 1", shots_of(fields[:2]))])
    table = (tmp_path / "library/library.json").read_bytes()
    library.add([("second.pdf", "digest 2", shots_of(fields[2:4]))])
    (tmp_path / "library/library.json").write_bytes(table)  # as if stopped before the last file
    again = Library(tmp_path / "library")
    assert len(again) == 2 and again.index.ntotal == len(again.points.panel)
    assert [(c.one, c.other) for c in again.candidates(shots_of([mirrored(fields[1])]))] == [(0, 1)]


def test_two_runs_add_to_one_library(fields, tmp_path):
    one, other = Library(tmp_path / "library"), Library(tmp_path / "library")
    one.add([("first.pdf", "digest 1", shots_of(fields[:2]))])
    other.add([("second.pdf", "digest 2", shots_of(fields[2:4]))])
    assert len(other) == 4 and [source.name for source in other.sources] == ["first.pdf", "second.pdf"]
    again = Library(tmp_path / "library")
    for number in range(4):
        assert np.array_equal(again.shot(number).picture(), fields[number])
    assert [(c.one, c.other) for c in again.candidates(shots_of([mirrored(fields[3])]))] == [(0, 3)]


@pytest.mark.parametrize("name", ["points.npz", "index.faiss"])
@pytest.mark.parametrize("size", [0, 100, 2000])
def test_broken_tables_are_made_again(fields, tmp_path, name, size):
    Library(tmp_path / "library").add([("first.pdf", "digest 1", shots_of(fields[:2]))])
    path = tmp_path / "library" / name
    path.write_bytes(path.read_bytes()[:size])
    again = Library(tmp_path / "library")
    assert [(c.one, c.other) for c in again.candidates(shots_of([mirrored(fields[1])]))] == [(0, 1)]


def test_a_library_that_was_begun_and_stopped_can_be_used(fields, tmp_path):
    shots_of(fields[:1])[0].saved(tmp_path / "library/panels/000/000000.npz")
    library = Library(tmp_path / "library")
    library.add([("first.pdf", "digest 1", shots_of(fields[1:2]))])
    assert np.array_equal(Library(tmp_path / "library").shot(0).picture(), fields[1])


def test_wrong_libraries_are_named(fields, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files, and is no library"):
        Library(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        Library(tmp_path / "notes.txt")
    folder = tmp_path / "library"
    Library(folder).add([("first.pdf", "digest 1", shots_of(fields[:1]))])
    (folder / "points.npz").write_bytes(b"")
    for content in (b"", b"broken"):
        (folder / "panels/000/000000.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"000000\.npz is no panel of a library"):
            Library(folder)
    (folder / "library.json").write_text('{"version": 0, "sources": []}')
    with pytest.raises(UserError, match="version 0"):
        Library(folder)
    (folder / "library.json").write_text("{")
    with pytest.raises(UserError, match="is broken"):
        Library(folder)


SOURCE = '{"version": 1, "sources": [{"name": "a", "digest": "b", "panels": %s}]}'


@pytest.mark.parametrize(
    "content",
    [
        *("[" * 10**5, '{"version": 1, "sources": ' * 10**4, "[]", "null", '"text"', "9" * 5000),
        *(f'{{"version": {"9" * 5000}}}', '{"version": 1}', '{"version": 1, "sources": 3}'),
        *('{"version": 1, "sources": [{"name": "a"}]}', '{"version": 1, "sources": [[]]}'),
        *(SOURCE % value for value in ("-1", '"1"', "1e999", "9" * 30, "true", "null", "9" * 5000)),
        SOURCE.replace('"a"', "7") % 0,
    ],
)
def test_a_table_of_sources_that_is_none_is_named(tmp_path, content):
    (tmp_path / "library.json").write_text(content)
    with pytest.raises(UserError, match=r"library\.json is broken \(.*Begin a new library"):
        Library(tmp_path)

"""The pictures of a clip show what they say, where they say it."""

from types import SimpleNamespace

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from common.video.pictures import (
    ABOVE,
    BELOW,
    HEAT,
    HEAT_SHARE,
    Mark,
    colour_of,
    draw_contact_sheet,
    draw_marks,
    draw_reliability,
    draw_timeline,
    overlaid,
    span_edges,
)

RNG = np.random.default_rng(0)
GREEN = np.full((48, 64, 3), (20, 200, 20), np.uint8)
GREY = 125  # of that green, by BT.601


def rgb(colour):
    return np.array(matplotlib.colors.to_rgb(colour)) * 255


def at(picture, colour):
    """Where a picture shows a colour."""
    return (np.abs(picture.astype(float) - rgb(colour)) < 3).all(axis=-1)


def test_heat_lies_over_grey_and_is_nothing_at_zero():
    heat = np.zeros((4, 4), np.float32)
    heat[:, 2:] = 1
    shown = overlaid(GREEN, heat)
    np.testing.assert_allclose(shown[:, :20], GREY, atol=1)
    hottest = (1 - HEAT_SHARE) * GREY + HEAT_SHARE * 255 * np.array(HEAT(1.0)[:3])
    np.testing.assert_allclose(shown[:, -20:], np.broadcast_to(hottest, (48, 20, 3)), atol=1)
    brightness = [overlaid(np.full((2, 2, 3), 128, np.uint8), np.full((1, 1), h)).sum() for h in (0.3, 0.5, 0.7, 0.9)]
    assert sorted(set(brightness)) == brightness


def track(number, times, scores, found, **faces):
    """A face's score, as far as pictures show it."""
    return SimpleNamespace(
        number=number, frame_scores=scores, faces=SimpleNamespace(times=times, found=np.array(found), **faces)
    )


def sheet(count, found=True, side=64, **fields):
    crops = np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None] * 5 + 10, (1, side, side, 3))
    heatmaps = np.zeros((count, 28, 28), np.float32)
    heatmaps[:, :14] = (np.arange(count) % 2)[:, None, None]
    face = track(1, np.arange(count) / 4, np.linspace(0.05, 0.95, count).round(2), np.full(count, found), crops=crops)
    fields = {"title": "a.mp4: fake", "notes": ["a note."]} | fields
    return draw_contact_sheet(SimpleNamespace(track=face, threshold=0.5), heatmaps, **fields)


def test_each_crop_stands_above_itself_with_its_heat_in_the_order_of_time(pictures):
    shown, page = pictures(sheet(20))
    assert len(shown) == 2
    grid, side = shown[0], (1580 - 7 * 10) // 8
    step = grid.shape[0] // 3
    for place in range(20):
        row, column = divmod(place, 8)
        y, x = row * step, column * (side + 10)
        crop, heated = grid[y : y + side, x : x + side], grid[y + side + 2 : y + 2 * side + 2, x : x + side]
        assert (crop == place * 5 + 10).all()
        assert (heated[-80:] == place * 5 + 10).all()
        assert (heated[:80] == place * 5 + 10).all() == (place % 2 == 0)
    assert page.shape[1] <= 1620


def test_times_and_scores_stand_below_each_crop():
    figure = sheet(3)
    colours = {text.get_text(): text.get_color() for text in figure.texts}
    assert {"0.00 s", "0.25 s", "0.50 s"} <= set(colours)
    assert (colours["0.05"], colours["0.50"], colours["0.95"]) == (BELOW, ABOVE, ABOVE)
    assert "no face found" not in colours and "no face found" in {text.get_text() for text in sheet(3, False).texts}


def timeline(tracks, sampled, found, **fields):
    """The last of the faces decides."""
    score = SimpleNamespace(probability=0.9, threshold=0.4, verdict="fake", track=tracks[-1])
    score.faces = SimpleNamespace(times=sampled, found=np.array(found))
    return draw_timeline(score, tracks, **{"title": "a.mp4: fake", "notes": ["a note."]} | fields)


def test_the_timeline_has_a_line_a_face_with_hollow_dots_where_it_was_not_found():
    sampled = np.array([0.5, 1.5, 2.5, 3.5])
    found = np.array([True, False, False, True])
    first, centre = (
        track(n, sampled, np.array([0.1, 0.2, 0.3, 0.4]), there) for n, there in ((1, found), (3, 4 * [False]))
    )
    figure = timeline([first, centre, track(2, sampled[:1], np.array([0.8]), found[:1])], sampled, found)
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(drawn["face 1, by frame"].get_xdata(), sampled)
    np.testing.assert_array_equal(drawn["face 1, by frame"].get_ydata(), [0.1, 0.2, 0.3, 0.4])
    assert drawn["face 2, by frame (decides)"].get_linewidth() > drawn["face 1, by frame"].get_linewidth()
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [tuple(line.get_xdata()) for line in hollow] == [(1.5, 2.5), tuple(sampled), ()]
    flat = {line.get_ydata()[0] for line in axes.lines if tuple(line.get_xdata()) == (0, 1)}
    assert flat == {0.9, 0.4}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        *("threshold: 0.40", "the clip: 0.90", "face 2, by frame (decides)", "centre, by frame", "face 1, by frame"),
        "no face found",
    ]


def test_the_timeline_is_hatched_where_no_face_was_found(pictures):
    sampled = np.arange(10) + 0.5
    found = np.ones(10, bool)
    found[3:5] = False
    shown, _ = pictures(timeline([track(1, sampled, np.full(10, 0.65), found)], sampled, found))
    wide = shown[0].shape[1]
    # Above all lines.
    parts = [shown[0][10:20, round(wide * (n + 0.1) / 10) : round(wide * (n + 0.9) / 10)] for n in range(10)]
    assert [bool((part == 255).all()) for part in parts] == found.tolist()


def test_spans_of_the_sampled_moments():
    np.testing.assert_array_equal(span_edges(np.array([1.0, 2.0, 5.0])), [0.5, 1.5, 3.5, 6.5])
    np.testing.assert_array_equal(span_edges(np.array([3.0])), [2.5, 3.5])


@pytest.mark.parametrize("count", [1, 9])
def test_nothing_overlaps_or_is_cut_off(count, pictures):
    title = "Recording 2024-03-…_of_a_MEETING.webm: inconclusive, probability 0.50 (threshold 0.50), face 11 of 12"
    notes = [
        "words of a warning, " * 12,
        "The verdict is real; heat marks what raised the score for fake nevertheless.",
    ]
    curves = [track(n, np.arange(count), np.full(count, 0.1 * n), np.ones(count, bool)) for n in range(1, 10)]
    texts = {"title": title, "notes": notes}
    for figure in (sheet(count, False, **texts), timeline(curves, np.arange(count), [False] * count, **texts)):
        _, page = pictures(figure)
        for strip in (page[:, :5], page[:, -5:], page[:5], page[-5:]):
            assert (strip == 255).all()
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [text.get_window_extent(renderer) for text in figure.texts]
        boxes += [axes.get_tightbbox(renderer) for axes in figure.axes[:1] if axes.get_legend()]
        boxes += [axes.get_window_extent(renderer) for axes in figure.axes[1:]]
        for place, box in enumerate(boxes):
            for other in boxes[:place]:
                assert min(box.x1, other.x1) <= max(box.x0, other.x0) + 1 or (
                    min(box.y1, other.y1) <= max(box.y0, other.y0) + 1
                )


FRAME = np.full((360, 480, 3), 60, np.uint8)


def test_a_face_is_boxed_in_its_colour_and_the_frame_stays_as_it_is():
    shown = draw_marks(FRAME, [Mark(2, (100.2, 120, 200, 299.6), 0.5, True)], "real")
    assert (FRAME == 60).all()
    drawn = at(shown, colour_of(2))
    for y, x in ((120, 150), (300, 150), (200, 100), (200, 200)):
        assert drawn[y, x]
    assert not drawn[130:290, 110:190].any()
    assert (shown[130:290, 110:190] == 60).all() and (shown[310:] == 60).all()
    assert not (shown[:20, :60] == 60).all()  # the heading


def test_where_it_was_not_found_the_box_is_thinner():
    drawn = [at(draw_marks(FRAME, [Mark(1, (100, 120, 200, 300), 0.5, f)], ""), colour_of(1)) for f in (True, False)]
    assert drawn[0][200].sum() > drawn[1][200].sum() == 2


def test_heat_fills_its_area_as_far_as_it_lies_in_the_frame():
    heat = np.zeros((28, 28), np.float32)
    heat[:, 14:] = 1
    box = (300, 150, 400, 250)
    for area in ((250, 100, 450, 300), (-100, 100, 300, 500), (380, -100, 580, 100)):
        frame = np.full((360, 480, 3), (20, 200, 20), np.uint8)
        shown = draw_marks(frame, [Mark(1, box, 0.5, True, heat, area)], "")
        left, top, right, bottom = area
        covered = np.zeros((360, 480), bool)
        covered[max(top, 0) : bottom, max(left, 0) : right] = True
        untouched = ~covered
        untouched[100:270, 280:420] = untouched[:30, :200] = False  # the box, its label, the heading
        covered[100:270, 280:420] = covered[:30, :200] = False
        assert (shown[untouched] == (20, 200, 20)).all()
        assert (shown[covered] != (20, 200, 20)).any(axis=1).all()
        hot = covered.copy()
        hot[:, : (left + right) // 2 + 10] = False
        hottest = (1 - HEAT_SHARE) * GREY + HEAT_SHARE * 255 * np.array(HEAT(1.0)[:3])
        np.testing.assert_allclose(shown[hot], np.broadcast_to(hottest, shown[hot].shape), atol=2)
    far = draw_marks(FRAME, [Mark(1, box, 0.5, True, heat, (900, 0, 950, 50))], "")
    assert (far[:, 420:] == 60).all()


@pytest.mark.parametrize("shape", [(1, 1), (8, 500), (500, 8), (64, 64)])
def test_frames_of_any_size_and_boxes_beyond_them(shape):
    frame = np.zeros((*shape, 3), np.uint8)
    marks = [
        Mark(n, (-50.0, -50.0, 60.0 * n, 60.0 * n), 0.5, False, np.ones((28, 28)), (-90, -90, 90, 90)) for n in (1, 9)
    ]
    shown = draw_marks(frame, marks, "fake, probability 0.50   0.00 s")
    assert shown.shape == frame.shape and shown.dtype == np.uint8


def test_reliability_is_the_share_of_fakes_by_length():
    """Of ten clips at 0.1 one is fake, of ten at 0.9 all; shortened, all are at 0.5."""
    fake = np.arange(20) >= 9
    figure = draw_reliability({1: np.full(20, 0.5), 24: np.repeat([0.1, 0.9], 10)}, fake)
    above, below = figure.axes
    short, whole = above.containers
    assert (short.get_label(), whole.get_label()) == ("one frame", "at most 24 frames")
    assert short[0].get_xydata() == pytest.approx(np.array([[0.5, 0.55]]))
    assert whole[0].get_xydata() == pytest.approx(np.array([[0.1, 0.1], [0.9, 1.0]]))
    low, high = whole[2][0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * np.sqrt((1 / 6) * (5 / 6) / 10))
    counts = [patch.get_data().values.tolist() for patch in below.patches]
    assert counts == [[0, 0, 20, 0, 0], [10, 0, 0, 0, 10]]

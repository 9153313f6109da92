import numpy as np
import pytest

from common.video.tracks import MAX_MISSED, link_faces


def face(x, y=100.0, side=40.0) -> list[float]:
    """A square about a centre, with confidence 1."""
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2, 1.0]


def frame(*faces) -> np.ndarray:
    return np.array(faces, float).reshape(-1, 5)


def as_sets(tracks) -> set[tuple]:
    return {(tuple(track.positions), tuple(track.boxes.ravel()), tuple(track.found)) for track in tracks}


def test_a_missed_face_is_interpolated():
    found = [frame(face(100)), frame(), frame(), frame(face(130, y=130, side=70))]
    (track,) = link_faces([frame(), *found, frame()])
    assert track.positions.tolist() == [1, 2, 3, 4]
    assert track.found.tolist() == [True, False, False, True]
    expected = [face(100), face(110, 110, 50), face(120, 120, 60), face(130, 130, 70)]
    np.testing.assert_allclose(track.boxes, np.array(expected)[:, :4])


def test_a_face_missed_too_long_is_another():
    def gap(length):
        return link_faces([frame(face(100)), *[frame()] * length, frame(face(100))])

    assert [track.positions.tolist() for track in gap(MAX_MISSED)] == [list(range(MAX_MISSED + 2))]
    assert [track.positions.tolist() for track in gap(MAX_MISSED + 1)] == [[0], [MAX_MISSED + 2]]


@pytest.mark.parametrize(
    ("second", "tracks"),
    [
        (face(139), 1),  # just less than a side
        (face(141), 2),
        (face(100, 141), 2),
        (face(100, side=79), 1),
        (face(100, side=81), 2),
        (face(100, side=19), 2),
    ],
)
def test_bounds_of_move_and_growth(second, tracks):
    assert len(link_faces([frame(face(100)), frame(second)])) == tracks


def test_two_faces_keep_their_tracks_in_whatever_order_they_are_found():
    left, right = ([face(x + 2 * step) for step in range(4)] for x in (100, 150))
    found = [frame(*((a, b) if step % 2 else (b, a))) for step, (a, b) in enumerate(zip(left, right, strict=True))]
    tracks = sorted(link_faces(found), key=lambda track: track.boxes[0, 0])
    np.testing.assert_allclose(tracks[0].boxes, np.array(left)[:, :4])
    np.testing.assert_allclose(tracks[1].boxes, np.array(right)[:, :4])


def test_faces_are_paired_all_at_once():
    """Both moved by 0.8 sides: one after the other, the nearest would be taken first, across."""
    tracks = link_faces([frame(face(100), face(136)), frame(face(132), face(168))])
    assert [track.boxes[:, 0].tolist() for track in tracks] == [[80, 112], [116, 148]]


def test_a_face_that_stays_is_not_handed_on():
    """Of two faces one stays and one leaves, and a third comes on the other side, all about a side apart."""
    tracks = link_faces([frame(face(100), face(62)), frame(face(100), face(138))])
    assert [track.boxes[:, 0].tolist() for track in tracks] == [[80, 80], [42], [118]]


def test_a_detection_beside_a_face_does_not_break_its_track():
    main, other = link_faces([frame(face(100)), frame(face(300, side=90), face(101)), frame(face(102))])
    assert main.boxes[:, 0].tolist() == [80, 81, 82]
    assert other.positions.tolist() == [1]


def test_nothing_found():
    assert link_faces([]) == []
    assert link_faces([frame()] * 3) == []


@pytest.mark.parametrize("seed", range(5))
def test_every_detection_is_in_one_track(seed):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(20):
        count = rng.integers(4)
        corner, size = rng.uniform(0, 150, (count, 2)), rng.uniform(20, 80, (count, 2))
        found.append(np.column_stack([corner, corner + size, rng.uniform(0.5, 1, count)]))
    tracks = link_faces(found)
    seen = [(p, *box) for t in tracks for p, box, hit in zip(t.positions, t.boxes, t.found, strict=True) if hit]
    assert sorted(seen) == sorted((p, *box[:4]) for p, boxes in enumerate(found) for box in boxes)
    for track in tracks:
        assert (np.diff(track.positions) == 1).all()
        assert track.found[0]
        assert track.found[-1]
    assert as_sets(link_faces([rng.permutation(boxes) for boxes in found])) == as_sets(tracks)
    doubled = as_sets(link_faces([boxes * [2, 2, 2, 2, 1] for boxes in found]))  # no unit of length
    assert doubled == {(p, tuple(2 * side for side in boxes), hit) for p, boxes, hit in as_sets(tracks)}

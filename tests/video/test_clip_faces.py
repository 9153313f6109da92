from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from common.data.transforms import resize_image
from common.errors import UserError
from common.video.clip_faces import extract_faces
from common.video.faces import make_face_detector
from common.video.files import open_video, read_frames, uniform_indices, write_video

GREY = np.full((96, 160, 3), 90, np.uint8)


class Greens:
    """Takes every patch of pure green for a face."""

    name = "greens"

    def find(self, image, path, index):
        green = (image[..., 1] > 180) & (image[..., [0, 2]].max(2) < 90)
        stats = cv2.connectedComponentsWithStats(green.astype(np.uint8))[2][1:]
        left, top, width, height = stats[stats[:, cv2.CC_STAT_AREA] > 20, :4].T.astype(float)
        return np.column_stack([left, top, left + width, top + height, np.full(len(left), 0.9)])


def draw(*boxes: tuple[int, int, int]) -> np.ndarray:
    """A frame with green squares, each given by left, top and side."""
    image = GREY.copy()
    for left, top, side in boxes:
        image[top : top + side, left : left + side] = 0, 255, 0
    return image


def clip(folder: Path, frames, fps: float = 25.0, name: str = "clip.mp4") -> Path:
    write_video(folder / name, iter(frames), fps)
    return folder / name


def extract(path: Path, frames: int = 8, size: int = 32, detector=None):
    return extract_faces(path, detector or Greens(), frames=frames, size=size)


def test_faces_are_followed_through_the_sampled_frames(tmp_path):
    large = [(8 + 2 * number, 20, 32) for number in range(32)]
    small = [(130, 70 - number, 16) for number in range(32)]
    seen = uniform_indices(np.arange(32) / 25, 8)
    missed, late = seen[3], seen[:2]
    frames = [
        draw(*[large[number]] * (number not in late), *[small[number]] * (number != missed)) for number in range(32)
    ]
    faces = extract(clip(tmp_path, frames))
    assert faces.indices.tolist() == seen
    np.testing.assert_allclose(faces.times, np.array(seen) / 25)
    assert faces.warnings == ("2 faces (one that was lost, as at a cut, counts again)",)
    first, second = faces.tracks
    assert first.positions.tolist() == [2, 3, 4, 5, 6, 7]
    assert first.coverage == 6 / 8
    assert second.found.tolist() == [True] * 3 + [False] + [True] * 4
    assert second.coverage == 7 / 8
    for track, truth in ((first, large), (second, small)):
        np.testing.assert_array_equal(track.indices, faces.indices[track.positions])
        np.testing.assert_array_equal(track.times, faces.times[track.positions])
        boxes = np.array([truth[number] for number in track.indices])
        expected = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        np.testing.assert_allclose(track.boxes, expected, atol=2)  # as H.264 keeps the edges; interpolated where missed
        assert track.crops.shape == (len(track.positions), 32, 32, 3)
        for crop, found in zip(track.crops, track.found, strict=True):
            if found:  # the face is 1/1.3 of the crop, in its middle
                np.testing.assert_allclose(crop[6:26, 6:26].mean((0, 1)), (0, 255, 0), atol=30)
                np.testing.assert_allclose(crop[[0, -1]].mean((0, 1)), 90, atol=30)


def test_a_find_in_a_single_frame_is_no_face(tmp_path):
    frames = [draw((20, 40, 12)) for _ in range(40)]
    frames[uniform_indices(np.arange(40) / 25, 8)[4]][:, 40:] = 0, 255, 0  # 80 times as large
    (track,) = extract(clip(tmp_path, frames)).tracks
    assert track.coverage == 1
    assert np.ptp(track.boxes[:, 0]) < 4


def test_a_large_face_seen_twice_is_less_prominent_than_one_seen_throughout(tmp_path):
    frames = [draw((110, 10, 40), (10, 40, 32)) if number in (0, 5) else draw((10, 40, 32)) for number in range(8)]
    assert [track.coverage for track in extract(clip(tmp_path, frames)).tracks] == [1, 0.25]


def test_a_face_between_cuts_is_covered_by_all_of_its_tracks(tmp_path):
    places = [(4, 4)] * 4 + [(110, 50)] * 3 + [(4, 60)] * 2 + [None] * 3
    frames = [draw() if place is None else draw((*place, 32)) for place in places]
    faces = extract(clip(tmp_path, frames), frames=12)
    assert [track.coverage for track in faces.tracks] == pytest.approx([4 / 12, 3 / 12, 2 / 12])
    assert faces.coverage == pytest.approx(9 / 12)
    assert faces.found.tolist() == [True] * 9 + [False] * 3
    assert [faces.may_decide(track) for track in faces.tracks] == [True, True, False]
    # Two faces at once count once.
    both = [draw((4, 4, 32), (110, 50, 24))] * 2 + [draw((4, 4, 32)), draw()]
    assert extract(clip(tmp_path, both), frames=4).coverage == 3 / 4


@pytest.mark.parametrize(("frames", "decides"), [(1, True), (2, True), (3, False), (8, False)])
def test_two_finds_decide_in_a_clip_of_two_frames_only(tmp_path, frames, decides):
    drawn = [draw((20, 40, 32))] * min(frames, 2) + [draw()] * (frames - 2)
    faces = extract(clip(tmp_path, drawn))
    assert faces.may_decide(faces.tracks[0]) is decides


def test_the_only_find_is_a_face(tmp_path):
    frames = [draw() for _ in range(8)]
    frames[5] = draw((20, 40, 32))
    (track,) = extract(clip(tmp_path, frames)).tracks
    assert track.positions.tolist() == [5]
    assert track.coverage == 1 / 8
    assert track.found.all()


def test_no_face_is_a_centre_crop_and_said(tmp_path):
    path = clip(tmp_path, [data.astronaut()[:96, n : n + 160] for n in range(6)])
    faces = extract(path, frames=3, detector=make_face_detector("centre"))
    (track,) = faces.tracks
    assert faces.warnings == ("no face found: centre crop",)
    assert not track.found.any()
    assert track.coverage == faces.coverage == 0 and not faces.may_decide(track)
    assert track.boxes.tolist() == [[32, 0, 128, 96]] * 3
    for crop, frame in zip(track.crops, read_frames(open_video(path), faces.indices), strict=True):
        np.testing.assert_array_equal(crop, resize_image(frame.image[:, 32:128], 32))


def test_crops_of_faces_are_taken_whole(tmp_path):
    image = data.astronaut()[:120, 100:260]
    Image.fromarray(image).save(tmp_path / "face.png")
    faces = extract(tmp_path / "face.png", detector=make_face_detector("crops"))
    (track,) = faces.tracks
    np.testing.assert_array_equal(track.crops, resize_image(image, 32)[None])
    assert track.coverage == 1
    assert track.boxes.tolist() == [[0, 0, 160, 120]]
    assert len(faces.warnings) == 1
    assert "one frame only" in faces.warnings[0]


def test_boxes_of_the_user(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(data.astronaut()[number : number + 120]).save(folder / f"{number}.png")
    (tmp_path / "boxes.csv").write_text(
        "file,frame,left,top,right,bottom\nframes,0,30,30,50,50\nframes,2,34,30,54,50\n"
    )
    (track,) = extract(folder, size=26, detector=make_face_detector("boxes", boxes=tmp_path / "boxes.csv")).tracks
    assert track.indices.tolist() == [0, 1, 2]
    assert track.coverage == 0.5
    assert track.boxes[:, 0].tolist() == [30, 32, 34]
    np.testing.assert_array_equal(track.crops[1], data.astronaut()[1:121][27:53, 29:55])


@pytest.fixture
def damaged(tmp_path):
    """A clip of 60 frames; some of its bytes, between two shares of all, are zero."""

    def make(start: float, end: float) -> Path:
        texture = data.astronaut()[:96, :128]
        path = clip(tmp_path, [np.roll(texture, 3 * number, 1) for number in range(60)])
        content = bytearray(path.read_bytes())
        first, last = content.find(b"mdat") + 8, content.find(b"moov") - 8
        cut = slice(first + int((last - first) * start), first + int((last - first) * end))
        content[cut] = bytes(cut.stop - cut.start)
        path.write_bytes(content)
        return path

    return make


def test_a_broken_end_is_said(damaged):
    faces = extract(damaged(0.6, 1), frames=12)
    lost = 12 - len(faces.indices)
    assert 2 < lost < 10
    expected = f"decoding broke off after frame {faces.indices[-1]} of 60: {lost} of 12 sampled frames are missing"
    assert faces.warnings == (expected, "no face found: centre crop")
    assert len(faces.tracks[0].crops) == 12 - lost


def test_a_broken_middle_is_said(damaged):
    faces = extract(damaged(0.4, 0.6), frames=12)
    lost = 12 - len(faces.indices)
    assert lost
    assert faces.indices[-1] == 57
    assert faces.warnings[0] == f"{lost} of 12 sampled frames are broken"


@pytest.mark.parametrize(("fps", "warnings"), [(0.5, ()), (0.4, ("sampled frames lie 2.5 s apart",))])
def test_sparse_samples_are_said(tmp_path, fps, warnings):
    assert extract(clip(tmp_path, [draw((20, 40, 32))] * 4, fps)).warnings == warnings


def test_no_clip(tmp_path):
    with pytest.raises(UserError, match=r"missing\.mp4"):
        extract(tmp_path / "missing.mp4")


def test_a_moving_portrait_is_followed_by_mtcnn(tmp_path):
    """A face (NASA, public domain) that goes from left to right and, for a while, is hidden."""
    pytest.importorskip("facenet_pytorch")
    portrait = data.astronaut()[40:200, 140:300]
    frames = []
    for number in range(24):
        image = np.full((200, 420, 3), 60, np.uint8)
        if number not in (11, 12, 13):
            image[20:180, 10 * number : 10 * number + 160] = portrait
        frames.append(image)
    faces = extract(clip(tmp_path, frames), frames=12, size=64, detector=make_face_detector("mtcnn"))
    (track,) = faces.tracks
    hidden = np.isin(faces.indices, (11, 12, 13))
    assert hidden.any()
    np.testing.assert_array_equal(track.found, ~hidden)
    centres = (track.boxes[:, 0] + track.boxes[:, 2]) / 2
    np.testing.assert_allclose(centres, 10 * track.indices + 82, atol=8)
    shown = track.crops[track.found].astype(float)
    assert np.abs(shown - shown.mean(0)).mean() < 12  # the crop moves with the face
    assert np.ptp(shown.mean(0)) > 100


def test_faces_of_real_clips(shared_data):
    pytest.importorskip("facenet_pytorch")
    detector = make_face_detector("mtcnn")
    for path in sorted((shared_data / "clips").glob("*/*.mp4")):
        faces = extract(path, frames=3, size=64, detector=detector)
        (track,) = faces.tracks
        assert track.coverage == 1
        sides = track.boxes[:, 2:] - track.boxes[:, :2]
        assert (sides > 0.05 * faces.video.width).all()

"""Clips of every kind become upright RGB frames with their times; broken ones are named."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from common.errors import UserError
from common.suffixes import VIDEO_SUFFIXES
from common.video import files as videos
from common.video.files import FOLDER_RATE, Video, clip_header, open_video, read_frames, uniform_indices, write_video

HEIGHT, WIDTH = 48, 64
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (230, 180, 150)]


def numbered(count: int) -> list[np.ndarray]:
    """Frames of different brightness, by which `number_of` recognises them; the top left corner is black."""
    frames = [np.full((HEIGHT, WIDTH, 3), 30 + 5 * number, np.uint8) for number in range(count)]
    for frame in frames:
        frame[:16, :16] = 0
    return frames


def number_of(image: np.ndarray) -> int:
    return round((np.median(image) - 30) / 5)


def encode(
    path: Path,
    frames: list[np.ndarray],
    codec: str = "libx264",
    milliseconds: list[int] | None = None,
    rotation: int | None = None,
    container: dict[str, str] | None = None,
    form: str | None = None,
    **options: str,
) -> Path:
    """Write 25 frames a second, or at the given times, with the encoder's options."""
    with av.open(str(path), "w", format=form, options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(-rotation)
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image)
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def images_of(video: Video) -> list[np.ndarray]:
    return [frame.image for frame in read_frames(video, range(len(video.times)))]


@pytest.fixture(scope="module")
def faststart(tmp_path_factory) -> tuple[bytes, list[np.ndarray]]:
    """An MP4 of 100 noisy frames with its index first, so that a part of it can be opened, and what it decodes to."""
    path = tmp_path_factory.mktemp("faststart") / "a.mp4"
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(100)]
    encode(path, frames, container={"movflags": "faststart"}, g="20")
    return path.read_bytes(), images_of(open_video(path))


# B-frames are stored in another order than they are shown.
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "3", "g": "12"}),
        ("a.MP4", "libx264", {"x264-params": "open-gop=1:keyint=10:bframes=3"}),
        ("a.m4v", "libx264", {"bf": "0"}),
        ("a.mov", "libx264", {"bf": "3"}),
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.avi", "libx264", {"bf": "3"}),
        ("a.avi", "mpeg4", {"bf": "2", "b": "8000000"}),
        ("a.webm", "libvpx-vp9", {"deadline": "realtime"}),
        ("a.webm", "libvpx", {}),
    ],
)
def test_every_container_gives_all_frames_in_the_order_of_display(tmp_path, name, codec, options):
    video = open_video(encode(tmp_path / name, numbered(30), codec, **options))
    assert video.kind == "video" and (video.width, video.height, video.rotation) == (WIDTH, HEIGHT, 0)
    np.testing.assert_allclose(video.times, np.arange(30) / 25, atol=1e-9)
    assert video.fps == pytest.approx(25) and not video.variable_rate and video.warnings == ()
    frames = [(frame.index, number_of(frame.image)) for frame in read_frames(video, range(30))]
    assert frames == [(number, number) for number in range(30)]


def test_misnamed_containers_are_read(tmp_path):
    for number, form in enumerate(("mpegts", "flv")):
        path = encode(tmp_path / f"{number}.mp4", numbered(12), form=form, bf="2")
        assert [number_of(image) for image in images_of(open_video(path))] == list(range(12))


def test_wanted_frames_come_once_ascending_with_index_and_time(tmp_path):
    video = open_video(encode(tmp_path / "a.mp4", numbered(30), bf="3"))
    frames = list(read_frames(video, [17, 3, 29, 3]))
    assert [frame.index for frame in frames] == [3, 17, 29]
    assert [frame.time for frame in frames] == pytest.approx([0.12, 0.68, 1.16])
    assert [number_of(frame.image) for frame in frames] == [3, 17, 29]
    image = frames[0].image
    assert image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH, 3) and image.flags.c_contiguous
    assert list(read_frames(video, [])) == []


def test_only_some_frames_are_the_same_as_all(tmp_path):
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(40)]
    video = open_video(encode(tmp_path / "a.mp4", noise, bf="3", g="12"))
    every = images_of(video)
    for frame in read_frames(video, range(5, 40, 7)):
        np.testing.assert_array_equal(frame.image, every[frame.index])


def test_nothing_after_the_last_wanted_frame_is_decoded(tmp_path, monkeypatch):
    video = open_video(encode(tmp_path / "a.mp4", numbered(10) * 20, g="50", bf="2"))
    decode, packets = videos._decode, []
    monkeypatch.setattr(videos, "_decode", lambda stream, packet: packets.append(packet) or decode(stream, packet))
    assert [frame.index for frame in read_frames(video, [3, 9])] == [3, 9]
    assert 10 <= len(packets) < 60  # some are decoded ahead, by every thread


def test_pixels_are_those_of_another_reader(tmp_path):
    path = encode(tmp_path / "a.mp4", [np.repeat(np.uint8([COLOURS]), 48, axis=0).repeat(16, axis=1)] * 3)
    captured = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
    np.testing.assert_allclose(images_of(open_video(path))[0], captured, atol=1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_variable_rate_is_told_and_its_times_kept(tmp_path, suffix):
    milliseconds = [0, 40, 80, 120, 1000, 1040, 1500, 1540, 1580, 2000]
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    video = open_video(encode(tmp_path / f"a{suffix}", numbered(10), codec, milliseconds))
    np.testing.assert_allclose(video.times, np.array(milliseconds) / 1000, atol=1e-3)
    assert video.variable_rate and video.fps == pytest.approx(4.5, rel=1e-3)
    (warning,) = video.warnings
    assert "variable frame rate" in warning and "4.5" in warning and "0.88" in warning
    assert [number_of(image) for image in images_of(video)] == list(range(10))


def test_milliseconds_of_matroska_are_no_variable_rate(tmp_path):
    for rate in (24, 30, 60, 120, 240):
        path = tmp_path / f"{rate}.mkv"
        encode(path, numbered(20), milliseconds=[round(1000 * number / rate) for number in range(20)])
        video = open_video(path)
        assert len(set(np.diff(video.times).round(4))) > 1
        assert not video.variable_rate and video.fps == pytest.approx(rate, rel=0.02)


def test_times_begin_at_the_first_frame(tmp_path):
    video = open_video(encode(tmp_path / "a.mkv", numbered(5), milliseconds=[5000, 5040, 5080, 5120, 5160]))
    np.testing.assert_allclose(video.times, [0, 0.04, 0.08, 0.12, 0.16], atol=1e-3)
    assert [frame.time for frame in read_frames(video, [2])] == pytest.approx([0.08], abs=1e-3)


@pytest.mark.parametrize("bf", ["0", "2"])
@pytest.mark.parametrize(("start", "length"), [(15, 25), (0, 20), (15, 15)])
def test_frames_cut_away_by_an_edit_list_are_no_frames_of_the_clip(tmp_path, bf, start, length):
    path = encode(tmp_path / "a.mp4", numbered(40), bf=bf, g="12")  # 512 ticks a frame
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12
    duration, first = struct.unpack(">Ii", content[at : at + 8])
    content[at : at + 8] = struct.pack(">Ii", duration * length // 40, first + 512 * start)
    path.write_bytes(content)
    video = open_video(path)
    np.testing.assert_allclose(video.times, np.arange(length) / 25, atol=1e-9)
    assert [number_of(image) for image in images_of(video)] == list(range(start, start + length))
    assert video.warnings == ()  # above all not that the file broke off


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_of_the_file_is_undone(tmp_path, rotation):
    frame = numbered(4)[3]
    path = encode(tmp_path / "a.mp4", [frame] * 4, rotation=rotation)
    video = open_video(path)
    expected = np.rot90(frame, -rotation // 90)
    assert video.rotation == rotation and (video.height, video.width) == expected.shape[:2]
    assert video.warnings == (f"rotated by {rotation}° clockwise, as the file asks for",)
    for image in images_of(video):
        np.testing.assert_allclose(image, expected, atol=8)
    assert cv2.VideoCapture(str(path)).read()[1].shape == expected.shape


def test_rotation_by_the_matrix_of_a_telephone(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(4))
    content = path.read_bytes()
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()  # upright by 90° clockwise
    track = content.index(b"tkhd")
    at = content.index(identity, track)
    path.write_bytes(content[:at] + turned + content[at + 36 :])
    video = open_video(path)
    assert (video.width, video.height, video.rotation) == (HEIGHT, WIDTH, 90)
    image = images_of(video)[0]
    assert image[:12, -12:].max() < 10 < image[:12, :12].min()  # what was top left is top right


@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_file_that_breaks_off_gives_what_is_there(tmp_path, faststart, share):
    path, (content, whole) = tmp_path / "a.mp4", faststart
    path.write_bytes(content[: int(len(content) * share)])
    video = open_video(path)
    assert 10 < len(video.times) < 100
    assert video.warnings == (f"the file breaks off: {len(video.times)} of 100 frames are there",)
    frames = list(read_frames(video, range(len(video.times))))
    assert len(frames) == len(video.times)
    for frame in frames[:-3]:  # the last ones may be predicted from what is missing
        np.testing.assert_array_equal(frame.image, whole[frame.index])


def test_matroska_that_breaks_off(tmp_path):
    path = encode(tmp_path / "a.mkv", numbered(40), g="10", bf="0")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    numbers = [number_of(image) for image in images_of(open_video(path))]
    assert 5 < len(numbers) < 40 and numbers == list(range(len(numbers)))


def test_broken_middle_costs_only_the_frames_near_it(tmp_path, faststart):
    path, content, whole = tmp_path / "a.mp4", bytearray(faststart[0]), faststart[1]
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(value ^ 0x5A for value in content[middle : middle + 4000])
    path.write_bytes(content)
    frames = list(read_frames(open_video(path), range(100)))
    assert 80 <= len(frames) < 100
    intact = {frame.index for frame in frames if np.array_equal(frame.image, whole[frame.index])}
    assert intact >= {*range(20), *range(80, 100)}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.webm"])
def test_corrupted_bytes_end_in_frames_or_a_user_error(tmp_path, name):
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    content = encode(tmp_path / name, numbered(20), codec, g="5").read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(40):
        broken = bytearray(content)
        for at in rng.integers(0, len(broken), 8):
            broken[at] = rng.integers(256)
        (tmp_path / name).write_bytes(broken)
        try:
            video = open_video(tmp_path / name)
            for frame in read_frames(video, range(len(video.times))):
                assert frame.image.shape == (video.height, video.width, 3)
            outcomes.add("frames")
        except UserError as error:
            assert name in str(error)
            outcomes.add("error")
    assert "frames" in outcomes


def test_file_that_no_longer_decodes_is_named(tmp_path, faststart):
    path, content = tmp_path / "a.mp4", bytearray(faststart[0])
    path.write_bytes(content)
    video = open_video(path)
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4.*none of the 5 wanted frames"):
        list(read_frames(video, range(5)))
    with pytest.raises(UserError, match=r"a\.mp4.*no frame"):
        open_video(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm", "a.mov", "a.mkv"])
@pytest.mark.parametrize("content", [b"", b"this is a text, not a video\n" * 50, bytes(5000)])
def test_files_that_are_no_videos_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        open_video(tmp_path / name)


def test_a_list_of_other_files_is_no_video(tmp_path):
    encode(tmp_path / "private.mp4", numbered(3))
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile 'private.mp4'\n")
    with pytest.raises(UserError, match=r"a\.mp4"):
        open_video(tmp_path / "a.mp4")


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(UserError, match=r"a\.mp4 holds no video"):
        open_video(tmp_path / "a.mp4")


def test_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        sound, cover = file.add_stream("aac", rate=16000, layout="mono"), file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        file.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1)[0])))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(sound.encode(frame))
        file.mux([*cover.encode(), *sound.encode()])
    with pytest.raises(UserError, match=r"a\.mp4 holds no video"):
        open_video(tmp_path / "a.mp4")


def test_unknown_codec_is_named(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(3))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(UserError, match=r"a\.mp4 is coded"):
        open_video(path)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    encode(tmp_path / "a.mp4", numbered(3))
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "concat:a.mp4", "file:a.mp4", "http:a.mp4"):
        with pytest.raises(UserError, match="does not exist"):
            open_video(Path(name))
        (tmp_path / "a.mp4").rename(tmp_path / name)
        assert [number_of(image) for image in images_of(open_video(Path(name)))] == [0, 1, 2]
        assert len(images_of(open_video(tmp_path / name))) == 3
        (tmp_path / name).rename(tmp_path / "a.mp4")


def test_a_folder_that_can_not_be_read_is_named(tmp_path, monkeypatch):
    """Permissions bind no administrator, so the system's refusal is made up."""

    def refusing(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refusing)
    with pytest.raises(UserError, match=r"the folder .* can't be read \(Permission denied\)"):
        open_video(tmp_path)


def test_missing_file_and_foreign_suffix(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_video(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("frames")
    with pytest.raises(UserError, match=r"a\.txt is neither"):
        open_video(tmp_path / "a.txt")


CODECS = {".webm": "libvpx", ".ogv": "libvpx", ".wmv": "wmv2", ".flv": "flv"}
CODECS |= {".mpg": "mpeg1video", ".mpeg": "mpeg2video"}
"""Encoders of the containers that H.264 is not usual in."""


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_container(tmp_path, suffix):
    path = encode(tmp_path / f"a{suffix}", numbered(12), CODECS.get(suffix, "libx264"))
    video = open_video(path)
    assert video.times == pytest.approx(np.arange(12) / 25, abs=2e-3)
    assert [number_of(image) for image in images_of(video)] == [*range(12)]


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES - {".webm"}))
def test_one_frame(tmp_path, suffix):
    video = open_video(encode(tmp_path / f"a{suffix}", numbered(1), CODECS.get(suffix, "libx264")))
    assert video.times.tolist() == [0] and np.isnan(video.fps) and not video.variable_rate
    assert len(video.warnings) == 1 and "one frame only" in video.warnings[0]
    assert [number_of(image) for image in images_of(video)] == [0]


def test_image_is_a_clip_of_one_frame(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    video = open_video(tmp_path / "a.png")
    assert (video.kind, video.width, video.height) == ("image", 7, 5)
    assert "one frame only" in video.warnings[0] and np.isnan(video.fps)
    (frame,) = read_frames(video, uniform_indices(video.times, 24))
    assert (frame.index, frame.time) == (0, 0)
    np.testing.assert_array_equal(frame.image, image)


def test_broken_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match=r"a\.png"):
        open_video(tmp_path / "a.png")


def test_folder_of_frames_in_the_natural_order_of_names(tmp_path):
    for number, frame in enumerate(numbered(12)):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".frame3.png").write_text("hidden")
    video = open_video(tmp_path)
    assert (video.kind, video.width, video.height) == ("frames", WIDTH, HEIGHT)
    np.testing.assert_allclose(video.times, np.arange(12) / FOLDER_RATE)
    assert video.fps == pytest.approx(25) and "25 frames/s" in video.warnings[0]
    assert [number_of(image) for image in images_of(video)] == list(range(12))
    assert [number_of(frame.image) for frame in read_frames(video, [10, 2])] == [2, 10]


def test_frames_of_a_folder_have_one_size(tmp_path):
    for number, side in enumerate((20, 20, 24)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((side, 20, 3), np.uint8))
    frames = read_frames(open_video(tmp_path), range(3))
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(UserError, match=r"2\.png is 20 × 24 px.*20 × 20"):
        next(frames)


def test_folder_without_images(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        open_video(tmp_path)


def test_uniform_indices_known_by_hand():
    times = np.arange(12) / 25
    assert uniform_indices(times, 1) == [5]  # of 5 and 6, equally near, the earlier
    assert uniform_indices(times, 3) == [1, 5, 9]
    assert uniform_indices(times, 4) == [1, 4, 7, 10]
    assert uniform_indices(times, 11) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert uniform_indices(times, 12) == uniform_indices(times, 100) == list(range(12))
    assert uniform_indices(times[:0], 4) == []


def test_uniform_indices_go_by_time_not_by_number():
    times = np.concatenate([np.arange(10) / 10, 1 + np.arange(100) / 100])  # a second at 10 and one at 100 frames/s
    chosen = np.array(uniform_indices(times, 10))
    assert len(chosen) == 10 and (chosen < 10).sum() == 5
    assert np.abs(np.diff(times[chosen]) - 0.2).max() < 0.06


def test_uniform_indices_take_a_long_standing_frame_once():
    times = np.concatenate([np.arange(50) / 50, [11.0]])
    assert uniform_indices(times, 5) == [49, 50]


@pytest.mark.parametrize("rate", [23.976, 25, 29.97, 30, 59.94])
def test_uniform_indices_do_not_depend_on_rounding_or_start(rate):
    for count in (1, 7, 24, 32):
        for frames in range(count, 6 * count, 5):
            times = np.arange(frames) / rate
            chosen = uniform_indices(times, count)
            gaps = np.diff(chosen)
            assert len(chosen) == count and gaps.max(initial=0) <= gaps.min(initial=9) + 1
            assert chosen == uniform_indices(times * 1000 + 5, count)
            assert 0 <= frames - 1 - chosen[-1] - chosen[0] <= 1  # as much is left at the end as at the beginning


@pytest.mark.parametrize("fps", [25, 29.97002997, 12.5, 4.5])
def test_written_video_is_read_again(tmp_path, fps):
    write_video(tmp_path / "new" / "a.mp4", iter(numbered(20)), fps)
    video = open_video(tmp_path / "new" / "a.mp4")
    assert video.fps == pytest.approx(fps, rel=1e-4) and not video.variable_rate
    for image, expected in zip(images_of(video), numbered(20), strict=True):
        assert number_of(image) == number_of(expected)
        assert image.shape == expected.shape and np.abs(image.astype(int) - expected).mean() < 2


def test_written_colours_are_the_same_for_every_reader(tmp_path):
    frame = np.repeat(np.uint8([COLOURS]), 48, axis=0).repeat(16, axis=1)
    write_video(tmp_path / "a.mp4", [frame] * 3, 25)
    ours, other = images_of(open_video(tmp_path / "a.mp4"))[0], cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[1]
    for image in (ours, other[..., ::-1]):
        np.testing.assert_allclose(image[24, 8::16], COLOURS, atol=4)


def test_odd_sides_are_extended_and_the_input_is_left_alone(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (3, 4, 1), dtype=np.uint8).repeat(3, axis=2)
    frame = cv2.resize(frame, (65, 33))
    before = frame.copy()
    write_video(tmp_path / "a.mp4", [frame], 25)
    (image,) = images_of(open_video(tmp_path / "a.mp4"))
    assert image.shape == (34, 66, 3)
    assert np.abs(image[:33, :65].astype(int) - frame).mean() < 4
    assert np.abs(image[33].astype(int) - image[32]).mean() < 6
    np.testing.assert_array_equal(frame, before)


def test_broken_off_writing_leaves_what_was_there(tmp_path):
    def frames():
        yield from numbered(5)
        raise RuntimeError("no more")

    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="no more"):
        write_video(path, frames(), 25)
    with pytest.raises(ValueError, match="no frames"):
        write_video(path, [], 25)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_videos_of_real_cameras(shared_data):
    clips = sorted((shared_data / "clips").rglob("*.mp4"))
    assert clips
    for clip in clips[:2]:
        video = open_video(clip)
        capture = cv2.VideoCapture(str(clip))
        assert len(video.times) == capture.get(cv2.CAP_PROP_FRAME_COUNT)
        wanted = uniform_indices(video.times, 20)[:2]
        frames = {frame.index: frame.image for frame in read_frames(video, wanted)}
        for index in range(wanted[-1] + 1):
            capture.grab()
            if index in wanted:
                np.testing.assert_allclose(frames[index], capture.retrieve()[1][..., ::-1], atol=1)


def test_the_header_of_a_clip(tmp_path):
    write_video(tmp_path / "a.mp4", iter(numbered(4)), 25)
    header = clip_header(tmp_path / "a.mp4")
    assert header.keys() == {"format and codec", "width and height", "frame rate"}
    video = open_video(tmp_path / "a.mp4")
    assert (header["width and height"], header["frame rate"]) == ((video.width, video.height), 25)
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "1.png"), next(iter(numbered(1))))
    assert clip_header(tmp_path / "frames") == clip_header(tmp_path / "frames" / "1.png")
    assert clip_header(tmp_path / "frames")["width and height"] == header["width and height"]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert clip_header(tmp_path / "broken.mp4") == {}

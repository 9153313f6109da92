"""Time to decode 32 frames spread evenly over a clip, by `read_frames` and by other methods.

    python -m benchmarks.video_decode [FILE]

Ours is `open_video`, which reads through the whole file, `uniform_indices` and `read_frames`. The others are given the
indices: OpenCV reading every frame, OpenCV grabbing every frame and retrieving the wanted ones, OpenCV and PyAV seeking
to each. Without FILE, two 1080p clips of 10 s (H.264, 30 frames per second, a moving texture) are made, with a keyframe
every second and every 250 frames. Medians of interleaved rounds; ours is faster where the ratio is above 1.
"""

from common.process import prepare

prepare()  # before torch is imported

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from common.tables import markdown_table
from common.video.files import open_video, read_frames, uniform_indices

COUNT, ROUNDS = 32, 3
HEIGHT, WIDTH, FPS, LENGTH = 1080, 1920, 30, 300
KEYFRAMES = (30, 250)


def main() -> None:
    """Make the clips, check, time, print a table each."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, PyAV {av.__version__}, OpenCV {cv2.__version__}\n")
    if len(sys.argv) > 1:
        _measure(Path(sys.argv[1]), sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        for interval in KEYFRAMES:
            clip = Path(folder) / f"{interval}.mp4"
            _make_clip(clip, interval)
            _measure(clip, f"1080p, 10 s, a keyframe every {interval} frames")


def _make_clip(path: Path, interval: int) -> None:
    """A window that moves over blurred noise, with new noise in each frame like a camera's."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT + 160, WIDTH + 400, 3), dtype=np.uint8), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": str(interval), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(LENGTH):
            top, left = 80 + round(70 * np.sin(number / 20)), number
            noise = rng.integers(0, 5, (HEIGHT, WIDTH, 1), dtype=np.uint8)
            window = cv2.add(texture[top : top + HEIGHT, left : left + WIDTH], np.repeat(noise, 3, axis=2))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window)))
        container.mux(stream.encode())


def _measure(path: Path, title: str) -> None:
    video = open_video(path)
    wanted = uniform_indices(video.times, COUNT)
    ways: dict[str, Callable[[], list[np.ndarray]]] = {
        "ours": partial(_ours, path),
        "OpenCV, every frame read": partial(_read_all, path, wanted),
        "OpenCV, wanted frames retrieved": partial(_retrieve, path, wanted),
        "OpenCV, a seek to each frame": partial(_seek_opencv, path, wanted),
        "PyAV, a seek to each frame": partial(_seek_pyav, path, video.stamps[wanted].tolist(), video.rotation),
    }
    taken, differences = {name: [] for name in ways}, {}
    for number in range(ROUNDS):
        ours = []
        for name, way in ways.items():
            start = time.perf_counter()
            images = way()
            taken[name].append(time.perf_counter() - start)
            if number == 0:
                ours = ours or images
                differences[name] = _difference(ours, images)
    seconds = [statistics.median(times) for times in taken.values()]
    rows = [
        [name, f"{second:.2f}", f"{second / seconds[0]:.2f}×", differences[name]]
        for name, second in zip(ways, seconds, strict=True)
    ]
    head = f"{title}: {len(wanted)} of {len(video.times)} frames, {video.width} × {video.height}"
    print(markdown_table([head, "s", "ratio", "largest difference of a pixel"], rows), end="\n\n")


def _difference(ours: list[np.ndarray], others: list[np.ndarray]) -> str:
    if [image.shape for image in ours] != [image.shape for image in others]:
        return "other frames"
    return str(max(int(cv2.absdiff(*pair).max()) for pair in zip(ours, others, strict=True)))


def _ours(path: Path) -> list[np.ndarray]:
    video = open_video(path)
    return [frame.image for frame in read_frames(video, uniform_indices(video.times, COUNT))]


def _read_all(path: Path, wanted: list[int]) -> list[np.ndarray]:
    capture, images = cv2.VideoCapture(str(path)), []
    for index in range(wanted[-1] + 1):
        image = capture.read()[1]
        if index in wanted:
            images.append(image[..., ::-1].copy())
    return images


def _retrieve(path: Path, wanted: list[int]) -> list[np.ndarray]:
    capture, images = cv2.VideoCapture(str(path)), []
    for index in range(wanted[-1] + 1):
        capture.grab()
        if index in wanted:
            images.append(capture.retrieve()[1][..., ::-1].copy())
    return images


def _seek_opencv(path: Path, wanted: list[int]) -> list[np.ndarray]:
    capture, images = cv2.VideoCapture(str(path)), []
    for index in wanted:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        images.append(capture.read()[1][..., ::-1].copy())
    return images


def _seek_pyav(path: Path, stamps: list[int], rotation: int) -> list[np.ndarray]:
    images = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for stamp in stamps:
            container.seek(stamp, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts >= stamp)
            images.append(np.rot90(frame.to_ndarray(format="rgb24"), -rotation // 90))
    return images


if __name__ == "__main__":
    main()

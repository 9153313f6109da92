"""Decoding of clips to upright RGB frames with their times, and encoding of videos.

A clip is a video file, an image or a folder of frames. Decoding is one sequential pass that stops after the last wanted
frame: a seek to each frame would decode everything from a keyframe to it each time (`benchmarks/video_decode.py`).
"""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from common.data.images import read_image
from common.data.leaks import Header, image_header
from common.errors import UserError, first_line
from common.files import check_regular, entries, written_whole
from common.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES

FOLDER_RATE = 25.0
"""Frames per second assumed for a folder of frames."""
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
# Otherwise FFmpeg would open the files and addresses listed in a playlist that is named .mp4.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}


@dataclass(frozen=True, eq=False)
class Video:
    """A clip's metadata, read before its frames are decoded."""

    path: Path
    kind: str
    """`video`, `image` (a clip of one frame) or `frames` (a folder)."""
    times: np.ndarray
    """Seconds since the first frame, float64 (n,), in the order of display."""
    width: int
    height: int
    """Size of the upright frame in px."""
    rotation: int
    """Degrees clockwise by which the stored frames are rotated: 0, 90, 180 or 270."""
    warnings: tuple[str, ...]
    stamps: np.ndarray | None = field(default=None, repr=False)
    """Timestamps in the file, int64 (n,), that identify decoded frames; None if frames are counted instead (AVI)."""

    @property
    def fps(self) -> float:
        """Mean frames per second; nan for one frame."""
        span = self.times[-1] - self.times[0]
        return float((len(self.times) - 1) / span) if span > 0 else float("nan")

    @property
    def variable_rate(self) -> bool:
        """Whether the intervals between frames differ.

        Differences of up to a fifth of the median interval, or 1.5 ms, count as rounding: Matroska has milliseconds.
        """
        gaps = np.diff(self.times)
        if not len(gaps):
            return False
        usual = np.median(gaps)
        return bool(np.abs(gaps - usual).max() > max(0.2 * usual, 0.0015))


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame."""

    index: int
    """Number among all frames of the clip, in the order of display, from 0."""
    time: float
    """Seconds since the clip's first frame."""
    image: np.ndarray
    """uint8 (H, W, 3), RGB, upright."""


def open_video(path: Path) -> Video:
    """Read a clip's metadata, decoding only its first frame.

    Args:
        path: A video file, an image, or a folder whose images are the frames, in the natural order of their names.

    Raises:
        UserError: There is no such file, it is no video or image by its suffix, no frame of it can be decoded, or the
            folder has no images.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Name a video, an image, or a folder of frames.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _described(path, "image", np.zeros(1), read_image(path, upright=True).shape)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        raise UserError(f"{path} is neither a video nor an image by its name; these are read: {suffixes}.")
    return _open_file(path)


def _open_folder(path: Path) -> Video:
    files = frame_files(path)
    if not files:
        raise UserError(f"{path} holds no images. Name a video, an image, or a folder of frames.")
    warning = f"times counted at {FOLDER_RATE:g} frames/s: a folder of frames has none of its own"
    return _described(
        path, "frames", np.arange(len(files)) / FOLDER_RATE, read_image(files[0], upright=True).shape, [warning]
    )


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder of frames that aren't hidden, in the natural order of their names.

    Raises:
        UserError: The folder can't be read.
    """
    files = [p for p in entries(folder) if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    return sorted(files, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts `frame2` before `frame10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]


def _described(
    path: Path,
    kind: str,
    times: np.ndarray,
    shape: tuple[int, ...],
    warnings: Sequence[str] = (),
    rotation: int = 0,
    stamps: np.ndarray | None = None,
) -> Video:
    height, width = shape[:2]
    video = Video(path, kind, times, width, height, rotation, tuple(warnings), stamps)
    if len(times) == 1:
        return replace(video, warnings=(*warnings, "one frame only: changes over time can't be judged"))
    if video.variable_rate:
        gaps, rate = np.diff(times), f"{video.fps:.4g} frames/s on average"
        warning = f"variable frame rate: {gaps.min():.3g} to {gaps.max():.3g} s between frames, {rate}"
        return replace(video, warnings=(*warnings, warning))
    return video


def _open_file(path: Path) -> Video:
    first, ticks, whole, warnings = None, set(), 0, []
    with _opened(path) as (container, stream):
        # AVI stores no display times; those that FFmpeg estimates are wrong where there are B-frames.
        avi = container.format.name == "avi"
        for packet in _packets(container, stream):
            whole += 1
            if first is None:  # only a decoded frame has the rotation
                first = next(iter(_decode(stream, packet)), None)
            if not packet.is_discard:  # discarded: outside the range of an edit list
                ticks.add(packet.dts if avi else packet.pts)
        if first is None:
            first = next(iter(_decode(stream, None)), None)
        ticks -= {None}
        if first is None or not ticks:
            raise UserError(f"{path}: no frame of it can be decoded. Try whether it plays, and re-encode or remove it.")
        if whole < len(stream.index_entries):  # not stream.frames, which disregards edit lists
            warnings.append(f"the file breaks off: {whole} of {len(stream.index_entries)} frames are there")
        stamps = np.array(sorted(ticks), np.int64)
        times = (stamps - stamps[0]) * float(stream.time_base or 1)
    rotation = round(-first.rotation / 90) * 90 % 360
    if rotation:
        warnings.append(f"rotated by {rotation}° clockwise, as the file asks for")
    shape = (first.width, first.height) if rotation % 180 else (first.height, first.width)
    return _described(path, "video", times, shape, warnings, rotation, None if avi else stamps)


def clip_header(path: Path) -> Header:
    """What the header of a video, an image or the first frame of a folder says, without a frame decoded."""
    try:
        if path.is_dir():
            return image_header(frame_files(path)[0])
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return image_header(path)
        with _opened(path) as (container, stream):
            context = stream.codec_context
            storage = container.format.name, context.name, context.pix_fmt
            rate = None if stream.average_rate is None else round(float(stream.average_rate), 2)
            return {
                "format and codec": storage,
                "width and height": (context.width, context.height),
                "frame rate": rate,
            }
    except UserError:
        return {}


@contextmanager
def _opened(path: Path) -> Generator[tuple[InputContainer, VideoStream]]:
    """A video file and its video stream, which is not a cover picture."""
    check_regular(path)
    try:
        # With file:, because FFmpeg takes what precedes a colon, as in 12:30.mp4, for a protocol.
        container = av.open(f"file:{path}", options=_OPTIONS, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} cannot be read as a video ({error.strerror}). Replace or remove the file.") from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise UserError(f"{path} holds no video, only sound or other data. Replace or remove the file.")
        if streams[0].codec_context is None:
            raise UserError(f"{path} is coded in a way that FFmpeg does not know. Re-encode it, for instance as H.264.")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The stream's whole packets, to the end or to where the file breaks off."""
    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            # An empty packet is the end, which `_decode` signals. Half a frame would break those decoded in parallel.
            if packet.size and not packet.is_corrupt:
                yield packet


def _decode(stream: VideoStream, packet: av.Packet | None) -> list[av.VideoFrame]:
    """The frames that are ready after a packet (None is the end of the stream); none if the packet is broken."""
    try:
        return stream.codec_context.decode(packet)
    except av.FFmpegError:
        return []


def uniform_indices(times: np.ndarray, count: int) -> list[int]:
    """Sample frames evenly in time, for training and prediction alike.

    The clip, from half a mean interval before its first frame to half a mean interval after its last, is divided into
    `count` equal spans. The frame nearest to the centre of each is taken, the earlier of two equally near ones.

    Args:
        times: Seconds (n,), ascending.
        count: Number of frames, at least 1.

    Returns:
        Ascending indices, each once: all of them if n <= count, and fewer than `count` if a frame is shown so long that
        it is nearest to several centres.
    """
    n = len(times)
    if n <= count:
        return list(range(n))
    interval = (times[-1] - times[0]) / (n - 1)
    centres = times[0] - interval / 2 + (np.arange(count) + 0.5) * (interval * n / count)
    halfway = (times[1:] + times[:-1]) / 2
    # Slightly earlier, so that rounding does not decide between two equally near frames.
    return np.unique(np.searchsorted(halfway, centres - interval / 1000)).tolist()


def read_frames(video: Video, indices: Iterable[int]) -> Iterator[Frame]:
    """Decode frames of a clip in one sequential pass.

    Args:
        video: As `open_video` returns it.
        indices: Numbers of the wanted frames, in any order. Nothing after the last is decoded.

    Yields:
        The frames, ascending, each once, without broken ones and those after the place where the file breaks off.

    Raises:
        UserError: None of the wanted frames can be decoded; a frame of a folder is broken or of another size.
    """
    wanted = sorted(set(indices))
    if video.kind == "video":
        frames = _read_file(video, wanted)
    else:
        files = frame_files(video.path) if video.kind == "frames" else [video.path]
        frames = ((index, _read_image(files[index], video)) for index in wanted)
    empty = True
    for index, image in frames:
        empty = False
        yield Frame(index, float(video.times[index]), image)
    if wanted and empty:
        raise UserError(
            f"{video.path}: none of the {len(wanted)} wanted frames can be decoded. Re-encode or remove it."
        )


def _read_image(path: Path, video: Video) -> np.ndarray:
    image = read_image(path, upright=True)
    if image.shape[:2] != (video.height, video.width):
        raise UserError(
            f"{path} is {image.shape[1]} × {image.shape[0]} px, the first frame of the folder {video.width} × "
            f"{video.height}. Give all frames of a clip one size."
        )
    return image


def _read_file(video: Video, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    reformatter = VideoReformatter()
    turned = video.rotation % 180 == 90
    width, height = (video.height, video.width) if turned else (video.width, video.height)
    positions = None if video.stamps is None else {stamp: index for index, stamp in enumerate(video.stamps.tolist())}
    remaining, index = set(wanted), -1
    with _opened(video.path) as (container, stream):
        for packet in chain(_packets(container, stream), [None]):
            for frame in _decode(stream, packet):
                index = index + 1 if positions is None else positions.get(frame.pts, index)
                if index in remaining:
                    try:
                        image = reformatter.reformat(frame, width, height, "rgb24").to_ndarray()
                    except (av.FFmpegError, OSError, MemoryError) as error:
                        raise UserError(f"{video.path}: a frame can't be converted ({first_line(error)}).") from error
                    yield index, cv2.rotate(image, _TURNS[video.rotation]) if video.rotation else image
                    remaining.discard(index)
                if not remaining:
                    return


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Encode frames as an H.264 MP4, whole or not at all.

    Args:
        path: File to write or replace; its folder is made if it is missing.
        frames: At least one, uint8 (H, W, 3), RGB, of one size. Odd sides are extended by the last row or column, since
            the halved chroma of H.264 needs even ones.
        fps: Frames per second.

    Raises:
        UserError: The folder can't be written to.
        ValueError: No frames.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"no frames to write to {path}")
    height, width = (side + side % 2 for side in first.shape[:2])
    with written_whole(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.options = {"crf": "20", "preset": "veryfast"}
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # Without these tags players guess the colour matrix from the size, which shifts the colours.
        stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
        stream.codec_context.color_range = 1
        for image in chain([first], frames):
            padding = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(image, padding, "edge") if any(map(any, padding)) else image)
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))
        container.mux(stream.encode())

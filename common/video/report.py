"""What a detector said of clips, written down: figures, pictures and an annotated video each, a table of them all."""

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from common.errors import UserError, described
from common.files import write_json, written_whole
from common.page import resized
from common.suffixes import IMAGE_SUFFIXES
from common.video.clips import CLIP_SUFFIXES, find_clips
from common.video.detector import TrackScore, VideoDetector, VideoScore
from common.video.files import FOLDER_RATE, Video, read_frames, write_video
from common.video.pictures import (
    Box,
    Curve,
    Mark,
    draw_contact_sheet,
    draw_marks,
    draw_timeline,
    span_edges,
)

COLUMNS = (
    "file",
    "probability",
    "verdict",
    "threshold",
    "coverage",
    "n_tracks",
    "track",
    "n_frames",
    "duration_s",
    "warnings",
    "seconds",
    "error",
)
"""Of results.csv."""
FILES = ("result.json", "contact_sheet.png", "timeline.png", "heatmaps.npz", "annotated.mp4", "annotated.png")
"""All that a clip's folder may hold."""
MOST_WIDE = 1280
"""Pixels of the annotated video."""
MOST_CURVES = 8
"""Faces in the timeline, the deciding one besides."""
EXPLAINED = {
    "fake": "Heat is what speaks for fake in this face, as the network sees it: no proof of where it was changed.",
    "real": "The verdict is real: heat is what speaks for fake nevertheless.",
    "inconclusive": "There is no verdict: heat is what would speak for fake.",
}


def duration(video: Video) -> float:
    """Seconds that a clip lasts, its last frame as long as the others in the mean; nan for one frame."""
    return len(video.times) / video.fps


def write_report(score: VideoScore, folder: Path) -> None:
    """Write what was found in a clip.

    result.json has all figures. If heatmaps were made, there are besides: contact_sheet.png (the deciding face's crops
    with their heat), timeline.png (all faces' scores over time), heatmaps.npz (`heatmaps` (n, 28, 28) of the deciding
    face, and `indices`, `times`, `boxes`, `found` of its frames and the `areas` in them that the heatmaps cover), and
    the clip with all faces marked: annotated.mp4, each frame once at the clip's mean rate, or annotated.png of a single
    frame. Each is written whole or not at all, result.json last.

    Args:
        score: Of the clip.
        folder: Made when it is missing.

    Raises:
        UserError: The folder can't be written to, or the clip can't be read again.
    """
    if score.track.heatmaps is not None:
        _write_figure(_contact_sheet(score), folder / "contact_sheet.png")
        _write_figure(_timeline(score), folder / "timeline.png")
        _write_heatmaps(score.track, folder / "heatmaps.npz")
        _write_annotated(score, folder)
    write_json(result(score), folder / "result.json")


def result(score: VideoScore) -> dict:
    """The figures of a clip as plain values, rounded; nan where there is none."""
    video = score.faces.video
    return {
        "file": str(score.path),
        "probability": round(score.probability, 6),
        "verdict": score.verdict,
        "threshold": score.threshold,
        "checkpoint": score.checkpoint,
        "track": score.track.number,
        "coverage": round(score.coverage, 4),
        "duration_s": round(duration(video), 3),
        "frame_rate": round(video.fps, 3),
        "n_frames": len(video.times),
        "width": video.width,
        "height": video.height,
        "rotation": video.rotation,
        "warnings": list(score.warnings),
        "seconds": round(score.seconds, 2),
        "tracks": [_track_result(track) for track in score.tracks],
    }


def _track_result(track: TrackScore) -> dict:
    faces = track.faces
    frames = zip(faces.indices, faces.times, track.frame_scores, faces.boxes, faces.found, strict=True)
    return {
        "track": track.number,
        "probability": round(track.probability, 6),
        "coverage": round(faces.coverage, 4),
        "frames": [
            {
                "index": int(index),
                "time": round(float(time), 3),
                "score": round(float(own), 6),
                "box": [round(float(side), 1) for side in box],
                "face_found": bool(found),
            }
            for index, time, own, box, found in frames
        ],
    }


def _write_figure(figure: Figure, path: Path) -> None:
    with written_whole(path, "wb") as file:
        figure.savefig(file, format="png")


def _write_heatmaps(track: TrackScore, path: Path) -> None:
    faces = track.faces
    with written_whole(path, "wb") as file:
        np.savez_compressed(
            file,
            heatmaps=track.heatmaps,
            indices=faces.indices,
            times=faces.times,
            boxes=faces.boxes,
            areas=faces.areas,
            found=faces.found,
        )


def _title(score: VideoScore) -> str:
    name = _printable(score.path.name, "utf-8")
    name = name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"
    face = f", face {score.track.number} of {len(score.tracks)}" if len(score.tracks) > 1 else ""
    return f"{name}: {score.verdict}, probability {score.probability:.2f} (threshold {score.threshold:.2f}){face}"


def _contact_sheet(score: VideoScore) -> Figure:
    track = score.track
    return draw_contact_sheet(
        track.faces.crops,
        track.heatmaps,
        track.faces.times,
        track.frame_scores,
        track.faces.found,
        threshold=score.threshold,
        title=_title(score),
        notes=(EXPLAINED[score.verdict], *score.warnings),
    )


def _timeline(score: VideoScore) -> Figure:
    shown = [track for track in score.tracks[:MOST_CURVES] if track is not score.track] + [score.track]
    curves = [
        Curve(
            track.number,
            _name(score, track),
            track.faces.times,
            track.frame_scores,
            track.faces.found,
            track is score.track,
        )
        for track in shown
    ]
    notes = ["The verdict is that of the frames together, in their order; it is not the mean of their own scores."]
    if len(shown) < len(score.tracks):
        notes.append(f"{len(score.tracks) - len(shown)} more faces are in result.json.")
    return draw_timeline(
        curves,
        score.faces.times,
        score.faces.found,
        probability=score.probability,
        threshold=score.threshold,
        title=_title(score),
        notes=(*notes, *score.warnings),
    )


def _name(score: VideoScore, track: TrackScore) -> str:
    """Of a face, in the timeline."""
    if not track.faces.found.any():
        return "centre, by frame"
    decides = " (decides)" if track is score.track and score.verdict != "inconclusive" else ""
    return f"face {track.number}, by frame{decides}"


def _write_annotated(score: VideoScore, folder: Path) -> None:
    video = score.faces.video
    if len(video.times) == 1:
        (frame,) = _annotated(score)
        with written_whole(folder / "annotated.png", "wb") as file:
            file.write(cv2.imencode(".png", frame[..., ::-1])[1].tobytes())
    else:
        frames = tqdm(_annotated(score), "annotating", len(video.times), unit="frame", leave=False, disable=None)
        # Of frames that all have one time the rate is unknown.
        write_video(folder / "annotated.mp4", frames, FOLDER_RATE if np.isnan(video.fps) else video.fps)


def _annotated(score: VideoScore) -> Iterator[np.ndarray]:
    """All frames of a clip with their faces marked, uint8 (h, w, 3)."""
    video = score.faces.video
    scale = min(1, MOST_WIDE / video.width)
    size = (round(video.width * scale), max(1, round(video.height * scale)))
    nearest = np.searchsorted(span_edges(score.faces.times)[1:-1], video.times)
    for frame in read_frames(video, range(len(video.times))):
        position = nearest[frame.index]
        marks = [_mark(track, frame.time, position, track is score.track, scale) for track in score.tracks]
        heading = f"{score.verdict}, probability {score.probability:.2f}   {frame.time:.2f} s"
        picture = resized(frame.image, size) if scale < 1 else frame.image
        yield draw_marks(picture, [mark for mark in marks if mark is not None], heading)


def _mark(track: TrackScore, time: float, position: int, decides: bool, scale: float) -> Mark | None:
    """A face in the frame of a time whose nearest sampled frame is at a position; None where it isn't followed.

    Its box moves evenly between sampled frames; score and heat are the nearest one's.
    """
    faces = track.faces
    place = position - faces.positions[0]
    if not 0 <= place < len(faces.positions):
        return None

    def moved(boxes: np.ndarray) -> Box:
        left, top, right, bottom = (scale * float(np.interp(time, faces.times, side)) for side in boxes.T)
        return left, top, right, bottom

    heat, area = (track.heatmaps[place], moved(faces.areas)) if decides else (None, None)
    return Mark(track.number, moved(faces.boxes), track.frame_scores[place], faces.found[place], heat, area)


def predict_folder(detector: VideoDetector, source: Path, output: Path, *, pictures: bool = True) -> int:
    """Score every file of a folder, and write results.csv and a folder a clip.

    Each file has its row, as soon as it is done; one that can't be scored, whyever, has its error there. A clip's
    folder (see `write_report`) is called like the clip, below the output as the clip is below its folder; what an
    earlier run wrote there is removed first.

    Args:
        detector: Scores them.
        source: A folder, in which a subfolder of nothing but images is one clip; or a single file.
        output: Where to write. What is in there is not scored.
        pictures: Make heatmaps and pictures; else there is result.json alone.

    Returns:
        How many could not be scored.

    Raises:
        UserError: No such file or folder, nothing in it, or the output can't be written to.
    """
    names = _names(source, output)
    for name, path in names.items():
        place = output / name
        if place.is_file() or place.resolve() == path.resolve():
            raise UserError(f"the output {output} holds {name}, where its results would go. Name another folder.")
    if _holds_frames(source):
        hint = "to score them as one clip of frames, name the folder above"
        _print(f"note: each image of {source} is scored by itself; {hint}")
    failures = 0
    with _table(output / "results.csv") as write_row:
        for name, path in tqdm(names.items(), unit="clip", disable=None):
            try:
                for file in FILES:
                    (output / name / file).unlink(missing_ok=True)
                score = detector.predict(path, explain=pictures)
                write_report(score, output / name)
            except Exception as error:  # of a thousand files one may break anything: the others are scored
                failures += 1
                write_row({"file": name, "error": described(error)})
                _print(f"{name}: error: {described(error)}")
            else:
                write_row({"file": name} | _row(score))
                _print(f"{name}: {_line(score)}")
    return failures


def _names(source: Path, output: Path) -> dict[str, Path]:
    """What is to be scored, by its name below the source."""
    if not source.exists():
        raise UserError(f"{source} does not exist. Name a video, an image or a folder.")
    if source.is_file():
        return {source.name: source}
    # What is no clip has its row too.
    others = (path for path in source.rglob("*") if path.is_file() and path.suffix.lower() not in CLIP_SUFFIXES)
    own = output.resolve() if source.resolve() in output.resolve().parents else None
    names = {
        path.relative_to(source): path
        for path in sorted([*find_clips(source), *others])
        if own is None or own not in path.resolve().parents
    }
    hidden = {name for name in names if any(part.startswith(".") for part in name.parts)}
    names = {name.as_posix(): path for name, path in names.items() if name not in hidden}
    if not names:
        raise UserError(f"{source} holds no files. Name a folder of videos, or a video.")
    return names


def _holds_frames(source: Path) -> bool:
    """Whether it would be a clip of frames if it were a subfolder."""
    entries = [entry for entry in source.iterdir() if not entry.name.startswith(".")] if source.is_dir() else []
    return len(entries) > 1 and all(entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries)


def _print(line: str) -> None:
    """Print beside the progress bar; what the terminal can't write is written in escapes."""
    tqdm.write(_printable(line, sys.stdout.encoding or "utf-8"))


def _printable(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def _table(path: Path) -> Iterator[Callable[[dict], None]]:
    """A function that adds a row to a new table; what was added is in the file, whatever comes after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file's name need not be UTF-8: it is written as the file system has it.
        file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}). Choose another place.") from error
    with file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()

        def write_row(row: dict) -> None:
            writer.writerow(row)
            file.flush()

        file.flush()
        yield write_row


def _row(score: VideoScore) -> dict[str, str | float]:
    """Of results.csv, without the file's name; what is nan stays empty."""
    video = score.faces.video
    row = {
        "probability": round(score.probability, 6),
        "verdict": score.verdict,
        "threshold": score.threshold,
        "coverage": round(score.coverage, 4),
        "n_tracks": len(score.tracks),
        "track": score.track.number,
        "n_frames": len(video.times),
        "duration_s": round(duration(video), 3),
        "warnings": "; ".join(score.warnings),
        "seconds": round(score.seconds, 2),
    }
    return {name: "" if value != value else value for name, value in row.items()}


def _line(score: VideoScore) -> str:
    """The verdict as it is printed."""
    face = f"face {score.track.number} of {len(score.tracks)}, in {score.track.faces.coverage:.0%} of the frames"
    return f"{score.verdict}, probability that it is fake {score.probability:.4f} ({face}; {score.seconds:.1f} s)"

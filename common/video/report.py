"""Prediction of clips written to files: results and pictures of each clip, and a table of all."""

import csv
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from common.errors import UserError, described, readable, shortened
from common.files import entries, files_below, write_json, written_whole
from common.page import resized
from common.suffixes import IMAGE_SUFFIXES
from common.video.clips import CLIP_SUFFIXES, find_clips
from common.video.detector import TrackScore, VideoDetector, VideoScore
from common.video.files import FOLDER_RATE, read_frames, write_video
from common.video.pictures import Box, Mark, draw_contact_sheet, draw_marks, draw_timeline, span_edges

COLUMNS = (
    *(
        "case_id",
        "fake_probability",
        "fake_verdict",
        "reason",
        "threshold",
        "coverage",
        "n_tracks",
        "track",
        "n_frames",
        "duration_s",
    ),
    *("warnings", "seconds", "error"),
)
"""Columns of results.csv; those that scores.csv of a submission has too have its names."""
FILES = ("result.json", "contact_sheet.png", "timeline.png", "heatmaps.npz", "annotated.mp4", "annotated.png")
"""All files that are written to a clip's folder."""
MOST_WIDE = 1280
"""Largest width of the annotated video in px."""
MOST_CURVES = 8
"""Faces in the timeline besides the deciding one."""
EXPLAINED = {
    "fake": "Heat marks what raised the network's score for fake in this face; it is no proof of where it was changed.",
    "real": "The verdict is real; heat marks what raised the score for fake nevertheless.",
    "inconclusive": "There is no verdict; heat marks what raised the score for fake.",
}


def write_clip_results(score: VideoScore, folder: Path) -> None:
    """Write the results and pictures of one clip, each file whole or not at all, result.json last.

    result.json has all values (`clip_results`); contact_sheet.png the deciding face's crops with their heat;
    timeline.png the scores of all faces over time; heatmaps.npz the `heatmaps` (n, 28, 28) of the deciding face, and
    `indices`, `times`, `boxes`, `found` of its frames and the `areas` in them that the heatmaps cover. annotated.mp4 is
    the clip with all faces marked, at its mean rate; annotated.png instead for a single frame.

    Args:
        score: Score with heatmaps.
        folder: Made if it is missing.

    Raises:
        UserError: The folder can't be written to, or the clip can't be read again.
        ValueError: The score has no heatmaps.
    """
    heatmaps, faces = score.track.heatmaps, score.track.faces
    if heatmaps is None:
        raise ValueError(f"{score.path} was scored without heatmaps")
    hidden = f"{score.track.heat_outside:.0%} of the heat lay outside the face's box and is not shown."
    notes = (EXPLAINED[score.verdict], *([hidden] if score.track.heat_outside > 0 else []), *score.warnings)
    sheet = draw_contact_sheet(score, heatmaps, title=_title(score), notes=notes)
    _write_figure(sheet, folder / "contact_sheet.png")
    _write_figure(_timeline(score), folder / "timeline.png")
    with written_whole(folder / "heatmaps.npz", "wb") as file:
        arrays = {name: getattr(faces, name) for name in ("indices", "times", "boxes", "areas", "found")}
        np.savez_compressed(file, heatmaps=heatmaps, **arrays)
    _write_annotated(score, folder)
    write_json(clip_results(score), folder / "result.json")


def clip_results(score: VideoScore) -> dict:
    """The results of a clip as plain, rounded values; nan if undefined. `reason` is empty where there is a verdict."""
    video = score.faces.video
    return {
        "file": str(score.path),
        "probability": round(score.probability, 6),
        "verdict": score.verdict,
        "reason": score.reason,
        "threshold": score.threshold,
        "checkpoint": score.checkpoint,
        "track": score.track.number,
        "heat_outside": round(score.track.heat_outside, 4),
        "coverage": round(score.faces.coverage, 4),
        "duration_s": round(len(video.times) / video.fps, 3),
        "frame_rate": round(video.fps, 3),
        "n_frames": len(video.times),
        "width": video.width,
        "height": video.height,
        "rotation": video.rotation,
        "warnings": list(score.warnings),
        "seconds": round(score.seconds, 2),
        "tracks": [_track_results(track) for track in score.tracks],
    }


def _track_results(track: TrackScore) -> dict:
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


def _title(score: VideoScore) -> str:
    face = f", face {score.track.number} of {len(score.tracks)}" if len(score.tracks) > 1 else ""
    name = shortened(score.path.name)
    return f"{name}: {score.verdict}, probability {score.probability:.2f} (threshold {score.threshold:.2f}){face}"


def _timeline(score: VideoScore) -> Figure:
    tracks = [track for track in score.tracks[:MOST_CURVES] if track is not score.track] + [score.track]
    notes = ["The verdict is on all frames in their order; it is not the mean of the frames' own scores."]
    if len(tracks) < len(score.tracks):
        notes.append(f"{len(score.tracks) - len(tracks)} more faces are in result.json.")
    return draw_timeline(score, tracks, title=_title(score), notes=(*notes, *score.warnings))


def _write_annotated(score: VideoScore, folder: Path) -> None:
    video = score.faces.video
    if len(video.times) == 1:
        (frame,) = _annotated(score)
        with written_whole(folder / "annotated.png", "wb") as file:
            file.write(cv2.imencode(".png", frame[..., ::-1])[1].tobytes())
    else:
        frames = tqdm(_annotated(score), "annotating", len(video.times), unit="frame", leave=False, disable=None)
        # The rate is unknown if all frames have one time.
        write_video(folder / "annotated.mp4", frames, FOLDER_RATE if math.isnan(video.fps) else video.fps)


def _annotated(score: VideoScore) -> Iterator[np.ndarray]:
    """All frames of a clip with their faces marked, uint8 (h, w, 3)."""
    video = score.faces.video
    scale = min(1, MOST_WIDE / video.width)
    size = (round(video.width * scale), max(1, round(video.height * scale)))
    nearest = np.searchsorted(span_edges(score.faces.times)[1:-1], video.times)
    for frame in read_frames(video, range(len(video.times))):
        marks = [_mark(track, frame.time, nearest[frame.index], scale) for track in score.tracks]
        heading = f"{score.verdict}, probability {score.probability:.2f}   {frame.time:.2f} s"
        picture = resized(frame.image, size) if scale < 1 else frame.image
        yield draw_marks(picture, [mark for mark in marks if mark is not None], heading)


def _mark(track: TrackScore, time: float, position: int, scale: float) -> Mark | None:
    """A face in the frame at a time; None if it isn't tracked there.

    Its box is interpolated between sampled frames; score and heat are those of the nearest one, at a position.
    """
    faces = track.faces
    place = position - faces.positions[0]
    if not 0 <= place < len(faces.positions):
        return None

    def interpolated(boxes: np.ndarray) -> Box:
        left, top, right, bottom = (scale * float(np.interp(time, faces.times, side)) for side in boxes.T)
        return left, top, right, bottom

    mark = Mark(track.number, interpolated(faces.boxes), track.frame_scores[place], faces.found[place])
    if track.heatmaps is None:
        return mark
    return replace(mark, heat=track.heatmaps[place], area=interpolated(faces.areas))


def predict_folder(detector: VideoDetector, source: Path, output: Path) -> int:
    """Score every file of a folder, and write results.csv and a folder per clip.

    Every file has its row as soon as it is done; whatever error it raises is in the row. A clip's folder, with the
    files of `write_clip_results`, has the clip's path relative to the source; files of an earlier run are removed.

    Args:
        detector: Scores the clips.
        source: A folder, in which a subfolder of nothing but images is one clip; or a single file.
        output: Folder to write to. If it is in the source, its files are not scored.

    Returns:
        Number of files that could not be scored.

    Raises:
        UserError: There is no such file or folder, the folder is empty, or the output can't be written to.
    """
    names = _names(source, output)
    for name, path in names.items():
        place = output / name
        if place.is_file() or place.resolve() == path.resolve():
            raise UserError(f"the output {output} holds {name}, where its results would go. Name another folder.")
    if _holds_frames(source):
        hint = "to score them as one clip of frames, name the folder above"
        tqdm.write(f"note: each image of {readable(str(source))} is scored by itself; {hint}")
    failures = 0
    with _table(output / "results.csv") as write_row:
        for name, path in tqdm(names.items(), unit="clip", disable=None):
            try:
                for file in FILES:
                    (output / name / file).unlink(missing_ok=True)
                score = detector.predict(path)
                write_clip_results(score, output / name)
            except Exception as error:  # a broken file may raise anything, and the others are to be scored
                failures += 1
                write_row({"case_id": name, "error": described(error)})
                tqdm.write(readable(f"{name}: error: {described(error)}"))
            else:
                write_row(_row(name, score))
                tqdm.write(readable(f"{name}: {_line(score)}"))
    return failures


def _names(source: Path, output: Path) -> dict[str, Path]:
    """The files to score by their paths relative to the source, which are `readable`."""
    if not source.exists():
        raise UserError(f"{source} does not exist. Name a video, an image or a folder.")
    if source.is_file():
        return {readable(source.name): source}
    # Files that are no clips have rows too.
    others = (path for path in files_below(source) if path.suffix.lower() not in CLIP_SUFFIXES)
    own = output.resolve() if source.resolve() in output.resolve().parents else None
    visible: dict[str, Path] = {}
    for path in sorted({*find_clips(source), *others}):
        parts = path.relative_to(source).parts
        if any(part.startswith(".") for part in parts) or (own is not None and own in path.resolve().parents):
            continue
        if (first := visible.setdefault(readable("/".join(parts)), path)) != path:
            raise UserError(f"{str(first)!r} and {str(path)!r} would have one name in the results. Rename one of them.")
    if not visible:
        raise UserError(f"{source} holds no files. Name a folder of videos, or a video.")
    return visible


def _holds_frames(source: Path) -> bool:
    """Whether the source would be a clip of frames if it were a subfolder."""
    visible = [entry for entry in entries(source) if not entry.name.startswith(".")] if source.is_dir() else []
    return len(visible) > 1 and all(entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES for entry in visible)


@contextmanager
def _table(path: Path) -> Generator[Callable[[dict], None]]:
    """A function that adds a row to a new table and flushes it, so that an interrupt loses none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}). Choose another place.") from error
    with file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()

        def write_row(row: dict) -> None:
            writer.writerow(row)
            file.flush()

        yield write_row


def _row(name: str, score: VideoScore) -> dict[str, str | float]:
    """Row of results.csv; what is nan is left empty."""
    results = clip_results(score) | {"n_tracks": len(score.tracks), "warnings": "; ".join(score.warnings)}
    results |= {"case_id": name, "fake_probability": score.probability, "fake_verdict": score.verdict}
    defined = {column for column, value in results.items() if value == value}
    return {column: results[column] for column in COLUMNS if column in defined}


def _line(score: VideoScore) -> str:
    """The verdict as it is printed."""
    face = f"face {score.track.number} of {len(score.tracks)}, in {score.track.faces.coverage:.0%} of the frames"
    because = f": {score.reason}" if score.reason else ""
    probability = f"probability that it is fake {score.probability:.4f}"
    return f"{score.verdict}, {probability} ({face}; {score.seconds:.1f} s){because}"

"""Time and peak memory of the parts of predicting a clip of ten seconds.

    python -m benchmarks.video_prediction CLIP
    python -m benchmarks.video_prediction CLIP --encoder-name tf_efficientnet_b3 --image-size 300

It predicts the first ten seconds of CLIP, a video with a face, with random weights, which take the same time. All parts
are timed in one separate process, so that the peak is that of a program, libraries included (Linux).
"""

from common.process import prepare

prepare()  # before torch is imported

import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
import tyro

from benchmarks import high_water
from common.tables import markdown_table
from common.video.clip_faces import extract_faces
from common.video.config import FaceKind, VideoConfig
from common.video.detector import VideoDetector
from common.video.faces import make_face_detector
from common.video.files import open_video, read_frames, write_video
from common.video.network import TemporalCNNGRU
from common.video.report import write_clip_results

SECONDS = 10.0


def main(
    clip: tyro.conf.Positional[Path],
    encoder_name: str = "tf_efficientnet_b0",
    image_size: int = 224,
    faces: FaceKind = "auto",
) -> None:
    """Trim the clip, predict it, print the table.

    Args:
        clip: A video of ten seconds or more.
        encoder_name: CNN of timm.
        image_size: Side of the face crops in pixels.
        faces: Face detector, as for script 8.
    """
    with tempfile.TemporaryDirectory() as folder:
        trimmed = Path(folder) / "clip.mp4"
        video = open_video(clip)
        count = int((video.times < SECONDS).sum())
        write_video(trimmed, (frame.image for frame in read_frames(video, range(count))), video.fps)
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; {encoder_name} at {image_size}"
            f" px, {count} frames of {video.width} × {video.height}\n"
        )
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows = pool.apply(_predict, (trimmed, encoder_name, image_size, faces))
    print(markdown_table(["part", "seconds", "peak so far"], rows))


def _predict(clip: Path, encoder_name: str, image_size: int, faces: FaceKind) -> list[list[str]]:
    """Rows of the table."""
    rows, start = [], time.perf_counter()

    def done(part: str) -> None:
        nonlocal start
        rows.append([part, f"{time.perf_counter() - start:.1f}", f"{high_water():.0f} MB"])
        start = time.perf_counter()

    config = VideoConfig(name="benchmark", encoder_name=encoder_name, image_size=image_size).plain()
    checkpoint = {"config": config, "calibration": {"slope": 1.0, "intercept": 0.0}}
    finder = make_face_detector(faces)
    model = TemporalCNNGRU(encoder_name).eval()
    detector = VideoDetector(model, checkpoint, "random", torch.device("cpu"), finder)
    done("networks")
    extract_faces(clip, finder, frames=config["frames"], size=image_size)
    done("decoding, faces")
    detector.predict(clip, explain=False)
    done("prediction (the same again, and the score)")
    score = detector.predict(clip)
    done("prediction with heatmaps")
    write_clip_results(score, clip.parent / "results")
    done("pictures and annotated video")
    return rows


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

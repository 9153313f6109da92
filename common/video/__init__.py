"""Detector of deepfake videos (script 8, Spotter), from the clip's file to the verdict and its pictures.

This is the room's door for submissions and programs; training and test are script 8's.
"""

from pathlib import Path

from common.video.detector import NAME, VideoDetector, VideoScore, find_video_detector, load_video_detector

__all__ = ["NAME", "VideoDetector", "VideoScore", "find_video_detector", "load_video_detector", "predict_folder"]


def predict_folder(detector: VideoDetector, source: Path, output: Path) -> int:
    """Score a clip or all of a folder, and write tables and pictures; see `common.video.report.predict_folder`."""
    # Imported here because matplotlib takes a second, and submissions draw nothing.
    from common.video import report

    return report.predict_folder(detector, source, output)

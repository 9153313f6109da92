"""Script 8: is the face in a clip fake? Spotter, from the file to the verdict.

This is the door: what a submission and the explaining programs use. Training and test are script 8's.
"""

from common.video.detector import (
    NAME,
    VideoDetector,
    VideoScore,
    find_video_detector,
    load_video_detector,
)
from common.video.faces import make_face_detector

__all__ = [
    "NAME",
    "VideoDetector",
    "VideoScore",
    "find_video_detector",
    "load_video_detector",
    "make_face_detector",
]

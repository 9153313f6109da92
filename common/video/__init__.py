"""Detector of deepfake videos (script 8, Spotter), from the clip's file to the verdict and its pictures.

This is the room's door for submissions and programs; training and test are script 8's. What it names is imported when
it is first used: `--help` needs no network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.video.detector import NAME, VideoDetector, VideoScore, find_video_detector, load_video_detector
    from common.video.report import predict_folder

__all__ = ["NAME", "VideoDetector", "VideoScore", "find_video_detector", "load_video_detector", "predict_folder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{'report' if name == 'predict_folder' else 'detector'}"), name)

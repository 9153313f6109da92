"""What the app loads once for all of its users: the deciding ensemble, the networks of the map, the video detector."""

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import cast

import torch

from common.devices import process_state
from common.ensemble.altered import networks_for
from common.ensemble.ensemble import Ensemble
from common.ensemble.loading import load_ensemble
from common.ensemble.members import checkpoint_paths
from common.video import NAME, VideoDetector, find_video_detector, load_video_detector


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """Loaded networks; without any, copies alone decide."""

    decider: Ensemble
    """What a submission decides by: the networks trained in the folder and the copy-move evidence."""
    networks: Ensemble | None
    """Those of the map that is shown: the same, or where none is trained the released ones, which decide nothing."""
    said: str
    """Which networks these are, a line."""
    videos: VideoDetector | None
    no_videos: str
    """Why clips are not scored; empty if they are."""


def load_models(models_dir: Path) -> Models:
    """Load what there is in a folder.

    Raises:
        UserError: As `load_ensemble` and `load_video_detector`.
    """
    device = cast(torch.device, process_state().device)
    with redirect_stdout(StringIO()):  # what it prints is for submissions
        decider = load_ensemble(models_dir, device, allow_missing=True)
    if checkpoint_paths(models_dir):
        networks, said = decider, f"altered regions: networks of {models_dir}, which take part in the verdict"
    else:
        networks, said = networks_for(models_dir)
    path = find_video_detector(models_dir)
    videos = None if path is None else load_video_detector(path, device)
    missing = (
        f"clips are scored by a network of script 8, {models_dir / NAME}_best.pth, and there is none. Train it with "
        "script_8_deepfake_video.py; images and papers need no such network."
    )
    return Models(
        decider=decider, networks=networks, said=said, videos=videos, no_videos=missing if videos is None else ""
    )

"""Detection of generated images (script 7): SPAI (CVPR 2025), its semantic fusion, and a network of residuals.

This is the door, which submissions, the ensemble and explain.py use. Only script 7 trains and tests. What it names is
imported when it is first used: `--help` needs no network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.generated.names import DETECTOR, DETECTORS

if TYPE_CHECKING:
    from common.generated.attention import explain
    from common.generated.detector import (
        BlendedDetector,
        Detector,
        Generated,
        find_detectors,
        load_detector,
        load_detectors,
    )

__all__ = [
    "DETECTOR",
    "DETECTORS",
    "BlendedDetector",
    "Detector",
    "Generated",
    "explain",
    "find_detectors",
    "load_detector",
    "load_detectors",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{'attention' if name == 'explain' else 'detector'}"), name)

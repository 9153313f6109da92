"""Detection of generated images (script 7): SPAI (CVPR 2025) and its semantic fusion.

This is the door, which submissions, the ensemble and explain.py use. Only script 7 trains and tests.
"""

from typing import TYPE_CHECKING

import numpy as np

from common.generated.detector import DETECTOR, Detector, Generated, find_detector, load_detector

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DETECTOR", "Detector", "Generated", "explain", "find_detector", "load_detector"]


def explain(detector: Detector, image: np.ndarray, title: str) -> tuple[str, "Figure"]:
    """The verdict on an image as text, and a picture of the attention (`common.generated.attention.explain`)."""
    # Not above: matplotlib takes half a second to import, and submissions draw nothing.
    from common.generated import attention

    return attention.explain(detector, image, title)

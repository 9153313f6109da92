"""Script 7: is a picture as a whole generated? SPAI and its semantic fusion.

This is the door: what a submission, the ensemble and the explaining programs use. Training and test are script 7's.
"""

from common.generated.detector import DETECTOR, Detector, Generated, find_detector, load_detector

__all__ = ["DETECTOR", "Detector", "Generated", "find_detector", "load_detector"]

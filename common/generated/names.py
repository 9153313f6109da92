"""Names of the detectors of generated images; imports no network."""

DETECTOR = "spai"
"""Name that the detectors of generated images, blended, have where the ensemble's members are compared."""
DETECTORS = (DETECTOR, "residual")
"""Names of the detectors among the members of the ensemble; their checkpoints are called models/<name>*_best.pth."""

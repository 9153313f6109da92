import numpy as np
import pytest
import torch

from common.data.images import read_image
from common.errors import UserError
from common.generated.calibrating import CONDITIONS, calibrate_on_photographs
from common.generated.config import CalibrationConfig
from common.generated.degradations import degrade
from common.generated.detector import BlendedDetector, load_detector, load_detectors
from common.making.layout import write_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(4):
        smooth = rng.integers(0, 256, (2 + number, 3, 3), dtype=np.uint8).repeat(16, 0).repeat(24, 1)
        write_image(folder / f"{number % 2}/{number}.png", smooth // 2 + rng.integers(0, 9 * number + 2, smooth.shape))
    return folder


def calibrate(checkpoint, photographs, rate=0.25):
    return calibrate_on_photographs(
        CalibrationConfig(checkpoint=checkpoint, real=photographs, target_fpr=rate, workers=0)
    )


@pytest.mark.parametrize("seen", [True, False])
def test_photographs_bound_the_verdict_generated(save_residual, photographs, tmp_path, seen):
    """In every condition; what is known of generated images goes on bounding the verdict real."""
    validation = {} if seen else {"validation": {"probs": [], "generated": []}}
    path = save_residual(tmp_path / "residual_best.pth", **validation)
    said = calibrate(path, photographs)
    assert "4 photographs" in said and "at most 25 % are called generated" in said
    assert ("nothing is called real" in said) == (not seen)
    detector = load_detector(path, CPU)
    images = [read_image(file) for file in sorted(photographs.rglob("*.png"))]
    highest = max(
        found.probability
        for name in CONDITIONS
        for found in detector.predict([image if name == "none" else degrade(image, name) for image in images])
    )
    assert detector.target_fpr == 0.25
    assert detector.bounds.upper == pytest.approx(highest, abs=1e-6)  # ⌊5 · 0.25⌋ = 1, the highest
    assert detector.bounds.lower == (pytest.approx(min(0.4, highest)) if seen else -np.inf)
    assert detector.validation["generated"].count(True) == (19 if seen else 0)


@pytest.mark.slow
def test_the_same_photographs_calibrate_a_blend(save_detector, save_residual, photographs, tmp_path):
    fields = {"validation": {"probs": [], "generated": []}}
    paths = [save_detector(tmp_path / "spai.pth", data_fingerprint="a", **fields)]
    paths += [save_residual(tmp_path / "residual.pth", data_fingerprint="b", **fields)]
    for path in paths:
        calibrate(path, photographs)
    both = load_detectors(paths, CPU)
    assert isinstance(both, BlendedDetector)
    images = [read_image(file) for file in photographs.rglob("*.png")]
    assert both.bounds.upper >= max(found.probability for found in both.predict(images)) - 1e-6


def test_too_few_photographs(save_residual, photographs, tmp_path):
    path = save_residual(tmp_path / "residual_best.pth")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"has 4 images; a false-positive rate of 0.05 needs 19"):
        calibrate(path, photographs, rate=None)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="--target-fpr is"):
        calibrate(path, photographs, rate=1.5)

import math

import numpy as np
import pytest
import torch

from common.data.transforms import resize_image, to_tensor
from common.errors import UserError
from common.generated.detector import find_detector, load_detector
from common.metrics.calibration import calibrated

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((72, 96, 3), (200, 130, 3), (20, 300, 3))]


@pytest.fixture
def detector(save_detector, tmp_path):
    return load_detector(save_detector(tmp_path / "spai_best.pth"), CPU)


def test_an_image_is_scored_as_it_is_and_calibrated(detector):
    """The patches at the image's own resolution, the whole image besides at the size of the semantic tower."""
    for found, image in zip(detector.predict(IMAGES), IMAGES, strict=True):
        whole = to_tensor(resize_image(image, detector.model.whole_size))[None]
        (score,) = detector.model.score_images([to_tensor(image)], whole)
        expected = calibrated(1 / (1 + math.exp(-score.logit)), slope=1.5, intercept=-3.0)
        assert found.probability == pytest.approx(expected, abs=1e-5)
        assert found.score.positions == score.positions
        assert found.score.attention.sum() == pytest.approx(1, abs=1e-5)
    other = torch.zeros(1, 3, detector.model.whole_size, detector.model.whole_size, dtype=torch.uint8)
    assert detector.model.score_images([to_tensor(image)], other)[0].logit != score.logit


def test_what_is_scored_with_an_image_changes_nothing(detector):
    together = [found.probability for found in detector.predict(IMAGES)]
    alone = [detector.predict([image])[0].probability for image in IMAGES]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(probability, 3) for probability in together}) == 3
    assert detector.predict([]) == []


@pytest.mark.parametrize(
    ("probability", "verdict"), [(0.9, "generated"), (0.5, "insufficient evidence"), (0.1, "real")]
)
def test_the_bounds_give_the_verdict(save_detector, tmp_path, probability, verdict):
    calibration = {"slope": 0.0, "intercept": math.log(probability / (1 - probability))}
    found = load_detector(save_detector(tmp_path / "a.pth", calibration=calibration), CPU).predict(IMAGES[:1])[0]
    assert found.probability == pytest.approx(probability)
    assert found.verdict == verdict


@pytest.mark.parametrize("name", ["spai_best.pth", "spai_fusion_best.pth"])
def test_the_detector_is_found_by_its_name(tmp_path, name):
    assert find_detector(tmp_path / "nowhere") is None
    for other in ("spai_fusion_last.pth", "ela_best.pth", "spai_fusion_metrics.json"):
        (tmp_path / other).touch()
    assert find_detector(tmp_path) is None
    (tmp_path / name).touch()
    assert find_detector(tmp_path) == tmp_path / name


def test_several_detectors_are_refused(tmp_path):
    for name in ("spai_best.pth", "spai_fusion_best.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"spai_best\.pth, spai_fusion_best\.pth.*Keep one"):
        find_detector(tmp_path)


def test_one_that_was_never_calibrated_is_noted(save_detector, tmp_path, capsys):
    """As converted; its verdict is open even at a probability of 1."""
    load_detector(save_detector(tmp_path / "trained.pth"), CPU)
    assert capsys.readouterr().out == ""
    validation, calibration = {"probs": [], "generated": []}, {"slope": 1.0, "intercept": 100.0}
    path = save_detector(tmp_path / "converted.pth", metrics={}, validation=validation, calibration=calibration)
    converted = load_detector(path, CPU)
    assert converted.predict(IMAGES[:1])[0].verdict == "insufficient evidence"
    note = capsys.readouterr().out
    assert "never calibrated" in note
    remedy = f"script_7_spai_fusion.py --fusion none --epochs 0 --init {path} --models-dir {tmp_path} --name converted"
    assert remedy in note
    assert len(note.splitlines()) == 1


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    torch.save({"model_state_dict": {}, "epoch": 0}, tmp_path / "spai_best.pth")
    with pytest.raises(UserError, match=r"spai_best\.pth.*not of the kind needed"):
        load_detector(tmp_path / "spai_best.pth", CPU)

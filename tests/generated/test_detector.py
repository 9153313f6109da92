import math

import numpy as np
import pytest
import torch

from common.data.transforms import resize_image, to_tensor
from common.errors import UserError
from common.generated.detector import BlendedDetector, blended, find_detectors, load_detector, load_detectors
from common.metrics.calibration import calibrated, fit_calibration

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
        expected = calibrated(1 / (1 + math.exp(-score.logit)), slope=3.0, intercept=7.5)
        assert found.probability == pytest.approx(expected, abs=1e-5)
        assert found.score.positions == score.positions
        assert found.score.attention.sum() == pytest.approx(1, abs=1e-5)
    other = torch.zeros(1, 3, detector.model.whole_size, detector.model.whole_size, dtype=torch.uint8)
    assert detector.model.score_images([to_tensor(image)], other)[0].logit != score.logit


def test_what_is_scored_with_an_image_changes_nothing(detector):
    together = [found.probability for found in detector.predict(IMAGES)]
    alone = [detector.predict([image])[0].probability for image in IMAGES]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({float(f"{probability:.3g}") for probability in together}) == 3
    assert detector.predict([]) == []


@pytest.mark.parametrize(
    ("probability", "verdict"), [(0.9, "generated"), (0.5, "insufficient evidence"), (0.1, "real")]
)
def test_the_bounds_give_the_verdict(save_detector, tmp_path, probability, verdict):
    calibration = {"slope": 0.0, "intercept": math.log(probability / (1 - probability))}
    found = load_detector(save_detector(tmp_path / "a.pth", calibration=calibration), CPU).predict(IMAGES[:1])[0]
    assert found.probability == pytest.approx(probability)
    assert found.verdict == verdict


@pytest.mark.parametrize("name", ["spai_best.pth", "spai_fusion_best.pth", "residual_best.pth"])
def test_the_detector_is_found_by_its_name(tmp_path, name):
    assert find_detectors(tmp_path / "nowhere") == {}
    for other in ("spai_fusion_last.pth", "ela_best.pth", "spai_fusion_metrics.json"):
        (tmp_path / other).touch()
    assert find_detectors(tmp_path) == {}
    (tmp_path / name).touch()
    assert find_detectors(tmp_path) == {name.split("_")[0]: tmp_path / name}


def test_several_detectors_are_refused(tmp_path):
    for name in ("spai_best.pth", "spai_fusion_best.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"spai_best\.pth, spai_fusion_best\.pth.*Keep one"):
        find_detectors(tmp_path)


def test_one_that_was_never_calibrated_is_noted(save_detector, tmp_path, capsys):
    """As converted; it has no verdict even at a probability of 1."""
    load_detector(save_detector(tmp_path / "trained.pth"), CPU)
    assert capsys.readouterr().out == ""
    validation, calibration = {"probs": [], "generated": []}, {"slope": 1.0, "intercept": 100.0}
    path = save_detector(tmp_path / "converted.pth", validation=validation, calibration=calibration)
    converted = load_detector(path, CPU)
    assert converted.predict(IMAGES[:1])[0].verdict == "not calibrated"
    note = capsys.readouterr().out
    assert "never calibrated" in note
    assert f"script_7_spai_fusion.py calibrate {path} --real DIR" in note
    assert len(note.splitlines()) == 1


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    torch.save({"model_state_dict": {}, "epoch": 0}, tmp_path / "spai_best.pth")
    with pytest.raises(UserError, match=r"spai_best\.pth.*not of the kind needed"):
        load_detector(tmp_path / "spai_best.pth", CPU)


def test_a_blend_is_the_mean_of_the_log_odds():
    assert blended([0.3, 0.3]) == pytest.approx(0.3)
    assert blended([0.5, 0.9]) == pytest.approx(0.75)  # odds 1 and 9: their geometric mean is 3
    assert blended([0.2, 0.8]) == pytest.approx(0.5)


def test_two_detectors_are_one(save_detector, save_residual, tmp_path):
    """Calibrated and bounded by its own probabilities of the validation images, which both have in one order."""
    labels = [False] * 19 + [True] * 19
    ones = {"probs": [0.2] * 10 + [0.6] * 9 + [0.8] * 19, "generated": labels}
    others = {"probs": [0.3] * 18 + [0.9] + [0.2] + [0.9] * 18, "generated": labels}
    paths = [save_detector(tmp_path / "spai_best.pth", validation=ones)]
    paths += [save_residual(tmp_path / "residual_best.pth", validation=others)]
    assert list(find_detectors(tmp_path).values()) == paths
    both = load_detectors(paths, CPU)
    assert isinstance(both, BlendedDetector)
    means = [blended(pair) for pair in zip(ones["probs"], others["probs"], strict=True)]
    fitted = fit_calibration(means, labels)
    assert fitted["slope"] > 1  # of two that agree, both may be believed more than either
    alone = [load_detector(path, CPU).predict(IMAGES) for path in paths]
    for found, *each in zip(both.predict(IMAGES), *alone, strict=True):
        assert found.probability == pytest.approx(calibrated(blended([one.probability for one in each]), **fitted))
        assert found.score.positions == each[0].score.positions
    assert both.bounds.upper == pytest.approx(calibrated(blended([0.6, 0.9]), **fitted))
    assert both.bounds.lower == pytest.approx(calibrated(blended([0.8, 0.2]), **fitted))
    both.adjust(target_fpr=0.2)
    assert both.bounds.upper == pytest.approx(calibrated(blended([0.6, 0.3]), **fitted))
    assert [detector.target_fpr for detector in both.detectors] == [0.2, 0.2]
    assert both.predict([]) == []


def test_a_blind_detector_takes_nothing_away(save_detector, save_residual, tmp_path):
    labels = [False] * 19 + [True] * 19
    sees = {"probs": [*np.linspace(0.1, 0.6, 19).tolist(), *np.linspace(0.4, 0.9, 19).tolist()], "generated": labels}
    blind = {"probs": [0.5] * 38, "generated": labels}
    paths = [save_detector(tmp_path / "a.pth", validation=sees)]
    paths += [save_residual(tmp_path / "b.pth", validation=blind, calibration={"slope": 0.0, "intercept": 0.0})]
    alone, both = load_detector(paths[0], CPU), load_detectors(paths, CPU)
    for image in IMAGES:
        assert alone.predict([image])[0].verdict == both.predict([image])[0].verdict
    assert [both.bounds.verdict(p) for p in both.validation["probs"]] == [
        alone.bounds.verdict(p) for p in sees["probs"]
    ]


def test_a_blend_of_other_validation_images_has_no_verdict(save_detector, save_residual, tmp_path, capsys):
    paths = [save_detector(tmp_path / "spai.pth"), save_residual(tmp_path / "residual.pth", data_fingerprint="others")]
    both = load_detectors(paths, CPU)
    assert "validated on different images" in capsys.readouterr().out
    assert both.predict(IMAGES[:1])[0].verdict == "not calibrated"

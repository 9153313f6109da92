from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from time import sleep

import numpy as np
import pytest
import torch
from torch import nn

from common.ensemble.choices import MODE_THRESHOLDS
from common.ensemble.decision import FEATURES, Decision, copy_features, feature_maps, is_forged
from common.ensemble.ensemble import Ensemble, Loaded
from common.ensemble.evidence import examine
from common.ensemble.fitting import Oof
from common.ensemble.loading import original_settings
from common.ensemble.members import Member
from common.errors import UserError
from common.generated.detector import load_detector

CPU = torch.device("cpu")


class Constant(nn.Module):
    """The same probability everywhere."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = torch.logit(torch.tensor(probability))

    def forward(self, x):
        return self.logit.expand(len(x), 1, *x.shape[2:])


class Gray(nn.Module):
    """Its probability follows the image's brightness, for each network in its own way."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x):
        return (x[:, :1].float() / 255 - 0.3 - 0.1 * self.number) * (3 + self.number)


def loaded(name, weight, probability, image_size=32, threshold=0.5, role="average", slope=1.0, intercept=0.0):
    member = Member(name=name, script=f"script_{name}.py", in_channels=3, weight=weight, role=role)
    checkpoint = {"threshold": threshold, "calibration": {"slope": slope, "intercept": intercept}}
    checkpoint |= {"config": {"image_size": image_size}}
    return Loaded(member, Constant(probability), checkpoint)


def ensemble_of(*members):
    return Ensemble([list(members)], original_settings(list(members)), CPU)


IMAGES = [np.zeros((40, 50, 3), np.uint8), np.full((10, 20, 3), 255, np.uint8)]


def test_the_blend_is_the_weighted_mean():
    ensemble = ensemble_of(loaded("a", 1.5, 0.8), loaded("b", 0.5, 0.2, image_size=64))
    for prediction in ensemble.predict(IMAGES):
        assert prediction.prob.shape == (64, 64)
        assert prediction.prob == pytest.approx((1.5 * 0.8 + 0.5 * 0.2) / 2, abs=1e-3)


@pytest.mark.parametrize(("p", "expected"), [(0.9, 0.72), (0.6, 0.5)])
def test_the_specialist_joins_by_union(p, expected):
    ensemble = ensemble_of(loaded("a", 1.5, 0.5), loaded("s", 0.8, p, role="union"))
    assert ensemble.predict(IMAGES)[0].prob == pytest.approx(expected, abs=1e-3)


def test_maps_and_probabilities_of_the_folds_are_averaged():
    folds = [[loaded("a", 1.0, 0.2)], [loaded("a", 1.0, 0.6)]]
    ensemble = Ensemble(folds, original_settings(folds[0]), CPU)
    assert next(ensemble.member_maps(IMAGES, fold=1)) == pytest.approx(0.6, abs=1e-3)
    for prediction in ensemble.predict(IMAGES):
        assert prediction.prob == pytest.approx(0.4, abs=1e-3)
        assert prediction.forged_probability == pytest.approx(0.4, abs=1e-3)  # slope 1, intercept 0


def test_an_image_is_decided_as_the_fit_saw_it(finds):
    """Same maps, same probability, whether they come by the submission or by the file of out-of-fold maps."""
    members = [loaded("a", 1.5, 0.5), loaded("b", 1.0, 0.5, image_size=64), loaded("s", 0.8, 0.5, role="union")]
    members = [replace(m, network=Gray(k)) for k, m in enumerate(members)]
    weights = {"a": 1.5, "b": 1.0, "s": 0.8, "copy_move": 0.7}
    shape = {"mean": (0.5,) * 8, "scale": (2.0,) * 8, "coefficients": (0.3, -0.2, 0.5, 0.4, -0.1, 2.0, 0.6, 0.7)}
    decision = Decision(
        features=(*FEATURES, "soft_max_b", "copy_area"),
        intercept=0.1,
        calibration={"slope": 1.5, "intercept": 0.2},
        **shape,
    )
    settings = replace(original_settings(members), weights=weights, decision=decision, pixel_threshold=0.4)
    ensemble = Ensemble([members], settings, CPU, copy_move=True)
    image = np.random.default_rng(0).integers(130, 256, (50, 60, 3), dtype=np.uint8)
    finds(0.9)
    prediction = ensemble.predict([image])[0]
    maps = np.stack([feature_maps(next(ensemble.member_maps([image])))])
    copies = copy_features(0.9, 20, prediction.evidence.area_share)
    oof = Oof(
        names=(*"abs", "copy_move"),
        roles=("average", "average", "union", "evidence"),
        original_weights=(1.5, 1.0, 0.8, 0.7),
        maps=maps,
        evidence=feature_maps(prediction.evidence.prob[None]),
        copies=np.array([list(copies.values())]),
        truths=[np.zeros((0, 256, 256), np.uint8)],
        groups=np.array(["0"]),
        sizes=np.array(["authentic"]),
    )
    features = oof.features(0, oof.networks(0, oof.original_weights), 0.4)
    assert prediction.forged_probability == pytest.approx(decision.probability(features), abs=2e-3)


def test_large_images_are_taken_one_by_one_to_the_same_end():
    ensemble = ensemble_of(replace(loaded("a", 1.0, 0.5), network=Gray(0)))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (30, 90, 40)]
    together = ensemble.predict(images)
    for prediction, image in zip(together, images, strict=True):
        assert np.abs(prediction.prob - ensemble.predict([image])[0].prob).max() < 1e-6


@pytest.mark.parametrize("cores", [1, 4, 16])
def test_threads_change_nothing(cores, finds, torch_threads):
    """Folds, large images and small ones, by as many threads beside the networks as there are on such a machine."""
    finds(0.9)
    folds = [
        [replace(loaded(name, 1.0, 0.5), network=Gray(fold + k)) for k, name in enumerate("ab")] for fold in (0, 1)
    ]
    settings = original_settings(folds[0], copy_move=True)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side + 3, 3), dtype=np.uint8) for side in (90, 30, 100, 64, 110, 80)]
    expected = [Ensemble(folds, settings, CPU, copy_move=True).predict([image])[0] for image in images]
    torch_threads(cores)
    ensemble = Ensemble(folds, settings, CPU, copy_move=True)
    for own, alone in zip(ensemble.predict(images), expected, strict=True):
        assert own.forged_probability == pytest.approx(alone.forged_probability, abs=1e-6)
        assert np.abs(own.prob - alone.prob).max() < 1e-6
    for maps, image in zip(ensemble.member_maps(images, fold=1), images, strict=True):
        assert np.array_equal(maps, next(ensemble.member_maps([image], fold=1)))


class Recorder(Constant):
    """Keeps the number of torch's threads where it runs; with a barrier, it runs together with others only."""

    def __init__(self, barrier=None, seconds=0.0):
        super().__init__(0.5)
        self.threads, self.barrier, self.seconds = [], barrier, seconds

    def forward(self, x):
        self.threads.append(torch.get_num_threads())
        sleep(self.seconds)
        if self.barrier:
            self.barrier.wait(30)
        return super().forward(x)


def test_the_networks_threads_are_their_own(torch_threads):
    torch_threads(9)
    ensemble = ensemble_of(replace(loaded("a", 1.0, 0.5), network=(recorder := Recorder())))
    ensemble.predict([IMAGES[0]] * 8)
    assert recorder.threads == [2] * 4
    assert torch.get_num_threads() == 9
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 9


@pytest.mark.parametrize("images", [IMAGES, [np.zeros((90, 70, 3), np.uint8)] * 2])
def test_batches_are_predicted_at_once(torch_threads, images):
    torch_threads(2)
    ensemble = ensemble_of(replace(loaded("a", 1.0, 0.5), network=(recorder := Recorder(Barrier(2)))))
    assert len(ensemble.predict(images)) == len(list(ensemble.member_maps(images))) == 2
    assert recorder.threads == [1] * 4


@pytest.mark.parametrize("image", [IMAGES[0], np.zeros((90, 70, 3), np.uint8)])
def test_for_a_single_image_networks_run_at_once(torch_threads, image):
    torch_threads(2)
    recorder = Recorder(Barrier(2))
    members = [replace(loaded(name, 1.0, 0.5), network=recorder) for name in "ab"]
    ensemble_of(*members).predict([image])
    assert recorder.threads == [1] * 2


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_drops_what_has_not_begun(torch_threads, monkeypatch, threads):
    torch_threads(threads)
    ensemble = ensemble_of(replace(loaded("a", 1.0, 0.5), network=(recorder := Recorder(seconds=0.05))))

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(ensemble, "decide", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensemble.predict([np.zeros((90, 70, 3), np.uint8)] * 20)
    sleep(0.5)
    assert len(recorder.threads) < 10
    monkeypatch.undo()
    assert len(ensemble.predict(IMAGES)) == 2


def test_a_large_image_has_its_own_size():
    ensemble = ensemble_of(loaded("a", 1.0, 0.2), loaded("b", 1.0, 0.4, image_size=64))
    large = np.zeros((70, 90, 3), np.uint8)
    assert [p.prob.shape for p in ensemble.predict([large, IMAGES[0]])] == [(70, 90), (64, 64)]
    assert ensemble.predict([large])[0].prob == pytest.approx(0.3, abs=1e-3)


def test_before_a_fit_the_heaviest_averaged_member_decides():
    members = [
        loaded("a", 0.5, 0.8, threshold=0.3),
        loaded("b", 1.2, 0.8, threshold=0.4, slope=2.0, intercept=-1.0),
        loaded("s", 5.0, 0.1, threshold=0.9, role="union"),
    ]
    members[2] = replace(members[2], member=replace(members[2].member, weight=0.8))
    ensemble = ensemble_of(*members)
    assert ensemble.settings.pixel_threshold == 0.4
    assert ensemble.settings.source == "original"
    expected = 1 / (1 + np.exp(-(2 * np.log(0.8 / 0.2) - 1)))
    assert ensemble.predict(IMAGES)[0].forged_probability == pytest.approx(expected, abs=2e-3)


def test_nothing_to_predict():
    assert ensemble_of(loaded("a", 1.0, 0.2)).predict([]) == []
    assert with_evidence(loaded("a", 1.0, 0.2)).predict([]) == []


def with_evidence(*networks, workers=1):
    settings = original_settings(list(networks), copy_move=True)
    return Ensemble([list(networks)], settings, CPU, copy_move=True, workers=workers)


def test_evidence_joins_by_union_at_the_images_size(finds):
    finds(0.9)
    dark, bright = with_evidence(loaded("a", 1.5, 0.3)).predict(IMAGES)
    assert dark.prob.shape == (32, 32)
    assert dark.prob == pytest.approx(0.3, abs=1e-3)
    expected = np.full((10, 20), 0.3)
    expected[2:6, 3:9] = 0.9
    assert bright.prob == pytest.approx(expected, abs=1e-3)
    assert (bright.evidence.groups[0] == (expected > 0.5)).all()


@pytest.mark.parametrize(("p", "score", "expected"), [(0.2, 0.9, 0.9), (0.7, 0.6, 0.7)])
def test_before_a_fit_the_higher_probability_decides(finds, p, score, expected):
    finds(score)
    dark, bright = with_evidence(loaded("a", 1.5, p)).predict(IMAGES)
    assert dark.forged_probability == pytest.approx(p, abs=1e-3)
    assert bright.forged_probability == pytest.approx(expected, abs=1e-3)


def test_evidence_decides_alone_where_there_is_no_network(finds):
    finds(0.9)
    ensemble = with_evidence()
    dark, bright = ensemble.predict(IMAGES)
    assert (dark.forged_probability, bright.forged_probability) == pytest.approx((0.02, 0.9))
    assert not dark.prob.any()
    assert ((bright.prob >= ensemble.settings.pixel_threshold) == bright.evidence.groups[0]).all()


def test_a_fitted_decision_weighs_the_evidence_itself(finds):
    """0.5 times the log-odds of the score, and 1 off: not the larger of two."""
    finds(0.9)
    ensemble = with_evidence(loaded("a", 1.5, 0.95))
    decision = replace(ensemble.settings.decision, features=("copy_score",), coefficients=(0.5,), intercept=-1.0)
    settings = replace(ensemble.settings, decision=decision, weights={"a": 1.0, "copy_move": 0.0})
    bright = Ensemble(ensemble.folds, settings, CPU, copy_move=True).predict(IMAGES)[1]
    assert bright.forged_probability == pytest.approx(1 / (1 + np.exp(1 - 0.5 * np.log(9))))
    assert bright.prob == pytest.approx(0.95, abs=1e-3)  # weight 0


class Overflowing(nn.Module):
    """Finite weights whose result is not in bright images."""

    def __init__(self, value: float = torch.nan) -> None:
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.where(x[:, :1] > 128, self.value, -5.0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("role", ["average", "union"])
def test_what_is_not_finite_is_no_verdict(finds, role, value):
    """Neither of the networks nor, over their heads, of the evidence, whatever the member's weight."""
    finds(0.99)
    member = Member(name="broken", script="script.py", in_channels=3, weight=0.0, role=role)
    broken = Loaded(member, Overflowing(value), loaded("a", 1.0, 0.1).checkpoint)
    networks = [loaded("a", 1.0, 0.1), broken]
    ensemble = Ensemble([networks], original_settings(networks, copy_move=True), CPU, copy_move=True)
    dark, bright = ensemble.predict(IMAGES)
    assert not is_forged(dark.forged_probability, "default")
    assert np.isnan(bright.forged_probability)
    for mode in MODE_THRESHOLDS:
        with pytest.raises(UserError, match="no verdict: a network's result is not finite"):
            is_forged(bright.forged_probability, mode)


def test_a_map_that_is_not_finite_is_not_handed_on():
    member = Member(name="broken", script="script.py", in_channels=3, weight=1.0, role="average")
    ensemble = ensemble_of(Loaded(member, Overflowing(), loaded("a", 1.0, 0.1).checkpoint))
    assert ensemble.network_map(IMAGES[0]).max() < 1
    with pytest.raises(UserError, match="a network's result is not finite"):
        ensemble.network_map(IMAGES[1])


def test_large_and_small_images_keep_their_own_evidence(finds):
    finds(0.9)
    images = [*IMAGES, np.zeros((90, 70, 3), np.uint8), np.full((80, 80, 3), 255, np.uint8)]
    found = with_evidence(loaded("a", 1.0, 0.2)).predict(images)
    assert [len(prediction.evidence.groups) for prediction in found] == [0, 1, 0, 1]
    assert [prediction.prob.shape for prediction in found] == [(32, 32), (10, 20), (90, 70), (80, 80)]


def test_the_detector_runs_beside_the_networks(copied_images, copied_mask):
    """The real one, in two processes."""
    predictions = with_evidence(loaded("a", 1.0, 0.2), workers=2).predict(copied_images[:2])
    assert predictions[0].prob == pytest.approx(0.2, abs=1e-3)
    drawn = predictions[1].prob > 0.5
    assert (drawn & copied_mask).sum() > 0.7 * (drawn | copied_mask).sum()
    assert predictions[1].forged_probability == pytest.approx(examine(copied_images[1]).score, abs=1e-6)


@pytest.fixture
def detector(save_detector, tmp_path):
    """Of generated images, with the same probability for all."""

    def detector(probability):
        calibration = {"slope": 0.0, "intercept": float(np.log(probability / (1 - probability)))}
        return load_detector(save_detector(tmp_path / "detector.pth", calibration=calibration), CPU)

    return detector


def test_each_image_has_its_own_probability_of_being_generated(save_detector, tmp_path):
    """Large and small ones in one batch, at their own resolution."""
    real = load_detector(save_detector(tmp_path / "spai_best.pth"), CPU)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((30, 40), (90, 70), (64, 64))]
    networks = [loaded("a", 1.0, 0.2)]
    ensemble = Ensemble([networks], original_settings(networks), CPU, detector=real)
    expected = [found.probability for found in real.predict(images)]
    assert [p.generated.probability for p in ensemble.predict(images)] == pytest.approx(expected, abs=1e-5)
    assert Ensemble([networks], original_settings(networks), CPU).predict(images)[0].generated is None


@pytest.mark.parametrize("probability", [0.01, 0.99])
def test_before_a_fit_generated_is_another_question(finds, detector, probability):
    finds(0.9)
    without = with_evidence(loaded("a", 1.5, 0.3))
    asked = Ensemble(without.folds, without.settings, CPU, copy_move=True, detector=detector(probability))
    for own, plain in zip(asked.predict(IMAGES), without.predict(IMAGES), strict=True):
        assert own.forged_probability == plain.forged_probability
        assert (own.prob == plain.prob).all()
        assert own.generated.probability == pytest.approx(probability)


def test_a_fitted_decision_reads_the_detector_but_a_low_score_vetoes_nothing(detector):
    """Networks sure of a forgery, and others sure of none; 0.5 times the log-odds of being generated."""
    shape = {"mean": (0.0, 0.0), "scale": (1.0, 1.0), "coefficients": (1.0, 0.5), "intercept": 0.0}
    decision = Decision(features=("quantile_999", "generated"), calibration={"slope": 1.0, "intercept": 0.0}, **shape)

    def decide(p, generated):
        settings = replace(original_settings(networks := [loaded("a", 1.0, p)]), decision=decision)
        return Ensemble([networks], settings, CPU, detector=detector(generated)).predict(IMAGES)[0].forged_probability

    for generated in (0.001, 0.3, 0.5):
        assert decide(0.9, generated) == pytest.approx(0.9, abs=1e-3)
        assert is_forged(decide(0.9, generated), "high-precision")
        assert decide(0.2, generated) == pytest.approx(0.2, abs=1e-3)
    assert decide(0.2, 0.9) == pytest.approx(1 / (1 + 4 / 3), abs=1e-3)  # odds 1 / 4 times the root of 9


def test_members_and_folds_share_one_error_level_analysis_of_an_image(monkeypatch):
    from common.ensemble import views

    whole, tiles = loaded("a", 1.0, 0.5), loaded("s", 0.8, 0.5, role="union")
    tiles = replace(tiles, member=replace(tiles.member, tile_share=0.5, in_channels=4))
    ensemble = Ensemble([[whole, tiles]] * 2, original_settings([whole, tiles]), CPU)
    analysed, real = [], views.to_channels
    monkeypatch.setattr(views, "to_channels", lambda *given: analysed.append(given) or real(*given))
    ensemble.predict([*IMAGES, np.zeros((90, 70, 3), np.uint8)])
    assert len(analysed) == 3

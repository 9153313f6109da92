from dataclasses import replace

from common.errors import UserError
from common.inference import ensemble as module
from common.inference.backends import BREAK_EVEN
from common.inference.ensemble import (
    COPY_MOVE,
    MEMBERS,
    SETTINGS_FILE,
    SPAI,
    Ensemble,
    Loaded,
    Member,
    identities,
    load_ensemble,
    seed_settings,
)
from common.inference.evidence import Evidence, examine
from common.inference.fitting import Oof
from common.inference.gate import FEATURES, Decision, copy_features, feature_maps, is_forged
from common.inference.generated import load_detector
from common.training.checkpoint import build_network, load_checkpoint, save_checkpoint

import numpy as np
import pytest
import torch
from torch import nn

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
    return Ensemble([list(members)], seed_settings(list(members)), CPU)


IMAGES = [np.zeros((40, 50, 3), np.uint8), np.full((10, 20, 3), 255, np.uint8)]


def test_the_members_are_those_of_the_seed():
    assert {m.name: m.weight for m in MEMBERS} == {
        "highres_no_ela": 1.5,
        "hard_negative": 1.2,
        "high_recall": 1.0,
        "enhanced_aug": 0.8,
        "ela": 0.5,
        "small_forgery_specialist": 0.8,
        "copy_move": 1.0,
        "spai": 0.0,
    }
    assert [m for m in MEMBERS if m.role == "gate"] == [SPAI]
    assert [m.name for m in MEMBERS if m.role == "union"] == ["small_forgery_specialist"]
    assert [m.name for m in MEMBERS if m.in_channels == 4] == ["ela"]
    assert [m for m in MEMBERS if m.role == "evidence"] == [m for m in MEMBERS if m.script is None] == [COPY_MOVE]


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
    ensemble = Ensemble(folds, seed_settings(folds[0]), CPU)
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
    settings = replace(seed_settings(members), weights=weights, decision=decision, pixel_threshold=0.4)
    ensemble = Ensemble([members], settings, CPU, copy_move=True)
    image = np.random.default_rng(0).integers(130, 256, (50, 60, 3), dtype=np.uint8)
    finds(0.9)
    prediction = ensemble.predict([image])[0]
    maps = np.stack([feature_maps(next(ensemble.member_maps([image])))])
    copies = copy_features(0.9, 20, prediction.evidence.area_share)
    oof = Oof(
        names=(*"abs", "copy_move"),
        roles=("average", "average", "union", "evidence"),
        seed_weights=(1.5, 1.0, 0.8, 0.7),
        maps=maps,
        evidence=feature_maps(prediction.evidence.prob[None]),
        copies=np.array([list(copies.values())]),
        truths=[np.zeros((0, 256, 256), np.uint8)],
        groups=np.array(["0"]),
        sizes=np.array(["authentic"]),
    )
    features = oof.features(0, oof.networks(0, oof.seed_weights), 0.4)
    assert prediction.forged_probability == pytest.approx(decision.probability(features), abs=2e-3)


def test_large_images_are_taken_one_by_one_to_the_same_end():
    ensemble = ensemble_of(replace(loaded("a", 1.0, 0.5), network=Gray(0)))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (30, 90, 40)]
    together = ensemble.predict(images)
    for prediction, image in zip(together, images, strict=True):
        assert np.abs(prediction.prob - ensemble.predict([image])[0].prob).max() < 1e-6


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
    assert ensemble.settings.source == "seed"
    expected = 1 / (1 + np.exp(-(2 * np.log(0.8 / 0.2) - 1)))
    assert ensemble.predict(IMAGES)[0].forged_probability == pytest.approx(expected, abs=2e-3)


def test_nothing_to_predict():
    assert ensemble_of(loaded("a", 1.0, 0.2)).predict([]) == []
    assert with_evidence(loaded("a", 1.0, 0.2)).predict([]) == []


def with_evidence(*networks, workers=1):
    settings = seed_settings(list(networks), copy_move=True)
    return Ensemble([list(networks)], settings, CPU, copy_move=True, workers=workers)


@pytest.fixture
def finds(monkeypatch):
    """Makes the detector find a square in the bright images, with this score, and nothing in the others."""

    def finds(score):
        def look(images, workers):
            for image in images:
                mask = np.zeros(image.shape[:2], bool)
                if image.mean() > 128:
                    mask[2:6, 3:9] = True
                    prob = np.where(mask, np.float16(score), np.float16(0))
                    yield Evidence(prob=prob, groups=(mask,), score=score, inliers=20, area_share=float(mask.mean()))
                else:
                    yield Evidence(prob=np.zeros((1, 1), np.float16))

        monkeypatch.setattr(module, "gather", look)

    return finds


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
def test_before_a_fit_the_surer_witness_decides(finds, p, score, expected):
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
    ensemble = Ensemble([networks], seed_settings(networks), CPU, detector=real)
    expected = [found.probability for found in real.predict(images)]
    assert [p.generated.probability for p in ensemble.predict(images)] == pytest.approx(expected, abs=1e-5)
    assert Ensemble([networks], seed_settings(networks), CPU).predict(images)[0].generated is None


@pytest.mark.parametrize("probability", [0.01, 0.99])
def test_before_a_fit_generated_is_another_question(finds, detector, probability):
    finds(0.9)
    without = with_evidence(loaded("a", 1.5, 0.3))
    asked = Ensemble(without.folds, without.settings, CPU, copy_move=True, detector=detector(probability))
    for own, plain in zip(asked.predict(IMAGES), without.predict(IMAGES), strict=True):
        assert own.forged_probability == plain.forged_probability
        assert (own.prob == plain.prob).all()
        assert own.generated.probability == pytest.approx(probability)


def test_a_fitted_decision_hears_the_detector_but_a_low_score_vetoes_nothing(detector):
    """Networks sure of a forgery, and others sure of none; 0.5 times the log-odds of being generated."""
    shape = {"mean": (0.0, 0.0), "scale": (1.0, 1.0), "coefficients": (1.0, 0.5), "intercept": 0.0}
    decision = Decision(features=("quantile_999", "generated"), calibration={"slope": 1.0, "intercept": 0.0}, **shape)

    def decide(p, generated):
        settings = replace(seed_settings(networks := [loaded("a", 1.0, p)]), decision=decision)
        return Ensemble([networks], settings, CPU, detector=detector(generated)).predict(IMAGES)[0].forged_probability

    for generated in (0.001, 0.3, 0.5):
        assert decide(0.9, generated) == pytest.approx(0.9, abs=1e-3)
        assert is_forged(decide(0.9, generated), "high-precision")
        assert decide(0.2, generated) == pytest.approx(0.2, abs=1e-3)
    assert decide(0.2, 0.9) == pytest.approx(1 / (1 + 4 / 3), abs=1e-3)  # odds 1 / 4 times the root of 9


CONFIG = {
    "encoder_name": "tu-mobilenetv3_small_100",
    "in_channels": 3,
    "decoder_channels": 32,
    "segmentation_channels": 32,
    "image_size": 64,
}


def save(path, data="d", **config):
    config = CONFIG | {"folds": 5, "fold": 0, "seed": 0} | config
    checkpoint = {"model_state_dict": build_network(config).state_dict(), "config": config, "epoch": 0}
    checkpoint |= {"best_dice": 0.1, "metrics": {}, "threshold": 0.25, "calibration": {"slope": 1.0, "intercept": 0.0}}
    save_checkpoint(checkpoint | {"fold": config["fold"], "data_fingerprint": data}, path)


@pytest.fixture
def two_members(monkeypatch, tmp_path):
    """A table of two networks, of which the first was trained, and the evidence."""
    members = tuple(loaded(name, 1.0, 0.5).member for name in ("a", "b"))
    monkeypatch.setattr(module, "MEMBERS", (*members, COPY_MOVE))
    save(tmp_path / "a_best.pth")
    return tmp_path


def test_a_missing_checkpoint_is_named_with_its_script(two_members):
    with pytest.raises(UserError, match=r"b_best\.pth \(made by script_b\.py\)\n.*--allow-missing"):
        load_ensemble(two_members, CPU)


def test_allow_missing_goes_on_and_says_so(two_members, capsys):
    ensemble = load_ensemble(two_members, CPU, allow_missing=True)
    assert "without:\n" in capsys.readouterr().out
    assert ensemble.settings.pixel_threshold == 0.25
    predictions = ensemble.predict(IMAGES)
    assert [p.prob.shape for p in predictions] == [(64, 64), (64, 64)]
    assert all(0 < p.forged_probability < 1 and ((p.prob > 0) & (p.prob < 1)).all() for p in predictions)


def test_nothing_at_all_is_an_error_also_then(two_members):
    (two_members / "a_best.pth").unlink()
    with pytest.raises(UserError, match=r"a_best\.pth.*\n.*b_best\.pth"):
        load_ensemble(two_members, CPU, allow_missing=True, copy_move=False)
    with pytest.raises(UserError, match=r"decide by copy-move evidence alone, by --allow-missing"):
        load_ensemble(two_members, CPU)


def test_without_a_network_evidence_decides_alone_and_says_so(two_members, finds, capsys):
    finds(0.9)
    (two_members / "a_best.pth").unlink()
    ensemble = load_ensemble(two_members, CPU, allow_missing=True)
    assert "no network is trained: copy-move evidence alone decides" in capsys.readouterr().out
    assert [member.name for member in ensemble.members] == ["copy_move"]
    assert ensemble.predict(IMAGES)[1].forged_probability == pytest.approx(0.9)


def test_a_union_without_an_average_is_an_error(two_members, monkeypatch):
    specialist = replace(loaded("a", 0.8, 0.5).member, role="union")
    monkeypatch.setattr(module, "MEMBERS", (specialist, loaded("b", 1.0, 0.5).member, COPY_MOVE))
    with pytest.raises(UserError, match="no member of the average is trained"):
        load_ensemble(two_members, CPU, allow_missing=True)


def test_another_network_under_the_name_is_refused(two_members):
    save(two_members / "b_best.pth", in_channels=4)
    with pytest.raises(UserError, match=r"b_best\.pth reads 4 channels, b 3.*script_b\.py"):
        load_ensemble(two_members, CPU)


@pytest.fixture
def two_folds(two_members):
    """Writes both members of two folds; the second folder's with other fields."""

    def save_all(**fields):
        for name in "ab":
            save(two_members / f"{name}_best.pth")
            save(two_members / "fold_1" / f"{name}_best.pth", **{"fold": 1} | fields)
        return two_members

    return save_all


def test_checkpoints_of_other_folds_join(two_folds):
    assert [len(fold) for fold in load_ensemble(two_folds(), CPU).folds] == [2, 2]


@pytest.mark.parametrize("fields", [{"fold": 0}, {"data": "others"}, {"folds": 3}, {"seed": 1}])
def test_folders_that_are_no_folds_of_one_training_are_refused(two_folds, fields):
    with pytest.raises(UserError, match="are not one training in folds"):
        load_ensemble(two_folds(**fields), CPU)


def test_a_fold_without_a_member_is_refused(two_folds):
    folder = two_folds()
    (folder / "fold_1" / "b_best.pth").unlink()
    with pytest.raises(UserError, match=r"fold_1/b_best\.pth is missing"):
        load_ensemble(folder, CPU)


@pytest.fixture
def fitted(two_members):
    """Both members trained, and settings fitted for them."""
    save(two_members / "b_best.pth")
    ensemble = load_ensemble(two_members, CPU)
    checkpoints = identities(two_members, copy_move=True)
    weights = {"a": 0.0, "b": 2.0, "copy_move": 0.6}
    settings = replace(ensemble.settings, weights=weights, tta="flips", source="fitted", checkpoints=checkpoints)
    settings.save(two_members / SETTINGS_FILE)
    return two_members


def test_fitted_settings_count(fitted):
    ensemble = load_ensemble(fitted, CPU)
    assert ensemble.settings.weights == {"a": 0.0, "b": 2.0, "copy_move": 0.6}
    assert ensemble.settings.tta == "flips"
    assert load_ensemble(fitted, CPU, fitted=False).settings.weights == {"a": 1.0, "b": 1.0, "copy_move": 1.0}


def test_other_views_than_the_fits_are_noted(fitted, capsys):
    assert load_ensemble(fitted, CPU, tta="none").settings.tta == "none"
    assert "fitted on maps of --tta flips; none may shift" in capsys.readouterr().out


def test_without_a_fit_the_stand_in_is_named(two_folds, capsys):
    load_ensemble(two_folds(), CPU)
    assert "the decision is not fitted for this blend: a's stands in" in capsys.readouterr().out


def test_settings_for_other_checkpoints_are_left_aside(fitted, capsys):
    checkpoint = load_checkpoint(fitted / "a_best.pth")
    save_checkpoint(checkpoint | {"epoch": 1}, fitted / "a_best.pth")
    assert load_ensemble(fitted, CPU).settings.source == "seed"
    assert "fitted for other checkpoints" in capsys.readouterr().out


def test_settings_for_another_detector_are_left_aside(fitted, monkeypatch, capsys):
    monkeypatch.setattr(module, "VERSION", 0)
    assert load_ensemble(fitted, CPU).settings.source == "seed"
    assert "fitted for other copy-move evidence" in capsys.readouterr().out


def test_settings_with_evidence_are_left_aside_without_it(fitted, capsys):
    assert load_ensemble(fitted, CPU, copy_move=False).settings.weights == {"a": 1.0, "b": 1.0}
    assert "fitted for other copy-move evidence, or none" in capsys.readouterr().out


def test_settings_for_more_members_are_left_aside(fitted, capsys):
    (fitted / "b_best.pth").unlink()
    assert load_ensemble(fitted, CPU, allow_missing=True).settings.source == "seed"
    assert "fitted for other checkpoints" in capsys.readouterr().out


def test_the_detector_is_loaded_where_there_is_one(fitted, save_detector, capsys):
    """Settings that were fitted before it was there stay in force."""
    assert load_ensemble(fitted, CPU).detector is None
    save_detector(fitted / "spai_fusion_best.pth")
    capsys.readouterr()
    ensemble = load_ensemble(fitted, CPU)
    assert ensemble.detector is not None
    assert ensemble.settings.source == "fitted"
    assert "does not read spai_fusion_best.pth" in capsys.readouterr().out
    assert load_ensemble(fitted, CPU, generated=False).detector is None
    assert capsys.readouterr().out == ""


def test_several_detectors_are_refused_where_one_is_asked(fitted, save_detector):
    for name in ("spai_best.pth", "spai_fusion_best.pth"):
        save_detector(fitted / name)
    with pytest.raises(UserError, match="Keep one"):
        load_ensemble(fitted, CPU)
    assert load_ensemble(fitted, CPU, generated=False).settings.source == "fitted"


@pytest.fixture
def fitted_with_detector(fitted, save_detector):
    """Settings whose decision reads a detector."""
    save_detector(fitted / "spai_best.pth")
    settings = load_ensemble(fitted, CPU).settings
    decision = replace(settings.decision, features=("generated",))
    replace(settings, decision=decision, checkpoints=identities(fitted, True, True)).save(fitted / SETTINGS_FILE)
    return fitted


def test_settings_with_a_detector_count_with_it(fitted_with_detector, capsys):
    capsys.readouterr()
    assert load_ensemble(fitted_with_detector, CPU).settings.decision.reads_generated
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("what", ["other", "none", "not asked"])
def test_settings_with_a_detector_are_left_aside_without_it(fitted_with_detector, save_detector, capsys, what):
    path = fitted_with_detector / "spai_best.pth"
    if what == "other":
        save_detector(path, calibration={"slope": 1.0, "intercept": 1.0})
    if what == "none":
        path.unlink()
    settings = load_ensemble(fitted_with_detector, CPU, generated=what != "not asked").settings
    assert settings.source == "seed"
    assert not settings.decision.reads_generated
    assert "fitted for a detector of generated images that is not asked now" in capsys.readouterr().out


def test_the_backend_changes_nothing_but_who_runs_the_networks(two_folds, capsys):
    folder, rng = two_folds(), np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((50, 60), (150, 140))]
    plain = load_ensemble(folder, CPU).predict(images)
    assert "run by" not in capsys.readouterr().out
    other = load_ensemble(folder, CPU, backend="onnxruntime")
    assert len(list(folder.glob("**/exported/*.onnx"))) == 4
    for prediction, expected in zip(other.predict(images), plain, strict=True):
        assert prediction.forged_probability == pytest.approx(expected.forged_probability, abs=1e-3)
        assert np.abs(prediction.prob - expected.prob).max() < 2e-3


def test_auto_says_what_it_chose(two_folds, capsys):
    load_ensemble(two_folds(), CPU, backend="auto", n_images=3)
    assert "the networks are run by torch: too few images" in capsys.readouterr().out


def test_auto_counts_the_views(two_folds, capsys):
    """Images of 64², too few to look at each once for any conversion to pay."""
    n_images = BREAK_EVEN // 64**2 // 4
    for tta, why in (("none", "too few images"), ("full", "for so many images the conversion pays")):
        load_ensemble(two_folds(), CPU, tta=tta, backend="auto", n_images=n_images)
        assert why in capsys.readouterr().out


def test_members_and_folds_share_one_analysis_of_an_image(monkeypatch):
    from common.inference import views

    whole, tiles = loaded("a", 1.0, 0.5), loaded("s", 0.8, 0.5, role="union")
    tiles = replace(tiles, member=replace(tiles.member, tile_share=0.5, in_channels=4))
    ensemble = Ensemble([[whole, tiles]] * 2, seed_settings([whole, tiles]), CPU)
    analysed, real = [], views.to_channels
    monkeypatch.setattr(views, "to_channels", lambda *given: analysed.append(given) or real(*given))
    ensemble.predict([*IMAGES, np.zeros((90, 70, 3), np.uint8)])
    assert len(analysed) == 3

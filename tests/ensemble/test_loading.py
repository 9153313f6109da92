from dataclasses import replace

import numpy as np
import pytest
import torch

from common.ensemble import members
from common.ensemble.backends import BREAK_EVEN
from common.ensemble.loading import load_ensemble, original_settings
from common.ensemble.members import COPY_MOVE, SETTINGS_FILE, Member, identities
from common.errors import UserError
from common.forensics import copy_move
from common.training.checkpoint import load_checkpoint, save_checkpoint, save_release

CPU = torch.device("cpu")
IMAGES = [np.zeros((40, 50, 3), np.uint8), np.full((10, 20, 3), 255, np.uint8)]


def member(name):
    return Member(name=name, script=f"script_{name}.py", weight=1.0, role="average")


@pytest.fixture
def two_members(monkeypatch, save_network, tmp_path):
    """A table of two networks, of which the first was trained, and the evidence."""
    monkeypatch.setattr(members, "MEMBERS", (member("a"), member("b"), COPY_MOVE))
    save_network(tmp_path / "a_best.pth")
    return tmp_path


def test_a_missing_checkpoint_is_named_with_its_script(two_members):
    with pytest.raises(UserError, match=r"b_best\.pth \(made by script_b\.py\)\n.*by allow_missing"):
        load_ensemble(two_members, CPU)


def test_allow_missing_goes_on_and_says_so(two_members, capsys):
    ensemble = load_ensemble(two_members, CPU, allow_missing=True)
    assert "without:\n" in capsys.readouterr().out
    assert ensemble.settings.pixel_threshold == 0.25
    predictions = ensemble.predict(IMAGES)
    assert [p.prob.shape for p in predictions] == [(64, 64), (64, 64)]
    assert all(0 < p.forged_probability < 1 and ((p.prob > 0) & (p.prob < 1)).all() for p in predictions)


def test_a_notebook_needs_a_folder_and_images_alone(two_members):
    predictions = load_ensemble(two_members, allow_missing=True).predict(IMAGES)
    assert all(0 < prediction.forged_probability < 1 for prediction in predictions)


def test_nothing_at_all_is_an_error_also_then(two_members):
    (two_members / "a_best.pth").unlink()
    with pytest.raises(UserError, match=r"a_best\.pth.*\n.*b_best\.pth"):
        load_ensemble(two_members, CPU, allow_missing=True, copy_move=False)
    with pytest.raises(UserError, match=r"decide by copy-move evidence alone, by allow_missing"):
        load_ensemble(two_members, CPU)


def test_without_a_network_evidence_decides_alone_and_says_so(two_members, finds, capsys):
    finds(0.9)
    (two_members / "a_best.pth").unlink()
    ensemble = load_ensemble(two_members, CPU, allow_missing=True)
    assert "no network is trained: copy-move evidence alone decides" in capsys.readouterr().out
    assert [member.name for member in ensemble.members] == ["copy_move"]
    assert ensemble.predict(IMAGES)[1].forged_probability == pytest.approx(0.9)


def test_a_union_without_an_average_is_an_error(two_members, monkeypatch):
    specialist = replace(member("a"), role="union", weight=0.8)
    monkeypatch.setattr(members, "MEMBERS", (specialist, member("b"), COPY_MOVE))
    with pytest.raises(UserError, match="no member of the average is trained"):
        load_ensemble(two_members, CPU, allow_missing=True)


def test_another_network_under_the_name_is_refused(save_network, two_members):
    save_network(two_members / "b_best.pth", in_channels=4)
    with pytest.raises(UserError, match=r"b_best\.pth reads 4 channels, b 3.*script_b\.py"):
        load_ensemble(two_members, CPU)


@pytest.fixture
def two_folds(save_network, two_members):
    """Writes both members of two folds; the second folder's with other fields."""

    def save_all(**fields):
        for name in "ab":
            save_network(two_members / f"{name}_best.pth")
            save_network(two_members / "fold_1" / f"{name}_best.pth", **{"fold": 1} | fields)
        return two_members

    return save_all


def test_checkpoints_of_other_folds_join(two_folds):
    assert [len(fold) for fold in load_ensemble(two_folds(), CPU).folds] == [2, 2]
    assert [len(fold) for fold in load_ensemble(two_folds(seed=1), CPU).folds] == [2, 2]


@pytest.mark.parametrize("fields", [{"fold": 0}, {"data": "others"}, {"folds": 3}, {"fold_seed": 1}])
def test_folders_that_are_no_folds_of_one_training_are_refused(two_folds, fields):
    with pytest.raises(UserError, match="are not one training in folds"):
        load_ensemble(two_folds(**fields), CPU)


def test_a_fold_without_a_member_is_refused(two_folds):
    folder = two_folds()
    (folder / "fold_1" / "b_best.pth").unlink()
    with pytest.raises(UserError, match=r"fold_1/b_best\.pth is missing"):
        load_ensemble(folder, CPU)


@pytest.fixture
def fitted(save_network, two_members):
    """Both members trained, and settings fitted for them."""
    save_network(two_members / "b_best.pth")
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
    original = original_settings(ensemble.folds[0], copy_move=True)
    assert (original.weights, original.source) == ({"a": 1.0, "b": 1.0, "copy_move": 1.0}, "original")


def test_other_views_than_the_fits_are_noted(fitted, capsys):
    assert load_ensemble(fitted, CPU, tta="none").settings.tta == "none"
    assert "fitted on maps of the views flips; none may shift" in capsys.readouterr().out


def test_without_a_fit_the_stand_in_is_named(two_folds, capsys):
    load_ensemble(two_folds(), CPU)
    assert "the decision is not fitted for this blend: a's stands in" in capsys.readouterr().out


def test_settings_for_other_checkpoints_are_left_aside(fitted, capsys):
    checkpoint = load_checkpoint(fitted / "a_best.pth")
    save_checkpoint(checkpoint | {"epoch": 1}, fitted / "a_best.pth")
    assert load_ensemble(fitted, CPU).settings.source == "original"
    assert "fitted for other checkpoints" in capsys.readouterr().out


def test_settings_for_another_detector_are_left_aside(fitted, monkeypatch, capsys):
    monkeypatch.setattr(copy_move, "VERSION", 0)
    assert load_ensemble(fitted, CPU).settings.source == "original"
    assert "fitted for other copy-move evidence" in capsys.readouterr().out


def test_settings_with_evidence_are_left_aside_without_it(fitted, capsys):
    assert load_ensemble(fitted, CPU, copy_move=False).settings.weights == {"a": 1.0, "b": 1.0}
    assert "fitted for other copy-move evidence, or none" in capsys.readouterr().out


def test_settings_for_more_members_are_left_aside(fitted, capsys):
    (fitted / "b_best.pth").unlink()
    assert load_ensemble(fitted, CPU, allow_missing=True).settings.source == "original"
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
    replace(settings, decision=decision, checkpoints=identities(fitted, copy_move=True, generated=True)).save(
        fitted / SETTINGS_FILE
    )
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
    assert settings.source == "original"
    assert not settings.decision.reads_generated
    assert "fitted for a detector of generated images that is not used now" in capsys.readouterr().out


def test_the_backend_changes_nothing_but_who_runs_the_networks(two_members, save_network, monkeypatch, capsys):
    """One member of two folds."""
    monkeypatch.setattr(members, "MEMBERS", (member("a"), COPY_MOVE))
    save_network(two_members / "fold_1" / "a_best.pth", fold=1)
    folder, rng = two_members, np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((50, 60), (150, 140))]
    plain = load_ensemble(folder, CPU).predict(images)
    assert "run by" not in capsys.readouterr().out
    other = load_ensemble(folder, CPU, backend="onnxruntime")
    assert len(list(folder.glob("**/exported/*.onnx"))) == 2
    for prediction, expected in zip(other.predict(images), plain, strict=True):
        assert prediction.forged_probability == pytest.approx(expected.forged_probability, abs=1e-3)
        assert np.abs(prediction.prob - expected.prob).max() < 2e-3


def test_auto_says_what_it_chose(two_members, capsys):
    load_ensemble(two_members, CPU, allow_missing=True, backend="auto", n_images=3)
    assert "the networks are run by torch: too few images" in capsys.readouterr().out


def test_auto_counts_the_views(two_members, capsys):
    """Images of 64², too few for the export to pay if each is predicted once."""
    n_images = BREAK_EVEN // 64**2 // 4
    for tta, why in (("none", "too few images"), ("full", "for so many images the export pays")):
        load_ensemble(two_members, CPU, allow_missing=True, tta=tta, backend="auto", n_images=n_images)
        assert why in capsys.readouterr().out


def test_a_release_is_whole_as_it_is(two_members, finds, capsys):
    """That it lacks a member is no fault; beside a trained network it is one."""
    finds(0.9)
    save_release(load_checkpoint(two_members / "a_best.pth"), two_members / "release" / "a.safetensors")
    ensemble = load_ensemble(two_members / "release", CPU)
    assert "goes on without" not in capsys.readouterr().out
    assert [member.name for member in ensemble.members] == ["a", "copy_move"]
    trained = load_ensemble(two_members, CPU, allow_missing=True)
    for own, other in zip(ensemble.predict(IMAGES), trained.predict(IMAGES), strict=True):
        assert np.abs(own.prob - other.prob).max() < 5e-3


def test_a_release_has_settings_of_its_own(two_members, finds):
    finds(0.9)
    release = two_members / "release"
    save_release(load_checkpoint(two_members / "a_best.pth"), release / "a.safetensors")
    fitted = load_ensemble(release, CPU).settings
    fitted = replace(fitted, pixel_threshold=0.125, checkpoints=identities(release, copy_move=True))
    fitted.save(release / SETTINGS_FILE)
    assert load_ensemble(release, CPU).settings.pixel_threshold == 0.125

"""Who predicts which image, and what is refused."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.data.images import read_image
from common.data.samples import assign_folds, fingerprint, load_samples
from common.ensemble import members
from common.ensemble import out_of_fold as tested
from common.ensemble.decision import COPY_FEATURES, copy_features
from common.ensemble.evidence import examine
from common.ensemble.members import COPY_MOVE, Member
from common.ensemble.out_of_fold import out_of_fold
from common.errors import UserError
from common.generated.detector import load_detector


@pytest.fixture(scope="session")
def few_pairs(pairs_dir, tmp_path_factory):
    """The first four pairs of `pairs_dir`."""
    folder = shutil.copytree(pairs_dir, tmp_path_factory.mktemp("few") / "data")
    for path in folder.rglob("*.*"):
        if path.stem not in "0123":
            path.unlink()
    return folder


@pytest.fixture
def samples(few_pairs):
    return load_samples(few_pairs)


@pytest.fixture
def save(monkeypatch, save_network, samples, tmp_path):
    """Writes checkpoints of the members a and b, whose maps are as constant as their fold's number."""
    table = tuple(Member(name=n, script=f"{n}.py", in_channels=3, weight=1.0, role="average") for n in "ab")
    monkeypatch.setattr(members, "MEMBERS", (*table, COPY_MOVE))

    def save(name, folder="", data=None, fold=0, **values):
        path = tmp_path / folder / f"{name}_best.pth"
        save_network(path, logit=fold, data=data or fingerprint(samples), fold=fold, **values)

    return save


def test_each_image_is_predicted_by_the_fold_that_it_was_held_out_of(save, samples, tmp_path):
    for name in "ab":
        save(name)
        save(name, "fold_1", fold=1)
    oof = out_of_fold(tmp_path, samples, copy_move=False)
    assert (oof.names, oof.evidence, oof.copies) == (("a", "b"), None, None)
    assert oof.maps.shape == (8, 2, 256, 256)
    folds = assign_folds(samples, 2, 0)
    expected = [1 / (1 + np.exp(-fold)) for fold in sorted(folds)]
    assert oof.maps.mean(axis=(1, 2, 3), dtype=np.float64) == pytest.approx(expected, abs=1e-3)
    assert oof.forged.sum() == 4
    in_order = [s for fold in (0, 1) for s, f in zip(samples, folds, strict=True) if f == fold]
    assert oof.sizes.tolist() == [s.size for s in in_order]
    for truth, sample in zip(oof.truths, in_order, strict=True):
        if sample.forged:
            assert truth.max(axis=0).mean() == pytest.approx(sample.area_share, abs=0.02)


def test_the_maps_are_predicted_again_when_a_checkpoint_changes(save, samples, tmp_path):
    for name in "ab":
        save(name)
    first = out_of_fold(tmp_path, samples, copy_move=False).maps.filename
    assert out_of_fold(tmp_path, samples, copy_move=False).maps.filename == first
    save("a", fold=0, epochs=5)
    assert out_of_fold(tmp_path, samples, copy_move=False).maps.filename != first
    assert len(list(tmp_path.glob("oof_none_*.npy"))) == 1


def test_maps_that_are_kept_need_no_other_runtime(save, samples, tmp_path):
    for name in "ab":
        save(name)
    first = out_of_fold(tmp_path, samples, copy_move=False).maps.filename
    assert out_of_fold(tmp_path, samples, copy_move=False, backend="onnxruntime").maps.filename == first
    assert not (tmp_path / "exported").exists()
    out_of_fold(tmp_path, samples, tta="flips", copy_move=False, backend="onnxruntime")
    assert len(list(tmp_path.glob("exported/*.onnx"))) == 2


def test_the_evidence_is_looked_for_once(save, few_pairs, copied_images, tmp_path, monkeypatch):
    """For all views, and whatever becomes of the networks; again for another detector. One image holds a copy."""
    data = shutil.copytree(few_pairs, tmp_path / "data")
    cv2.imwrite(str(data / "train_images/forged/3.png"), cv2.resize(copied_images[1], (96, 72)))
    samples = load_samples(data)
    for name in "ab":
        save(name, data=fingerprint(samples))
        save(name, "fold_1", fold=1, data=fingerprint(samples))
    looked, shown = [], []

    def look(images, workers):
        for image in images:
            shown.append(image)
            looked.append(examine(image))
            yield looked[-1]

    monkeypatch.setattr(tested, "gather", look)
    oof = out_of_fold(tmp_path, samples)
    assert (oof.names, oof.roles[-1], oof.original_weights[-1]) == (("a", "b", "copy_move"), "evidence", 1.0)
    assert (oof.evidence.shape, oof.copies.shape, len(looked)) == ((8, 256, 256), (8, len(COPY_FEATURES)), 8)
    folds = assign_folds(samples, 2, 0)
    in_order = [s for fold in (0, 1) for s, f in zip(samples, folds, strict=True) if f == fold]
    for k, (sample, image, found) in enumerate(zip(in_order, shown, looked, strict=True)):
        assert (image == read_image(sample.image)).all()
        assert oof.copies[k] == pytest.approx([*copy_features(found.score, found.inliers, found.area_share).values()])
        assert oof.evidence[k].max() == found.prob.max()

    save("a", data=fingerprint(samples), epochs=5)
    assert (out_of_fold(tmp_path, samples, tta="flips").evidence == oof.evidence).all()
    assert len(looked) == 8
    monkeypatch.setattr(tested, "VERSION", 0)
    monkeypatch.setattr(
        tested, "gather", lambda images, workers: (looked.append(looked[0]) or looked[0] for _ in images)
    )
    out_of_fold(tmp_path, samples)
    assert len(looked) == 16
    assert len(list(tmp_path.glob("oof_copy_move_*.npy"))) == 1


def test_the_detector_is_asked_once(save, samples, tmp_path, save_detector):
    """In the order of the samples; again for another detector. The maps know nothing of it."""
    for name in "ab":
        save(name)
    plain = out_of_fold(tmp_path, samples, copy_move=False)
    assert plain.generated is None
    path = save_detector(tmp_path / "spai_best.pth")
    oof = out_of_fold(tmp_path, samples, copy_move=False)
    assert (oof.names, oof.roles, oof.original_weights) == (("a", "b"), ("average",) * 2, (1.0, 1.0))
    assert oof.maps.filename == plain.maps.filename
    held_out = [s for s, fold in zip(samples, assign_folds(samples, 2, 0), strict=True) if fold == 0]
    found = load_detector(path, torch.device("cpu")).predict([read_image(sample.image) for sample in held_out])
    assert (oof.generated.dtype, len(set(oof.generated.tolist()))) == (np.float64, len(held_out))
    assert oof.generated == pytest.approx([one.probability for one in found], abs=1e-5)

    file = Path(oof.generated.filename)
    written = file.stat().st_mtime_ns
    assert (out_of_fold(tmp_path, samples, tta="flips", copy_move=False).generated == oof.generated).all()
    assert out_of_fold(tmp_path, samples, copy_move=False, generated=False).generated is None
    assert file.stat().st_mtime_ns == written
    save_detector(path, calibration={"slope": 0.0, "intercept": 0.0})
    assert out_of_fold(tmp_path, samples, copy_move=False).generated == pytest.approx(0.5)
    assert len(list(tmp_path.glob("oof_generated_*.npy"))) == 1


def test_pixels_that_are_edited_in_place_are_looked_at_again(save, few_pairs, tmp_path, save_detector, monkeypatch):
    """The size of an uncompressed file stays, and with it the fingerprint; so it does when two images change places."""
    data = shutil.copytree(few_pairs, tmp_path / "data")
    for path in sorted(data.glob("train_images/*/*.png")):
        cv2.imwrite(str(path.with_suffix(".bmp")), cv2.imread(str(path)))
        path.unlink()
    before = fingerprint(load_samples(data))
    for name in "ab":
        save(name, data=before)
        save(name, "fold_1", fold=1, data=before)
    save_detector(tmp_path / "spai_best.pth")
    nothing = examine(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr(tested, "gather", lambda images, workers: (nothing for _ in images))

    def kept():
        samples = load_samples(data)
        assert fingerprint(samples) == before
        out_of_fold(tmp_path, samples)
        return {path.name for path in tmp_path.glob("oof_*.npy")}

    first, image, other = kept(), data / "train_images/forged/2.bmp", data / "train_images/forged/3.bmp"
    assert (len(first), kept()) == (3, first)
    content = bytearray(image.read_bytes())
    content[-1] ^= 255
    image.write_bytes(content)
    edited = kept()
    assert len(edited) == 3 and not edited & first
    image.write_bytes(other.read_bytes())
    other.write_bytes(content)
    exchanged = kept()
    assert len(exchanged) == 3 and not exchanged & edited


def test_evidence_alone_needs_no_fit(save, samples, tmp_path):
    with pytest.raises(UserError, match="no trained network"):
        out_of_fold(tmp_path, samples, allow_missing=True)


def test_members_of_different_folds_are_refused(save, samples, tmp_path):
    save("a")
    save("b", fold=1)
    with pytest.raises(UserError, match="were trained on different folds"):
        out_of_fold(tmp_path, samples)


def test_other_data_are_refused(save, samples, tmp_path):
    save("a", data="others")
    save("b")
    with pytest.raises(UserError, match="a was trained on other data"):
        out_of_fold(tmp_path, samples)

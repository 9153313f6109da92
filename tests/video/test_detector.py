"""A detector of deepfake videos, tiny and random: what it says follows from its network and its faces."""

import hashlib

import cv2
import numpy as np
import pytest
import torch

from common.data.transforms import resize_image
from common.errors import UserError
from common.metrics.calibration import calibrated
from common.training.checkpoint import load_checkpoint
from common.video.clip_faces import extract_faces
from common.video.detector import box_shares, find_video_detector, load_video_detector
from common.video.files import open_video, read_frames, write_video
from common.video.gradcam import MultiScaleGradCAM
from common.video.network import load_spotter

CPU = torch.device("cpu")
BOXES = {"left": (4, 34, 36, 74), "right": (90, 20, 130, 80)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twelve frames of noise, 96×144, that grows coarser to the left."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (96, 144, 3), dtype=np.uint8) for _ in range(12)]
    for frame in frames:
        frame[:, :72] = cv2.GaussianBlur(frame[:, :72], (0, 0), 4)
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, frames, 4.0)
    return path


@pytest.fixture(scope="module")
def checkpoint(save_video_detector, tmp_path_factory):
    return save_video_detector(tmp_path_factory.mktemp("models") / "deepfake_video_best.pth", stills_only=False)


@pytest.fixture
def load(checkpoint, tmp_path, clip):
    """A detector whose faces are in given frames, all of them by default."""

    def load(path=checkpoint, left=range(12), right=range(12), kind="boxes", **options):
        table = None
        if kind == "boxes":
            table = tmp_path / "boxes.csv"
            rows = [(*BOXES[name], n) for name, there in (("left", left), ("right", right)) for n in there]
            lines = [f"{clip.name},{n},{x0},{y0},{x1},{y1}" for x0, y0, x1, y1, n in rows]
            table.write_text("\n".join(["file,frame,left,top,right,bottom", *lines]))
        return load_video_detector(path, CPU, faces=kind, boxes=table, **options)

    return load


def test_a_face_is_scored_by_its_crops_and_calibrated(load, checkpoint, clip):
    detector = load()
    found = detector.predict(clip)
    faces = extract_faces(clip, detector.faces, frames=6, size=64)
    network = load_spotter(load_checkpoint(checkpoint, ()), checkpoint)
    assert len(found.tracks) == 2
    for track, expected in zip(found.tracks, faces.tracks, strict=True):
        np.testing.assert_array_equal(track.faces.crops, expected.crops)
        with torch.no_grad():
            crops = torch.from_numpy(expected.crops).permute(0, 3, 1, 2)[None]
            logits, frame_logits = network(crops, return_frames=True)
            own = frame_logits[0]
        wanted = [calibrated(value, 1.5, -0.5) for value in logits.softmax(1)[:, 1].tolist()]
        assert [track.probability] == pytest.approx(wanted, abs=1e-4)
        assert track.frame_scores == pytest.approx(
            [calibrated(v, 1.5, -0.5) for v in own.softmax(1)[:, 1].tolist()], abs=1e-4
        )
    assert len({track.probability for track in found.tracks}) == 2
    assert [track.number for track in found.tracks] == [1, 2]
    assert (found.path, found.seconds > 0) == (clip, True)


def test_maps_explain_fake_against_real_whatever_the_verdict(load, save_video_detector, tmp_path, clip):
    detector = load()
    found = detector.predict(clip)
    cam = MultiScaleGradCAM(detector.model, detector.model.features.tap_layers)
    crops = torch.from_numpy(found.track.faces.crops).permute(0, 3, 1, 2)[None]
    wanted = cam(crops, target=lambda logits: logits[:, 1] - logits[:, 0], clips=1).fused.numpy()
    heatmaps = found.track.heatmaps
    in_box = wanted * box_shares(found.track.faces.boxes, found.track.faces.areas)
    np.testing.assert_allclose(heatmaps, in_box, atol=1e-5)
    assert found.track.heat_outside == pytest.approx(1 - in_box.sum() / wanted.sum(), abs=1e-5)
    assert 0 < found.track.heat_outside < 1
    assert heatmaps.shape == (6, 28, 28) and heatmaps.dtype == np.float32
    assert heatmaps.max() > 0
    calibration = {"slope": 1.5, "intercept": -100.0}
    real = load(save_video_detector(tmp_path / "real.pth", calibration=calibration)).predict(clip)
    assert (found.verdict, real.verdict) == ("fake" if found.probability >= 0.5 else "real", "real")
    np.testing.assert_allclose(real.track.heatmaps, heatmaps, atol=1e-6)


def test_heat_outside_the_box_is_removed(load, clip):
    """Beside a narrow, high box: of its crop of 52 px, the face has the middle 32 columns and the 40 rows between."""
    found = load(left=range(0)).predict(clip)
    face = found.track.faces
    shares = box_shares(face.boxes, face.areas)
    assert shares.shape == found.track.heatmaps.shape
    left, top, right, bottom = (face.boxes[0] - np.tile(face.areas[0, :2], 2)) / 28 * 28
    side = face.areas[0, 2] - face.areas[0, 0]
    assert shares[0].sum() == pytest.approx((right - left) * (bottom - top) / side**2 * 28**2, rel=1e-5)
    outside = np.arange(28) + 1 <= left / side * 28
    assert outside.any() and not found.track.heatmaps[:, :, outside].any()
    np.testing.assert_array_equal(box_shares(np.array([[3.0, 4, 7, 8]]), np.array([[3, 4, 7, 8]])), 1)
    whole = load(kind="crops").predict(clip)
    assert whole.track.heat_outside == pytest.approx(0, abs=1e-6)


def test_only_the_deciding_face_is_explained(load, clip):
    detector = load()
    runs = []
    detector.model.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    found = detector.predict(clip)
    assert runs == [False, False, True]
    assert [track.heatmaps is not None for track in found.tracks] == [track is found.track for track in found.tracks]


def test_without_maps_the_scores_are_the_same(load, clip):
    detector = load()
    explained, scored = detector.predict(clip), detector.predict(clip, explain=False)
    for track, other in zip(explained.tracks, scored.tracks, strict=True):
        assert other.heatmaps is None
        assert other.probability == pytest.approx(track.probability, abs=1e-5)
        np.testing.assert_allclose(other.frame_scores, track.frame_scores, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in detector.model.parameters())


def test_of_the_faces_that_may_decide_the_most_suspicious_does(load, save_video_detector, tmp_path, clip):
    """One face in all frames, the other, more suspicious one in three or two of the six that are sampled."""
    # These random weights find fewer frames less suspicious; the slope turns that about, at a level between the two.
    turned = {"slope": -1.0, "intercept": 6.5}
    path = save_video_detector(tmp_path / "turned.pth", calibration=turned, stills_only=False)
    sampled = load().predict(clip, explain=False).faces.indices
    for count, decides in ((3, True), (2, False)):
        found = load(path, left=sampled[2 : 2 + count], min_coverage=0.9).predict(clip)
        always, rare = found.tracks
        assert (always.faces.coverage, rare.faces.coverage) == (1, count / 6)
        assert rare.probability > 0.5 > always.probability
        assert found.track is (rare if decides else always)
        assert found.probability == found.track.probability and found.verdict == ("fake" if decides else "real")
        assert found.faces.coverage == 1 and found.warnings == found.faces.warnings


def test_a_clip_is_covered_by_its_faces_together(load, clip):
    """A face in every frame is one, however often it is cut."""
    sampled = load().predict(clip, explain=False).faces.indices

    def found(left, right, min_coverage):
        return load(left=left, right=right, min_coverage=min_coverage).predict(clip, explain=False)

    cut = found(sampled[:3], sampled[3:], 0.9)
    assert cut.verdict in ("fake", "real") and cut.faces.coverage == 1
    assert [track.faces.coverage for track in cut.tracks] == [0.5, 0.5]
    few = found(sampled[:3], sampled[1:4], 0.7)
    assert few.faces.coverage == pytest.approx(4 / 6)
    assert few.verdict == "inconclusive" and few.track is few.tracks[0]
    wanted = "inconclusive: a face was found in 4 of 6 sampled frames, a verdict needs 70% of them"
    assert few.warnings == (*few.faces.warnings, wanted) and wanted == f"inconclusive: {few.reason}"
    assert cut.reason == ""
    assert found(sampled[:3], sampled[1:4], 0.6).verdict in ("fake", "real")
    short = found(sampled[:2], sampled[2:4], 0.6)
    assert short.verdict == "inconclusive" and short.track is short.tracks[0]
    wanted = "no tracked face was found in more than 2 of 6 sampled frames, a verdict needs 3"
    assert short.warnings == (*short.faces.warnings, f"inconclusive: {wanted}")


def test_without_a_face_there_is_a_probability_but_no_verdict(load, clip):
    for min_coverage, reason in ((0.3, "found in 0 of 6"), (0.0, "found in more than 0 of 6")):
        found = load(kind="centre", min_coverage=min_coverage).predict(clip, explain=False)
        assert found.verdict == "inconclusive" and 0 < found.probability < 1
        assert found.faces.coverage == found.track.faces.coverage == 0
        assert reason in found.warnings[-1]


def test_what_one_should_know_of_the_detector_is_said_of_every_clip(load, save_video_detector, tmp_path, clip):
    def said(**fields):
        path = save_video_detector(tmp_path / "a.pth", **{"stills_only": False} | fields)
        found = load(path, kind="crops").predict(clip, explain=False)
        assert found.warnings[: len(found.faces.warnings)] == found.faces.warnings
        return found.warnings[len(found.faces.warnings) :]

    assert said() == said(face_detector="crops") == ()
    assert said(face_detector="mtcnn 480") == ("the faces of the training came from: mtcnn 480; these from: crops",)
    (warning,) = said(calibration={"slope": 0.0, "intercept": 0.2})
    assert warning == "the network did not separate the classes in its validation: every clip gets the same probability"
    (warning,) = said(self_blended=True)
    assert warning.startswith("trained and calibrated on real faces blended with themselves, not deepfakes")
    assert said(self_blended=False) == ()
    (warning,) = said(stills_only=None)
    assert warning.startswith("the checkpoint does not say whether it was trained on clips or on single images")


def test_a_network_that_knows_single_images_judges_single_images(load, save_video_detector, tmp_path, clip):
    path = save_video_detector(tmp_path / "stills.pth", stills_only=True)
    cv2.imwrite(str(tmp_path / "face.png"), np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    judged = load(path, kind="crops").predict(tmp_path / "face.png", explain=False)
    assert judged.verdict in ("fake", "real") and judged.warnings == judged.faces.warnings
    found = load(path).predict(clip, explain=False)
    assert found.verdict == "inconclusive" and 0 < found.probability < 1
    reason = "the network was trained or calibrated on single images, and this clip has 6 sampled frames"
    assert found.warnings[-1] == f"inconclusive: {reason}"


def test_a_frame_has_one_probability_however_often_it_is_repeated(load, save_video_detector, tmp_path):
    path = save_video_detector(tmp_path / "even.pth", {"frames": 24, "steps": 24})
    image = np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    found = []
    for count in (1, 8, 24):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            cv2.imwrite(str(folder / f"{number}.png"), image)
        score = load(path, kind="crops").predict(folder, explain=False)
        assert len(score.track.frame_scores) == count
        found.append(score.probability)
    assert max(found) - min(found) < 0.02


def test_the_threshold_is_the_checkpoint_s_or_another(load, save_video_detector, tmp_path, clip):
    found = load().predict(clip)
    assert found.threshold == 0.5
    p = found.probability
    assert load(threshold=p).predict(clip).verdict == "fake"
    assert load(threshold=p + 1e-9).predict(clip).verdict == "real"
    strict = save_video_detector(tmp_path / "a.pth", {"threshold": p + 1e-9, "min_coverage": 0.99})
    found = load(strict).predict(clip)
    assert (found.verdict, found.threshold) == ("real", p + 1e-9)
    assert load(strict, left=range(1), right=range(6)).predict(clip).verdict == "inconclusive"


@pytest.mark.parametrize("kind", ["boxes", "crops", "centre"])
def test_the_areas_are_what_the_crops_show(load, clip, kind):
    found = load(kind=kind).predict(clip, explain=False)
    for track in found.tracks:
        frames = read_frames(open_video(clip), track.faces.indices)
        for frame, crop, area in zip(frames, track.faces.crops, track.faces.areas, strict=True):
            left, top, right, bottom = area.round().astype(int)
            padded = np.pad(frame.image, ((50, 50), (50, 50), (0, 0)), "reflect")
            shown = resize_image(padded[top + 50 : bottom + 50, left + 50 : right + 50], 64)
            np.testing.assert_array_equal(shown, crop)


def test_an_image_is_a_clip_of_one_frame(load, tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    found = load(kind="crops").predict(tmp_path / "face.png")
    assert found.track.frame_scores == pytest.approx([found.probability], abs=1e-6)
    assert found.track.heatmaps.shape == (1, 28, 28)
    assert found.verdict in ("fake", "real")


def test_a_clip_that_can_t_be_read_is_a_user_s_error(load, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"a\.mp4"):
        load(kind="crops").predict(tmp_path / "a.mp4")


def test_the_checkpoint_is_named_by_its_hash(load, checkpoint, clip):
    assert load().predict(clip).checkpoint == hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]


def test_the_detector_is_found_by_its_name(tmp_path):
    assert find_video_detector(tmp_path / "nowhere") is None
    for other in ("deepfake_video_last.pth", "spai_best.pth"):
        (tmp_path / other).touch()
    assert find_video_detector(tmp_path) is None
    (tmp_path / "deepfake_video_b3_best.pth").touch()
    assert find_video_detector(tmp_path) == tmp_path / "deepfake_video_b3_best.pth"
    (tmp_path / "deepfake_video_best.pth").touch()
    with pytest.raises(UserError, match=r"b3_best\.pth, deepfake_video_best\.pth.*Keep one"):
        find_video_detector(tmp_path)


def test_a_checkpoint_of_another_kind_is_refused(load, save_detector, tmp_path):
    torch.save({"model_state_dict": {}, "epoch": 0}, tmp_path / "a.pth")
    for path in (tmp_path / "a.pth", save_detector(tmp_path / "spai_best.pth")):
        with pytest.raises(UserError, match=path.name):
            load(path)


@pytest.mark.slow
def test_a_real_face_is_found_in_a_real_video(load, shared_data):
    pytest.importorskip("facenet_pytorch")
    found = load(kind="mtcnn").predict(shared_data / "clips/real/ffpp_c23_004.mp4")
    assert len(found.tracks) == 1 and found.track.faces.coverage == 1
    assert found.verdict in ("fake", "real")

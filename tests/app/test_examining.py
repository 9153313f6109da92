from pathlib import Path

import numpy as np
import pytest

from common.app.examining import Mark, _without, checked_mode, checked_threshold, decide, examine
from common.app.models import load_models
from common.app.words import verdict_in_words
from common.data.decoding import stored
from common.ensemble.evidence import passing
from common.errors import UserError
from common.metrics.rle import AUTHENTIC, parse_annotation
from common.submission.config import SubmissionConfig
from common.submission.predictor import image_row

SOURCE = {"file": "a.png", "digest": "ab" * 32}


def submitted(models, image, mode="default"):
    """What make_submission.py says of an image."""
    config, settings = SubmissionConfig(input=Path(), mode=mode), models.decider.settings
    (prediction,) = models.decider.predict([image])
    return image_row(config, settings, "a", image, prediction)


def shares(mask, truth):
    """Intersection over union."""
    return (mask & truth).sum() / (mask | truth).sum()


def test_without_networks_copies_decide_as_in_a_submission(examined, copies_alone, forged, copied_mask):
    decided = decide(examined, copies_alone, "default", 0.5)
    row = submitted(copies_alone, forged)
    assert decided.row(examined) == ("forged", row.annotation)
    assert decided.probability == pytest.approx(row.scores["forged_probability"], abs=1e-6)
    assert decided.forged and shares(decided.labels > 0, copied_mask) > 0.8
    assert decided.counted == {"c1"}


@pytest.mark.parametrize("mode", ["high-precision", "max-recall"])
def test_a_network_takes_part_as_in_a_submission(save_network, copied_images, tmp_path, mode):
    save_network(tmp_path / "highres_no_ela_best.pth", scale=40)
    models = load_models(tmp_path)
    assert models.networks is models.decider and "take part" in models.said
    for image in copied_images[:2]:
        examined = examine(image, models, **SOURCE)
        decided = decide(examined, models, mode, 0.5)
        row = submitted(models, image, mode)
        assert decided.row(examined)[1] == row.annotation
        assert decided.probability == pytest.approx(row.scores["forged_probability"], abs=1e-6)
        assert examined.network_map is not None and examined.network_map.min() >= 0


def test_released_networks_show_and_decide_nothing(save_network, forged, tmp_path):
    save_network(tmp_path / "release" / "highres_no_ela_best.pth", logit=9)
    models = load_models(tmp_path)
    examined = examine(forged, models, **SOURCE)
    assert "release" in models.said and examined.network_map.min() > 0.95
    assert [key for key in examined.entries if key.startswith("a")] == ["a1"]
    decided = decide(examined, models, "default", 0.5)
    assert decided.counted == {"c1"} and (decided.labels > 0).mean() < 0.5
    # A reviewer may say that it is right all the same.
    decided = decide(examined, models, "default", 0.5, {"a1": Mark("right"), "c1": Mark("wrong")})
    assert decided.counted == {"a1"}
    np.testing.assert_array_equal(decided.labels > 0, examined.entries["a1"].mask)


def test_modes_and_the_threshold_decide_what_is_reported(examined, copies_alone):
    score = examined.entries["c1"].group.score
    assert 0.8 < score < 1
    above = decide(examined, copies_alone, "max-recall", min(score + 0.001, 1.0))
    assert not above.forged and not above.counted and not above.labels.any()
    assert above.row(examined)[1] == AUTHENTIC
    assert decide(examined, copies_alone, "high-precision", score).forged


@pytest.mark.parametrize("verdict", ["wrong", "natural"])
def test_what_a_reviewer_takes_out_is_not_reported(examined, copies_alone, verdict):
    marks = {"c1": Mark(verdict, "inset" if verdict == "natural" else "")}
    decided = decide(examined, copies_alone, "max-recall", 0.5, marks)
    assert not decided.forged and decided.row(examined)[1] == AUTHENTIC
    assert decided.probability < 0.1


def test_what_a_reviewer_says_is_right_is_reported_whatever_its_score(examined, copies_alone):
    decided = decide(examined, copies_alone, "high-precision", 1.0, {"c1": Mark("right")})
    assert decided.forged and decided.counted == {"c1"} and decided.probability > 0.99
    np.testing.assert_array_equal(decided.labels > 0, passing(examined.entries["c1"].group, 0))


def test_the_row_is_of_the_pixels_as_the_file_stores_them(copies_alone, forged):
    """Orientation 6: stored, the picture lies on its side."""
    turned = np.ascontiguousarray(np.rot90(forged, -1))
    examined = examine(turned, copies_alone, orientation=6, **SOURCE)
    decided = decide(examined, copies_alone, "default", 0.5)
    height, width = forged.shape[:2]
    masks = parse_annotation(decided.row(examined)[1], height, width)
    np.testing.assert_array_equal(masks.any(axis=0), stored(decided.labels, 6) > 0)


@pytest.mark.parametrize("mode", ["bold", None, 1, ["default"]])
def test_modes_are_checked(mode):
    assert checked_mode("default") == "default"
    with pytest.raises(UserError, match="there is no mode"):
        checked_mode(mode)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.5", None, True])
def test_thresholds_are_checked(threshold):
    assert checked_threshold(1) == 1.0
    with pytest.raises(UserError, match="from 0 to 1"):
        checked_threshold(threshold)


@pytest.mark.parametrize("verdict", ["wrong", "natural"])
def test_what_own_networks_mark_can_be_taken_out_of_the_mask(save_network, forged, tmp_path, verdict):
    """Of an image without copies, of which the network marks all."""
    save_network(tmp_path / "highres_no_ela_best.pth", logit=9)
    models = load_models(tmp_path)
    image = np.ascontiguousarray(forged[:100, :100])
    examined = examine(image, models, **SOURCE)
    assert list(examined.entries) == ["a1"]
    before = decide(examined, models, "default", 0.5)
    assert before.forged and before.counted == {"a1"} and before.labels.all()
    after = decide(examined, models, "default", 0.5, {"a1": Mark(verdict)})
    assert after.probability == before.probability and not after.forged
    assert not after.counted and after.row(examined)[1] == AUTHENTIC
    assert "A reviewer has taken out all regions." in verdict_in_words(after)


def test_labels_that_lie_in_a_region_are_taken_out_and_the_others_numbered_anew():
    labels = np.repeat(np.array([[0, 1, 1, 0, 2, 2, 0, 3, 3, 3]], np.int32), 4, axis=0)
    region = np.zeros((4, 10), bool)
    region[:, 3:8] = True  # all of 2, a third of 3
    expected = np.repeat(np.array([[0, 1, 1, 0, 0, 0, 0, 2, 2, 2]]), 4, axis=0)
    np.testing.assert_array_equal(_without(labels, [region]), expected)
    np.testing.assert_array_equal(_without(labels, []), labels)
    region[:, 5:] = False  # half of 2, no more
    np.testing.assert_array_equal(_without(labels, [region]), labels)

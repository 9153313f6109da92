from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from benchmarks.patch_classifier import PatchClassifier
from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.dataset import GeneratedTestSet, make_generated_loader
from common.generated.images import LabelledImage
from common.generated.scoring import score_loader, validate_spai

CONFIG = replace(SpaiConfig(name="spai_test").quick(), target_fpr=0.1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six pictures of six sizes; every second one, the lighter ones, generated."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    found = []
    for number in range(6):
        path = folder / f"{number}.png"
        light = 120 - 10 * number + 80 * (number % 2)
        cv2.imwrite(str(path), rng.integers(light - 60, light, (40 + 9 * number, 90, 3), dtype=np.uint8))
        found.append(LabelledImage(path, bool(number % 2), "val", "gan" if number % 2 else "real"))
    return found


@pytest.fixture
def model():
    """Its weights are random, and larger than a fresh network's, so that pictures differ in their scores."""
    torch.manual_seed(0)
    network = PatchClassifier(CONFIG.backbone_name, patch_size=64, patch_stride=64, depth=1, width=16, heads=2)
    torch.nn.init.normal_(network.head.weight)
    return network


def test_scores_are_the_sigmoids_of_logits_in_the_data_sets_order(model, images):
    data = GeneratedTestSet(images, whole_size=64)
    loader = make_generated_loader(data, 2, 0, [4, 2, 5, 0, 1, 3])
    scores, generated, attention = score_loader(Accelerator(), model, loader, 400, cover_edges=False)
    alone = [model.score_images([data[index]["image"]])[0].logit for index in range(6)]
    assert scores == pytest.approx(1 / (1 + np.exp(-np.array(alone))), abs=1e-6)
    assert len(set(scores.round(6))) == 6
    assert generated.tolist() == [image.generated for image in images]
    assert attention == pytest.approx(0, abs=1e-6)  # the classifier's patches weigh the same


def test_a_diverged_network_is_said(model, images):
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
    loader = make_generated_loader(GeneratedTestSet(images, whole_size=64), 8, 0)
    with pytest.raises(UserError, match=r"the training diverged.*Lower the learning rate"):
        score_loader(Accelerator(), model, loader, 400, cover_edges=False)


def test_a_validation_keeps_what_decisions_need(model, images):
    loader = make_generated_loader(GeneratedTestSet(images, whole_size=64), 8, 0)
    found = validate_spai(Accelerator(), model, loader, config=CONFIG, prompts=["a photograph"])
    assert found.score == found.metrics["auc"]
    assert found.kept["target_fpr"] == 0.1 and found.kept["prompts"] == ["a photograph"]
    probs, labels = found.kept["validation"]["probs"], found.kept["validation"]["generated"]
    assert labels == [image.generated for image in images]
    scores = score_loader(Accelerator(), model, loader, 400, cover_edges=False).scores
    assert found.kept["calibration"]["slope"] > 0
    slope, intercept = found.kept["calibration"]["slope"], found.kept["calibration"]["intercept"]
    expected = 1 / (1 + np.exp(-(slope * np.log(scores / (1 - scores)) + intercept)))
    assert probs == pytest.approx(expected, abs=1e-6)
    wins = [real < fake for real in scores[::2] for fake in scores[1::2]]
    assert found.metrics["auc"] == pytest.approx(np.mean(wins))

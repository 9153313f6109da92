"""Validation of a made network whose maps are known, against figures worked out by hand."""

import math

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from common.data.dataset import ForgeryDataset, collate_whole, make_loader
from common.data.images import read_image
from common.data.samples import load_samples
from common.data.tiles import bound_image
from common.training.validation import predict_maps, selection_score, validate


class Brightness(nn.Module):
    """The red channel as the probability."""

    def forward(self, x):
        return torch.logit(x[:, :1].float() / 255, eps=1e-6)


@pytest.fixture
def validation(tmp_path):
    """Three 10×10 images: a forgery found by half, a forgery missed, an authentic one with 10 bright pixels."""
    for label in ("authentic", "forged"):
        (tmp_path / "train_images" / label).mkdir(parents=True)
    (tmp_path / "train_masks").mkdir()
    half, missed, clean = (np.full((10, 10, 3), 25, np.uint8) for _ in range(3))
    mask = np.zeros((10, 10), np.uint8)
    mask[:4] = 1  # 40 pixels
    half[:2] = 204  # 20 of them, at 0.8
    clean[9] = 153  # 10 pixels, at 0.6
    for name, image in (("forged/half", half), ("forged/missed", missed), ("authentic/clean", clean)):
        cv2.imwrite(str(tmp_path / f"train_images/{name}.png"), image)
    for name in ("half", "missed"):
        np.save(tmp_path / f"train_masks/{name}.npy", mask)
    loader = make_loader(ForgeryDataset(load_samples(tmp_path), 10), 2, 0)
    return validate(Accelerator(), Brightness(), loader)


def test_figures_by_hand(validation):
    expected = {
        "dice": 2 * 20 / (20 + 0 + 10 + 40 + 40),
        "pixel_f1": (2 * 20 / (20 + 40) + 0) / 2,
        "pixel_recall": (0.5 + 0) / 2,
        "pixel_recall_xlarge": 0.25,
        "n_xlarge": 2,
        "n_tiny": 0,
        "n_authentic": 1,
        "pixel_auc": (0.75 + 0.5) / 2,  # half of the forged pixels above all others, half tied; all tied
        "image_recall": 0.5,
        "image_fpr": 1.0,
        "image_auc": 0.5,  # scores 0.8 and 0.1 against 0.6
    }
    for name, value in expected.items():
        assert validation.metrics[name] == pytest.approx(value, abs=1e-3), name
    assert math.isnan(validation.metrics["pixel_recall_tiny"])


def test_the_threshold_is_the_best_one(validation):
    """At or below 0.1 everything is forged: F1 of 80/140 on both; between, the first alone scores 2/3."""
    assert validation.metrics["pixel_f1_best"] == pytest.approx(80 / 140, abs=1e-3)
    assert validation.kept["threshold"] == pytest.approx(25 / 255, abs=1e-3)


def test_plain_numbers_for_the_checkpoint(validation):
    assert {type(value) for value in validation.metrics.values()} == {float}
    assert type(validation.kept["threshold"]) is float
    assert set(validation.kept["calibration"]) == {"slope", "intercept"}


def test_dice_picks_the_best_epoch_unless_told_otherwise(validation):
    assert validation.score == validation.metrics["dice"]


@pytest.mark.parametrize(
    ("recall", "recall_weight", "score"),
    [(0.50, 0.0, 0.28), (0.50, 0.6, 0.412), (0.50, 1.0, 0.50), (math.nan, 0.6, 0.28), (math.nan, 0.0, 0.28)],
)
def test_the_share_of_recall_in_the_score(recall, recall_weight, score):
    assert selection_score({"dice": 0.28, "pixel_recall": recall}, recall_weight) == pytest.approx(score)


def test_tiles_are_joined_to_the_map_of_each_image(tmp_path):
    """Images of other sizes than the tile's: below it, above it, and one that five tiles don't span."""
    shapes, rng = {"a": (20, 30), "b": (70, 100), "c": (90, 400)}, np.random.default_rng(0)
    for label in ("authentic", "forged"):
        (tmp_path / "train_images" / label).mkdir(parents=True)
    for name, shape in shapes.items():
        cv2.imwrite(str(tmp_path / f"train_images/authentic/{name}.png"), rng.integers(0, 256, (*shape, 3), np.uint8))
    dataset = ForgeryDataset(load_samples(tmp_path), 32, framing="crop")
    (batch,) = make_loader(dataset, 3, 0, collate=collate_whole)
    maps = predict_maps(Brightness(), batch)
    for index, prob, mask in zip(batch["index"].tolist(), maps, batch["mask"], strict=True):
        sample = dataset.samples[index]
        assert prob.shape == mask.shape[1:] == ((36, 160) if sample.case_id == "c" else shapes[sample.case_id])
        red = bound_image(read_image(sample.image), 32)[..., 0] / 255
        assert np.abs(prob - red).max() < 1e-5


def test_figures_of_tiles_by_hand(tmp_path):
    """The left half of a 32 × 64 image is forged and found, the rest is not: all is right at any number of tiles."""
    for folder in ("train_images/authentic", "train_images/forged", "train_masks"):
        (tmp_path / folder).mkdir(parents=True)
    image, mask = np.full((32, 64, 3), 25, np.uint8), np.zeros((32, 64), np.uint8)
    image[:, :32], mask[:, :32] = 204, 1
    cv2.imwrite(str(tmp_path / "train_images/forged/a.png"), image)
    np.save(tmp_path / "train_masks/a.npy", mask)
    dataset = ForgeryDataset(load_samples(tmp_path), 32, framing="crop")
    metrics = validate(Accelerator(), Brightness(), make_loader(dataset, 2, 0, collate=collate_whole)).metrics
    assert metrics["pixel_f1"] == metrics["dice"] == metrics["pixel_auc"] == 1

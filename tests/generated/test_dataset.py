import random

import cv2
import numpy as np
import pytest
import torch

from common.data.images import read_image
from common.data.sampling import WeightedSampler
from common.data.transforms import resize_image, to_tensor
from common.generated.dataset import (
    GeneratedTestSet,
    GeneratedTrainSet,
    collate,
    make_generated_loader,
    view_augmentation,
)
from common.generated.degradations import degrade
from common.generated.images import LabelledImage, images_of_folders

SIZES = {"views": 2, "patch_size": 32, "whole_size": 24}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[LabelledImage]:
    """Six pictures of different sizes, smooth colours with grain; every second one is generated, three have prompts."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    labelled = []
    for number, prompt in enumerate(("", "dog", "", "cat", "", "dog")):
        noise = rng.integers(0, 256, (64 + 8 * number, 96, 3), dtype=np.uint8)
        image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 20, 230, cv2.NORM_MINMAX)
        cv2.imwrite(str(folder / f"{number}.png"), image + rng.integers(0, 6, image.shape, np.uint8))
        generator = "SDXL" if number % 2 else "real"
        labelled.append(LabelledImage(folder / f"{number}.png", bool(number % 2), "train", generator, prompt))
    return labelled


def test_training_item(images):
    dataset = GeneratedTrainSet(images, **SIZES)
    assert len(dataset) == 6 and dataset.prompts == ["cat", "dog"]
    for index, labelled in enumerate(images):
        item = dataset[(index, 5)]
        assert item.keys() == {"views", "whole", "label", "index", "prompt_index"}
        assert item["views"].shape == (2, 3, 32, 32) and item["views"].dtype == torch.uint8
        assert torch.equal(item["whole"], to_tensor(resize_image(read_image(labelled.path), 24)))
        assert item["label"].dtype == torch.float32 and item["label"].item() == index % 2
        assert item["index"] == index
    assert [dataset[index]["prompt_index"] for index in range(6)] == [-1, 1, -1, 0, -1, 1]


def test_a_seed_decides_the_item(images):
    for options in ({}, {"degradation_probability": 1.0}, {"pairs": True}):
        dataset, cached = (
            GeneratedTrainSet(images, **SIZES, **options),
            GeneratedTrainSet(images, **SIZES, cache=True, **options),
        )
        item, others = dataset[(3, 7)], [dataset[(3, 8)], dataset[(2, 7)]]
        for again in (dataset[(3, 7)], cached[(3, 7)]):
            assert all(torch.equal(item[name], again[name]) for name in item if "view" in name or "whole" in name)
        assert not any(torch.equal(item["views"], other["views"]) for other in others)
    assert not torch.equal(item["views"][0], item["views"][1])


def test_cached_pixels_are_not_changed(images):
    dataset = GeneratedTrainSet(images[:1], **SIZES, degradation_probability=1.0, cache=True)
    before = read_image(images[0].path)
    images[0].path.rename(images[0].path.with_suffix(".gone"))
    try:
        for seed in range(20):
            dataset[(0, seed)]
    finally:
        images[0].path.with_suffix(".gone").rename(images[0].path)
    assert (dataset._pixels[0] == before).all()


def test_the_given_share_is_degraded_whatever_the_label(images):
    dataset = GeneratedTrainSet(images, **SIZES, degradation_probability=0.5, cache=True)
    clean = [to_tensor(resize_image(read_image(image.path), 24)) for image in images]
    degraded = [
        [not torch.equal(dataset[(index, seed)]["whole"], clean[index]) for index in range(6)] for seed in range(60)
    ]
    assert 0.35 < np.mean(degraded) < 0.65
    assert all(len(set(row)) == 1 for row in degraded)  # the seed alone decides it


def test_views_cut_flip_and_turn():
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0] = np.arange(64) * 4
    ramp[..., 1] = np.arange(64)[:, None] * 4
    augmentation = view_augmentation(32)
    directions, spans = set(), []
    for seed in range(200):
        augmentation.set_random_state(np.random.default_rng(seed), random.Random(seed))
        view = augmentation(image=ramp)["image"].astype(int)
        assert view.shape == (32, 32, 3)
        along = [view[:, -4:, c].mean() - view[:, :4, c].mean() for c in (0, 1)]
        down = [view[-4:, :, c].mean() - view[:4, :, c].mean() for c in (0, 1)]
        turned = int(abs(along[1]) > abs(along[0]))
        directions.add((turned, along[turned] > 0, down[1 - turned] > 0))
        spans.append(max(map(abs, along)) * max(map(abs, down)) / 252**2)
    assert len(directions) == 8
    assert 0.1 < min(spans) < 0.3 and max(spans) > 0.7


@pytest.mark.parametrize(("name", "most"), [("GaussianBlur", 35), ("GaussNoise", 4.1), ("ImageCompression", 35)])
def test_every_second_view_is_blurred_noisy_or_compressed(name, most):
    (change,) = [t for t in view_augmentation(32).transforms if type(t).__name__ == name]
    image = np.random.default_rng(0).integers(60, 190, (32, 32, 3), dtype=np.uint8)
    changes = []
    for seed in range(200):
        change.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changes.append(np.abs(change(image=image)["image"].astype(int) - image).mean())
    assert 0.35 < np.mean(np.array(changes) > 0) < 0.6
    assert most / 2 < max(changes) < most


def test_views_are_turned_by_any_angle_up_to_the_published_one():
    """The middle of a ramp has the direction of its turn; half the views are not turned."""
    ramp = np.repeat(np.linspace(0, 252, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    (turn,) = [t for t in view_augmentation(64, rotation=90.0).transforms if type(t).__name__ == "Rotate"]
    angles = []
    for seed in range(300):
        turn.set_random_state(np.random.default_rng(seed), random.Random(seed))
        middle = turn(image=ramp)["image"][20:44, 20:44, 0].astype(float)
        down, along = np.gradient(middle)
        angles.append(np.degrees(np.arctan2(down.mean(), along.mean())))
    turned = np.array([angle for angle in angles if abs(angle) > 0.5])
    assert 0.4 < len(turned) / 300 < 0.6
    assert -91 < turned.min() < -80 and 80 < turned.max() < 91
    assert np.histogram(turned, 6, (-90, 90))[0].min() > 10


def test_the_published_blur_is_weak():
    (blur,) = [t for t in view_augmentation(32, blur=(0.01, 0.5)).transforms if type(t).__name__ == "GaussianBlur"]
    dot = np.zeros((9, 9, 3), np.uint8)
    dot[4, 4] = 255
    left = []
    for seed in range(100):
        blur.set_random_state(np.random.default_rng(seed), random.Random(seed))
        left.append(blur(image=dot)["image"][4, 4, 0])
    assert max(left) == 255 and 150 < min(left) < 170  # σ 0.5: the middle of the kernel has 0.62


def test_colour_jitter_is_an_option():
    gray = np.full((64, 64, 3), 100, np.uint8)

    def means(jitter):
        augmentation, found = view_augmentation(32, jitter), []
        for seed in range(60):
            augmentation.set_random_state(np.random.default_rng(seed), random.Random(seed))
            found.append(augmentation(image=gray)["image"].mean())
        return np.array(found)

    np.testing.assert_allclose(means(0.0), 100, atol=1)
    jittered = means(0.1)
    assert jittered.min() < 95 and jittered.max() > 105 and abs(jittered - 100).max() < 13


def test_a_degraded_twin_has_the_same_crops(images):
    paired = GeneratedTrainSet(images, **SIZES, pairs=True, degradation_probability=1.0, cache=True)
    clean = GeneratedTrainSet(images, **SIZES, cache=True)
    differ = 0
    for index in range(6):
        for seed in range(5):
            item, plain = paired[(index, seed)], clean[(index, seed)]
            assert torch.equal(item["views"], plain["views"]) and torch.equal(item["whole"], plain["whole"])
            assert item["degraded_views"].shape == (2, 3, 32, 32) and item["degraded_whole"].shape == (3, 24, 24)
            differ += not torch.equal(item["degraded_whole"], item["whole"])
            for view, degraded in zip(item["views"].numpy(), item["degraded_views"].numpy(), strict=True):
                smooth = [cv2.GaussianBlur(v.transpose(1, 2, 0), (0, 0), 2).ravel() for v in (view, degraded)]
                assert np.corrcoef(smooth)[0, 1] > 0.9
    assert differ > 25


def test_a_degraded_twin_is_cut_at_the_size_of_its_image(images, monkeypatch):
    cut = []
    monkeypatch.setattr("common.generated.dataset.random_chain", lambda image, rng, min_side: image[::2, ::3])
    monkeypatch.setattr(GeneratedTrainSet, "_cut", lambda self, image, seeds: cut.append((image.shape, tuple(seeds))))
    GeneratedTrainSet(images, **SIZES, pairs=True)[(2, 7)]
    assert cut[0][0] == (80, 96, 3) and cut[0] == cut[1]


def test_test_images_keep_their_pixels_and_size(images):
    dataset = GeneratedTestSet(images)
    for index, labelled in enumerate(images):
        item = dataset[index]
        assert torch.equal(item["image"], to_tensor(read_image(labelled.path)))
        assert (item["label"].item(), item["index"]) == (index % 2, index)
    item, halved = GeneratedTestSet(images, "resize", whole_size=24)[1], degrade(read_image(images[1].path), "resize")
    assert item["image"].shape == (3, 36, 48)
    assert torch.equal(item["image"], to_tensor(halved))
    assert torch.equal(item["whole"], to_tensor(resize_image(halved, 24)))


def test_batches(images):
    (batch,) = make_generated_loader(GeneratedTestSet(images), 6, 0)
    assert [image.shape for image in batch["image"]] == [(3, 64 + 8 * n, 96) for n in range(6)]
    assert batch["label"].dtype == torch.float32 and batch["label"].tolist() == [0, 1, 0, 1, 0, 1]
    assert batch["index"].tolist() == list(range(6))


@pytest.mark.parametrize("workers", [2])
def test_batches_do_not_depend_on_the_workers(images, workers):
    dataset = GeneratedTrainSet(images, **SIZES, degradation_probability=0.5, cache=True)

    def batches(n):
        return list(make_generated_loader(dataset, 3, n, WeightedSampler([1.0] * 6, seed=3)))

    for batch, other in zip(batches(0), batches(workers), strict=True):
        assert batch["views"].shape == (3, 2, 3, 32, 32) and batch["label"].dtype == torch.float32
        assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_collate_stacks_all_but_images():
    items = [{"image": torch.zeros(3, n, 2), "label": torch.tensor(1.0), "index": n} for n in (4, 5)]
    batch = collate(items)
    assert [image.shape[1] for image in batch["image"]] == [4, 5]
    assert batch["index"].tolist() == [4, 5] and batch["label"].shape == (2,)


def test_real_portraits(shared_data):
    images = images_of_folders(shared_data / "portraits", seed=0)[198:202]
    dataset = GeneratedTrainSet(
        images, views=2, patch_size=64, whole_size=64, degradation_probability=1.0, pairs=False, cache=False
    )
    batch = next(iter(make_generated_loader(dataset, 4, 0, WeightedSampler([1.0] * 4, seed=0))))
    assert batch["views"].shape == (4, 2, 3, 64, 64) and batch["views"].float().std() > 20
    (tested,) = make_generated_loader(GeneratedTestSet(images, "jpeg"), 4, 0)
    assert tested["label"].tolist() == [0, 0, 1, 1]
    assert all(image.shape[0] == 3 and image.shape[2] == 512 for image in tested["image"])

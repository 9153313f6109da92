from common.data.dataset import ForgeryDataset, make_loader
from common.data.images import read_image
from common.data.samples import load_samples
from common.data.sampling import WeightedSampler
from common.data.transforms import basic_augmentation, resize_image
from common.forensics.ela import error_level

import pytest
import torch


@pytest.fixture
def samples(pairs_dir):
    return load_samples(pairs_dir)


def test_item(samples):
    dataset = ForgeryDataset(samples, 64)
    for index, sample in enumerate(samples):
        item = dataset[index]
        assert item["image"].shape == (3, 64, 64)
        assert item["mask"].shape == (1, 64, 64)
        assert item["mask"].any().item() == sample.forged
        assert item["index"] == index
    bright = item["image"][0] > 200
    assert (bright == (item["mask"][0] > 0)).float().mean() > 0.97


def test_validation_is_not_augmented(samples):
    dataset = ForgeryDataset(samples, 64)
    assert torch.equal(dataset[3]["image"], dataset[3]["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_workers(samples, workers):
    dataset = ForgeryDataset(samples, 32, basic_augmentation())

    def batches(n):
        loader = make_loader(dataset, 5, n, WeightedSampler([1.0] * len(samples), seed=3))
        return [(batch["index"], batch["image"]) for batch in loader]

    for (index, image), (other_index, other_image) in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(index, other_index)
        assert torch.equal(image, other_image)


def test_error_levels_are_those_of_the_untouched_file(samples):
    item = ForgeryDataset(samples, 64, in_channels=4)[3]
    assert item["image"].shape == (4, 64, 64)
    image = read_image(samples[3].image)
    assert (item["image"][3].numpy() == resize_image(error_level(image), 64)).all()
    assert (item["image"][3].numpy() != error_level(resize_image(image, 64))).any()
    assert torch.equal(item["image"][:3], ForgeryDataset(samples, 64)[3]["image"])


def test_an_edit_comes_before_the_resize_and_follows_from_the_seed(samples):
    seen = []

    def edit(image, mask, rng):
        seen.append((image.shape, mask.shape, int(rng.integers(10**9))))
        return image[:36, :48], mask[:36, :48]

    dataset = ForgeryDataset(samples, 32, edit=edit)
    items = [dataset[(4, 7)], dataset[(4, 7)], dataset[(4, 8)], dataset[4], dataset[4]]
    assert all(shape == (72, 96, 3) and mask == (72, 96) for shape, mask, _ in seen)
    draws = [draw for *_, draw in seen]
    assert draws[0] == draws[1] != draws[2] and draws[3] == draws[4]
    assert items[0]["image"].shape == (3, 32, 32) and items[0]["mask"].shape == (1, 32, 32)

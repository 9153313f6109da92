from common.data.dataset import ForgeryDataset, make_loader
from common.data.samples import load_samples
from common.data.sampling import WeightedSampler
from common.data.transforms import basic_augmentation

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

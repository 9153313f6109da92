import shutil

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.data import dataset as module
from common.data.cropping import random_square
from common.data.dataset import ForgeryDataset, collate_whole, make_loader
from common.data.images import read_image
from common.data.masks import read_mask
from common.data.pixel_cache import Form, PixelCache
from common.data.samples import load_samples
from common.data.sampling import WeightedSampler
from common.data.tiles import square_windows
from common.data.transforms import basic_augmentation, resize_image
from common.forensics.ela import error_level


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


def quarter(image, mask, rng):
    top = int(rng.integers(36))
    return image[top : top + 36, :48], mask[top : top + 36, :48]


def items_of(dataset, workers=0):
    """Two epochs as a training draws them."""
    sampler = WeightedSampler([1.0] * len(dataset), seed=3)
    loader, batches = make_loader(dataset, 5, workers, sampler), []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def check_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[key], other[key]) for key in batch)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("settings", [{}, {"in_channels": 4}, {"edit": quarter}, {"in_channels": 4, "edit": quarter}])
def test_items_from_the_cache_are_the_same_to_the_bit(samples, tmp_path, settings, workers):
    plain, cached = (ForgeryDataset(samples, 32, basic_augmentation(), **settings) for _ in range(2))
    # Of two images there is no slot: one that does not fit, and one of another folder.
    form = cached.form
    space = PixelCache(tmp_path / "a", samples[1:], form, 1e9).size - 1
    cached.use_cache(PixelCache(tmp_path / "b", samples[1:], form, space))
    expected = items_of(plain)
    check_same(items_of(cached, workers), expected)
    check_same(items_of(cached, workers), expected)
    for index in range(len(samples)):  # as validation asks
        check_same([cached[index] | {"index": torch.tensor(0)}], [plain[index] | {"index": torch.tensor(0)}])


def test_what_the_cache_holds_is_not_decoded(samples, tmp_path, monkeypatch):
    first, second = ForgeryDataset(samples, 32), ForgeryDataset(samples[::-1], 32)
    for dataset in (first, second):  # training and validation share one
        dataset.use_cache(PixelCache(tmp_path, samples, Form(3, 32), 1e9))
    expected = [first[index]["image"] for index in range(len(samples))]

    def read(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(module, "read_image", read)
    for index, image in enumerate(reversed(expected)):
        assert torch.equal(second[index]["image"], image)


@pytest.mark.parametrize("file", ["image", "mask"])
def test_what_changes_during_a_run_is_not_put_into_the_cache(pairs_dir, tmp_path, file):
    folder = tmp_path / "data"
    shutil.copytree(pairs_dir, folder)
    samples = load_samples(folder)
    (path,) = {getattr(sample, file) for sample in samples if sample.forged and sample.case_id == "3"}
    (index,) = (i for i, sample in enumerate(samples) if getattr(sample, file) == path)
    expected, content = ForgeryDataset(samples, 32)[index], path.read_bytes()
    dataset = ForgeryDataset(samples, 32)
    dataset.use_cache(PixelCache(tmp_path / "cache", samples, dataset.form, 1e9))
    if file == "image":
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    else:
        np.save(path, 1 - np.load(path))
    assert not torch.equal(dataset[index][file], expected[file])
    path.write_bytes(content)
    assert all(torch.equal(dataset[index][key], expected[key]) for key in ("image", "mask"))


def test_a_cache_of_another_form_is_refused(samples, tmp_path):
    cache = PixelCache(tmp_path, samples, Form(3, 64), 1e9)
    with pytest.raises(ValueError, match="size=64"):
        ForgeryDataset(samples, 32).use_cache(cache)


@pytest.mark.slow
def test_workers_that_are_not_forked_share_the_cache(samples, tmp_path):
    dataset = ForgeryDataset(samples, 32)
    expected = [dataset[index]["image"] for index in range(len(samples))]
    cache = PixelCache(tmp_path, samples, Form(3, 32), 1e9)
    dataset.use_cache(cache)
    images = [
        image
        for batch in DataLoader(dataset, 4, num_workers=2, multiprocessing_context="spawn")
        for image in batch["image"]
    ]
    assert all(map(torch.equal, images, expected))
    assert all(cache.read(slot) is not None for slot in range(len(samples)))


def test_framing_crop_trains_on_random_squares_and_validates_on_all_tiles(samples):
    """The images are 72 × 96: two tiles of 64 down, three across."""
    dataset = ForgeryDataset(samples, 64, framing="crop")
    number = next(position for position, sample in enumerate(samples) if sample.forged)
    first, again, other = (dataset[number, seed] for seed in (1, 1, 2))
    assert first["image"].shape == (3, 64, 64)
    assert first["mask"].shape == (1, 64, 64)
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
    image, mask = read_image(samples[number].image), read_mask(samples[number].mask)[0]
    square, cut = random_square(image, mask, np.random.default_rng(1), side=64)
    assert np.array_equal(first["image"].permute(1, 2, 0), square)
    assert np.array_equal(first["mask"][0], cut)
    whole = dataset[number]
    assert np.array_equal(whole["mask"][0], mask)
    windows = square_windows(72, 96, 64)
    assert whole["image"].shape == (len(windows), 3, 64, 64) == (4, 3, 64, 64)
    assert all(np.array_equal(t.permute(1, 2, 0), image[w]) for t, w in zip(whole["image"], windows, strict=True))


def test_a_batch_of_tiles_keeps_the_masks_of_its_images(samples):
    dataset = ForgeryDataset(samples, 64, framing="crop")
    (batch,) = make_loader(dataset, len(dataset), 0, collate=collate_whole)
    assert batch["image"].shape == (4 * len(dataset), 3, 64, 64)
    assert batch["index"].tolist() == list(range(len(dataset)))
    assert [mask.shape for mask in batch["mask"]] == [(1, 72, 96)] * len(dataset)


def test_an_edit_comes_before_the_random_square(samples):
    def mark(image, mask, _rng):
        return np.full_like(image, 7), np.ones_like(mask)

    item = ForgeryDataset(samples, 64, edit=mark, framing="crop")[0, 5]
    assert (item["image"] == 7).all()
    assert item["mask"].all()


def test_a_cache_of_framing_crop_keeps_whole_images_to_the_bit(samples, tmp_path):
    plain, cached = (ForgeryDataset(samples, 64, framing="crop") for _ in range(2))
    assert cached.form == Form(3, None)
    cached.use_cache(PixelCache(tmp_path, samples, cached.form, 1e9))
    for _ in range(2):  # filled, then read
        for item in (3, (3, 9)):
            assert all(torch.equal(plain[item][key], cached[item][key]) for key in ("image", "mask"))

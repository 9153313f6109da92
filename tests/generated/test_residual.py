from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.images import LabelledImage
from common.generated.network import SPAI_KEYS
from common.generated.residual import CLASSES, ResidualNetwork, channels, co_occurrences, load_network
from common.generated.training import start_spai, train_spai
from common.making.layout import write_image
from common.training.checkpoint import load_checkpoint


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ResidualNetwork(patch_size=32, patch_stride=32, residual_width=4).eval()


def shares(image):
    """Shares (3, 39) of one image (3, S, S)."""
    return co_occurrences(image[None])[0].reshape(3, 39)


def klass(*triplet):
    return CLASSES[25 * (triplet[0] + 2) + 5 * (triplet[1] + 2) + triplet[2] + 2]


def test_classes_are_those_of_mirrored_and_inverted_images():
    """By hand: 125 triplets, of which those that are their own mirror image or inversion are rarer kinds."""
    assert len(CLASSES) == 125 and sorted(set(CLASSES)) == list(range(39))
    assert klass(2, 1, 0) == klass(0, 1, 2) == klass(-2, -1, 0) == klass(0, -1, -2) != klass(2, -1, 0)
    assert CLASSES.count(klass(0, 0, 0)) == 1 and CLASSES.count(klass(2, 1, 0)) == 4


def test_co_occurrences_by_hand():
    """Stripes across in green alone, 0 and 1: along a row nothing differs; down a column G differs by 1 and −1 in turn.

    R − G and B − G count a level as one step; the brightness, of which it is 0.587, rounds it to no step of 2.
    """
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[1, ::2] = 1
    luma, red, blue = shares(image)
    assert luma[klass(0, 0, 0)] == 1
    for found in (red, blue):
        assert found[klass(0, 0, 0)] == found[klass(1, -1, 1)] == 0.5


def test_large_differences_are_truncated():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, :, ::2] = 200
    luma, red, _ = shares(image)
    assert luma[klass(2, -2, 2)] == luma[klass(0, 0, 0)] == 0.5
    assert red[klass(0, 0, 0)] == 1


def test_channels_by_hand():
    pixels = torch.tensor([100.0, 50, 30])[:, None, None]
    assert channels(pixels).flatten() == pytest.approx(torch.tensor([62.67, 50, -20]))


def test_what_is_counted_is_counted_in_all_patches():
    """Against a count in plain loops, of two patches of noise."""
    patches = torch.randint(100, 104, (2, 3, 6, 7), dtype=torch.uint8, generator=torch.manual_seed(0))[..., :6]
    for patch, found in zip(patches, co_occurrences(patches), strict=True):
        counted = np.zeros((3, 39))
        for channel, step, places in zip(channels(patch.double()), (2, 1, 1), counted, strict=True):
            for lines in (channel, channel.T):
                for line in lines.tolist():
                    steps = [max(-2, min(2, round((b - a) / step))) for a, b in pairwise(line)]
                    for start in range(3):
                        places[klass(*steps[start : start + 3])] += 1 / 36
        assert found.numpy() == pytest.approx(counted.flatten(), abs=1e-6)


def test_brightness_mirroring_and_turning_are_not_seen():
    patches = torch.randint(0, 100, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    found = co_occurrences(patches)
    for same in (patches + 50, patches.flip(-1), patches.flip(-2), patches.transpose(-2, -1), 255 - patches):
        assert co_occurrences(same) == pytest.approx(found, abs=1e-6)
    assert (co_occurrences(patches // 3) - found).abs().mean() > 0.001


def test_floats_are_counted_as_bytes():
    patches = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
    assert torch.equal(co_occurrences(patches / 255), co_occurrences(patches))


@torch.no_grad()
def test_statistics_are_normalised_by_all_batches_so_far(network):
    patches = torch.randint(0, 256, (12, 1, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    network.train()
    for part in patches.split(4):
        network(part)
    logs = (co_occurrences(patches[:, 0]) + 1e-3).log()
    assert network.norm.running_mean == pytest.approx(logs.mean(0), abs=1e-5)
    assert network(patches[:1]).logits == pytest.approx(network.eval()(patches[:1]).logits)


@torch.no_grad()
def test_a_batch_of_one_image_can_be_trained_on(network):
    patches = torch.rand(1, 2, 3, 32, 32, generator=torch.manual_seed(0))
    assert network.train()(patches).logits == pytest.approx(network.eval()(patches).logits)


def test_it_learns_what_a_blur_leaves(tmp_path):
    """Noise, and the same noise blurred, whose brightness and contrast are the same: in 24 steps."""
    rng, images = np.random.default_rng(0), []
    for number in range(32):
        noise = rng.normal(0, 1, (64, 64, 3))
        if number % 2:
            noise = noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))
            noise /= 2
        write_image(tmp_path / f"{number}.png", (128 + 30 * noise).clip(0, 255).astype(np.uint8))
        split = "train" if number < 24 else "val"
        images.append(
            LabelledImage(tmp_path / f"{number}.png", bool(number % 2), split, ("real", "blurred")[number % 2])
        )
    config = SpaiConfig(name="residual", models_dir=tmp_path, tracker="none").residual().quick()
    config = replace(config, residual_width=8, epochs=8, views=2, batch_size=8, degradation_probability=0.0)
    model, config = start_spai(config)
    assert train_spai(config, model, images)["auc"] > 0.95
    checkpoint = load_checkpoint(tmp_path / "residual_best.pth", SPAI_KEYS)
    again = load_network(checkpoint, tmp_path / "residual_best.pth")
    assert isinstance(again, ResidualNetwork) and again.head[0].out_features == 8


def test_weights_of_another_width_are_refused(save_residual, tmp_path):
    checkpoint = load_checkpoint(save_residual(tmp_path / "a.pth"), SPAI_KEYS)
    checkpoint["config"]["residual_width"] = 8
    with pytest.raises(UserError, match=r"a\.pth: the weights do not fit"):
        load_network(checkpoint, tmp_path / "a.pth")


def test_a_network_of_an_earlier_version_is_refused(save_residual, tmp_path):
    checkpoint = load_checkpoint(save_residual(tmp_path / "a.pth"), SPAI_KEYS)
    checkpoint["model_state_dict"] |= {"norm.running_mean": torch.zeros(52), "norm.running_var": torch.ones(52)}
    with pytest.raises(UserError, match=r"a\.pth is a residual network of an earlier version.*Train it again"):
        load_network(checkpoint, tmp_path / "a.pth")


def test_what_only_spai_has_is_refused():
    with pytest.raises(UserError, match=r"--fusion is semantic; it must be none with --network residual"):
        SpaiConfig(name="x", network="residual")
    with pytest.raises(UserError, match=r"--init .* left out"):
        replace(SpaiConfig(name="x").residual(), init="spai.pth")

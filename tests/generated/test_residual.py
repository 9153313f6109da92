from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.images import LabelledImage
from common.generated.network import SPAI_KEYS
from common.generated.residual import ResidualNetwork, load_network, median_residual, moments, statistics
from common.generated.training import start_spai, train_spai
from common.making.layout import write_image
from common.training.checkpoint import load_checkpoint


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ResidualNetwork(patch_size=32, patch_stride=32, residual_width=4).eval()


def test_residuals_by_hand():
    """The median of 1, 2, 6 and 9 is 4; of a plane, each pixel is that of its neighbours."""
    pixels = torch.tensor([[0.0, 1, 0], [2, 10, 6], [0, 9, 0]])
    assert median_residual(pixels) == torch.tensor([[6.0]])
    plane = torch.arange(5.0)[:, None] + 3 * torch.arange(7.0)
    assert torch.equal(median_residual(plane.expand(2, 3, 5, 7)), torch.zeros(2, 3, 3, 5))


def test_residuals_are_the_median_of_sorted_neighbours():
    pixels = torch.rand(2, 3, 9, 8, generator=torch.manual_seed(0))
    inner = pixels[..., 1:-1, 1:-1]
    beside = [pixels[..., 1 + dy : 8 + dy, 1 + dx : 7 + dx] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    middle = torch.stack(beside).sort(dim=0).values[1:3].mean(0)
    assert median_residual(pixels) == pytest.approx(inner - middle, abs=1e-6)


def test_moments_by_hand():
    """A chequerboard of 0 and 20 in green alone: each residual is ±20, neighbours differ by 20, every second by 0."""
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[:, 1] = 20 / 255 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
    means, products = moments(pixels)[0, :56].unflatten(0, (8, 7)), moments(pixels)[0, 56:]
    green, difference = means[:, 1], means[:, 5]  # of G, and of R − G
    assert green == pytest.approx(torch.tensor([20, 1, 0, 400, 160000, 400, 0, 0.0]), rel=1e-4)
    assert difference == pytest.approx(green, rel=1e-4)
    assert means[:, 0] == pytest.approx(torch.tensor([0, 0, 1, 0, 0, 0, 0, 0.0]))  # red
    assert means[3, 3:5] == pytest.approx(torch.tensor([64, 49.0]))  # Cr is ±8 of 8.37, Cb ±7 of 6.62
    assert products == pytest.approx(torch.zeros(3))


@torch.no_grad()
def test_moments_of_an_image_are_means_of_its_patches(network):
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.manual_seed(0))
    (score,) = network.score_images([image], batch=4)
    assert score.positions == [(0, 0), (0, 32), (0, 64), (32, 0), (32, 32), (32, 64)]
    views = torch.stack([image[:, y : y + 32, x : x + 32] for y, x in score.positions])[None]
    assert score.logit == pytest.approx(network(views).logits.item(), abs=1e-5)
    assert score.attention == pytest.approx(torch.full((6,), 1 / 6))
    small = network.score_images([image[:, :20, :25]])[0]
    assert small.positions == 5 * [(0, 0)]


def test_brightness_is_not_seen():
    patches = torch.randint(0, 100, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    found = statistics(moments(patches))
    assert statistics(moments(patches + 50)) == pytest.approx(found, abs=1e-3)
    assert (statistics(moments(patches // 3)) - found).abs().mean() > 0.3


def test_flat_and_gray_images_have_finite_statistics(network):
    for image in (torch.zeros(1, 3, 40, 40), torch.ones(1, 3, 40, 40), torch.rand(1, 1, 40, 40).expand(1, 3, 40, 40)):
        assert statistics(moments(image)).isfinite().all() and statistics(moments(image)).shape == (1, 52)


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


def test_what_only_spai_has_is_refused():
    with pytest.raises(UserError, match=r"--fusion is semantic; it must be none with --network residual"):
        SpaiConfig(name="x", network="residual")
    with pytest.raises(UserError, match=r"--init .* left out"):
        replace(SpaiConfig(name="x").residual(), init="spai.pth")

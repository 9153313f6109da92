import weakref
from dataclasses import dataclass

import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor, nn

from common.networks.segmentation import AttentionFPN
from common.video.gradcam import MultiScaleGradCAM
from common.video.network import TemporalCNNGRU


def one_channel(weight: float = 1.0) -> nn.Conv2d:
    """A layer that multiplies an image (N, 1, H, W) by a number."""
    conv = nn.Conv2d(1, 1, kernel_size=1, bias=False)
    nn.init.constant_(conv.weight, weight)
    return conv


def mean_output(output: Tensor) -> Tensor:
    return output.mean((1, 2, 3))


@pytest.fixture
def frames() -> Tensor:
    """Four images (4, 1, 1, 2), the last empty."""
    return torch.tensor([[1.0, 2], [3, 4], [10, 20], [0, 0]]).view(4, 1, 1, 2)


class Oracle(nn.Module):
    """A network that takes images (N, 3, S, S), and whose output has a number for every batch entry."""

    def __init__(self, network: nn.Module, clip: bool) -> None:
        super().__init__()
        self.network = network
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x[None]) if self.clip else self.network(x)


def classifier() -> tuple[nn.Module, list[nn.Module]]:
    network = timm.create_model("mobilenetv3_small_100", num_classes=5)
    return network, [network.blocks[number] for number in (1, 3, 5)]


def spotter() -> tuple[nn.Module, list[nn.Module]]:
    network = TemporalCNNGRU("mobilenetv2_100", hidden=16)
    # As after training: attention and fusion say something.
    for parameter in (*network.attention.parameters(), *network.features.fusion.project.parameters()):
        nn.init.normal_(parameter, std=0.05)
    return network, network.features.tap_layers


def segmentation() -> tuple[nn.Module, list[nn.Module]]:
    network = AttentionFPN(encoder_name="mobilenet_v2", decoder_channels=16, segmentation_channels=32)
    return network, [network.encoder.features[number] for number in (6, 13, 17)]


@pytest.mark.parametrize("build", [classifier, spotter, segmentation])
def test_each_scale_is_what_pytorch_grad_cam_says(build):
    torch.manual_seed(0)
    network, layers = build()
    network.eval()
    images = torch.rand(2, 3, 64, 64)
    model = Oracle(network, clip=build is spotter)

    def target(output: Tensor) -> Tensor:  # of one entry of the batch, or of all
        return output.sum() if build is segmentation else (output[..., 1] - output[..., 0]).sum()

    maps = MultiScaleGradCAM(model, layers)(images, target=target)
    for layer, scale in zip(layers, maps.scales, strict=True):
        with GradCAM(model, [layer]) as oracle:
            expected = oracle(images, [target] * 2)
        assert scale.amax((1, 2)).min() > 0
        actual = scale_cam_image(scale_cam_image(scale.numpy(), (64, 64)))
        torch.testing.assert_close(torch.from_numpy(actual), torch.from_numpy(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("build", [classifier, spotter, segmentation])
def test_frozen_parameters_change_nothing_and_no_graph_is_kept_before_the_first_layer(build):
    torch.manual_seed(0)
    network, layers = build()
    model = Oracle(network.eval(), clip=build is spotter)
    images = torch.rand(2, 3, 64, 64)
    cam = MultiScaleGradCAM(model, layers)
    free = cam(images, target=torch.sum)
    network.requires_grad_(False)
    seen = {}
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, arguments, output: seen.update(graph=output.requires_grad))
    frozen = cam(images, target=torch.sum)
    assert seen == {"graph": False}
    torch.testing.assert_close(frozen.fused, free.fused)
    for one, other in zip(frozen.scales, free.scales, strict=True):
        torch.testing.assert_close(one, other)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_nothing_before_the_first_layer_is_kept_even_if_all_trains(frames):
    @dataclass(eq=False)
    class Saved:
        tensor: Tensor

    kept = weakref.WeakSet()

    def save(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        kept.add(saved)
        return saved

    model = nn.Sequential(one_channel(), one_channel(), one_channel())
    counts = []
    with torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved.tensor):
        for layer in (model[0], model[2]):
            MultiScaleGradCAM(model, [layer], (1.0,))(frames, target=lambda output: counts.append(len(kept)) or output)
    assert counts[0] > 0 and counts[1] == 0


def test_of_the_spotter_by_clip():
    torch.manual_seed(0)
    network, layers = spotter()
    network.eval().requires_grad_(False)
    cam = MultiScaleGradCAM(network, layers)
    maps = cam(torch.rand(2, 3, 3, 96, 96), target=lambda logits: logits[:, 1] - logits[:, 0], clips=2)
    assert [tuple(scale.shape) for scale in maps.scales] == [(6, 12, 12), (6, 6, 6), (6, 3, 3)]
    assert maps.fused.shape == (6, 28, 28)
    assert maps.fused.min() >= 0 and maps.fused.max() <= 1 and maps.fused.amax((1, 2)).min() > 0


def test_every_image_by_its_own_maximum(frames):
    layer = one_channel()
    fused = MultiScaleGradCAM(layer, [layer], (1.0,), (1, 2))(frames, target=mean_output).fused
    torch.testing.assert_close(fused[:, 0], torch.tensor([[0.5, 1], [0.75, 1], [0.5, 1], [0, 0]]))


def test_every_clip_by_its_own_maximum(frames):
    layer = one_channel()
    cam = MultiScaleGradCAM(layer, [layer], (1.0,), (1, 2))
    fused = cam(frames, target=mean_output, clips=2).fused
    torch.testing.assert_close(fused[:, 0], torch.tensor([[0.25, 0.5], [0.75, 1], [0.5, 1], [0, 0]]))
    with pytest.raises(ValueError, match="4 images are not 3 clips"):
        cam(frames, target=mean_output, clips=3)


def test_scales_are_raw_and_what_speaks_against_the_target_is_zero(frames):
    layer = one_channel()
    cam = MultiScaleGradCAM(layer, [layer], (1.0,), (1, 2))
    maps = cam(frames, target=lambda output: 6 * output.sum((1, 2, 3)))
    torch.testing.assert_close(maps.scales[0], 6 * frames[:, 0])
    against = cam(frames, target=lambda output: -output)
    assert not against.fused.any() and not against.scales[0].any()


def test_weighted_sum_of_two_scales(frames):
    model = nn.Sequential(one_channel(), nn.AvgPool2d((1, 2)), one_channel(3.0))
    fused = MultiScaleGradCAM(model, [model[0], model[2]], (0.25, 0.75), (1, 2))(frames, target=mean_output).fused
    # The second map is a single place: its own maximum, 1 wherever the image is not empty.
    expected = 0.25 * torch.tensor([[0.5, 1], [0.75, 1], [0.5, 1], [0, 0]]) + 0.75 * torch.tensor([1, 1, 1, 0])[:, None]
    torch.testing.assert_close(fused[:, 0], expected)


def test_layers_keep_their_order_whichever_runs_first(frames):
    model = nn.Sequential(one_channel(), one_channel(3.0))
    maps = MultiScaleGradCAM(model, [model[1], model[0]], (0.5, 0.5))(frames, target=torch.sum)
    torch.testing.assert_close(maps.scales[0], 3 * frames[:, 0])  # gradient 1
    torch.testing.assert_close(maps.scales[1], 3 * frames[:, 0])  # gradient 3


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_beside_each_other(frames, frozen):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = one_channel(2.0), one_channel(5.0)

        def forward(self, x):
            return self.one(x) + self.other(x)

    model = Beside().requires_grad_(not frozen)
    maps = MultiScaleGradCAM(model, [model.one, model.other], (0.5, 0.5))(frames, target=torch.sum)
    torch.testing.assert_close(maps.scales[0], 2 * frames[:, 0])
    torch.testing.assert_close(maps.scales[1], 5 * frames[:, 0])


def test_work_in_place_behind_a_layer_spoils_nothing(frames):
    model = nn.Sequential(one_channel(-1.0), nn.ReLU(inplace=True), one_channel(2.0), nn.ReLU(inplace=True))
    maps = MultiScaleGradCAM(model, [model[0], model[2]], (0.5, 0.5))(-frames - 1, target=torch.sum)
    torch.testing.assert_close(maps.scales[0], 2 * (frames[:, 0] + 1))
    torch.testing.assert_close(maps.scales[1], 2 * (frames[:, 0] + 1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_outside(frames, mode):
    layer = one_channel()
    with mode():
        maps = MultiScaleGradCAM(layer, [layer], (1.0,), (1, 2))(frames, target=mean_output)
    assert maps.fused.max() == 1


def test_a_layer_that_runs_twice_or_never_is_refused(frames):
    layer, stranger = one_channel(), one_channel()
    for layers in ([layer], [stranger]):
        with pytest.raises(ValueError, match="must run once"):
            MultiScaleGradCAM(nn.Sequential(layer, layer), layers, (1.0,))(frames, target=torch.sum)
    assert not layer._forward_hooks and not stranger._forward_hooks

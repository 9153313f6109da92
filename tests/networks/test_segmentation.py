import pytest
import torch

from common.errors import UserError
from common.networks.pixels import IMAGENET_MEAN, IMAGENET_STD
from common.networks.segmentation import AttentionFPN


def small(**fields) -> AttentionFPN:
    fields = {"encoder_name": "tu-mobilenetv3_small_100", "decoder_channels": 16, "segmentation_channels": 32} | fields
    return AttentionFPN(**fields).eval()


@pytest.mark.parametrize("in_channels", [3, 4])
@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_logits_have_the_inputs_size(in_channels, size):
    assert small(in_channels=in_channels)(torch.rand(2, in_channels, *size)).shape == (2, 1, *size)


def test_the_original_recipes_network():
    network = AttentionFPN().eval()
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)
    assert network.decoder.p5.out_channels == 256
    assert network.gate.conv[0].in_channels == 128
    assert "efficientnet" in network.encoder.name


def test_bytes_and_fractions_are_the_same_image():
    network, image = small(), torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.allclose(network(image), network(image / 255), atol=1e-5)


def test_gate_lies_between_decoder_and_head():
    network, seen = small(), {}
    network.decoder.register_forward_hook(lambda _m, _i, out: seen.update(decoder=out))
    network.gate.register_forward_hook(lambda _m, inputs, out: seen.update(gate_in=inputs[0], gate_out=out))
    network.head.register_forward_hook(lambda _m, inputs, _o: seen.update(head_in=inputs[0]))
    network(torch.rand(1, 3, 64, 64))
    assert seen["gate_in"] is seen["decoder"]
    assert seen["head_in"] is seen["gate_out"]


@pytest.mark.parametrize(
    ("encoder_name", "mean", "std"),
    [
        ("tu-mobilenetv3_small_100", IMAGENET_MEAN, IMAGENET_STD),
        ("mobilenet_v2", IMAGENET_MEAN, IMAGENET_STD),
        ("tu-tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_input_is_normalised_inside_as_the_encoders_weights_want_it(encoder_name, mean, std):
    """An image of the mean colour reaches the encoder as zeros, one a deviation brighter as ones."""
    network, seen = small(encoder_name=encoder_name, in_channels=4), {}
    network.encoder.register_forward_hook(lambda _m, inputs, _o: seen.update(x=inputs[0]))
    for deviations in (0.0, 1.0):
        colour = [m + deviations * s for m, s in zip(mean, std, strict=True)]
        network(torch.tensor([*colour, 0.5]).view(1, 4, 1, 1).expand(1, 4, 64, 64))
        assert torch.allclose(seen["x"][:, :3], torch.full((1, 3, 64, 64), deviations), atol=1e-6)
        assert torch.allclose(seen["x"][:, 3], torch.full((1, 64, 64), 0.5))


def test_every_parameter_learns():
    network = small().train()
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ["resnet1000", "tu-no_such_model", "tu-efficientvit_m0"])
def test_unknown_encoder_is_named(name):
    with pytest.raises(UserError, match=name):
        small(encoder_name=name)

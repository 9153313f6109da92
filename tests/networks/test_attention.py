import pytest
import torch

from common.networks.attention import AttentionGate


def test_gate_by_hand():
    """With zero weights and a last bias of ln 3, the attention is 0.75 everywhere."""
    gate = AttentionGate(8).eval()
    for parameter in gate.parameters():
        torch.nn.init.zeros_(parameter)
    gate.conv[6].bias.data.fill_(torch.log(torch.tensor(3.0)))
    x = torch.randn(2, 8, 5, 7)
    assert torch.allclose(gate(x), 0.75 * x)


def test_attention_is_one_map_for_all_channels():
    gate, x = AttentionGate(8).eval(), torch.randn(2, 8, 5, 7)
    ratio = gate(x) / x
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-5)
    assert ((ratio > 0) & (ratio < 1)).all()
    assert ratio[0, 0].std() > 0


@pytest.mark.parametrize("channels", [1, 3, 128])
def test_any_width_and_every_weight_learns(channels):
    gate = AttentionGate(channels)
    gate(torch.randn(2, channels, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in gate.parameters())


def test_the_original_recipes_layers():
    convolutions = [m for m in AttentionGate(128).conv if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convolutions] == [
        (128, 64, 1),
        (64, 32, 3),
        (32, 1, 1),
    ]

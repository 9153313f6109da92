import inspect

import pytest
import torch

from common.generated.fusion import EarlyFusionGate, SemanticFusion, pyramid_tokens

PARTS = ("frequency_attention", "hierarchical_fusion", "cross_attention", "adaptive_gating")
OF_PART = {
    "frequency_attention": "by_frequency.",
    "hierarchical_fusion": "hierarchy.",
    "cross_attention": "across.",
    "adaptive_gating": "gate.",
}


def make_fusion(**switches) -> SemanticFusion:
    torch.manual_seed(0)
    fusion = SemanticFusion(spectral_features=10, semantic_features=6, layers=4, width=8, heads=2, **switches).eval()
    return fusion


def moved(fusion: SemanticFusion) -> SemanticFusion:
    """With a last layer that is not zero, as after a step."""
    torch.nn.init.normal_(fusion.join[-1].weight)
    return fusion


@pytest.fixture
def patches() -> tuple[torch.Tensor, torch.Tensor]:
    """Spectral (N=3, 3, L=4, D=10) and semantic (N=3, K=5, E=6)."""
    rng = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 4, 10, generator=rng), torch.randn(3, 5, 6, generator=rng)


def test_fresh_fusion_adds_nothing(patches):
    fused = make_fusion()(*patches)
    assert not fused.delta.any()
    assert fused.fused.shape == (3, 8) and fused.frequencies.shape == (3, 3, 8)


def test_attention_is_a_mean_over_tokens(patches):
    attention = make_fusion()(*patches).attention
    assert attention.shape == (3, 5)
    torch.testing.assert_close(attention.sum(1), torch.ones(3))


def test_one_semantic_token_is_refused(patches):
    spectral, semantic = patches
    with pytest.raises(ValueError, match="two semantic tokens"):
        make_fusion()(spectral, semantic[:, :1])


def test_queries_and_keys_learn(patches):
    """With one key the weights are 1 whatever it is, and neither query nor key has a gradient."""
    fusion = moved(make_fusion())
    fusion(*patches).delta.square().sum().backward()
    for attend in (*fusion.by_frequency, fusion.across):
        queries, keys, values = attend.attention.in_proj_weight.grad.chunk(3)
        assert min(part.abs().max() for part in (queries, keys, values)) > 1e-6


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_the_output_and_is_off_when_off(patches, part):
    whole = moved(make_fusion())
    without = make_fusion(**{part: False})
    assert any(name.startswith(OF_PART[part]) for name, _ in whole.named_parameters())
    assert not any(name.startswith(OF_PART[part]) for name, _ in without.named_parameters())
    # The same weights but for the part itself.
    shared = {name: value for name, value in whole.state_dict().items() if not name.startswith(OF_PART[part])}
    without.load_state_dict(shared)
    assert not torch.allclose(whole(*patches).delta, without(*patches).delta, atol=1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_gets_a_gradient(patches, part):
    fusion = moved(make_fusion())
    fusion(*patches).delta.square().sum().backward()
    for name, parameter in fusion.named_parameters():
        if name.startswith(OF_PART[part]):
            # The same number added to every key changes no softmax: a key's bias is without effect.
            grad = parameter.grad
            grad = torch.cat(grad.chunk(3)[::2]) if name.endswith("in_proj_bias") else grad
            assert grad.abs().max() > 0, name


def test_all_parts_off_still_joins_spectral_and_semantic(patches):
    fusion = moved(make_fusion(**dict.fromkeys(PARTS, False)))
    spectral, semantic = patches
    fused = fusion(spectral, semantic)
    assert fused.attention is None
    expected = fusion.spectral(spectral) + fusion.layer_embedding
    torch.testing.assert_close(fused.frequencies, expected.mean(2))
    torch.testing.assert_close(fused.fused, (expected.mean((1, 2)) + fusion.semantic(semantic).mean(1)) / 2)


def test_frequencies_have_attentions_of_their_own(patches):
    """Swapping low and high is not the same as swapping their results."""
    spectral, semantic = patches
    fusion = make_fusion(hierarchical_fusion=False)
    straight = fusion(spectral, semantic).frequencies
    swapped = fusion(spectral[:, [0, 2, 1]], semantic).frequencies
    torch.testing.assert_close(straight[:, 0], swapped[:, 0])
    assert not torch.allclose(straight[:, [0, 2, 1]], swapped, atol=1e-4)


def test_gate_weighs_spectral_against_semantic(patches):
    fusion = make_fusion(frequency_attention=False, hierarchical_fusion=False, cross_attention=False)
    linear = fusion.gate[0]
    torch.nn.init.zeros_(linear.weight)
    spectral, semantic = patches
    alone = (fusion.spectral(spectral) + fusion.layer_embedding).mean((1, 2))
    torch.nn.init.constant_(linear.bias, 50.0)  # σ = 1
    torch.testing.assert_close(fusion(spectral, semantic).fused, alone)
    torch.nn.init.constant_(linear.bias, -50.0)  # σ = 0
    torch.testing.assert_close(fusion(spectral, semantic).fused, fusion.semantic(semantic).mean(1))


def test_no_gradient_goes_back_to_the_spectral_features(patches):
    spectral, semantic = patches
    spectral.requires_grad_()
    fused = moved(make_fusion())(spectral, semantic)
    (fused.delta.sum() + fused.fused.square().sum() + fused.frequencies.square().sum()).backward()
    assert spectral.grad is None


def test_early_gate_is_residual_and_adds_nothing_at_first():
    torch.manual_seed(0)
    gate = EarlyFusionGate(6, 4)
    context, semantic = torch.randn(5, 6), torch.randn(5, 4)
    assert torch.equal(gate(context, semantic), context)
    torch.nn.init.ones_(gate.value.bias)
    torch.nn.init.zeros_(gate.gate[2].weight)
    torch.nn.init.zeros_(gate.gate[2].bias)
    torch.testing.assert_close(gate(context, semantic), context + 0.5)  # σ(0) · 1


def test_pyramid_by_hand():
    grid = torch.arange(16.0).view(1, 4, 4, 1)
    cells = pyramid_tokens(grid, (1, 2))[0, :, 0]
    assert cells.tolist() == [7.5, 2.5, 4.5, 10.5, 12.5]
    assert pyramid_tokens(grid, ()).shape == (1, 0, 1)
    assert torch.equal(pyramid_tokens(grid, (4,)).flatten(), grid.flatten())
    with pytest.raises(ValueError, match="5×5"):
        pyramid_tokens(grid, (5,))


def test_defaults_are_those_of_the_original_recipe():
    defaults = {name: entry.default for name, entry in inspect.signature(SemanticFusion).parameters.items()}
    assert (defaults["width"], defaults["heads"]) == (512, 8)
    assert all(defaults[part] for part in PARTS)

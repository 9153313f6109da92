import math

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.generated.fusion import zero_linear
from common.generated.network import (
    PatchAttention,
    Projector,
    Spai,
    SpectralContext,
    _initialise,
    similarity_statistics,
)

CLIP = "vit_base_patch16_clip_quickgelu_224"
SMALL = {
    "backbone_name": CLIP,
    "backbone_depth": 3,
    "backbone_width": 32,
    "backbone_heads": 2,
    "patch_size": 32,
    "patch_stride": 32,
    "mask_radius": 3.0,
    "projection_dim": 16,
    "attention_dim": 24,
    "attention_heads": 3,
    "head_ratio": 2,
}
FUSED = SMALL | {
    "fusion": "semantic",
    "fusion_width": 8,
    "fusion_heads": 2,
    "early_fusion_layers": (1, 3),
    "semantic_scales": (2,),
}


def make(**arguments) -> Spai:
    torch.manual_seed(0)
    return Spai(**arguments).eval()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Views (B=3, P=4, 3, 32, 32) and whole images (3, 3, 32, 32), all different."""
    rng = torch.Generator().manual_seed(1)
    views = torch.randint(256, (3, 4, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return views, torch.randint(256, (3, 3, 32, 32), generator=rng, dtype=torch.uint8)


def moved(model: Spai) -> Spai:
    """With fusion layers that are not zero, as after a step."""
    for module in model.fusion.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    return model


# What the published network is.


def test_published_sizes():
    with torch.device("meta"):
        model = Spai()
    trainable = {name: value.shape for name, value in model.named_parameters() if value.requires_grad}
    assert sum(shape.numel() for shape in trainable.values()) == 46_829_593
    assert trainable["patch_attention.query"] == (12, 1, 128)
    assert trainable["patch_attention.to_kv.weight"] == (2 * 1536, 1096)
    assert trainable["patch_attention.to_out.weight"] == (1096, 1536)
    assert trainable["projectors.11.layers.1.weight"] == (1024, 768)
    assert trainable["projectors.11.layers.4.weight"] == (1024, 1024)
    assert trainable["context.alpha"] == (1, 12, 1024)
    assert trainable["context.first.layers.1.weight"] == (1024, 2048)
    assert trainable["head.0.weight"] == (3288, 1096)
    assert trainable["head.6.weight"] == (1, 3288)
    assert not any(name.startswith("backbone.") for name in trainable)


def test_shapes(batch):
    model = make(**SMALL)
    features, fused = model.patch_features(batch[0].flatten(0, 1))
    assert features.shape == (12, 6 * 3 + 16) and fused is None
    output = model(batch[0])
    assert output.logits.shape == (3,)
    assert output.attention.shape == (3, 3, 4)
    assert output[2:] == (None,) * 4


def test_projector_has_an_activation_between_and_none_after():
    layers = Projector(4, 5, 3, 0.5).layers
    assert [type(layer).__name__ for layer in layers] == [
        *("Dropout", "Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear", "Identity", "Dropout")
    ]


def test_projectors_of_the_context_end_with_an_activation():
    """LN(GELU(Wx + b)): of one layer, with identity weights; no norm before."""
    projector = Projector(3, 3, 1, 0.5, per_layer=False).eval()
    with torch.no_grad():
        projector.layers[1].weight.copy_(torch.eye(3))
        projector.layers[1].bias.zero_()
    x = torch.tensor([[-1.0, 0.5, 2.0]])
    activated = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in (-1.0, 0.5, 2.0)])
    expected = (activated - activated.mean()) / np.sqrt(activated.var() + 1e-5)
    np.testing.assert_allclose(projector(x).detach()[0], expected, atol=1e-5)


def test_statistics_by_hand():
    """Two tokens. x·low: cosines 1 and 0; x·high: 0 and 1; low·high: 0 and 0."""
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    low = torch.tensor([[[3.0, 0.0], [1.0, 0.0]]])
    high = torch.tensor([[[0.0, 1.0], [0.0, 5.0]]])
    root = math.sqrt(0.5)  # unbiased: ((½)² + (½)²) / 1
    expected = [0.5, root, 0.5, root, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    torch.testing.assert_close(similarity_statistics(x, low, high)[0], torch.tensor(expected))


def test_vector_is_grouped_by_statistic(batch):
    """Numbers 0, 1, 2 are the three layers' means of cos(x, low)."""
    model = make(**SMALL)
    patches = batch[0][0]
    low, high = model.split(patches / 255)
    sequences = [list(model.backbone.blocks(part)) for part in (patches / 255, low, high)]
    for layer in range(3):
        tokens = (model.projectors[layer](model.backbone.patch_tokens(own[layer])) for own in sequences)
        statistics = similarity_statistics(*tokens)[:, :6]
        torch.testing.assert_close(model.patch_features(patches)[0][:, layer:18:3], statistics, atol=1e-5, rtol=1e-4)


def test_context_weighs_layers_by_importance():
    context = SpectralContext(2, 4, 1, 0.0).eval()
    context.second = nn.Identity()
    summaries = torch.randn(5, 2, 8)
    with torch.no_grad():
        context.alpha.copy_(torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1).expand(1, 2, 4))
    first = context.first(summaries)
    torch.testing.assert_close(context(summaries), 0.25 * first[:, 0] + 0.75 * first[:, 1])


def test_patch_attention_by_hand():
    """Identity weights, one head of two: keys are the vectors' first halves, values the second."""
    attention = PatchAttention(4, 2, 1, 0.0)
    with torch.no_grad():
        attention.to_kv.weight.copy_(torch.eye(4))
        attention.to_out.weight.copy_(torch.eye(4)[:, :2])
        attention.query.copy_(torch.tensor([[[math.sqrt(2.0) * math.log(2.0), 0.0]]]))
    patches = torch.tensor([[[1.0, 9.0, 3.0, 0.0], [0.0, 9.0, 0.0, 6.0]]])
    # Scaled by 1/√2 the scores are ln 2 and 0: weights ⅔ and ⅓.
    out, weights = attention(patches)
    torch.testing.assert_close(weights, torch.tensor([[[2 / 3, 1 / 3]]]))
    torch.testing.assert_close(out, torch.tensor([[2.0, 2.0, 0.0, 0.0]]))


def test_patch_attention_is_the_published_code():
    """Written with the published order of axes: key and value halves first, then heads."""
    torch.manual_seed(0)
    attention, patches = PatchAttention(10, 12, 3, 0.0), torch.randn(2, 5, 10)
    keys, values = (half.view(2, 5, 3, 4).transpose(1, 2) for half in attention.to_kv(patches).chunk(2, dim=-1))
    dots = attention.query.expand(2, -1, -1, -1) @ keys.transpose(-1, -2) * 4**-0.5
    expected = (dots.softmax(-1) @ values).transpose(1, 2).flatten(2)[:, 0] @ attention.to_out.weight.T
    torch.testing.assert_close(attention(patches)[0], expected)


@pytest.mark.parametrize("inputs", [768, 1024, 1096, 1536, 2048, 3288])
def test_initial_weights_of_published_widths_are_as_published(inputs):
    """Number for number: normal of deviation 0.02, cut at ±2, no bias."""
    linear, published = nn.Linear(inputs, 40), torch.empty(40, inputs)
    torch.manual_seed(0)
    _initialise(linear)
    torch.manual_seed(0)
    nn.init.trunc_normal_(published, std=0.02)
    assert torch.equal(linear.weight, published) and not linear.bias.any()


def test_narrow_layers_have_the_output_scale_of_published_ones():
    """The output of a layer of any width has the deviation that 768 inputs give: 0.02 · √768."""
    torch.manual_seed(0)
    for inputs in (64, 256, 768):
        linear = nn.Linear(inputs, 500)
        _initialise(linear)
        assert linear(torch.randn(400, inputs)).std().item() == pytest.approx(0.02 * 768**0.5, rel=0.02)


def test_queries_start_as_published_where_the_vectors_have_its_width():
    torch.manual_seed(0)
    assert PatchAttention(1096, 1536, 12, 0.5).query.std().item() == pytest.approx(0.02, rel=0.1)
    assert PatchAttention(76, 64, 4, 0.5).query.std().item() == pytest.approx(0.88, rel=0.3)  # of 1, cut at ±2


# The fusion.


def test_fresh_fusion_is_plain_spai(batch):
    fused, plain = make(**FUSED, text_tokens=2, text_head=True), make(**SMALL)
    lacking = plain.load_state_dict(fused.state_dict(), strict=False)
    assert not lacking.missing_keys
    assert all(name.startswith(("fusion.", "text")) for name in lacking.unexpected_keys)
    expected, output = plain(batch[0]), fused(*batch)
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.attention, expected.attention, atol=1e-6, rtol=0)


def test_images_are_not_mixed(batch):
    """B=3, N=4: the semantics of image 1 reach its own patches and no other image's."""
    model = moved(make(**FUSED))
    views, whole = batch
    before = model(views, whole)
    other = whole.clone()
    other[1] = 255 - other[1]
    after = model(views, other)
    for part, changed in zip(before[2:5], after[2:5], strict=True):
        assert torch.equal(part[[0, 2]], changed[[0, 2]])
        assert not torch.allclose(part[1], changed[1], atol=1e-5)
    # And one after the other they are what they are together.
    for image in range(3):
        alone = model(views[image : image + 1], whole[image : image + 1])
        torch.testing.assert_close(alone.logits[0], before.logits[image], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("part", ["fused", "similarities"])
def test_statistics_are_taken_of_untouched_features(batch, part):
    """Whatever the fusion adds, the published 6·L numbers stay; only what follows them moves."""
    model = moved(make(**FUSED, twelve_statistics=False))
    patches = batch[0].flatten(0, 1)
    semantic = model.image_semantics(batch[1]).repeat_interleave(4, dim=0)
    features, _ = model.patch_features(patches, semantic)
    plain = make(**SMALL)
    plain.load_state_dict(model.state_dict(), strict=False)
    expected, _ = plain.patch_features(patches)
    if part == "similarities":
        torch.testing.assert_close(features[:, :18], expected[:, :18])
    else:
        assert not torch.allclose(features[:, 18:], expected[:, 18:], atol=1e-4)


def test_early_gates_and_extremes_change_the_output(batch):
    whole = moved(make(**FUSED))
    reference = whole(*batch).logits
    for switch, prefix in (
        ({"early_fusion_layers": (1,)}, "fusion.early.3."),
        ({"twelve_statistics": False}, "fusion.extremes."),
    ):
        assert any(name.startswith(prefix) for name, _ in whole.named_parameters())
        without = make(**FUSED | switch)
        without.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith(prefix)})
        assert not torch.allclose(without(*batch).logits, reference, atol=1e-6), prefix


def test_local_semantics_see_the_patch_itself(batch):
    views, whole = batch
    model = moved(make(**FUSED))
    weights = model(views, whole).semantic_attention
    assert weights.shape == (3, 4, len(model.semantic_tokens)) == (3, 4, 1 + 4 + 1)
    assert model.semantic_tokens == ["image", "2:0,0", "2:0,1", "2:1,0", "2:1,1", "patch"]
    without = make(**FUSED, local_semantics=False)
    assert without.semantic_tokens[-1] == "2:1,1"
    # A patch that is the whole image has its embedding.
    local = model._tokens(whole, model.image_semantics(whole), [*model.backbone.blocks(whole / 255)][-1])
    torch.testing.assert_close(local[:, -1], local[:, 0])


def test_prompts_are_semantic_tokens(batch):
    model = moved(make(**FUSED, text_tokens=2))
    before = model(*batch).logits
    model.set_text(torch.randn(2, 512))
    assert not torch.allclose(model(*batch).logits, before, atol=1e-6)
    assert model.semantic_tokens[-2:] == ["text 0", "text 1"]
    assert model.state_dict()["text"].any()
    with pytest.raises(ValueError, match="2, 512"):
        model.set_text(torch.randn(3, 512))


def test_a_tower_of_its_own(batch, monkeypatch):
    """MFM's kind of backbone beside a CLIP tower; the tower is built small, its size is not the patches'."""
    import common.generated.network as spai

    def small(name, **sizes):
        own = {"image_size": 48, "depth": 1, "width": 32, "heads": 2}
        return backbone(name, **(sizes or own))

    backbone = spai.TokenBackbone
    monkeypatch.setattr(spai, "TokenBackbone", small)
    model = moved(make(**FUSED | {"backbone_name": "vit_base_patch16_224", "semantic_name": CLIP}))
    assert model.whole_size == 48
    assert not any(parameter.requires_grad for parameter in model.tower.parameters())
    whole = torch.randint(256, (3, 3, 48, 48), dtype=torch.uint8)
    assert model(batch[0], whole).logits.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone_name": "vit_base_patch16_224"}, "CLIP tower"),
        ({"early_fusion_layers": (4,)}, "early_fusion_layers has 4"),
        ({"semantic_scales": (3,)}, "semantic_scales has 3"),
        ({"semantic_scales": (), "local_semantics": False}, "two semantic tokens"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        make(**FUSED | change)


# Training in two stages.


def names(model: Spai) -> set[str]:
    return {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_trainable_parts_of_each_stage():
    model = make(**FUSED)
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert parts == {"backbone", "projectors", "context", "patch_attention", "norm", "head", "fusion"}
    model.set_stage("semantic")
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if name.startswith(("fusion.", "head."))}
    model.set_stage("joint")
    assert names(model) == parts - {"backbone"}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("backbone.")}
    model.set_stage("joint", train_backbone=True)
    assert names(model) == parts
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"backbone.vit.{part}" for part in ("norm.weight", "norm.bias", "head.weight", "head.bias")}


def test_without_fusion_both_stages_are_one():
    model = make(**SMALL)
    for stage in ("semantic", "joint"):
        model.set_stage(stage)
        assert names(model) == {"projectors", "context", "patch_attention", "norm", "head"}


@pytest.mark.parametrize("stage", ["semantic", "joint"])
def test_gradients_reach_every_trainable_part(batch, stage):
    """After a first step, since what begins as zero lets none through to what lies before it."""
    model = make(**FUSED, text_tokens=2, text_head=True, dropout=0.0)
    model.set_stage(stage)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        output = model(*batch)
        (output.logits * torch.tensor([1.0, -1.0, 2.0])).sum().add(output.text.mean()).backward()
        optimizer.step()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not without
    assert all(p.grad is None for p in model.backbone.parameters())


def test_a_trained_backbone_gets_gradients(batch):
    model = make(**SMALL)
    model.set_stage("joint", train_backbone=True)
    model(batch[0]).logits.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.backbone.parameters() if p.requires_grad)


def test_losses_on_the_fusion_cannot_pull_the_similarities_together(batch):
    """The consistency losses of the original recipe are smallest where cos(x, high) is 1. Here they don't reach it."""
    model = moved(make(**FUSED | {"early_fusion_layers": ()}, dropout=0.0, twelve_statistics=False))
    model.set_stage("joint")
    patches, semantic = batch[0].flatten(0, 1), model.image_semantics(batch[1]).repeat_interleave(4, dim=0)
    similarities = model.patch_features(patches, semantic)[0][:, :18].detach()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        x, low, high = model(*batch).frequencies.unbind(1)
        # The worst loss there is: it wants all three alike.
        loss = sum(1 - torch.cosine_similarity(a, b).mean() for a, b in ((x, low), (x, high), (low, high)))
        loss.backward()
        optimizer.step()
    assert torch.equal(model.patch_features(patches, semantic)[0][:, :18], similarities)


# Images of any size.


@pytest.mark.parametrize("fusion", [SMALL, FUSED], ids=["plain", "fused"])
def test_batches_of_patches_don_t_change_the_scores(fusion):
    model = make(**fusion)
    if model.fusion is not None:
        moved(model)
    rng = torch.Generator().manual_seed(2)
    sizes = [(100, 70), (32, 32), (20, 90), (64, 64)]
    images = [torch.randint(256, (3, *size), generator=rng, dtype=torch.uint8) for size in sizes]
    whole = torch.randint(256, (4, 3, 32, 32), generator=rng, dtype=torch.uint8)
    together = model.score_images(images, whole, batch=400)
    assert [len(score.positions) for score in together] == [6, 5, 5, 4]
    for batch in (1, 4):
        for score, expected in zip(model.score_images(images, whole, batch=batch), together, strict=True):
            assert math.isclose(score.logit, expected.logit, abs_tol=1e-5)
            torch.testing.assert_close(score.attention, expected.attention, atol=1e-5, rtol=1e-4)
            assert math.isclose(score.attention.sum(), 1, abs_tol=1e-5)
    alone = model.score_images(images[2:3], whole[2:3])[0]
    assert math.isclose(alone.logit, together[2].logit, abs_tol=1e-5)


def test_an_image_is_scored_as_its_patches_are_in_training():
    model = make(**SMALL)
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    views = torch.stack([image[:, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32, 64)])[None]
    assert math.isclose(model.score_images([image])[0].logit, model(views).logits.item(), abs_tol=1e-5)


def test_tokens_of_one_block_are_held_at_a_time(monkeypatch):
    """When the next block's tokens are made, the last but one's have been given back."""
    import gc
    import weakref

    model = make(**SMALL)
    made: list[weakref.ref] = []
    blocks = model.backbone.blocks

    def watched(images):
        for sequence in blocks(images):
            made.append(weakref.ref(sequence))
            yield sequence
            del sequence
            gc.collect()
            assert sum(ref() is not None for ref in made) <= 1

    monkeypatch.setattr(model.backbone, "blocks", watched)
    with torch.no_grad():
        model.patch_features(torch.rand(2, 3, 32, 32))
    assert len(made) == 3


def test_zero_linear_is_zero():
    assert not zero_linear(3, 2)(torch.rand(4, 3)).any()


def test_probabilities_stay_plain_numbers():
    score = make(**SMALL).score_images([torch.zeros(3, 32, 32, dtype=torch.uint8)])[0]
    assert isinstance(score.logit, float) and np.isfinite(score.logit)

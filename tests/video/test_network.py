import inspect
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants as hub
from torch import Tensor, nn

from common.errors import UserError
from common.video.network import (
    MultiScaleFeatureExtractor,
    MultiScaleFusion,
    SpatialAttentionModule,
    TemporalCNNGRU,
    load_backbone_weights,
    load_spotter_weights,
)

TINY = "mobilenetv2_100"
MILLIONS = {
    "tf_efficientnet_b0": {"backbone": 4.0, "attention": 0.41, "fusion": 1.0, "gru": 10.2, "head": 1.1, "total": 16.8},
    "tf_efficientnet_b3": {"backbone": 10.7, "attention": 0.59, "fusion": 1.3, "gru": 11.0, "head": 1.1, "total": 24.7},
}


def make_spotter(encoder_name: str = TINY, seed: int = 0, **parts) -> TemporalCNNGRU:
    torch.manual_seed(seed)
    return TemporalCNNGRU(encoder_name, **{"hidden": 8} | parts).eval()


@torch.no_grad()
def moved(model: TemporalCNNGRU) -> TemporalCNNGRU:
    """As after training: attention and fusion are no longer the identity."""
    torch.manual_seed(5)
    for part in (model.attention, model.features.fusion):
        for parameter in [] if part is None else part.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def steps(model: TemporalCNNGRU, clips: Tensor, lengths: tuple[int, ...] = (3, 3)) -> Tensor:
    """The features of each time step."""
    return model.time_steps(clips, torch.arange(clips.shape[1]) < torch.tensor(lengths[: len(clips)])[:, None])


def count(module: nn.Module) -> float:
    """Millions of parameters."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.fixture
def clips() -> Tensor:
    """Two clips of three frames, uint8 (2, 3, 3, 64, 64)."""
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=rng)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that refuses connections, and an empty cache."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))


# Attention


def test_fresh_attention_is_the_identity_and_never_random():
    torch.manual_seed(0)
    first = SpatialAttentionModule(16)
    second = SpatialAttentionModule(16)
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(first(x), x)
    for key, value in second.state_dict().items():
        assert torch.equal(first.state_dict()[key], value)


def test_hidden_units_begin_as_means_of_blocks_of_channels():
    weight = SpatialAttentionModule(5, reduction=2).channel[0].weight
    torch.testing.assert_close(weight, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0, 0], [0, 0, 0, 0.5, 0.5]]))
    assert SpatialAttentionModule(5).channel[0].out_features == 1


def test_channel_attention_by_hand():
    attention = SpatialAttentionModule(2, reduction=2)
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # means 2 and 2, maxima 3 and 4
    with torch.no_grad():
        attention.channel[2].weight.copy_(torch.tensor([[1.0], [-2.0]]))
    # The hidden unit is 2 of the means and 3.5 of the maxima: z = 5.5 and −11.
    expected = x * 2 * torch.tensor([5.5, -11]).sigmoid().view(1, 2, 1, 1)
    torch.testing.assert_close(attention(x), expected)


def test_spatial_attention_by_hand():
    attention = SpatialAttentionModule(2)
    x = torch.zeros(1, 2, 9, 9)
    x[0, :, 4, 4] = torch.tensor([1.0, 3.0])  # mean 2, maximum 3
    with torch.no_grad():
        attention.spatial.weight[0, 0] = 0.5
        attention.spatial.weight[0, 1] = -1.0
    expected = torch.full((9, 9), 0.5)
    expected[1:8, 1:8] = torch.tensor(0.5 * 2 - 3.0).sigmoid()  # three places around it, no more
    places = []
    attention.spatial.register_forward_hook(lambda module, arguments, output: places.append(output.sigmoid()))
    torch.testing.assert_close(attention(x), x * 2 * expected)
    torch.testing.assert_close(places[0][0, 0], expected)


def test_attention_learns_from_the_first_step_and_then_as_a_whole():
    torch.manual_seed(0)
    attention = SpatialAttentionModule(16)
    optimizer = torch.optim.SGD(attention.parameters(), lr=0.1)
    x, wanted = torch.rand(4, 16, 7, 7), torch.rand(4, 16, 7, 7)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append((attention(x) - wanted).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    for name, parameter in attention.named_parameters():
        assert parameter.grad.abs().max() > 0, name


# Features at three scales


@pytest.mark.parametrize(
    ("encoder_name", "side", "channels", "sides", "width"),
    [
        ("tf_efficientnet_b0", 224, [40, 112, 320], [28, 14, 7], 1280),
        ("tf_efficientnet_b3", 300, [48, 136, 384], [38, 19, 10], 1536),
        (TINY, 64, [32, 96, 320], [8, 4, 2], 1280),
    ],
)
def test_taps_lie_at_an_eighth_a_sixteenth_and_a_thirty_second(encoder_name, side, channels, sides, width):
    extractor = MultiScaleFeatureExtractor(encoder_name).eval()
    caught = []
    for layer in extractor.tap_layers:
        layer.register_forward_hook(lambda module, arguments, output: caught.append(output))
    with torch.no_grad():
        fused = extractor(torch.rand(1, 3, side, side))
    assert fused.shape == (1, width, sides[-1], sides[-1])
    assert [tuple(tap.shape) for tap in caught] == [(1, c, s, s) for c, s in zip(channels, sides, strict=True)]


@torch.no_grad()
def test_fresh_features_are_exactly_the_backbones():
    torch.manual_seed(0)
    extractor = MultiScaleFeatureExtractor(TINY).eval()
    images = torch.rand(2, 3, 64, 64)
    fused = extractor(images)
    assert torch.equal(fused, extractor.backbone(images))
    nn.init.normal_(extractor.fusion.project.weight)
    assert not torch.allclose(extractor(images), fused, atol=1e-3)


def test_every_scale_counts_in_the_fusion_and_learns():
    torch.manual_seed(0)
    fusion = MultiScaleFusion([3, 4, 5], 6, width=8)
    taps = [torch.randn(1, c, s, s, requires_grad=True) for c, s in ((3, 8), (4, 4), (5, 2))]
    assert not fusion(taps).any()
    nn.init.normal_(fusion.project.weight)
    fused = fusion(taps)
    assert fused.shape == (1, 6, 2, 2)
    fused.square().sum().backward()
    assert min(tap.grad.abs().max() for tap in taps) > 1e-3
    assert min(parameter.grad.abs().max() for parameter in fusion.parameters()) > 1e-3


@torch.no_grad()
def test_a_single_strong_place_at_the_fine_scale_outlives_the_pooling():
    """The maximum keeps what the mean of the 4×4 places of a cell divides by 16."""
    torch.manual_seed(0)
    fusion = MultiScaleFusion([1], 16, width=8)
    fusion.scales[0] = nn.Identity()
    fine, grid = torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 2, 2)
    fine[0, :, 1, 2] = 16.0
    fusion.scales.append(nn.Identity())
    fusion.project, fusion.gain = nn.Identity(), 1.0
    of_fine = fusion([fine, grid])[0, :16]
    assert (of_fine[:8, 0, 0] == 1).all() and (of_fine[8:, 0, 0] == 16).all()
    assert not of_fine[:, 1].any() and not of_fine[:, 0, 1].any()


def test_a_step_of_the_optimiser_moves_the_fusion_little():
    """Adam moves each of 768 weights by the rate: over features of size 1 their sum by up to 768 rates, here by 28."""
    torch.manual_seed(0)
    fusion = MultiScaleFusion([4, 4, 4], 1, width=128)
    fusion.scales = nn.ModuleList(nn.Identity() for _ in range(3))
    taps = [torch.ones(1, 128, side, side) for side in (4, 2, 1)]
    optimizer = torch.optim.Adam(fusion.project.parameters(), lr=1e-3)
    fusion(taps).sum().backward()
    optimizer.step()
    assert abs(fusion(taps).item()) == pytest.approx(1e-3 * 769 / 768**0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["no_such_net", "vit_tiny_patch16_224"])
def test_an_encoder_that_cannot_be_used_is_named_with_those_that_can(name):
    with pytest.raises(UserError, match=f"{name}.*tf_efficientnet_b0, tf_efficientnet_b3, mobilenetv2_100"):
        TemporalCNNGRU(name)


# The whole network


@pytest.mark.parametrize(("encoder_name", "side"), [("tf_efficientnet_b0", 224), ("tf_efficientnet_b3", 300)])
def test_whole_networks_shapes_sizes_and_strict_reload(encoder_name, side):
    model = make_spotter(encoder_name, hidden=512)
    frames = torch.rand(1, 2, 3, side, side)
    with torch.no_grad():
        logits, frame_logits = model(frames, return_frames=True)
        assert logits.shape == (1, 2) and frame_logits.shape == (1, 2, 2)
        assert steps(model, frames).shape == (1, 2, 1024)
        parts = {"fusion": model.features.fusion, "backbone": model.features.backbone, "total": model}
        parts |= {name: getattr(model, name) for name in ("attention", "gru", "head")}
        for name, millions in MILLIONS[encoder_name].items():
            assert count(parts[name]) == pytest.approx(millions, abs=0.05 if millions >= 1 else 0.005), name
        other = make_spotter(encoder_name, seed=1, hidden=512)
        assert not torch.allclose(other(frames), logits, atol=1e-4)
        other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(other(frames), logits)


def test_the_stated_sizes_are_those_of_the_docstring():
    text = " ".join(TemporalCNNGRU.__doc__.split())
    b0, b3 = (MILLIONS[name] for name in MILLIONS)
    assert f"With B0 it has {b0['total']} million parameters" in text and f"with B3 {b3['total']} (" in text
    assert "(backbone 4.0, attention 0.41, fusion 1.0, GRU 10.2, head 1.1)" in text
    assert "(10.7, 0.59, 1.3, 11.0 and 1.1)" in text


def test_numbers_of_the_original_recipe_are_the_defaults():
    defaults = {name: entry.default for name, entry in inspect.signature(TemporalCNNGRU).parameters.items()}
    assert (defaults["hidden"], defaults["layers"], defaults["dropout"]) == (512, 2, 0.3)
    assert all(defaults[part] for part in ("attention", "multi_scale", "temporal"))
    model = make_spotter(hidden=512)
    assert model.attention.channel[0].out_features == 1280 // 8
    assert [layer.out_features for layer in model.head if isinstance(layer, nn.Linear)] == [512, 128, 2]
    assert model.head[0].in_features == 2048 and model.gru.bidirectional and model.gru.dropout == 0.3


@torch.no_grad()
def test_frames_come_back_on_request(clips):
    model = moved(make_spotter())
    logits, frame_logits = model(clips, return_frames=True)
    assert torch.equal(model(clips), logits)
    assert steps(model, clips).shape == (2, 3, 16) and frame_logits.shape == (2, 3, 2)


@torch.no_grad()
def test_bytes_and_floats_are_normalised_as_the_backbone_wants(clips):
    model = make_spotter(temporal=False)
    logits, vectors = model(clips), steps(model, clips)
    images = clips.flatten(0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = model.features.backbone((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)).mean((2, 3))
    torch.testing.assert_close(vectors.flatten(0, 1), expected)
    torch.testing.assert_close(model(clips / 255), logits)
    assert not {"mean", "std"} & model.state_dict().keys()


@torch.no_grad()
def test_the_order_of_frames_counts_only_with_time(clips):
    shuffled = clips[:, [2, 0, 1]]
    model = make_spotter()
    assert not torch.allclose(model(clips), model(shuffled), atol=1e-5)
    plain = make_spotter(temporal=False)
    torch.testing.assert_close(plain(clips), plain(shuffled))
    assert not torch.allclose(plain(clips)[0], plain(clips)[1], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("temporal", [True, False])
def test_padding_changes_nothing_whatever_it_holds(clips, temporal):
    model = moved(make_spotter(temporal=temporal))
    (logits, frames), times = model(clips, torch.tensor([1, 3]), return_frames=True), steps(model, clips, (1, 3))
    for clip, length in enumerate((1, 3)):
        shorter = clips[clip : clip + 1, :length]
        alone = model(shorter, return_frames=True)
        torch.testing.assert_close(logits[clip : clip + 1], alone[0])
        torch.testing.assert_close(frames[clip, :length], alone[1][0])
        torch.testing.assert_close(times[clip, :length], steps(model, shorter)[0])
    assert not times[0, 1:].any()
    torch.testing.assert_close(model(clips, torch.tensor([3, 3])), model(clips))


@torch.no_grad()
def test_padding_leaves_the_batch_statistics_alone(clips):
    padded, bare = make_spotter().train(), make_spotter().train()
    padded(torch.cat([clips[:1], clips[1:] * 0 + 255], dim=1), torch.tensor([3]))
    bare(clips[:1])
    after, expected = padded.features.backbone.bn1.running_mean, bare.features.backbone.bn1.running_mean
    assert expected.abs().max() > 0
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("lengths", [[0, 3], [1, 4], [3]])
def test_impossible_lengths_are_refused(clips, lengths):
    with pytest.raises(ValueError, match="can't have the lengths"):
        make_spotter()(clips, torch.tensor(lengths))


@torch.no_grad()
def test_frame_logits_of_a_clip_of_one_frame_are_the_clips(clips):
    model = make_spotter()
    logits, frame_logits = model(clips[:, :1], return_frames=True)
    torch.testing.assert_close(frame_logits[:, 0], logits)
    _, frame_logits = model(clips, return_frames=True)
    assert frame_logits.shape == (2, 3, 2) and frame_logits.std(1).min() > 1e-6
    plain = make_spotter(temporal=False)
    logits, frame_logits = plain(clips, return_frames=True)
    torch.testing.assert_close(frame_logits.mean(1), logits)


@torch.no_grad()
def test_clip_logits_are_the_head_of_mean_and_maximum_over_time(clips):
    model = make_spotter()
    temporal = steps(model, clips)
    torch.testing.assert_close(model.head(torch.cat([temporal.mean(1), temporal.amax(1)], dim=1)), model(clips))


@torch.no_grad()
def test_fresh_attention_and_fusion_change_no_logit(clips):
    whole, bare = make_spotter(), make_spotter(attention=False, multi_scale=False)
    assert load_spotter_weights(whole, bare.state_dict()) == ["attention", "fusion"]
    assert torch.equal(whole(clips), bare(clips))
    assert not any("attention" in name or "fusion" in name for name, _ in bare.named_parameters())


def test_everything_learns(clips):
    model = moved(make_spotter(dropout=0.0)).train()
    model(clips).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_frozen_backbone_stays_as_it_is_and_the_rest_trains(clips):
    model = moved(make_spotter(dropout=0.0))
    model.set_stage(train_backbone=False)
    model.train()
    before = {name: value.clone() for name, value in model.features.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0, weight_decay=0.1)
    model(clips).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.features.backbone.state_dict().items())
    assert model.gru.training and not model.features.backbone.training
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("features.backbone."), name
    model.set_stage(train_backbone=True)
    assert model.features.backbone.training
    model(clips).sum().backward()
    assert not torch.equal(model.features.backbone.bn1.running_mean, before["bn1.running_mean"])
    assert model.features.backbone.conv_stem.weight.grad.any()
    assert not model.eval().features.backbone.training


def test_frozen_batch_norm_keeps_its_statistics_while_the_backbone_trains(clips):
    model = make_spotter(freeze_batch_norm=True).train()
    before = model.features.backbone.bn1.running_mean.clone()
    model(clips).sum().backward()
    assert torch.equal(model.features.backbone.bn1.running_mean, before)
    assert model.features.backbone.bn1.weight.grad.any() and model.features.backbone.training


def test_one_layer_and_mixed_precision(clips, recwarn):
    model = make_spotter(layers=1).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(clips, torch.tensor([3, 2]))
    logits.float().sum().backward()
    assert model.features.backbone.conv_stem.weight.grad.isfinite().all()
    assert not [warning for warning in recwarn if "dropout" in str(warning.message)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradients_in_eval_mode_on_cuda(clips):
    model = make_spotter().cuda()
    model(clips.cuda(), torch.tensor([3, 2])).sum().backward()
    assert model.gru.weight_ih_l0.grad.any()


# Weights


@torch.no_grad()
def check_features_are_torchvisions(path: Path) -> None:
    model = make_spotter()
    assert load_backbone_weights(model, str(path)) == str(path)
    network = torchvision.models.mobilenet_v2().eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    images = torch.rand(2, 3, 96, 96, dtype=torch.float64)  # in single precision the memory layouts differ by 2e-5
    expected = network.double().features(images)
    assert expected.abs().max() > 0
    torch.testing.assert_close(model.double().features.backbone(images), expected)


def test_a_torchvision_file_gives_the_same_features(tmp_path):
    torch.manual_seed(3)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "w.pth")
    check_features_are_torchvisions(tmp_path / "w.pth")


def test_the_real_imagenet_file_gives_the_same_features(shared_data):
    check_features_are_torchvisions(shared_data / "weights" / "mobilenet_v2_imagenet.pth")


def test_a_timm_file_is_loaded_whole(tmp_path):
    torch.manual_seed(3)
    weights = timm.create_model(TINY).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    model = make_spotter()
    assert load_backbone_weights(model, str(tmp_path / "w.pth")) == str(tmp_path / "w.pth")
    assert all(torch.equal(value, weights[key]) for key, value in model.features.backbone.state_dict().items())


def test_another_backbones_file_is_refused(tmp_path):
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="not those of mobilenetv2_100"):
        load_backbone_weights(make_spotter(), str(tmp_path / "w.pth"))
    torch.save({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not those of mobilenetv2_100"):
        load_backbone_weights(make_spotter(), str(tmp_path / "w.pth"))


def test_no_weights_and_no_hub(no_hub, capsys):
    model = make_spotter()
    before = model.features.backbone.conv_stem.weight.clone()
    assert load_backbone_weights(model, "none") == "none" and not capsys.readouterr().out
    assert load_backbone_weights(model, "auto") == "none"
    assert "none for mobilenetv2_100, training from scratch" in capsys.readouterr().out
    assert torch.equal(model.features.backbone.conv_stem.weight, before)
    with pytest.raises(UserError, match="encoder weights of mobilenetv2_100 can't be fetched"):
        load_backbone_weights(model, "hub")


@torch.no_grad()
@pytest.mark.parametrize(("part", "prefix"), [("attention", "attention."), ("fusion", "features.fusion.")])
def test_a_checkpoint_without_a_part_loads_with_it_as_the_identity(clips, part, prefix):
    source = moved(make_spotter())
    weights = {key: value for key, value in source.state_dict().items() if not key.startswith(prefix)}
    bare = make_spotter(seed=2, **{"attention" if part == "attention" else "multi_scale": False})
    assert load_spotter_weights(bare, weights) == []
    # Not fresh: what it held of the part must not stay.
    model = moved(make_spotter(seed=3))
    assert load_spotter_weights(model, weights) == [part]
    assert torch.equal(model(clips), bare(clips))
    assert load_spotter_weights(model, source.state_dict()) == []
    assert torch.equal(model(clips), source(clips))


def test_any_other_gap_or_surplus_is_refused():
    model, weights = make_spotter(), make_spotter().state_dict()
    for key in ("attention.spatial.bias", "features.fusion.project.bias", "gru.weight_ih_l0", "head.0.bias"):
        with pytest.raises(RuntimeError, match=f"Missing key.*\n?.*{key}"):
            load_spotter_weights(model, {name: value for name, value in weights.items() if name != key})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_spotter_weights(make_spotter(attention=False), weights)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_spotter_weights(make_spotter(hidden=4), weights)


# The number of frames


@torch.no_grad()
def test_a_frame_repeated_has_the_probability_of_the_frame(clips):
    """And a step a frame, as in earlier versions, is where its number has a part in it."""
    even, uneven = (moved(make_spotter(steps=steps, layers=2)) for steps in (24, 0))
    for gru in (even.gru, uneven.gru):
        torch.manual_seed(2)
        for parameter in gru.parameters():
            nn.init.normal_(parameter, std=0.5)
    for model, largest in ((even, 1e-6), (uneven, None)):
        found = []
        for count in (1, 8, 24):
            logits, frames = model(clips[:, :1].expand(-1, count, -1, -1, -1), return_frames=True)
            found.append(logits.softmax(1)[:, 1])
            if model is even:
                torch.testing.assert_close(frames.softmax(2).mean(1), logits.softmax(1), atol=0.02, rtol=0)
        apart = (torch.stack(found) - found[0]).abs().max()
        assert apart < largest if largest else apart > 1e-3
    torch.testing.assert_close(even(clips.repeat_interleave(4, dim=1)), even(clips))


@torch.no_grad()
def test_a_clip_of_all_frames_is_scored_as_without_steps(clips):
    """The original design, for as many frames as it was made for."""
    for found, expected in zip(
        make_spotter(steps=3)(clips, return_frames=True), make_spotter()(clips, return_frames=True), strict=True
    ):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_frames_of_a_shorter_clip_are_held(clips):
    """Three frames for seven steps: of three, two and two."""
    held = [0, 0, 0, 1, 1, 2, 2]
    model = make_spotter(steps=7)
    temporal = steps(model, clips)
    torch.testing.assert_close(temporal, steps(make_spotter(), clips[:, held], (7, 7)))
    logits, frames = model(clips, return_frames=True)
    torch.testing.assert_close(logits, model.head(torch.cat([temporal.mean(1), temporal.amax(1)], dim=1)))
    second = temporal[:, 3:5]
    torch.testing.assert_close(frames[:, 1], model.head(torch.cat([second.mean(1), second.amax(1)], dim=1)))


def test_padding_changes_nothing_where_frames_are_held(clips):
    model = moved(make_spotter(steps=4))
    logits, frames = model(clips, torch.tensor([1, 3]), return_frames=True)
    for clip, length in enumerate((1, 3)):
        alone = model(clips[clip : clip + 1, :length], return_frames=True)
        torch.testing.assert_close(logits[clip : clip + 1], alone[0])
        torch.testing.assert_close(frames[clip, :length], alone[1][0])
    assert frames.isfinite().all()
    frames[0, :1].sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    with pytest.raises(ValueError, match="3 frames, and the network 2 time steps"):
        make_spotter(steps=2)(clips)

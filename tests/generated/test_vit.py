import warnings

import pytest
import timm
import torch
from huggingface_hub import constants as hub
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch.nn import functional as F

from common.errors import UserError
from common.generated.vit import VITS, TokenBackbone, build_vit, fuse_qkv_bias, load_vit_weights
from common.networks.pixels import IMAGENET_MEAN

PLAIN, CLIP, DINO = "vit_base_patch16_224", "vit_base_patch16_clip_quickgelu_224", "vit_base_patch14_dinov2"
KINDS = ("weight", "bias")
SMALL = {"depth": 2, "width": 64, "heads": 4}
SIDES = {PLAIN: 64, CLIP: 64, DINO: 56, "vit_base_patch14_reg4_dinov2": 56}


def small(name=PLAIN, seed=0, **sizes) -> TokenBackbone:
    torch.manual_seed(seed)
    backbone = TokenBackbone(name, **{"image_size": SIDES[name], **SMALL, **sizes}).eval()
    for parameter in backbone.parameters():  # norms and biases too: fresh ones hide an exchange
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def normalised(backbone, images):
    return (images - backbone.mean) / backbone.std


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", SIDES)
@torch.no_grad()
def test_tokens_are_those_of_timms_public_interface(name):
    backbone, images = small(name), torch.rand(3, 3, SIDES[name], SIDES[name])
    expected = backbone.vit.forward_intermediates(
        normalised(backbone, images), output_fmt="NLC", intermediates_only=True
    )
    got = [backbone.patch_tokens(sequence) for sequence in backbone.blocks(images)]
    assert len(got) == len(expected) == backbone.depth == 2
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert got[0].shape == (3, backbone.grid**2, backbone.width) == (3, 16, 64)
    assert not torch.allclose(got[0], got[1])


@torch.no_grad()
def test_a_clip_embedding_is_timms_output():
    backbone, images = small(CLIP), torch.rand(3, 3, 64, 64)
    assert torch.allclose(backbone.get_image_embedding(images), backbone.vit(normalised(backbone, images)), atol=1e-6)
    assert backbone.get_image_embedding(images).shape == (3, backbone.embedding_size) == (3, 512)
    assert backbone.is_clip


@pytest.mark.parametrize("name", [PLAIN, DINO])
@torch.no_grad()
def test_another_vits_embedding_is_its_normalised_class_token(name):
    backbone, images = small(name), torch.rand(3, 3, SIDES[name], SIDES[name])
    token = backbone.vit(normalised(backbone, images))  # without norm and head: the class token as it is
    assert torch.allclose(backbone.get_image_embedding(images), F.layer_norm(token, (64,), eps=1e-6), atol=1e-6)
    assert backbone.embedding_size == backbone.width == 64
    assert not backbone.is_clip


@torch.no_grad()
def test_token_embeddings_are_projected_like_the_class_token():
    backbone = small(CLIP)
    *_, sequence = backbone.blocks(torch.rand(2, 3, 64, 64))
    grid = backbone.token_embeddings(sequence)
    assert grid.shape == (2, 4, 4, 512)
    # Row 1, column 2 is the sixth of the patches, behind the class token.
    assert torch.allclose(grid[:, 1, 2], backbone.embed(sequence[:, 1 + 6 :]), atol=1e-6)


@torch.no_grad()
def test_a_patch_token_follows_its_patch():
    """Row by row: with the attention silent, only the token of a changed patch changes."""
    backbone = small(depth=1)
    backbone.vit.blocks[0].attn.proj.weight.zero_()
    images = torch.rand(1, 3, 64, 64)
    changed = images.clone()
    changed[..., 16:32, 32:48] += 0.1
    (before,), (after,) = backbone.blocks(images), backbone.blocks(changed)
    differs = (backbone.patch_tokens(before) != backbone.patch_tokens(after)).any(-1)[0]
    assert differs.nonzero().tolist() == [[1 * 4 + 2]]


@pytest.mark.parametrize(("name", "mean"), [(PLAIN, IMAGENET_MEAN), (CLIP, OPENAI_CLIP_MEAN), (DINO, IMAGENET_MEAN)])
def test_input_is_normalised_inside(name, mean):
    """An image of the pretraining's mean colour reaches the network as zeros."""
    backbone, seen = small(name), {}
    backbone.vit.patch_embed.register_forward_hook(lambda _m, inputs, _o: seen.update(x=inputs[0]))
    next(backbone.blocks(torch.tensor(mean).view(3, 1, 1).expand(1, 3, SIDES[name], SIDES[name])))
    assert torch.allclose(seen["x"], torch.zeros(1, 3, SIDES[name], SIDES[name]), atol=1e-6)
    assert not {"mean", "std"} & backbone.state_dict().keys()


def test_clips_deviation_is_used():
    assert torch.equal(small(CLIP).std[:, 0, 0], torch.tensor(OPENAI_CLIP_STD))


def test_quickgelu_is_used():
    act = small(CLIP).vit.blocks[0].mlp.act
    x = torch.linspace(-3, 3, 7)
    assert torch.allclose(act(x), x * torch.sigmoid(1.702 * x))
    assert not torch.allclose(act(x), F.gelu(x))


@pytest.mark.parametrize("name", [PLAIN, CLIP, DINO])
def test_every_parameter_is_used(name):
    backbone = small(name)
    backbone.get_image_embedding(torch.rand(2, 3, SIDES[name], SIDES[name])).square().mean().backward()
    # A class token of the deviation 0.1 in all numbers: no gradient is zero by chance.
    assert not [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_models_own_sizes_are_the_default():
    vit = build_vit("vit_tiny_patch16_224", depth=1)
    assert (vit.patch_embed.img_size, vit.embed_dim, vit.blocks[0].attn.num_heads) == ((224, 224), 192, 3)
    assert all(timm.is_model(name) for name in VITS)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("vit_no_such_model", {}, f"no model 'vit_no_such_model'.*{PLAIN}"),
        ("hf-hub:timm/vit_tiny_patch16_224", {}, "no model"),
        (f"{PLAIN}.no_such_tag", {}, "no_such_tag"),
        ("resnet18", {}, f"'resnet18' is no plain vision transformer.*{PLAIN}"),
        ("resnet18", {"depth": 2}, f"can be built of 'resnet18'.*{PLAIN}"),
        ("vit_relpos_small_patch16_224", {"depth": 1}, "no plain vision transformer"),
        ("vit_base_patch16_siglip_224", SMALL, "no plain vision transformer with a class token"),
        (PLAIN, {"depth": 1, "width": 64, "heads": 5}, "multiple of the heads"),
        (DINO, {"image_size": 64, **SMALL}, "64 px can't be cut.*14 px. Take 56 px"),
        ("vit_base_patch16_clip_224", SMALL, "no projection to the space of texts"),
    ],
)
def test_what_is_no_plain_vit_is_named(name, sizes, message):
    with pytest.raises(UserError, match=message):
        build_vit(name, **sizes)


def test_beits_attention_is_timms_with_the_fused_bias():
    """BEiT's attention by hand: a bias of query and value, none of key."""
    torch.manual_seed(0)
    attention = small().vit.blocks[0].attn
    x, weight = torch.rand(2, 5, 64), attention.qkv.weight
    q_bias, v_bias = torch.rand(64), torch.rand(64)
    attention.qkv.bias.data = fuse_qkv_bias({"attn.q_bias": q_bias, "attn.v_bias": v_bias})["attn.qkv.bias"]
    query, key, value = (
        (x @ part.T + bias).view(2, 5, 4, 16).transpose(1, 2)
        for part, bias in zip(weight.chunk(3), (q_bias, 0, v_bias), strict=True)
    )
    weights = torch.softmax(query @ key.transpose(-1, -2) / 16**0.5, dim=-1)
    by_hand = (weights @ value).transpose(1, 2).reshape(2, 5, 64) @ attention.proj.weight.T + attention.proj.bias
    assert torch.allclose(attention(x), by_hand, atol=1e-5)


def test_half_a_bias_is_an_error():
    with pytest.raises(UserError, match=r"missing \['blocks\.0\.attn\.q_bias'\]"):
        fuse_qkv_bias({"blocks.0.attn.v_bias": torch.ones(3)})


def test_paths_are_dropped_in_training_alone():
    """The first block is never left out; of the last one each branch by itself, in a share of the images."""
    backbone, images = small(), torch.rand(1, 3, 64, 64).expand(400, -1, -1, -1)
    kept = backbone.state_dict().keys()
    with torch.no_grad():
        first, last = backbone.blocks(images)
        backbone.set_drop_path(0.3)
        assert all(torch.equal(one, other) for one, other in zip(backbone.blocks(images), (first, last), strict=True))
        backbone.train()
        trained_first, trained_last = backbone.blocks(images)
    assert torch.equal(trained_first, first)
    skipped = torch.isclose(trained_last, first).all(2).all(1).float().mean()
    assert 0.04 < skipped < 0.15  # both branches: 0.3²
    assert backbone.state_dict().keys() == kept
    backbone.set_drop_path(0.0)
    with torch.no_grad():
        assert torch.equal([*backbone.blocks(images)][-1], last)


def mfm_file(backbone, path, prefix="encoder.") -> None:
    """A pretraining checkpoint of MFM's kind with the backbone's weights: BEiT's biases, a norm, a decoder."""
    weights = {}
    for key, value in backbone.vit.state_dict().items():
        if key.endswith("qkv.bias"):
            stem = prefix + key.removesuffix("qkv.bias")
            weights[f"{stem}q_bias"], _, weights[f"{stem}v_bias"] = (part.clone() for part in value.chunk(3))
        else:
            weights[prefix + key] = value
    weights |= {f"{prefix}mask_token": torch.ones(1, 1, 64), f"{prefix}norm.weight": torch.ones(64)}
    weights |= {"decoder.0.weight": torch.ones(8, 64, 1, 1)} if prefix else {}
    torch.save({"model": weights, "epoch": 300}, path)


@pytest.mark.parametrize("prefix", ["encoder.", "", "vit.", "mfvit.vit.", "module.mfvit.vit."])
def test_mfms_file_is_loaded(tmp_path, prefix):
    """MFM's own; and SPAI's, whose ViT has a class block that nothing uses and may have the whole network beside it."""
    published, backbone = small(seed=1), small()
    for block in published.vit.blocks:
        block.attn.qkv.bias.data[64:128] = 0
    mfm_file(published, tmp_path / "mfm.pth", prefix)
    checkpoint = torch.load(tmp_path / "mfm.pth", weights_only=True)
    if prefix != "encoder.":
        names = ["cls_pos_embed", "actual_cls_token", "cls_blocks.0.attn.q_bias", "cls_blocks.0.attn.v_bias"]
        names += ["cls_blocks.0.mlp.fc1.weight", "intermediate_fc_norm.0.weight", "head.weight", "fc_norm.bias"]
        checkpoint["model"] |= {prefix + name: torch.ones(64) for name in names}
    if "mfvit" in prefix:
        checkpoint["model"] |= {
            "mfvit.features_processor.alpha": torch.ones(3),
            "mfvit.frequencies_mask": torch.ones(2),
        }
    torch.save(checkpoint, tmp_path / "mfm.pth")
    assert load_vit_weights(backbone, PLAIN, str(tmp_path / "mfm.pth")) == str(tmp_path / "mfm.pth")
    own, expected = backbone.vit.state_dict(), published.vit.state_dict()
    assert all(torch.equal(own[key], expected[key]) for key in own)


@pytest.mark.parametrize("name", [PLAIN, CLIP, DINO])
def test_timms_own_file_is_loaded_without_its_classifier(tmp_path, name):
    torch.manual_seed(1)
    weights = timm.create_model(name, img_size=SIDES[name], depth=2, embed_dim=64, num_heads=4).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    backbone = small(name)
    load_vit_weights(backbone, name, str(tmp_path / "w.pth"))
    own = backbone.vit.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in own)
    assert ("head.weight" in own) == (name == CLIP)


def test_open_clips_file_is_loaded(tmp_path):
    """The image tower of open_clip's file gives open_clip's own embedding."""
    open_clip = pytest.importorskip("open_clip", reason="the optional extra `semantic` is not installed")
    torch.manual_seed(1)
    clip = open_clip.CLIP(
        embed_dim=512,
        vision_cfg={"image_size": 64, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
        text_cfg={"context_length": 8, "width": 16, "heads": 2, "layers": 1},
        quick_gelu=True,
    ).eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    backbone = small(CLIP)
    load_vit_weights(backbone, CLIP, str(tmp_path / "clip.pt"))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(
            backbone.get_image_embedding(images), clip.encode_image(normalised(backbone, images)), atol=1e-5
        )


def test_openais_archive_is_loaded(tmp_path):
    """TorchScript in half precision, with the text tower and sizes beside it, under the names of OpenAI's code."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"class_embedding": (64,), "positional_embedding": (17, 64), "proj": (64, 512)}
    shapes |= {"conv1.weight": (64, 3, 16, 16)} | {f"ln_{at}.{kind}": (64,) for at in ("pre", "post") for kind in KINDS}
    for block in (f"transformer.resblocks.{number}" for number in range(2)):
        shapes |= {f"{block}.attn.in_proj_weight": (192, 64), f"{block}.attn.in_proj_bias": (192,)}
        shapes |= {f"{block}.attn.out_proj.weight": (64, 64), f"{block}.attn.out_proj.bias": (64,)}
        shapes |= {f"{block}.ln_{number}.{kind}": (64,) for number in (1, 2) for kind in KINDS}
        shapes |= {f"{block}.mlp.c_fc.weight": (256, 64), f"{block}.mlp.c_fc.bias": (256,)}
        shapes |= {f"{block}.mlp.c_proj.weight": (64, 256), f"{block}.mlp.c_proj.bias": (64,)}
    weights = {f"visual.{name}": torch.randn(shape, generator=rng).half() for name, shape in shapes.items()}
    beside = {
        "token_embedding.weight": torch.ones(8, 16),
        "logit_scale": torch.ones(()),
        "text_projection": torch.ones(2),
    }
    beside |= {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77), "vocab_size": torch.tensor(8)}
    network = torch.nn.Module()
    for name, value in (weights | beside).items():
        *parents, last = name.split(".")
        place = network
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, torch.nn.Module())
            place = getattr(place, parent)
        place.register_buffer(last, value)
    with warnings.catch_warnings(action="ignore"):  # torch advises against TorchScript
        torch.jit.save(torch.jit.script(network), tmp_path / "ViT-B-16.pt")
    backbone, plain = small(CLIP), small(CLIP)
    load_vit_weights(backbone, CLIP, str(tmp_path / "ViT-B-16.pt"), "semantic weights")
    torch.save(weights, tmp_path / "plain.pt")
    load_vit_weights(plain, CLIP, str(tmp_path / "plain.pt"))
    own, other = backbone.vit.state_dict(), plain.vit.state_dict()
    assert all(torch.equal(own[key], other[key]) for key in own)
    assert torch.equal(own["head.weight"], weights["visual.proj"].float().T)
    assert torch.equal(own["blocks.1.mlp.fc2.bias"], weights["visual.transformer.resblocks.1.mlp.c_proj.bias"].float())


def test_positions_of_another_image_size_are_resampled(tmp_path):
    """A horizontal ramp over 4×4 positions stays one over 8×8; the class token's entry stays as it is."""
    published, backbone = small(), small(image_size=128)
    ramp = torch.arange(4.0).repeat(4)[:, None].expand(16, 64)
    published.vit.pos_embed.data = torch.cat([torch.full((1, 64), 9.0), ramp])[None]
    torch.save(published.vit.state_dict(), tmp_path / "w.pth")
    load_vit_weights(backbone, PLAIN, str(tmp_path / "w.pth"))
    positions = backbone.vit.pos_embed.detach()[0, :, 0]
    assert positions[0] == 9
    grid = positions[1:].view(8, 8)
    assert torch.allclose(grid, grid[:1].expand(8, 8), atol=1e-5)
    assert torch.allclose(grid[0, 2:6], torch.tensor([0.75, 1.25, 1.75, 2.25]), atol=0.05)


@pytest.mark.parametrize(
    ("published", "message"),
    [
        (lambda: small(depth=1), "12 missing"),
        (lambda: small(depth=3), "12 surplus"),
        (lambda: small(width=32), "do not fit"),
        (lambda: small(DINO), "its patches have 16 px"),
        (lambda: small(CLIP), "surplus"),
    ],
)
def test_another_networks_file_is_refused(tmp_path, published, message):
    torch.save(published().vit.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_vit_weights(small(), PLAIN, str(tmp_path / "w.pth"))


def test_positions_without_a_grid_are_refused(tmp_path):
    weights = small().vit.state_dict()
    weights["pos_embed"] = torch.ones(1, 1 + 7, 64)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UserError, match="do not fit"):
        load_vit_weights(small(), PLAIN, str(tmp_path / "w.pth"))


def test_the_hubs_weights_are_loaded(monkeypatch):
    """The hub is played by timm's random weights."""
    create = timm.create_model
    asked = []

    def from_hub(name, pretrained=False, **sizes):
        asked.append(pretrained)
        torch.manual_seed(5)
        return create(name, pretrained=False, **sizes)

    name = "vit_tiny_patch16_224"
    backbone = TokenBackbone(name, image_size=64)
    monkeypatch.setattr("common.networks.pretrained._hub_answers", lambda: True)
    monkeypatch.setattr(timm, "create_model", from_hub)
    assert load_vit_weights(backbone, name, "hub") == "hub"
    assert asked == [False, True]
    expected, own = from_hub(name, img_size=64).state_dict(), backbone.vit.state_dict()
    assert all(torch.equal(own[key], expected[key]) for key in own)


def test_none_keeps_the_random_weights(capsys):
    backbone = small()
    before = backbone.vit.state_dict()["cls_token"].clone()
    assert load_vit_weights(backbone, PLAIN, "none") == "none"
    assert torch.equal(backbone.vit.state_dict()["cls_token"], before)
    assert capsys.readouterr().out == ""


def test_without_a_hub_auto_says_so_in_one_line(no_hub, capsys):
    name = "vit_tiny_patch16_224"
    assert load_vit_weights(TokenBackbone(name), name, "auto", role="semantic weights") == "none"
    assert capsys.readouterr().out.splitlines() == [
        f"semantic weights: none for {name}, its random ones stay "
        "(the hub can't be reached, and its cache on this machine has no such weights)"
    ]
    with pytest.raises(UserError, match=rf"the backbone weights of {name} can't be fetched.*Give a local file"):
        load_vit_weights(TokenBackbone(name), name, "hub")


@pytest.mark.parametrize("sizes", [{"depth": 2}, {"width": 96}, {"heads": 6}])
def test_a_reduced_network_has_no_weights_on_the_hub(no_hub, capsys, sizes):
    name = "vit_tiny_patch16_224"
    backbone = TokenBackbone(name, image_size=64, **sizes)
    with pytest.raises(UserError, match="the hub's has depth 12, width 192 and 3 heads"):
        load_vit_weights(backbone, name, "hub")
    assert load_vit_weights(backbone, name, "auto") == "none"
    assert len(capsys.readouterr().out.splitlines()) == 1

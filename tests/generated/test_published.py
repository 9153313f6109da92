import math
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.network import SPAI_KEYS, Spai
from common.generated.published import convert, convert_published, load_detector_checkpoint, read_published
from common.training.checkpoint import load_checkpoint, save_checkpoint

FEATURES = "mfvit.features_processor"
ORIGINAL = f"{FEATURES}.original_features_processor"
PUBLISHED = {"depth": 12, "width": 768, "side": 224, "projection": 1024, "attention": 1536, "heads": 12}
MINIATURE = {"depth": 2, "width": 32, "side": 32, "projection": 16, "attention": 24, "heads": 2}


def norm(name, size) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def linear(name, out, size) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, size), f"{name}.bias": (out,)}


def published_shapes(depth, width, side, projection, attention, heads) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the published forward pass uses, as its code loads them."""
    vit, features = "mfvit.vit", 6 * depth + projection
    shapes = {
        f"{vit}.cls_token": (1, 1, width),
        f"{vit}.pos_embed": (1, 1 + (side // 16) ** 2, width),
        f"{vit}.patch_embed.proj.weight": (width, 3, 16, 16),
        f"{vit}.patch_embed.proj.bias": (width,),
    }
    for block in (f"{vit}.blocks.{number}" for number in range(depth)):
        shapes |= {f"{block}.attn.qkv.weight": (3 * width, width)}
        shapes |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
    for projector in (f"{FEATURES}.patch_projector.projectors.{number}" for number in range(depth)):
        shapes |= norm(f"{projector}.norm1", width) | norm(f"{projector}.norm2", projection)
        shapes |= linear(f"{projector}.projector.1", projection, width)
        shapes |= linear(f"{projector}.projector.4", projection, projection)
    shapes |= {f"{ORIGINAL}.alpha": (1, depth, projection)}
    for part, inputs in (("proj1", 2 * projection), ("proj2", projection)):
        shapes |= linear(f"{ORIGINAL}.{part}.projector.1", projection, inputs)
        shapes |= linear(f"{ORIGINAL}.{part}.projector.4", projection, projection)
        shapes |= norm(f"{ORIGINAL}.{part}.norm2", projection)
    shapes |= {
        "patch_aggregator": (heads, 1, attention // heads),
        "to_kv.weight": (2 * attention, features),
        "to_out.0.weight": (features, attention),
    }
    shapes |= norm("norm", features)
    shapes |= linear("cls_head.head.0", 3 * features, features)
    shapes |= linear("cls_head.head.3", 3 * features, 3 * features)
    return shapes | linear("cls_head.head.6", 1, 3 * features)


def unused_shapes(depth, width, side, **_) -> dict[str, tuple[int, ...]]:
    """Names that the file holds, or may hold, and that the published forward pass does not touch."""
    names = ["fc_norm.weight", "norm.bias", "cls_pos_embed", "actual_cls_token", "cls_blocks.0.attn.q_bias"]
    names += ["cls_blocks.0.mlp.fc1.weight", "head.weight", "head.bias", "mask_token"]
    names += [f"intermediate_fc_norm.{number}.weight" for number in range(depth)]
    return {f"mfvit.vit.{name}": (width,) for name in names}


def mask(side) -> torch.Tensor:
    """The published mask, by its coordinates."""
    half = side // 2
    a = [*range(half - 1, -1, -1), *range(half)]
    return torch.tensor([[int(math.sqrt(i * i + j * j) < 16) for j in a] for i in a])


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    shapes = published_shapes(**MINIATURE) | unused_shapes(**MINIATURE)
    return {name: torch.rand(shape) for name, shape in shapes.items()} | {"mfvit.frequencies_mask": mask(64)}


def network(depth, width, side, projection, attention, heads, **fields) -> Spai:
    return Spai(
        backbone_depth=depth,
        backbone_width=width,
        backbone_heads=width // 16 if width < 768 else 12,
        patch_size=side,
        projection_dim=projection,
        attention_dim=attention,
        attention_heads=heads,
        **fields,
    )


@pytest.fixture(scope="module")
def expected():
    return network(**MINIATURE).state_dict()


def test_the_miniature_fits_strictly_and_runs(checkpoint):
    spai = network(**MINIATURE).eval()
    views = torch.rand(2, 3, 3, 32, 32)
    before = spai(views).logits
    spai.load_state_dict(convert(checkpoint, spai.state_dict()))
    after = spai(views).logits
    assert torch.isfinite(after).all()
    assert not torch.allclose(before, after)


def test_the_published_network_has_the_published_names_and_shapes():
    with torch.device("meta"):
        spai = Spai()
        checkpoint = {name: torch.empty(shape) for name, shape in published_shapes(**PUBLISHED).items()}
    converted = convert(checkpoint, spai.state_dict())
    assert {key: value.shape for key, value in converted.items()} == {
        key: value.shape for key, value in spai.state_dict().items()
    }
    assert checkpoint["mfvit.vit.blocks.11.attn.qkv.weight"].shape == (2304, 768)
    assert checkpoint["to_kv.weight"].shape == (3072, 1096)
    assert checkpoint["cls_head.head.3.weight"].shape == (3288, 3288)


def test_every_weight_is_used_once(checkpoint, expected):
    converted = convert(checkpoint, expected)
    number_of = {value.data_ptr(): name for name, value in checkpoint.items()}
    used = [number_of.pop(value.data_ptr()) for value in converted.values() if value.data_ptr() in number_of]
    fused = [key for key in converted if key.endswith("qkv.bias")]
    assert len(used) + len(fused) == len(converted) == len(expected)
    left = {name for name in number_of.values() if not name.endswith(("_bias", "frequencies_mask"))}
    left |= {name for name in number_of.values() if name.startswith("mfvit.vit.cls_blocks")}
    assert left == set(unused_shapes(**MINIATURE))
    for key in fused:
        stem = f"mfvit.{key.removeprefix('backbone.').removesuffix('qkv.bias')}"
        assert torch.equal(converted[key][:32], checkpoint[f"{stem}q_bias"])
        assert not converted[key][32:64].any()
        assert torch.equal(converted[key][64:], checkpoint[f"{stem}v_bias"])


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("backbone.vit.blocks.1.mlp.fc2.bias", "mfvit.vit.blocks.1.mlp.fc2.bias"),
        ("projectors.1.norm2.weight", f"{FEATURES}.patch_projector.projectors.1.norm2.weight"),
        ("projectors.0.layers.4.weight", f"{FEATURES}.patch_projector.projectors.0.projector.4.weight"),
        ("context.first.layers.4.weight", f"{ORIGINAL}.proj1.projector.4.weight"),
        ("context.second.layers.4.weight", f"{ORIGINAL}.proj2.projector.4.weight"),
        ("context.second.norm2.bias", f"{ORIGINAL}.proj2.norm2.bias"),
        ("context.alpha", f"{ORIGINAL}.alpha"),
        ("patch_attention.query", "patch_aggregator"),
        ("patch_attention.to_out.weight", "to_out.0.weight"),
        ("norm.weight", "norm.weight"),
        ("head.3.bias", "cls_head.head.3.bias"),
    ],
)
def test_weights_of_one_shape_are_not_exchanged(checkpoint, expected, ours, published):
    assert convert(checkpoint, expected)[ours] is checkpoint[published]


def test_the_prefix_of_several_processes_is_accepted(checkpoint, expected):
    prefixed = {f"module.{name}": value for name, value in checkpoint.items()}
    plain, other = convert(checkpoint, expected), convert(prefixed, expected)
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_what_is_unused_may_be_absent(checkpoint, expected):
    used = {name: checkpoint[name] for name in published_shapes(**MINIATURE)}
    assert convert(used, expected).keys() == expected.keys()


def test_each_missing_name_is_named(checkpoint, expected):
    for name in published_shapes(**MINIATURE):
        rest = {key: value for key, value in checkpoint.items() if key != name}
        with pytest.raises(UserError, match=rf"1 missing \['{name}'\]"):
            convert(rest, expected)


def test_many_missing_and_surplus_names_are_counted(checkpoint, expected):
    for number in range(4):
        del checkpoint[f"cls_head.head.{(0, 3, 6, 6)[number]}.{'weight' if number < 3 else 'bias'}"]
        checkpoint[f"other.{number}"] = torch.ones(1)
    names = r"4 missing \['cls_head.head.0.weight', .*\], 4 surplus \['other.0', 'other.1', 'other.2'\]"
    with pytest.raises(UserError, match=names):
        convert(checkpoint, expected)


def test_wrong_shapes_are_named(checkpoint, expected):
    checkpoint["to_kv.weight"] = torch.ones(3, 4)
    with pytest.raises(UserError, match=r"1 have another shape: to_kv.weight \(3, 4\) instead of \(48, 28\)"):
        convert(checkpoint, expected)


def test_a_fused_network_is_not_filled_by_plain_weights(checkpoint, expected):
    with pytest.raises(UserError, match=r"1 missing \['fusion.joint.layer_embedding'\]"):
        convert(checkpoint, dict(expected) | {"fusion.joint.layer_embedding": torch.ones(2, 4)})


def test_the_published_mask_passes_and_another_does_not(checkpoint, expected):
    assert mask(224).sum() == checkpoint["mfvit.frequencies_mask"].sum() > 700
    convert(checkpoint | {"mfvit.frequencies_mask": mask(224)}, expected)
    wrong = mask(224)
    wrong[0, 0] = 1
    with pytest.raises(UserError, match="not the circle of radius 16"):
        convert(checkpoint | {"mfvit.frequencies_mask": wrong}, expected)


class CfgNode(dict):
    """As of yacs, whose configuration the published file holds: nested, with a state that has a set in it."""

    def __init__(self, fields):
        super().__init__({name: CfgNode(value) if isinstance(value, dict) else value for name, value in fields.items()})
        self.__dict__ |= {"__immutable__": True, "__deprecated_keys__": {"OLD"}, "__renamed_keys__": {}}


def write_published(weights, path):
    """Writes weights as the published training saved them, with a class that can't be imported when they are read."""
    yacs = ModuleType("yacs.config")
    yacs.CfgNode = CfgNode
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    config = CfgNode({"MODEL": {"VIT": {"DEPTH": 12}}, "DATA": {"MEAN": (0.5, 0.5)}, "TAG": None})
    saved = {"model": weights, "optimizer": optimizer.state_dict(), "lr_scheduler": {}, "max_accuracy": 0.9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CfgNode, "__module__", "yacs.config")
        patch.setitem(sys.modules, "yacs", ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", yacs)
        torch.save(saved | {"scaler": {}, "epoch": 34, "config": config}, path)
    return path


def test_the_file_is_read_beside_its_training_state(checkpoint, tmp_path):
    weights = read_published(write_published(checkpoint, tmp_path / "spai.pth"))
    assert weights.keys() == checkpoint.keys()
    assert all(torch.equal(weights[key], checkpoint[key]) for key in weights)


@pytest.mark.usefixtures("in_small")
def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path):
    assert load_detector_checkpoint(write_published(checkpoint, tmp_path / "spai.pth"))["config"]["patch_size"] == 32
    checkpoint["to_kv.weight"][0, 0] = torch.nan
    with pytest.raises(UserError, match=r"nan\.pth holds weights that are not finite \(patch_attention\.to_kv"):
        load_detector_checkpoint(write_published(checkpoint, tmp_path / "nan.pth"))


@pytest.fixture
def in_small(monkeypatch):
    """The published sizes, but for a miniature's."""
    small = {"backbone_depth": 2, "backbone_width": 32, "backbone_heads": 2, "projection_dim": 16, "patch_size": 32}
    small |= {"attention_dim": 24, "attention_heads": 2, "patch_stride": 32}
    full = SpaiConfig(name="x").published()
    monkeypatch.setattr(SpaiConfig, "published", lambda _: replace(full, **small))


@pytest.mark.usefixtures("in_small")
def test_a_conversion_replaces_neither_its_source_nor_a_trained_network(checkpoint, tmp_path):
    path, output = write_published(checkpoint, tmp_path / "spai.pth"), tmp_path / "spai_best.pth"
    with pytest.raises(UserError, match="is the published file itself"):
        convert_published(path, path)
    assert read_published(path).keys() == checkpoint.keys()
    for _ in range(2):  # one that was converted is replaced
        convert_published(path, output)
    save_checkpoint(load_checkpoint(output, SPAI_KEYS) | {"metrics": {"auc": 0.9}}, output)
    with pytest.raises(UserError, match=r"spai_best\.pth holds a network that was trained"):
        convert_published(path, output)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"spai\.pth: no such file\. Download"):
        read_published(tmp_path / "spai.pth")

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.images import LabelledImage
from common.generated.network import SPAI_KEYS, Spai, load_spai
from common.generated.testing import convert_published, evaluate_spai
from common.generated.training import (
    SpaiStep,
    _depth,
    architecture,
    balanced_weights,
    embed_prompts,
    fit_spai,
    load_images,
    start_spai,
)
from common.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Thirty smooth pictures, 40×56, and thirty with a checkerboard of half the contrast in them; two generators."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    board = 40 * ((np.arange(40)[:, None] + np.arange(56)) % 2)[..., None]
    for number in range(30):
        smooth = cv2.resize(rng.integers(40, 160, (5, 7, 3), dtype=np.uint8), (56, 40), interpolation=cv2.INTER_CUBIC)
        kind = f"fake/{('gan', 'diffusion')[number % 2]}"
        for name, image in (("real", smooth), (kind, cv2.rotate(smooth, cv2.ROTATE_180) + board)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f"{name[-3:]}{number}.png"), image)
    return folder


@pytest.fixture
def config(pictures, tmp_path) -> SpaiConfig:
    small = {"patch_size": 32, "patch_stride": 32, "mask_radius": 3.0, "semantic_scales": (2,), "fusion_width": 16}
    small |= {"backbone_width": 32, "projection_dim": 16, "attention_dim": 16, "views": 2, "batch_size": 16}
    quick = SpaiConfig(name="spai_test").quick()
    folders = {"real": pictures / "real", "fake": pictures / "fake", "models_dir": tmp_path, "tracker": "none"}
    return replace(quick, **small, **folders, epochs=2, stage_one_epochs=1, warmup_epochs=0.5)


def test_trains_tests_and_rebuilds(config):
    """The whole way, and what it leaves: stages, checkpoint, calibration, a table by generator and degradation."""
    images = load_images(config)
    model, config = start_spai(config)
    metrics = fit_spai(config, model, images)
    checkpoint = load_checkpoint(config.models_dir / "spai_test_best.pth", SPAI_KEYS)
    assert checkpoint["best_auc"] == metrics["auc"]
    assert checkpoint["config"]["early_fusion_layers"] == [1, 2]
    assert len(checkpoint["validation"]["probs"]) == len(checkpoint["validation"]["generated"]) > 0
    again = load_spai(checkpoint, config.models_dir / "spai_test_best.pth")
    assert not again.training
    image, whole = (torch.randint(256, shape, dtype=torch.uint8) for shape in ((3, 50, 70), (1, 3, 32, 32)))
    model.eval().load_state_dict(checkpoint["model_state_dict"])
    assert again.score_images([image], whole)[0].logit == model.score_images([image], whole)[0].logit

    table = evaluate_spai(replace(config, degrade="jpeg,blur"), images)
    assert table["degradation"].tolist() == [name for name in ("none", "jpeg", "blur") for _ in range(3)]
    assert table["generator"].tolist() == 3 * ["diffusion", "gan", "average"]
    average = table[table["generator"] == "average"]
    assert average["auc"].iloc[0] == pytest.approx(table["auc"].iloc[:2].mean())
    assert table["undecided"].iloc[0] >= 0 and np.isnan(table["undecided"].iloc[2])


def test_plain_spai_learns_a_checkerboard_and_keeps_the_rate_that_is_asked_for(config):
    plain = {"fusion": "none", "epochs": 8, "lr": 3e-3, "views": 4, "stage_one_epochs": 0, "batch_size": 8}
    config = replace(config, **plain, semantic_weight=0.0, frequency_weight=0.0)
    model, config = start_spai(config)
    images = load_images(config)
    assert fit_spai(config, model, images)["auc"] > 0.9
    # Of 4 or 5 real validation images a rate of 1 % can't be known, one of 50 % can.
    assert evaluate_spai(replace(config, target_fpr=0.01), images)["undecided"].iloc[0] == 1
    assert evaluate_spai(replace(config, target_fpr=0.5), images)["undecided"].iloc[0] < 1


def test_stages_change_what_learns(config):
    """In the first epoch nothing but fusion and head moves; the second moves the rest too, and never the backbone."""
    config = replace(config, train_backbone=False)
    images = load_images(config)
    model, config = start_spai(config)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    states = []
    set_stage = model.set_stage

    def watched(stage, train_backbone=False):
        states.append((stage, {name: value.clone() for name, value in model.state_dict().items()}))
        set_stage(stage, train_backbone)

    model.set_stage = watched
    fit_spai(config, model, images)
    (stage, before), (next_stage, after_one) = states
    assert (stage, next_stage) == ("semantic", "joint")
    moved = {name.split(".")[0] for name in first if not torch.equal(before[name], after_one[name])}
    assert moved == {"fusion", "head"}
    finished = {name.split(".")[0] for name, v in model.state_dict().items() if not torch.equal(v, after_one[name])}
    assert finished == {"fusion", "head", "projectors", "context", "patch_attention", "norm"}


def test_resumes_to_the_same_weights(config):
    images = load_images(config)
    whole = replace(config, name="whole")
    fit_spai(whole, start_spai(whole)[0], images)

    def stop(stage, train_backbone=False):
        if stage == "joint":
            raise KeyboardInterrupt

    broken = replace(config, name="broken")
    load_images(broken)  # seeds
    model, _ = start_spai(broken)
    set_stage = model.set_stage
    model.set_stage = lambda stage, train_backbone=False: (set_stage(stage, train_backbone), stop(stage))
    with pytest.raises(KeyboardInterrupt, match="go on with --resume"):
        fit_spai(broken, model, images)
    resumed = replace(broken, resume=True)
    load_images(resumed)
    fit_spai(resumed, start_spai(resumed)[0], images)
    one, other = (
        torch.load(config.models_dir / f"{name}_last.pth", weights_only=True)["model_state_dict"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fusion_starts_from_a_plain_checkpoint(config):
    plain = replace(config, name="plain", fusion="none", epochs=0, semantic_weight=0.0, frequency_weight=0.0)
    images = load_images(plain)
    fit_spai(plain, start_spai(plain)[0], images)
    init = config.models_dir / "plain_best.pth"
    model, fused = start_spai(replace(config, init=init, projection_dim=24))
    assert fused.projection_dim == 16
    weights = torch.load(init, weights_only=True)["model_state_dict"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    fit_spai(replace(fused, epochs=0), model, images)
    with pytest.raises(UserError, match="is a fusion already"):
        start_spai(replace(config, init=config.models_dir / "spai_test_best.pth"))


def test_twins_share_one_pass_and_the_loss_sees_both(config):
    model = Spai(**architecture(config))
    rng = torch.Generator().manual_seed(0)
    batch = {
        "views": torch.randint(256, (2, 2, 3, 32, 32), generator=rng, dtype=torch.uint8),
        "whole": torch.randint(256, (2, 3, 32, 32), generator=rng, dtype=torch.uint8),
        "label": torch.tensor([0.0, 1.0]),
        "index": torch.arange(2),
    }
    twins = batch | {
        "degraded_views": torch.randint(256, (2, 2, 3, 32, 32), generator=rng, dtype=torch.uint8),
        "degraded_whole": torch.randint(256, (2, 3, 32, 32), generator=rng, dtype=torch.uint8),
    }
    step = SpaiStep(config, None)
    model.eval()
    clean, degraded = model(batch["views"], batch["whole"]), model(twins["degraded_views"], twins["degraded_whole"])
    torch.testing.assert_close(step(model, twins), step.loss(clean, batch["label"], degraded), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(step(model, batch), step.loss(clean, batch["label"]))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_an_option(config, kind):
    calls = []

    def model(views, whole):
        calls.append(views)
        return Spai(**architecture(config)).eval()(views, whole)

    views = torch.arange(2, dtype=torch.uint8).mul(200).view(2, 1, 1, 1, 1).expand(2, 1, 3, 32, 32).contiguous()
    batch = {"views": views, "whole": views[:, 0], "label": torch.tensor([0.0, 1.0]), "index": torch.arange(2)}
    batch["prompt_index"] = torch.full((2,), -1)
    step = SpaiStep(replace(config, semantic_weight=0.0, frequency_weight=0.0, **{kind: 1.0}), None)
    torch.manual_seed(3)
    for _ in range(6):  # a permutation of two may be none
        assert step(model, batch).isfinite()
    assert any(not torch.equal(seen, views) for seen in calls)


def test_text_loss_needs_prompts(config):
    config = replace(config, text_weight=0.5)
    with pytest.raises(UserError, match="column `prompt`"):
        fit_spai(config, Spai(**architecture(config), text_head=True), load_images(config))


def test_prompts_become_semantic_tokens_and_a_loss(config, pictures, tmp_path, monkeypatch):
    """Prompts of a table, and a list of them; the text tower is stood in for by its embeddings' place in the cache."""
    import common.generated.training as spai

    def embed(prompts, model, pretrained, cache):
        rng = torch.Generator().manual_seed(0)
        return torch.nn.functional.normalize(torch.randn(len(prompts), 512, generator=rng), dim=1)

    monkeypatch.setattr(spai, "cached_text_embeddings", embed)
    (tmp_path / "prompts.txt").write_text("a photograph\n\na drawing\n")
    images = load_images(config)
    rows = [
        f"{image.path},{int(image.generated)},{image.split},{'waves' if index % 2 else 'hills'}"
        for index, image in enumerate(images)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["image,class,split,prompt", *rows]))
    named = {"csv": tmp_path / "table.csv", "real": None, "fake": None, "prompts": str(tmp_path / "prompts.txt")}
    config = replace(config, **named, text_weight=0.5)
    images = load_images(config)
    model, config = start_spai(config)
    assert model.semantic_tokens[-2:] == ["text 0", "text 1"]
    torch.testing.assert_close(model.text, embed_prompts(config, ["a photograph", "a drawing"], model))
    head = model.fusion["to_text"].weight.clone()
    fit_spai(config, model, images)
    assert not torch.equal(model.fusion["to_text"].weight, head)
    with pytest.raises(UserError, match="needs a pretrained CLIP tower"):
        evaluate_spai(replace(config, clip_score=True), images)
    # As if the tower had CLIP's weights.
    path = config.models_dir / "spai_test_best.pth"
    checkpoint = load_checkpoint(path, SPAI_KEYS)
    checkpoint["config"] |= {"train_backbone": False, "backbone_weights": "hub"}
    torch.save(checkpoint, path)
    table = evaluate_spai(replace(config, clip_score=True, degrade="blur"), images)["clip_score"]
    assert table.between(0, 100).all() and table.iloc[0] != table.iloc[-1]


@pytest.mark.parametrize("folders", [{}, {"real": None}, {"csv": "x.csv"}])
def test_images_must_be_named_one_way(config, folders, tmp_path):
    given = {"real": None, "fake": None} if not folders else {}
    with pytest.raises(UserError, match="--csv TABLE, or --real DIR and --fake DIR"):
        load_images(replace(config, **given, **folders))


def test_a_test_on_what_was_trained_on_is_refused(config, capsys):
    images = load_images(config)
    untrained = replace(config, epochs=0, stage_one_epochs=0)
    fit_spai(untrained, start_spai(untrained)[0], images)
    evaluate_spai(config, images)
    assert "figures flatter" not in capsys.readouterr().out
    for change in ({"holdout_generator": "gan"}, {"seed": 5}):
        other = replace(config, **change)
        with pytest.raises(UserError, match="it may have seen what is tested here"):
            evaluate_spai(other, load_images(other))
    evaluate_spai(config, images[1:])
    assert "figures flatter" in capsys.readouterr().out


def test_unknown_degradations_are_named_before_anything_is_read(config):
    with pytest.raises(UserError, match="--degrade sharpen is unknown; there are jpeg"):
        load_images(replace(config, degrade="jpeg, sharpen"))


def test_a_generator_can_be_left_out(config):
    images = load_images(replace(config, holdout_generator="gan"))
    assert {image.generator for image in images if image.split != "test"} == {"real", "diffusion"}
    assert {image.generator for image in images if image.split == "test"} == {"real", "gan"}


def test_classes_are_drawn_equally():
    images = [LabelledImage(None, generated, "train", "x") for generated in (True, False, False, False)]
    weights = balanced_weights(images)
    assert weights[0] == pytest.approx(sum(weights[1:]))


def test_depths():
    assert _depth(12, "backbone.vit.pos_embed") == 0
    assert _depth(12, "backbone.vit.blocks.0.norm1.weight") == 1
    assert _depth(12, "backbone.vit.blocks.11.mlp.fc1.weight") == 12
    assert _depth(12, "projectors.0.norm1.weight") == _depth(12, "head.0.bias") == 13


def test_published_checkpoint_becomes_ours(config, tmp_path, monkeypatch):
    """At the published sizes but for a miniature of every width, from the published key names."""
    small = {"backbone_depth": 2, "backbone_width": 32, "backbone_heads": 2, "projection_dim": 16}
    small |= {"attention_dim": 24, "attention_heads": 3, "patch_size": 32, "patch_stride": 32}
    published = SpaiConfig.published

    full = SpaiConfig(name="spai_test", models_dir=tmp_path)
    monkeypatch.setattr(SpaiConfig, "published", lambda self: replace(published(full), **small))
    model = Spai(**architecture(config.published()))
    names = {
        "context.first.": "mfvit.features_processor.original_features_processor.proj1.",
        "context.second.": "mfvit.features_processor.original_features_processor.proj2.",
        "context.alpha": "mfvit.features_processor.original_features_processor.alpha",
        "projectors.": "mfvit.features_processor.patch_projector.projectors.",
        "patch_attention.query": "patch_aggregator",
        "patch_attention.to_kv": "to_kv",
        "patch_attention.to_out": "to_out.0",
        "head.": "cls_head.head.",
        "backbone.": "mfvit.",
    }
    theirs = {}
    for name, value in model.state_dict().items():
        value = torch.randn_like(value)
        for own, published_name in names.items():
            if name.startswith(own):
                name = name.replace(own, published_name, 1).replace(".layers.", ".projector.")
        if name.endswith("attn.qkv.bias"):
            q, _, v = value.chunk(3)
            theirs |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
        else:
            theirs[name] = value
    torch.save({"model": theirs, "epoch": 34}, tmp_path / "spai.pth")
    path = convert_published(replace(config, convert=tmp_path / "spai.pth", output=tmp_path / "spai_best.pth"))
    converted = load_spai(load_checkpoint(path, SPAI_KEYS), path)
    assert torch.equal(converted.patch_attention.query, theirs["patch_aggregator"])
    assert not converted.backbone.vit.blocks[0].attn.qkv.bias[32:64].any()
    assert load_checkpoint(path, SPAI_KEYS)["validation"] == {"probs": [], "generated": []}
    mine = replace(config, fusion="none", name="spai", init=path, epochs=0, semantic_weight=0.0, frequency_weight=0.0)
    network, mine = start_spai(mine)
    fit_spai(mine, network, load_images(mine))
    in_place = load_checkpoint(path, SPAI_KEYS)
    assert in_place["validation"]["probs"] and torch.equal(load_spai(in_place, path).norm.weight, theirs["norm.weight"])
    missing = {name: value for name, value in theirs.items() if name != "to_kv.weight"}
    torch.save({"model": missing | {"surplus.weight": torch.zeros(1)}}, tmp_path / "spai.pth")
    with pytest.raises(UserError, match=r"to_kv\.weight.*surplus\.weight"):
        convert_published(replace(config, convert=tmp_path / "spai.pth"))


def test_spectra_are_not_compiled(config):
    with pytest.raises(UserError, match="--compile is for scripts 1 to 6"):
        load_images(replace(config, compile=True))

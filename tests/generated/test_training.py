import os
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.generated import training
from common.generated.config import SpaiConfig
from common.generated.detector import load_detector
from common.generated.images import LabelledImage
from common.generated.losses import SpaiLoss
from common.generated.network import SPAI_KEYS, Spai, load_spai
from common.generated.published import convert_published, load_detector_checkpoint
from common.generated.testing import evaluate_spai
from common.generated.training import (
    _depth,
    architecture,
    balanced_weights,
    embed_prompts,
    load_images,
    spai_step,
    start_spai,
    train_spai,
)
from common.training.checkpoint import load_checkpoint, save_checkpoint


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


IN_SMALL = (
    *("data_dir", "models_dir", "tracker", "workers", "backbone_depth", "backbone_width", "backbone_heads"),
    *("patch_size", "patch_stride", "projection_dim", "attention_dim", "attention_heads"),
)


@pytest.fixture
def config(pictures, tmp_path) -> SpaiConfig:
    small = {"patch_size": 32, "patch_stride": 32, "mask_radius": 3.0, "semantic_scales": (2,), "fusion_width": 16}
    small |= {"backbone_width": 32, "projection_dim": 16, "attention_dim": 16, "views": 2, "batch_size": 16}
    quick = SpaiConfig(name="spai_test").quick()
    folders = {"data_dir": pictures, "models_dir": tmp_path, "tracker": "none"}
    return replace(quick, **small, **folders, epochs=2, stage_one_epochs=1, warmup_epochs=0.5)


def test_trains_tests_and_rebuilds(config, capsys):
    """The whole way, and what it leaves: stages, checkpoint, calibration, a table by generator and degradation."""
    images = load_images(config)
    model, config = start_spai(config)
    metrics = train_spai(config, model, images)
    checkpoint = load_checkpoint(config.models_dir / "spai_test_best.pth", SPAI_KEYS)
    assert checkpoint["best_auc"] == metrics["auc"]
    assert {f"loss_{name}" for name in ("classification", "semantic", "frequency")} < set(checkpoint["metrics"])
    assert "\nloss: classification 0." in "\n" + (printed := capsys.readouterr().out) and ", frequency 0." in printed
    assert checkpoint["config"]["early_fusion_layers"] == [1, 2]
    assert len(checkpoint["validation"]["probs"]) == len(checkpoint["validation"]["generated"]) > 0
    again = load_spai(checkpoint, config.models_dir / "spai_test_best.pth")
    assert not again.training
    for change in ({"backbone_name": "hf_hub:timm/vit"}, {"backbone_width": 12 * 10**6}, {"backbone_depth": "deep"}):
        with pytest.raises(UserError, match=r"spai_test_best\.pth: (no network can be|the weights do not fit)"):
            load_spai(checkpoint | {"config": checkpoint["config"] | change}, config.models_dir / "spai_test_best.pth")
    image, whole = (torch.randint(256, shape, dtype=torch.uint8) for shape in ((3, 50, 70), (1, 3, 32, 32)))
    model.eval().load_state_dict(checkpoint["model_state_dict"])
    assert again.score_images([image], whole)[0].logit == model.score_images([image], whole)[0].logit

    table = evaluate_spai(replace(config.evaluation(), degrade=("jpeg", "blur")), images)
    assert table["degradation"].tolist() == [name for name in ("none", "jpeg", "blur") for _ in range(3)]
    assert table["generator"].tolist() == 3 * ["diffusion", "gan", "average"]
    average = table[table["generator"] == "average"]
    assert average["auc"].iloc[0] == pytest.approx(table["auc"].iloc[:2].mean())
    assert table["undecided"].iloc[0] >= 0 and np.isnan(table["undecided"].iloc[2])


def test_classes_that_were_saved_otherwise_are_told(config, tmp_path, capsys):
    load_images(config)
    assert "told apart" not in capsys.readouterr().out
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for number in range(60):
        path = tmp_path / "saved" / ("real", "fake")[number % 2] / f"{number}.{('jpg', 'png')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    load_images(replace(config, data_dir=tmp_path / "saved"))
    assert "note: real and generated pictures are told apart by how their files are stored" in capsys.readouterr().out


def test_plain_spai_learns_a_checkerboard_and_keeps_the_rate_that_is_asked_for(config):
    plain = {"fusion": "none", "epochs": 6, "lr": 1e-2, "views": 4, "stage_one_epochs": 0, "batch_size": 8, "seed": 1}
    config = replace(config, **plain, semantic_weight=0.0, frequency_weight=0.0)
    model, config = start_spai(config)
    images = load_images(config)
    assert train_spai(config, model, images)["auc"] > 0.9
    # The last epoch, since the scores of the best, the first with an AUC of 1, are nearly the same.
    (config.models_dir / "spai_test_last.pth").replace(config.models_dir / "spai_test_best.pth")
    # Of 4 or 5 real validation images a rate of 1 % can't be known, one of 50 % can.
    assert evaluate_spai(replace(config.evaluation(), target_fpr=0.01), images)["undecided"].iloc[0] == 1
    assert evaluate_spai(replace(config.evaluation(), target_fpr=0.5), images)["undecided"].iloc[0] < 1
    # Without a flag the rate is that of the checkpoint, which may have been calibrated since.
    best = config.models_dir / "spai_test_best.pth"
    save_checkpoint(load_detector_checkpoint(best) | {"target_fpr": 0.5}, best)
    assert evaluate_spai(replace(config.evaluation(), target_fpr=None), images)["undecided"].iloc[0] < 1


def test_plain_training_drops_paths_of_the_frozen_backbone(config):
    published = SpaiConfig(name="spai_test").published()
    sizes = {name: getattr(config, name) for name in IN_SMALL}
    plain = replace(published, **sizes, epochs=1, warmup_epochs=0, backbone_weights="none")
    model, plain = start_spai(plain)
    drops = [getattr(block.drop_path2, "drop_prob", 0) for block in model.backbone.vit.blocks]
    assert drops == pytest.approx([0, 0.1]) and not any(p.requires_grad for p in model.backbone.parameters())
    metrics = train_spai(plain, model, load_images(plain))
    assert metrics["loss_classification"] > 0 and "loss_semantic" not in metrics


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
        set_stage(stage, train_backbone=train_backbone)

    model.set_stage = watched
    train_spai(config, model, images)
    (stage, before), (next_stage, after_one) = states
    assert (stage, next_stage) == ("semantic", "joint")
    moved = {name.split(".")[0] for name in first if not torch.equal(before[name], after_one[name])}
    assert moved == {"fusion", "head"}
    finished = {name.split(".")[0] for name, v in model.state_dict().items() if not torch.equal(v, after_one[name])}
    assert finished == {"fusion", "head", "projectors", "context", "patch_attention", "norm"}


def test_resumes_to_the_same_weights(config):
    images = load_images(config)
    whole = replace(config, name="whole")
    train_spai(whole, start_spai(whole)[0], images)

    def stop(stage, train_backbone=False):
        if stage == "joint":
            raise KeyboardInterrupt

    broken = replace(config, name="broken")
    model, _ = start_spai(broken)
    set_stage = model.set_stage
    model.set_stage = lambda stage, train_backbone=False: (set_stage(stage, train_backbone=train_backbone), stop(stage))
    with pytest.raises(KeyboardInterrupt, match="go on with --resume"):
        train_spai(broken, model, images)
    resumed = replace(broken, resume=True)
    train_spai(resumed, start_spai(resumed)[0], images)
    one, other = (
        torch.load(config.models_dir / f"{name}_last.pth", weights_only=True)["model_state_dict"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fusion_starts_from_a_plain_checkpoint(config):
    plain = replace(config, name="plain", fusion="none", epochs=0, semantic_weight=0.0, frequency_weight=0.0)
    images = load_images(plain)
    train_spai(plain, start_spai(plain)[0], images)
    init = config.models_dir / "plain_best.pth"
    model, fused = start_spai(replace(config, init=init, projection_dim=24))
    assert fused.projection_dim == 16
    weights = torch.load(init, weights_only=True)["model_state_dict"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    train_spai(replace(fused, epochs=0), model, images)
    with pytest.raises(UserError, match="is a fusion; name a checkpoint"):
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
    loss = SpaiLoss(classification="focal")
    model.eval()
    clean, degraded = model(batch["views"], batch["whole"]), model(twins["degraded_views"], twins["degraded_whole"])
    both = loss(clean, batch["label"], degraded)
    torch.testing.assert_close(spai_step(loss, None, model, twins), both, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(spai_step(loss, None, model, batch), loss(clean, batch["label"]))


def test_text_loss_needs_prompts(config):
    config = replace(config, text_weight=0.5)
    with pytest.raises(UserError, match="a column prompt"):
        train_spai(config, Spai(**architecture(config), text_head=True), load_images(config))


def test_prompts_become_semantic_tokens_and_a_loss(config, pictures, tmp_path, monkeypatch):
    """Prompts of a table, and a list of them; the text tower is stood in for by its embeddings' place in the cache."""

    def embed(prompts, model, pretrained, cache):
        rng = torch.Generator().manual_seed(0)
        return torch.nn.functional.normalize(torch.randn(len(prompts), 512, generator=rng), dim=1)

    monkeypatch.setattr(training, "cached_text_embeddings", embed)
    (tmp_path / "prompts.txt").write_text("a photograph\n\na drawing\n")
    images = load_images(config)
    rows = [
        f"{image.path},{int(image.generated)},{image.split},{'waves' if index % 2 else 'hills'}"
        for index, image in enumerate(images)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["image,class,split,prompt", *rows]))
    named = {"csv": tmp_path / "table.csv", "prompts": str(tmp_path / "prompts.txt")}
    config = replace(config, **named, text_weight=0.5)
    images = load_images(config)
    model, config = start_spai(config)
    assert model.semantic_tokens[-2:] == ["text 0", "text 1"]
    torch.testing.assert_close(model.text, embed_prompts(config, ["a photograph", "a drawing"], model))
    head = model.fusion.to_text.weight.clone()
    train_spai(config, model, images)
    assert not torch.equal(model.fusion.to_text.weight, head)
    with pytest.raises(UserError, match="need a pretrained CLIP tower"):
        evaluate_spai(replace(config.evaluation(), clip_score=True), images)
    # As if the tower had CLIP's weights.
    path = config.models_dir / "spai_test_best.pth"
    checkpoint = load_checkpoint(path, SPAI_KEYS)
    checkpoint["config"] |= {"train_backbone": False, "backbone_weights": "hub"}
    torch.save(checkpoint, path)
    table = evaluate_spai(replace(config.evaluation(), clip_score=True, degrade=("blur",)), images)["clip_score"]
    assert table.between(0, 100).all() and table.iloc[0] != table.iloc[-1]


def test_only_the_splits_that_are_used_are_decoded(config, pictures, tmp_path, monkeypatch):
    decoded, read = [], training.readable_images
    monkeypatch.setattr(training, "readable_images", lambda chosen, **options: decoded.extend(chosen) or read(chosen))
    images = load_images(config, decoded=("test",))
    assert decoded == [image for image in images if image.split == "test"] and 0 < len(decoded) < len(images) == 60


def test_a_test_on_what_was_trained_on_is_refused(config, capsys):
    images = load_images(config)
    untrained = replace(config, epochs=0, stage_one_epochs=0)
    train_spai(untrained, start_spai(untrained)[0], images)
    test = config.evaluation()
    evaluate_spai(test, images)
    assert "was trained on other data" not in capsys.readouterr().out
    for change, own in (({"holdout_generator": "gan"}, "--holdout-generator ''"), ({"seed": 5}, "--seed 0")):
        other = replace(test, **change)
        with pytest.raises(UserError, match=f"was trained with {own}: it may have seen what is tested here"):
            evaluate_spai(other, load_images(other))
    evaluate_spai(test, images[1:])
    assert "was trained on other data" in capsys.readouterr().out


@pytest.mark.parametrize("given", [True, False])
def test_the_seed_matters_to_a_test_where_it_drew_the_splits(config, tmp_path, given):
    images = load_images(config)
    columns = {"split": [image.split for image in images]} if given else {}
    rows = {"file": [image.path for image in images], "label": [int(image.generated) for image in images]}
    pd.DataFrame(rows | columns).to_csv(tmp_path / "images.csv", index=False)
    config = replace(config, csv=tmp_path / "images.csv", epochs=0, stage_one_epochs=0)
    images = load_images(config)
    train_spai(config, start_spai(config)[0], images)
    other = replace(config.evaluation(), seed=5)
    if given:
        evaluate_spai(other, load_images(other))
    else:
        with pytest.raises(UserError, match="was trained with --seed 0: it may have seen what is tested here"):
            evaluate_spai(other, load_images(other))


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
    path = tmp_path / "spai_best.pth"
    convert_published(tmp_path / "spai.pth", path)
    converted = load_spai(load_checkpoint(path, SPAI_KEYS), path)
    assert torch.equal(converted.patch_attention.query, theirs["patch_aggregator"])
    assert not converted.backbone.vit.blocks[0].attn.qkv.bias[32:64].any()
    assert load_checkpoint(path, SPAI_KEYS)["validation"] == {"probs": [], "generated": []}
    # The published file itself is read wherever a checkpoint is, and converted once.
    kept = tmp_path / "spai.converted.pth"
    for _ in range(2):
        raw = load_detector(tmp_path / "spai.pth", torch.device("cpu"))
        stamp = kept.stat().st_mtime_ns
        assert torch.equal(raw.model.patch_attention.query, theirs["patch_aggregator"])
    assert kept.stat().st_mtime_ns == stamp
    # Another network in the file's place, of an older date, wins over what was converted before.
    (tmp_path / "spai_best.converted.pth").write_bytes(kept.read_bytes())
    os.utime(path, ns=(0, 0))
    mine_now = load_checkpoint(path, SPAI_KEYS)
    mine_now["model_state_dict"]["norm.weight"] += 1
    save_checkpoint(mine_now, path)
    os.utime(path, ns=(0, 0))
    assert torch.equal(load_detector(path, torch.device("cpu")).model.norm.weight, theirs["norm.weight"] + 1)
    convert_published(tmp_path / "spai.pth", path)
    mine = replace(config, fusion="none", name="spai", init=path, epochs=0, semantic_weight=0.0, frequency_weight=0.0)
    network, mine = start_spai(mine)
    train_spai(mine, network, load_images(mine))
    in_place = load_checkpoint(path, SPAI_KEYS)
    assert in_place["validation"]["probs"] and torch.equal(load_spai(in_place, path).norm.weight, theirs["norm.weight"])
    missing = {name: value for name, value in theirs.items() if name != "to_kv.weight"}
    torch.save({"model": missing | {"surplus.weight": torch.zeros(1)}}, tmp_path / "spai.pth")
    with pytest.raises(UserError, match=r"to_kv\.weight.*surplus\.weight"):
        convert_published(tmp_path / "spai.pth", path)

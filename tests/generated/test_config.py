import sys
from typing import get_args, get_type_hints

import pytest

from common.config.run import parse_config
from common.errors import UserError
from common.generated.config import ConversionConfig, EvaluationConfig, SpaiConfig
from common.generated.degradations import DEGRADATIONS

CONFIG = SpaiConfig(name="spai_fusion")


def parse(monkeypatch, *flags: str):
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    return parse_config(CONFIG, {"test": EvaluationConfig, "convert": ConversionConfig})


def test_defaults_are_those_of_the_original_recipe():
    assert (CONFIG.projection_layers, CONFIG.head_ratio, CONFIG.attention_dim, CONFIG.attention_heads) == (
        3,
        4,
        1024,
        16,
    )
    assert (CONFIG.views, CONFIG.lr, CONFIG.weight_decay, CONFIG.layer_decay) == (6, 3e-4, 0.03, 0.85)
    assert (CONFIG.epochs, CONFIG.warmup_epochs, CONFIG.clip_grad, CONFIG.batch_size) == (15, 3, 1.0, 32)
    assert (CONFIG.classification, CONFIG.focal_alpha, CONFIG.focal_gamma) == ("focal", 0.25, 2.0)
    assert (CONFIG.semantic_weight, CONFIG.frequency_weight, CONFIG.dropout) == (0.1, 0.05, 0.3)
    assert (CONFIG.early_fusion_layers, CONFIG.stage_one_epochs, CONFIG.feature_batch) == ((2, 4, 6, 8), 5, 400)
    assert not CONFIG.train_backbone


def test_plain_is_the_published(monkeypatch):
    plain = parse(monkeypatch, "--fusion", "none", "--epochs", "40")
    assert (plain.lr, plain.weight_decay, plain.layer_decay, plain.warmup_epochs) == (5e-4, 0.05, 0.8, 5)
    assert (plain.projection_layers, plain.attention_dim, plain.attention_heads, plain.head_ratio) == (2, 1536, 12, 3)
    assert (plain.patch_stride, plain.views, plain.dropout, plain.classification) == (224, 4, 0.5, "bce")
    assert (plain.batch_size, plain.drop_path, plain.rotation, plain.blur) == (72, 0.1, 90, (0.01, 0.5))
    assert plain.epochs == 40 and plain.fusion == "none"
    assert plain.published() == plain.published().published()
    assert CONFIG.published().epochs == 35


@pytest.mark.parametrize("flags", [["--profile", "quick", "--fusion", "none"], ["--fusion=none", "--profile=quick"]])
def test_quick_plain_is_both(monkeypatch, flags):
    config = parse(monkeypatch, *flags)
    assert (config.fusion, config.profile) == ("none", "quick")
    assert config == CONFIG.published().quick() == parse(monkeypatch, "train", *flags)
    assert (config.patch_size, config.backbone_depth, config.backbone_width) == (64, 2, 64)
    assert (config.projection_layers, config.classification, config.stage_one_epochs) == (2, "bce", 0)
    assert (config.batch_size, config.drop_path, config.rotation, config.blur) == (16, 0, 0, (0.1, 1))


def test_residuals_are_not_resampled():
    config = CONFIG.residual()
    assert (config.rotation, config.blur, config.native_crops, config.longest_chain) == (0, (0.1, 1), True, 1)


def test_subcommands_have_flags_of_their_own(monkeypatch):
    assert parse(monkeypatch) == CONFIG
    test = parse(monkeypatch, "test", "--csv", "x.csv", "--degrade", "jpeg", "noise", "--clip-score")
    assert isinstance(test, EvaluationConfig)
    assert (str(test.csv), test.degrade, test.clip_score, test.name) == ("x.csv", ("jpeg", "noise"), True, CONFIG.name)
    convert = parse(monkeypatch, "convert", "spai.pth")
    assert convert == ConversionConfig(published=convert.published)
    assert (str(convert.published), str(convert.output)) == ("spai.pth", "models/spai_best.pth")


@pytest.mark.parametrize("flags", [("--projection-dim", "8"), ("--mixup", "1"), ("test", "--degrade", "sharpen")])
def test_what_recipes_set_and_unknown_values_are_no_flags(monkeypatch, capsys, flags):
    with pytest.raises(SystemExit):
        parse(monkeypatch, *flags)
    assert flags[-2] in capsys.readouterr().err


def test_every_degradation_can_be_tested():
    (names, _) = get_args(get_type_hints(EvaluationConfig)["degrade"])
    assert {name.rstrip("0123456789") for name in get_args(names)} == set(DEGRADATIONS)


def test_a_training_is_tested_as_it_was_trained():
    test = SpaiConfig(name="x", seed=3, holdout_generator="gan", target_fpr=0.2, feature_batch=7).evaluation()
    assert (test.name, test.seed, test.holdout_generator) == ("x", 3, "gan")
    assert (test.target_fpr, test.feature_batch, test.degrade, test.clip_score) == (0.2, 7, (), False)


def test_lists_come_back_from_a_checkpoint():
    assert CONFIG.plain()["early_fusion_layers"] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_stride": 300}, "--patch-stride is 300"),
        ({"target_fpr": 1.0}, "--target-fpr is 1.0"),
        ({"feature_batch": 0}, "--feature-batch is 0"),
        ({"degradation_probability": 2.0}, "--degradation-probability is 2.0"),
        ({"dropout": 1.0}, "--dropout is 1.0"),
        ({"views": 0}, "--views is 0"),
        ({"epochs": 2}, r"--warmup-epochs is 3.0; .* below --epochs \(2\)"),
        ({"epochs": 5}, "--stage-one-epochs is 5"),
        ({"fusion": "none", "prompts": "default"}, "--prompts is default"),
        ({"text_weight": -0.5}, "--text-weight is -0.5"),
        ({"fusion": "none", "text_weight": 0.5}, "--text-weight is 0.5"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        SpaiConfig(name="x", **change)


@pytest.mark.parametrize("change", [{"target_fpr": 0.0}, {"feature_batch": 0}])
def test_a_test_refuses_them_too(change):
    with pytest.raises(UserError, match=f"--{next(iter(change)).replace('_', '-')} is 0"):
        EvaluationConfig(**change)

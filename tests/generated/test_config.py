import sys

import pytest

from common.config.run import parse_config
from common.errors import UserError
from common.generated.config import SpaiConfig

CONFIG = SpaiConfig(name="spai_fusion")


def test_defaults_are_the_seeds():
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
    assert CONFIG.mixup == CONFIG.cutmix == 0
    assert not CONFIG.train_backbone


def test_plain_is_the_published(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "--fusion", "none", "--epochs", "40"])
    plain = parse_config(CONFIG)
    assert (plain.lr, plain.weight_decay, plain.layer_decay, plain.warmup_epochs) == (5e-4, 0.05, 0.8, 5)
    assert (plain.projection_layers, plain.attention_dim, plain.attention_heads, plain.head_ratio) == (2, 1536, 12, 3)
    assert (plain.patch_stride, plain.views, plain.dropout, plain.classification) == (224, 4, 0.5, "bce")
    assert plain.epochs == 40 and plain.fusion == "none"
    assert plain.published() == plain.published().published()
    assert CONFIG.published().epochs == 35


@pytest.mark.parametrize("flags", [["--profile", "quick", "--fusion", "none"], ["--fusion=none", "--profile=quick"]])
def test_quick_plain_is_both(monkeypatch, flags):
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    config = parse_config(CONFIG)
    assert (config.fusion, config.profile) == ("none", "quick")
    assert config == CONFIG.published().quick()
    assert (config.patch_size, config.backbone_depth, config.backbone_width) == (64, 2, 64)
    assert (config.projection_layers, config.classification, config.stage_one_epochs) == (2, "bce", 0)


def test_lists_come_back_from_a_checkpoint():
    assert CONFIG.plain()["early_fusion_layers"] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_heads": 7}, "--attention-heads is 7; it must be 1 or more and a divisor"),
        ({"fusion_heads": 7}, "--fusion-heads is 7"),
        ({"patch_size": 63}, "--patch-size is 63"),
        ({"patch_stride": 300}, "--patch-stride is 300"),
        ({"target_fpr": 1.0}, "--target-fpr is 1.0"),
        ({"degradation_probability": 2.0}, "--degradation-probability is 2.0"),
        ({"epochs": 2}, r"--warmup-epochs is 3.0; .* below --epochs \(2\)"),
        ({"epochs": 5}, "--stage-one-epochs is 5"),
        ({"fusion": "none", "prompts": "default"}, "--prompts is default"),
        ({"text_weight": 0.5, "mixup": 0.2}, "--text-weight is 0.5"),
        ({"projection_dim": 0}, "--projection-dim is 0"),
        ({"semantic_weight": -1.0}, "--semantic-weight is -1.0"),
        ({"focal_alpha": 2.0}, "--focal-alpha is 2.0"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        SpaiConfig(name="x", **change)

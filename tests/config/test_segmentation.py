import dataclasses
import math
import sys
from pathlib import Path

import pytest

from common.config.run import parse_config
from common.config.segmentation import (
    ElaConfig,
    HardFalseNegativeConfig,
    HardNegativeConfig,
    MiningConfig,
    NewForgeriesConfig,
    OversamplingConfig,
    SpecialistConfig,
    TrainConfig,
)
from common.errors import UserError

CONFIG = OversamplingConfig(name="base")


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    return parse_config(CONFIG)


def test_defaults_are_the_original_recipes():
    expected = {
        "encoder_name": "tu-efficientnet_b2",
        "encoder_weights": "imagenet",
        "decoder_channels": 256,
        "image_size": 512,
        "batch_size": 4,
        "epochs": 30,
        "lr": 3e-4,
        "schedule": "constant",
        "focal_alpha": 0.75,
        "focal_gamma": 3.0,
        "focal_weight": 0.7,
        "dice_weight": 0.3,
        "small_forgery_threshold": 0.03,
        "oversample_factor": 3.0,
    }
    assert {name: getattr(CONFIG, name) for name in expected} == expected


def test_every_field_is_a_flag_with_help(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help")
    text = capsys.readouterr().out
    suppressed = {"restart_epochs", "warmup_epochs", "clip_grad", "patience", "in_channels", "recall_weight"}
    for field in dataclasses.fields(OversamplingConfig):
        assert (f"--{field.name.replace('_', '-')}" in text) == (field.name not in suppressed), field.name


def test_flags_win_over_the_profile(monkeypatch):
    config = parse(monkeypatch, "--profile", "quick", "--epochs", "2", "--encoder-name", "mobilenet_v2")
    assert (config.image_size, config.epochs, config.encoder_name) == (256, 2, "mobilenet_v2")
    assert config.encoder_weights == "auto"


def test_a_named_source_of_weights_survives_the_profile(monkeypatch):
    assert parse(monkeypatch, "--profile", "quick", "--encoder-weights", "none").encoder_weights == "none"
    assert dataclasses.replace(CONFIG, encoder_weights="a.pth").quick().encoder_weights == "a.pth"


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("image_size", 500, "--image-size is 500; it must be a multiple of 32 from 64 on"),
        ("image_size", 32, "--image-size is 32; it must be a multiple of 32 from 64 on"),
        ("seed", 2**31, "--seed is 2147483648; it must be from 0 to 2147483647"),
        ("seed", -1, "--seed is -1"),
        ("lr", math.inf, "--lr is inf; it must be above 0"),
        ("lr", math.nan, "--lr is nan"),
        ("weight_decay", math.nan, "--weight-decay is nan; it must be 0 or more"),
        ("weight_decay", math.inf, "--weight-decay is inf"),
        ("focal_weight", -1.0, "--focal-weight is -1.0"),
        ("segmentation_channels", 48, "--segmentation-channels is 48; it must be a positive multiple of 32"),
        ("decoder_channels", 0, "--decoder-channels is 0; it must be 1 or more"),
        ("focal_alpha", 1.5, "--focal-alpha is 1.5; it must be from 0 to 1"),
        ("focal_gamma", -1.0, "--focal-gamma is -1.0; it must be 0 or more"),
        ("folds", 1, "--folds is 1; it must be 2 or more"),
        ("fold", 5, "--fold is 5; it must be from 0 to 4"),
        ("fold", -1, "--fold is -1"),
        ("oversample_factor", 0.0, "--oversample-factor is 0.0"),
    ],
)
def test_impossible_values_are_refused(field, value, wanted):
    with pytest.raises(UserError, match=wanted):
        dataclasses.replace(CONFIG, **{field: value})


def test_plain_values_only():
    assert {type(value) for value in CONFIG.plain().values()} <= {str, int, float, bool}


def test_scales_come_back_from_plain_values_as_numbers():
    assert NewForgeriesConfig(name="a").plain()["paste_scales"] == [0.5, 1.5]


def test_every_recipe_keeps_the_rules_of_every_run():
    recipes = (TrainConfig, OversamplingConfig, ElaConfig, NewForgeriesConfig, HardNegativeConfig, SpecialistConfig)
    for config in (*recipes, HardFalseNegativeConfig):
        with pytest.raises(UserError, match="--epochs is -1"):
            config(name="a", epochs=-1)


def test_recipes_of_the_other_scripts():
    mining = MiningConfig(name="mining")
    assert (mining.init, mining.lr, mining.epochs, mining.focal_gamma) == ("highres_no_ela", 1e-4, 30, 2.0)
    assert (HardNegativeConfig(name="a").hard_weight, HardNegativeConfig(name="a").most) == (2.0, 500)
    missed = HardFalseNegativeConfig(name="a")
    assert (missed.hard_weight, missed.recall_weight, missed.init) == (5.0, 0.6, "highres_no_ela")
    assert (ElaConfig(name="a").in_channels, TrainConfig(name="a").in_channels) == (4, 3)
    new = NewForgeriesConfig(name="a")
    assert (new.paste_probability, new.paste_scales, new.paste_kinds) == (0.3, (0.5, 1.5), ("copymove", "splice"))
    small = SpecialistConfig(name="small")
    assert (small.epochs, small.lr, small.focal_alpha, small.focal_gamma) == (40, 1e-4, 0.85, 4.0)
    assert (small.tiny_weight, small.small_weight, small.max_area_share) == (5.0, 2.0, 0.02)
    assert (small.crop_factors, small.min_crop, small.init) == ((2.0, 4.0), 128, "none")


def test_the_quick_profile_shrinks_every_recipe():
    quick = CONFIG.quick()
    assert (quick.epochs, quick.lr, quick.schedule) == (12, 1e-3, "one_cycle")
    assert (quick.focal_gamma, quick.focal_weight * quick.focal_alpha, quick.dice_weight) == (0, 3, 1)
    mining = MiningConfig(name="mining").quick()
    assert (mining.epochs, mining.lr, mining.schedule) == (4, 1e-4, "constant")
    small = SpecialistConfig(name="small").quick()
    assert (small.epochs, small.focal_gamma, small.focal_weight, small.dice_weight) == (16, 4.0, 0.7, 0.3)


def test_no_script_has_flags_without_effect(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", "--help"])
    with pytest.raises(SystemExit):
        parse_config(MiningConfig(name="mining"))
    text = capsys.readouterr().out
    assert "--rounds" in text and "--oversample-factor" not in text and "--extra-authentic" not in text
    assert "--recall-weight" not in text
    with pytest.raises(SystemExit):
        parse_config(HardFalseNegativeConfig(name="mining"))
    assert "--recall-weight FLOAT[0,1]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "field", "value", "wanted"),
    [
        (MiningConfig, "rounds", 0, "--rounds is 0; it must be 1 or more"),
        (MiningConfig, "hard_weight", 0.0, "--hard-weight is 0.0"),
        (HardNegativeConfig, "most", 0, "--most is 0"),
        (HardNegativeConfig, "rounds", 0, "--rounds is 0"),
        (NewForgeriesConfig, "paste_probability", 1.5, "--paste-probability is 1.5; it must be from 0 to 1"),
        (NewForgeriesConfig, "paste_scales", (2.0, 1.0), "--paste-scales is"),
        (NewForgeriesConfig, "oversample_factor", 0.0, "--oversample-factor is 0.0"),
        (SpecialistConfig, "max_area_share", 0.0, "--max-area-share is 0.0"),
        (SpecialistConfig, "crop_factors", (0.5, 2.0), "--crop-factors is"),
        (SpecialistConfig, "min_crop", 0, "--min-crop is 0"),
        (TrainConfig, "recall_weight", 1.1, "--recall-weight is 1.1"),
        (TrainConfig, "cache_gb", -1.0, "--cache-gb is -1.0; it must be 0 or more"),
        (HardFalseNegativeConfig, "hard_weight", 0.0, "--hard-weight is 0.0; it must be above 0"),
        (SpecialistConfig, "max_area_share", 1.5, "--max-area-share is 1.5"),
        (SpecialistConfig, "tiny_weight", 0.0, "--tiny-weight is 0.0"),
    ],
)
def test_impossible_values_of_the_recipes_are_refused(config, field, value, wanted):
    with pytest.raises(UserError, match=wanted):
        config(name="a", **{field: value})


def test_all_folds_and_members_keep_their_decoded_images_in_one_place():
    folder = Path("models/cache")
    assert TrainConfig(name="a").cache_folder == folder
    assert TrainConfig(name="b", models_dir=Path("models/fold_3")).cache_folder == folder
    assert TrainConfig(name="a", models_dir=Path("elsewhere")).cache_folder == Path("elsewhere/cache")
    chosen = TrainConfig(name="a", models_dir=Path("models/fold_3"), cache_dir=Path("scratch"))
    assert chosen.cache_folder == Path("scratch")
    assert {"cache_gb", "cache_dir"} <= TrainConfig.FREE

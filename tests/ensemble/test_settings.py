import json
import math
from dataclasses import asdict, replace

import pytest

from common.ensemble.decision import Decision
from common.ensemble.instances import Cleanup
from common.ensemble.members import identities
from common.ensemble.settings import Settings
from common.errors import UserError

SETTINGS = Settings(
    weights={"highres_no_ela": 1.5, "small_forgery_specialist": 0.8},
    pixel_threshold=0.37,
    min_area_share=0.001,
    cleanup=Cleanup(closing=0.01, fill_holes=True),
    tta="flips",
    decision=Decision(
        features=("quantile_999",),
        mean=(0.5,),
        scale=(2.0,),
        coefficients=(1.5,),
        intercept=-0.25,
        calibration={"slope": 0.9, "intercept": 0.1},
    ),
    source="fitted",
    checkpoints={"highres_no_ela": "a1", "small_forgery_specialist": "b2"},
    report={"fitted weights": {"of1": 0.5, "n": 280}},
)


DECISION = asdict(SETTINGS.decision)


def test_round_trip(tmp_path):
    SETTINGS.save(tmp_path / "new" / "ensemble.json")
    assert Settings.load(tmp_path / "new" / "ensemble.json") == SETTINGS


def test_the_original_weights_source_has_an_earlier_name(tmp_path):
    path = tmp_path / "ensemble.json"
    path.write_text(json.dumps(asdict(SETTINGS) | {"source": "seed"}))
    assert Settings.load(path) == replace(SETTINGS, source="original")


def test_whole_numbers_are_numbers(tmp_path):
    path = tmp_path / "ensemble.json"
    path.write_text(json.dumps(asdict(SETTINGS) | {"pixel_threshold": 0}))
    assert Settings.load(path) == replace(SETTINGS, pixel_threshold=0.0)


def test_the_detector_of_generated_images_is_listed_where_it_is_read(tmp_path):
    path = tmp_path / "ensemble.json"
    reads = replace(SETTINGS.decision, features=("generated",), mean=(0.0,))
    settings = replace(SETTINGS, decision=reads, checkpoints=SETTINGS.checkpoints | {"spai": "c3"})
    settings.save(path)
    assert Settings.load(path) == settings
    for wrong in (replace(settings, decision=SETTINGS.decision), replace(settings, checkpoints=SETTINGS.checkpoints)):
        wrong.save(path)
        with pytest.raises(UserError, match="of different members"):
            Settings.load(path)


def test_nan_figures_come_back_as_none(tmp_path):
    replace(SETTINGS, report={"a": {"pixel_recall_tiny": math.nan}}).save(tmp_path / "ensemble.json")
    assert Settings.load(tmp_path / "ensemble.json").report == {"a": {"pixel_recall_tiny": None}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ...}, "weights: Field required"),
        ({"colour": 1}, "colour: Unexpected"),
        ({"tta": "some"}, "tta: Input should be 'none', 'flips' or 'full'"),
        ({"source": "guess"}, "source: Input should be 'original' or 'fitted'"),
        ({"pixel_threshold": None}, "pixel_threshold: Input should be a valid number"),
        ({"min_area_share": "small"}, "min_area_share: Input should be a valid number"),
        ({"weights": [1.5]}, "weights: Input should be an object"),
        ({"cleanup": {"sharpen": 1}}, r"cleanup\.sharpen: Unexpected"),
        ({"cleanup": {"closing": 2.0}}, "cleanup: .*opening and closing are shares"),
        ({"decision": {"features": []}}, r"decision\.calibration: Field required"),
        ({"decision": None}, "decision: Input should be"),
        ({"decision": DECISION | {"bias": 1.0}}, r"decision\.bias: Unexpected"),
        ({"decision": DECISION | {"scale": ["wide"]}}, r"decision\.scale\.0: Input should be a valid number"),
        ({"decision": DECISION | {"features": ["colour"]}}, "decision: .*there is no feature colour"),
        ({"checkpoints": 1}, "checkpoints: Input should be an object"),
        ({"weights": {"highres_no_ela": 1.5}}, "of different members"),
        ({"pixel_threshold": math.nan}, "pixel_threshold: Input should be a finite number"),
        ({"weights": {"highres_no_ela": math.inf}}, r"weights\.highres_no_ela: Input should be a finite number"),
        ({"pixel_threshold": 7.0}, "pixel_threshold must be from 0 to 1"),
        ({"min_area_share": -0.1}, "min_area_share must be from 0 to 1"),
        ({"weights": {"highres_no_ela": -1.0}}, "each weight must be 0 or more"),
        ({"decision": DECISION | {"scale": [0.0]}}, "decision: .*each scale must be above 0"),
        ({"decision": DECISION | {"intercept": math.nan}}, r"decision\.intercept: Input should be a finite number"),
    ],
)
def test_a_fault_is_named_with_the_file(tmp_path, change, message):
    path = tmp_path / "ensemble.json"
    SETTINGS.save(path)
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    with pytest.raises(UserError, match=rf"ensemble\.json .*{message}.*fit_ensemble"):
        Settings.load(path)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\ufffd", "[" * 10**5, '{"weights":' * 10**4, "9" * 5000, '"\\ud800"'])
def test_what_is_no_settings_file(tmp_path, text):
    path = tmp_path / "ensemble.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"ensemble\.json"):
        Settings.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"ensemble\.json.*No such file"):
        Settings.load(tmp_path / "ensemble.json")


def test_changed_members_are_named_in_the_order_of_the_fit(tmp_path):
    for name in ("ela", "highres_no_ela"):
        (tmp_path / f"{name}_best.pth").write_bytes(b"one")
    found = identities(tmp_path, copy_move=True)
    settings = replace(SETTINGS, weights=dict.fromkeys(found, 1.0), checkpoints=found)
    assert settings.changed_members(tmp_path) == []
    assert settings.changed_members(tmp_path, copy_move=False) == ["copy_move"]
    (tmp_path / "ela_best.pth").write_bytes(b"two")
    (tmp_path / "highres_no_ela_best.pth").unlink()
    (tmp_path / "hard_negative_best.pth").write_bytes(b"one")
    assert settings.changed_members(tmp_path) == ["highres_no_ela", "ela", "hard_negative"]
    alone = replace(settings, checkpoints={name: found[name] for name in ("highres_no_ela", "ela")})
    assert alone.changed_members(tmp_path, copy_move=True)[-1] == "copy_move"

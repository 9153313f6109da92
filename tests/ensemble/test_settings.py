import json
import math
from dataclasses import replace

import pytest

from common.ensemble.decision import Decision
from common.ensemble.instances import Cleanup
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


def test_round_trip(tmp_path):
    SETTINGS.save(tmp_path / "new" / "ensemble.json")
    assert Settings.load(tmp_path / "new" / "ensemble.json") == SETTINGS


def test_the_detector_of_generated_images_is_listed_where_it_is_read(tmp_path):
    path = tmp_path / "ensemble.json"
    reads = replace(SETTINGS.decision, features=("generated",), mean=(0.0,))
    settings = replace(SETTINGS, decision=reads, checkpoints=SETTINGS.checkpoints | {"spai": "c3"})
    settings.save(path)
    assert Settings.load(path) == settings
    for wrong in (replace(settings, decision=SETTINGS.decision), replace(settings, checkpoints=SETTINGS.checkpoints)):
        wrong.save(path)
        with pytest.raises(UserError, match="not of the same members"):
            Settings.load(path)


def test_nan_figures_come_back_as_none(tmp_path):
    replace(SETTINGS, report={"a": {"pixel_recall_tiny": math.nan}}).save(tmp_path / "ensemble.json")
    assert Settings.load(tmp_path / "ensemble.json").report == {"a": {"pixel_recall_tiny": None}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ...}, "missing keys: weights"),
        ({"colour": 1}, "foreign keys: colour"),
        ({"tta": "some"}, "tta is 'some', not one of none, flips, full"),
        ({"source": "guess"}, "source is 'guess'"),
        ({"pixel_threshold": None}, "pixel_threshold"),
        ({"min_area_share": "small"}, "min_area_share"),
        ({"weights": [1.5]}, "weights"),
        ({"cleanup": {"sharpen": 1}}, "cleanup: .*sharpen"),
        ({"decision": {"features": []}}, "decision: missing or foreign keys: calibration"),
        ({"decision": None}, "decision"),
        ({"checkpoints": 1}, "checkpoints"),
        ({"weights": {"highres_no_ela": 1.5}}, "not of the same members"),
    ],
)
def test_a_fault_is_named_with_the_file(tmp_path, change, message):
    path = tmp_path / "ensemble.json"
    SETTINGS.save(path)
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    with pytest.raises(UserError, match=rf"ensemble\.json .*{message}.*fit_ensemble"):
        Settings.load(path)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\ufffd"])
def test_what_is_no_settings_file(tmp_path, text):
    path = tmp_path / "ensemble.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"ensemble\.json"):
        Settings.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"ensemble\.json.*No such file"):
        Settings.load(tmp_path / "ensemble.json")

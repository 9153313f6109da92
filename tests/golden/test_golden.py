"""Networks and settings that earlier versions wrote must load, and predict what they predicted then."""

import json
from pathlib import Path

import pytest

from tests.golden.make import predictions

FOLDERS = sorted(Path(__file__).parent.glob("v*"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_an_earlier_version_wrote_predicts_the_same(folder):
    expected = json.loads((folder / "expected.json").read_text())
    assert expected["generated_probability"] != 0.5 != expected["fake_probability"]
    found = predictions(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=2e-3), name

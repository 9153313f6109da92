"""The fuzzer finds what is there, repeats itself by its seed, and finds nothing in the real readers in seconds."""

import faulthandler
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from tests.faults import fuzz

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it forks, and bounds the memory of a process as on Linux"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def raises(path: Path) -> None:
    if path.read_bytes()[:1] > b"\x7f":
        raise KeyError(7)


def names_nothing(path: Path) -> None:
    raise UserError("broken")


def dies(path: Path) -> None:
    faulthandler.disable()
    os.abort()


def hangs(path: Path) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("reader", "word"), [(raises, "KeyError"), (names_nothing, "broken"), (dies, "signal 6"), (hangs, "hung")]
)
def test_what_is_wrong_is_found_and_kept(reader, word, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "HUNG", 3)
    monkeypatch.setattr(fuzz, "BATCH", 40)
    monkeypatch.setitem(fuzz.TARGETS, "images", {"reader": reader})
    found, seeds = Counter(), [(".bin", bytes(range(100, 160))), (".bin", bytes(range(200, 250)))]
    fuzz._batch("images", seeds, (3, 0), tmp_path, tmp_path / "kept", found)
    assert any(word in text for text in found), found
    assert list((tmp_path / "kept").iterdir())
    assert not list(tmp_path.glob("current*"))


def test_a_sound_reader_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "BATCH", 30)
    monkeypatch.setitem(fuzz.TARGETS, "images", {"reader": Path.read_bytes})
    found = Counter()
    assert fuzz._batch("images", [(".bin", b"abc")], (3, 0), tmp_path, tmp_path / "kept", found) == 30
    assert not found


def test_a_seed_repeats_its_inputs():
    made = [(".bin", bytes(range(200))), (".bin", b"other" * 30)]

    def inputs(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        return [fuzz.mutated(made[0][1], made, rng) for _ in range(50)]

    assert inputs(1) == inputs(1) != inputs(2)
    assert len(set(inputs(1))) > 45


def test_the_readers_for_a_few_seconds(tmp_path):
    command = [sys.executable, "-m", "tests.faults.fuzz", "--seconds", "2", "--seed", "5", "--output", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "seed 5" in run.stdout

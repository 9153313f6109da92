"""A real cluster of two workers on this machine."""

import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from common.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copied_dir(copied_images, tmp_path):
    """Four images, and one that can't be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(copied_images):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "broken.png").write_bytes(b"")
    (tmp_path / "models").mkdir()
    return folder


@pytest.mark.slow
def test_a_cluster_makes_the_same_tables(run_program, copied_dir, tmp_path, capsys):
    """With two parts of five done before: the cluster does the others."""
    places = {"input": copied_dir, "models_dir": tmp_path / "models", "output": tmp_path / "whole" / "s.csv"}
    alone = runpy.run_path(str(ROOT / "make_submission.py"))
    config = alone["SubmissionConfig"](**places, allow_missing=True, part_size=1, workers=1)
    alone["main"](config)
    output = tmp_path / "ray" / "s.csv"
    alone["main"](replace(config, output=output, num_shards=3, shard_index=0))
    assert "3 of 5 parts are missing" in capsys.readouterr().out
    flags = ["--input", copied_dir, "--models-dir", tmp_path / "models", "--allow-missing", "--part-size", "1"]
    result = run_program("submit_ray.py", *flags, "--output", output, "--address", "local", "--ray-workers", "2")
    assert result.returncode == 0, result.stderr
    assert "continues: 2 of 5 parts are done" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("5 images: 2 forged, 2 authentic, 1 unreadable → ")
    for name in ("s.csv", "scores.csv"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == ["s.csv", "scores.csv"]


@pytest.mark.slow
def test_what_a_worker_can_not_load_is_one_message(run_program, copied_dir, tmp_path):
    (tmp_path / "models" / "highres_no_ela_best.pth").write_bytes(b"no checkpoint")
    flags = ["--input", copied_dir, "--models-dir", tmp_path / "models", "--allow-missing", "--address", "local"]
    result = run_program("submit_ray.py", *flags, "--output", tmp_path / "s.csv")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "highres_no_ela_best.pth" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_no_process_of_a_cluster_outlives_its_program(copied_dir, tmp_path, name):
    """Ended while its workers search: images of noise, which take each some seconds."""
    rng = np.random.default_rng(0)
    for number in range(40):
        noise = cv2.GaussianBlur(rng.integers(0, 256, (900, 900, 3), dtype=np.uint8), (0, 0), 1.0)
        cv2.imwrite(str(copied_dir / f"noise_{number}.png"), noise)
    flags = ["--input", copied_dir, "--models-dir", tmp_path / "models", "--allow-missing", "--part-size", "4"]
    places = ["--output", tmp_path / "s.csv", "--address", "local", "--ray-workers", "2"]
    command = [sys.executable, "submit_ray.py", *map(str, [*flags, *places])]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as program:
        try:
            started = time.monotonic()
            while not [p for p in tmp_path.glob("s.csv.parts/*") if p.suffix == ".csv"] and program.poll() is None:
                assert time.monotonic() - started < 300
                time.sleep(0.2)
            family = psutil.Process(program.pid).children(recursive=True)
            assert len(family) > 2
            program.send_signal(getattr(signal, name))
            _, alive = psutil.wait_procs(family, timeout=90)
            assert [process.name() for process in alive] == []
        finally:
            program.kill()


@pytest.fixture(scope="module")
def program():
    """What submit_ray.py defines, without a process."""
    return runpy.run_path(str(ROOT / "submit_ray.py"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ray_workers": 0}, "--ray-workers is 0"),
        ({"num_shards": 2, "shard_index": 0}, "--num-shards is for make_submission.py"),
        ({"part_size": 0}, "--part-size is 0"),
    ],
)
def test_flags_that_make_no_sense_are_named(program, flags, message):
    with pytest.raises(UserError, match=message):
        program["RayConfig"](input=Path("images"), **flags)


def test_without_ray_it_says_what_to_install(program, copied_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(os.environ, "RAY_USAGE_STATS_ENABLED", "0")
    config = program["RayConfig"](input=copied_dir, models_dir=tmp_path / "models", output=tmp_path / "s.csv")
    with pytest.raises(UserError, match=r'pip install "ray\[data\]"'):
        program["main"](config)

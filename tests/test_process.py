import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from common import process

ROOT = Path(__file__).parent.parent
SET = ("GOMP_SPINCOUNT", "OPENCV_LOG_LEVEL", "NO_ALBUMENTATIONS_UPDATE")


def run(code: str) -> subprocess.CompletedProcess[str]:
    # As a user's shell has it: this process was prepared itself (tests/conftest.py).
    environment = {name: value for name, value in os.environ.items() if name not in SET}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)


SLOW_SIGNALS = [pytest.param(name, marks=pytest.mark.slow) for name in ("SIGINT", "SIGTERM")]
PREPARE = "from common.process import prepare; prepare();"


def test_importing_the_library_changes_nothing_of_the_process():
    code = """
import importlib, os, pathlib, sys
for path in sorted(pathlib.Path("common").rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
import torch, PIL.Image
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OPENCV_LOG_LEVEL"), sys.excepthook is sys.__excepthook__)
print(torch.get_num_threads() == threads(), torch.get_default_dtype(), PIL.Image.MAX_IMAGE_PIXELS)
"""
    threads = "import torch\ndef threads(n=torch.get_num_threads()): return n\n"
    assert run(threads + code).stdout.split() == ["None", "None", "True", "True", "torch.float32", "89478485"]


def test_preparing_sets_openmp_without_importing_torch():
    result = run(f"{PREPARE} import os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)")
    assert result.stdout.split() == ["3000", "False"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda p: p.name)
def test_every_program_prepares_before_all_other_imports(path):
    statements = [node for node in ast.parse(path.read_text()).body if not is_docstring(node)]
    first, second = map(ast.unparse, statements[:2])
    assert (first, second) == ("from common.process import prepare", "prepare()")


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_a_users_own_setting_stays():
    result = run(f"import os; os.environ['GOMP_SPINCOUNT'] = '7'; {PREPARE} print(os.environ['GOMP_SPINCOUNT'])")
    assert result.stdout.split() == ["7"]


def test_an_os_error_says_what_and_where():
    result = run(f"{PREPARE} open('/missing/x.png')")
    assert result.stderr == "error: /missing/x.png: No such file or directory\n"
    assert result.returncode == 1


def test_user_error_ends_with_its_message_alone():
    result = run(f"{PREPARE} from common.errors import UserError; raise UserError('x.png is broken')")
    assert (result.returncode, result.stderr) == (1, "error: x.png is broken\n")


def test_other_errors_keep_their_traceback():
    assert "Traceback" in run(f"{PREPARE} raise ValueError('a bug')").stderr


@pytest.mark.skipif(sys.platform == "win32", reason="exit status of a signal")
def test_interrupt_ends_with_one_line():
    result = run(f"{PREPARE} raise KeyboardInterrupt('go on with --resume')")
    assert result.returncode != 0
    assert result.stderr == "interrupted: go on with --resume\n"


WORKING = f"""{PREPARE}
import signal
import numpy as np
from common.ensemble.evidence import gather
rng = np.random.default_rng(0)
for number, found in enumerate(gather((rng.integers(0, 256, (300, 300, 3), np.uint8) for _ in range(10**6)), 2)):
    if number == 2:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
        print("up", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", [*SLOW_SIGNALS, "SIGKILL"])
def test_no_worker_outlives_its_program(name):
    with subprocess.Popen([sys.executable, "-c", WORKING], stdout=-1, stderr=-1, text=True, cwd=ROOT) as program:
        try:
            assert program.stdout.readline() == "up\n"
            family = psutil.Process(program.pid).children(recursive=True)
            assert len(family) >= 2
            program.send_signal(getattr(signal, name))
            gone, alive = psutil.wait_procs(family, timeout=60)
            assert alive == [] and len(gone) == len(family)
            said = program.communicate(timeout=60)[1]
            assert program.returncode != 0
            assert name == "SIGKILL" or said == "interrupted\n"
        finally:
            program.kill()


STARTING = f"""{PREPARE}
import joblib, time
from common.process import watched
def wait(seconds):
    time.sleep(seconds)
pool = joblib.Parallel(2, return_as="generator", pre_dispatch=1, **watched())
for _ in pool(joblib.delayed(wait)(0 if number == 0 else 10**6) for number in range(2)):
    print("up", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_that_has_no_task_yet_ends_too():
    """It would wait for one for ever."""
    with subprocess.Popen([sys.executable, "-c", STARTING], stdout=-1, stderr=-1, text=True, cwd=ROOT) as program:
        try:
            assert program.stdout.readline() == "up\n"
            family = psutil.Process(program.pid).children(recursive=True)
        finally:
            program.kill()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert len(family) >= 3 and alive == []


LOADING = f"""{PREPARE}
import torch
from common.data.dataset import make_loader
class Endless(torch.utils.data.Dataset):
    def __len__(self):
        return 10**9
    def __getitem__(self, index):
        return {{"image": torch.zeros(3, 8, 8)}}
for number, _ in enumerate(make_loader(Endless(), 1, 2)):
    if number == 2:
        print("up", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", [SLOW_SIGNALS[1], "SIGKILL"])
def test_no_loader_process_outlives_its_program(name):
    with subprocess.Popen([sys.executable, "-c", LOADING], stdout=-1, stderr=-1, text=True, cwd=ROOT) as program:
        try:
            assert program.stdout.readline() == "up\n"
            family = psutil.Process(program.pid).children(recursive=True)
            program.send_signal(getattr(signal, name))
            _, alive = psutil.wait_procs(family, timeout=60)
            assert len(family) >= 2 and alive == []
        finally:
            program.kill()


def test_with_one_worker_nothing_is_watched():
    code = "import joblib, threading; from common.process import watched; f = threading.active_count"
    calls = "list(joblib.Parallel(1, return_as='generator', **watched())(joblib.delayed(f)() for _ in range(2)))"
    assert run(f"{code}; print({calls})").stdout == "[1, 1]\n"


@pytest.mark.parametrize("error", ["UserError", "KeyboardInterrupt", "RuntimeError"])
@pytest.mark.parametrize("ended", [True, False])
def test_another_process_speaks_only_if_the_launcher_does_not_end_it_first(error, ended):
    """As it ends all when the main one has failed; what befalls another one alone is said all the same."""
    code = f"{PREPARE} from common.errors import UserError; print('up', flush=True); raise {error}('broken')"
    environment = os.environ | {"RANK": "1"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as other:
        assert other.stdout.readline() == "up\n"
        time.sleep(0.3)
        if ended:
            other.terminate()
        said = other.communicate()[1].splitlines()
        assert ("broken" in said[-1]) if not ended else said == []


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_malloc_neither_maps_nor_trims(monkeypatch):
    calls = []

    class Libc:
        def mallopt(self, *arguments):
            calls.append(arguments)

    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: Libc())
    process._keep_freed_memory()
    assert calls == [(-4, 0), (-1, -1)]  # M_MMAP_MAX none, M_TRIM_THRESHOLD never: <malloc.h>

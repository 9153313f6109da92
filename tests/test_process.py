import os
import subprocess
import sys
import time
from pathlib import Path

from common import process

import pytest

ROOT = Path(__file__).parent.parent


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_importing_common_sets_openmp_without_importing_torch():
    result = run("import os, sys, common; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)")
    assert result.stdout.split() == ["3000", "False"]


def test_a_users_own_setting_stays():
    result = run("import os; os.environ['GOMP_SPINCOUNT'] = '7'; import common; print(os.environ['GOMP_SPINCOUNT'])")
    assert result.stdout.split() == ["7"]


def test_user_error_ends_with_its_message_alone():
    result = run("import common; from common.errors import UserError; raise UserError('x.png is broken')")
    assert (result.returncode, result.stderr) == (1, "error: x.png is broken\n")


def test_other_errors_keep_their_traceback():
    assert "Traceback" in run("import common; raise ValueError('a bug')").stderr


@pytest.mark.skipif(sys.platform == "win32", reason="exit status of a signal")
def test_interrupt_ends_with_one_line():
    result = run("import common; raise KeyboardInterrupt('go on with --resume')")
    assert result.returncode != 0
    assert result.stderr == "interrupted: go on with --resume\n"


@pytest.mark.parametrize("error", ["UserError", "KeyboardInterrupt", "RuntimeError"])
@pytest.mark.parametrize("ended", [True, False])
def test_another_process_speaks_only_if_the_launcher_does_not_end_it_first(error, ended):
    """As it ends all when the main one has failed; what befalls another one alone is said all the same."""
    code = f"import common; from common.errors import UserError; print('up', flush=True); raise {error}('broken')"
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

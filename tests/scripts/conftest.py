import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def call_program():
    """`run_program` without a process of its own, which would spend seconds on importing what is imported here.

    For what a program's real start, in another test, has shown to arrive: flags, output, exit status.
    """

    def call(program: str, *arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        out, errors, status = io.StringIO(), io.StringIO(), 0
        command = [program, *map(str, arguments)]
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
            patch.setattr(sys, "argv", command)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                try:
                    runpy.run_path(str(ROOT / program), run_name="__main__")
                except SystemExit as end:
                    status = end.code or 0
                except Exception as error:
                    sys.excepthook(type(error), error, error.__traceback__)
                    status = 1
        return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())

    return call

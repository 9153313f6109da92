import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.locks import hold, locks_end, release
from common.locks import holder as holder_of

ROOT = Path(__file__).parent.parent
HOLDING = """
import sys, time
from pathlib import Path
from common.errors import UserError
from common.locks import hold
try:
    hold(Path(sys.argv[1]), together=sys.argv[2])
except UserError as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    if sys.argv[3:]:
        sys.stdin.read()
"""


class Holder:
    """A program that holds a lock until its input ends."""

    def __init__(self, path, together=""):
        command = [sys.executable, "-c", HOLDING, str(path), together, "wait"]
        self.program = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT)
        self.said = self.program.stdout.readline().strip()

    def end(self, number=None):
        if number is None:
            self.program.stdin.close()
        else:
            self.program.send_signal(number)
        self.program.wait(10)
        self.program.stdout.close()


def ask(path, together=""):
    """What another program is told that wants the lock."""
    command = [sys.executable, "-c", HOLDING, str(path), together]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def test_another_program_is_told_who_holds_it(tmp_path):
    path = tmp_path / "submission.csv"
    hold(path)
    hold(path)  # twice is once
    said = ask(path)
    assert f"{path} is being written by another program: process {os.getpid()} on " in said and "Wait until" in said
    assert ask(tmp_path / "other.csv") == "held"
    release(path)
    assert list(tmp_path.iterdir()) == []
    assert ask(path) == "held"
    release(path)  # held no more: nothing happens


def test_the_holder_is_named_without_taking_the_lock(tmp_path):
    path = tmp_path / "ela"
    assert holder_of(path) == "" and list(tmp_path.iterdir()) == []
    other = Holder(path)
    for _ in range(2):
        assert holder_of(path).startswith(f"process {other.program.pid} on ")
    assert "is being written by another program" in ask(path)
    other.end(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == [tmp_path / ".ela.lock"]
    assert holder_of(path) == ""
    hold(path)
    assert holder_of(path) == "this process"
    assert f"process {os.getpid()} on " in ask(path)  # to ask has not given it up
    release(path)


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_program(tmp_path, number):
    path = tmp_path / "highres_no_ela"
    holder = Holder(path)
    assert holder.said == "held"
    with pytest.raises(UserError, match=f"process {holder.program.pid} on "):
        hold(path)
    holder.end(number)
    hold(path)
    release(path)
    assert list(tmp_path.iterdir()) == []


def test_workers_of_one_output_share_it(tmp_path):
    path = tmp_path / "submission.csv"
    holders = [Holder(path, "run 1") for _ in range(3)]
    assert [holder.said for holder in holders] == ["held"] * 3
    assert "is being written by another program" in ask(path, "run 2")
    assert "is being written by another program" in ask(path)
    for holder in holders[:2]:
        holder.end()
    assert ask(path, "run 1") == "held"
    assert "is being written by another program" in ask(path)
    holders[2].end()
    assert ask(path, "run 2") == "held"


def test_workers_that_start_and_end_together_are_never_refused(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom common.locks import hold, release\n"
        "for _ in range(100):\n hold(Path(sys.argv[1]), together='run')\n release(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    runs = [subprocess.Popen(command, stderr=-1, text=True, cwd=ROOT) for _ in range(3)]
    assert [run.communicate(timeout=60)[1] for run in runs] == [""] * 3
    assert list(tmp_path.iterdir()) == []


def test_one_file_by_two_names_is_one_lock(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    hold(tmp_path / "real" / "x")
    hold(tmp_path / "link" / "x")
    assert "another program" in ask(tmp_path / "real" / "x")
    release(tmp_path / "link" / "x")
    assert list((tmp_path / "real").iterdir()) == []


def test_many_at_once_are_one(tmp_path):
    """Some of them remove the file of the lock while others wait for it."""
    path = tmp_path / "x"
    for _ in range(3):
        holders = [Holder(path) for _ in range(4)]
        said = [holder.said for holder in holders]
        assert said.count("held") == 1 and sum("another program" in text for text in said) == 3
        for holder in holders:
            holder.end()


def test_the_other_processes_of_a_launcher_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    hold(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_function_locks_ends_with_it(tmp_path):
    @locks_end()
    def work(error=None):
        hold(tmp_path / "a")
        hold(tmp_path / "b")
        assert "another program" in ask(tmp_path / "b")
        if error:
            raise error

    hold(tmp_path / "b")
    work()
    assert [path.name for path in tmp_path.iterdir()] == [".b.lock"]
    release(tmp_path / "b")
    with pytest.raises(ValueError, match="broken"):
        work(ValueError("broken"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"x can't be locked \(No such file or directory\)"):
        hold(tmp_path / "missing" / "x")

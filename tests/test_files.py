import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.decoding import pixel_count
from common.data.images import find_images, read_image
from common.data.masks import read_mask
from common.data.samples import load_samples
from common.ensemble.settings import Settings
from common.errors import UserError
from common.evaluation.scoring import read_map, read_submission
from common.files import check_writable, entries, files_below, spelled_out, write_json, written_whole
from common.making.checking import check_folder
from common.making.importing import find_source
from common.papers.pdf import read_figures
from common.submission.sources import list_files
from common.tables import read_table
from common.training.checkpoint import load_checkpoint, save_checkpoint
from common.video.clips import find_clips
from common.video.files import open_video

ROOT = Path(__file__).parent.parent
WALKING = re.compile(r"\.(rglob|iterdir)\(|\bos\.(walk|listdir)\(")
READERS = {
    "find_images": find_images,
    "load_samples": lambda folder: load_samples(folder.parent),
    "find_clips": find_clips,
    "list_files": lambda folder: list(list_files(folder)),
    "files_below": files_below,
    "check_folder": lambda folder: check_folder(folder.parent),
    "find_source": lambda folder: find_source(folder.rename(folder.parent / "images").parent),
    "read_submission": lambda folder: read_submission(folder / "submission.csv", folder),
}


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder of images, of which one below can't be listed. Permissions bind no administrator: it is made up."""
    folder = tmp_path / "train_images"
    for name in ("authentic/a.png", "authentic/locked/b.png", "forged/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()

    def refusing(function):
        def refuse(place="."):
            if Path(place).name == "locked":
                raise PermissionError(13, "Permission denied", str(place))
            return function(place)

        return refuse

    (folder / "submission.csv").write_text("case_id,annotation\na,authentic\n")
    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return folder


def test_writes_and_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with written_whole(path) as file:
        file.write("ä\n")
        assert not path.exists()
    assert path.read_bytes() == "ä\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(error), written_whole(path) as file:
        file.write("half")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_of_two_that_write_at_once_the_last_is_kept_whole(tmp_path):
    path = tmp_path / "b.txt"
    with written_whole(path) as first:
        first.write("first")
        with written_whole(path) as second:
            second.write("second")
        assert path.read_text() == "second"
        assert len(list(tmp_path.glob("b.txt*.partial"))) == 1
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/b\.txt can't be written"), written_whole(tmp_path / "file" / "b.txt"):
        pass


def test_what_killed_programs_left_is_removed(tmp_path):
    """But not what another program writes now, and no file of another name."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom common.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as file:\n file.write('half')\n file.flush()\n"
        " print('up', flush=True)\n sys.stdin.read() or os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.pth")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) as program:
        assert program.stdout.readline() == "up\n"
        (left,) = tmp_path.iterdir()
        (tmp_path / "b.partial").touch()
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        check_writable(tmp_path / "x")
        assert left.exists()
        program.stdin.close()
    assert left.exists()  # it was killed
    check_writable(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["b.partial"]


def fill(kind):
    """Write more than there is room for, as the programs do."""
    if kind == "torch":
        return lambda path: save_checkpoint({"weights": torch.zeros(500_000)}, path)
    if kind == "json":
        return lambda path: write_json({"a": "b" * 2_000_000}, path)

    def write(path):
        with written_whole(path, "wb") as file:
            np.save(file, np.zeros(500_000)) if kind == "numpy" else file.write(bytes(2_000_000))

    return write


def test_a_read_that_fails_is_no_failed_write(tmp_path):
    def read():
        try:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        except OSError as error:
            raise UserError("source.png can't be read.") from error

    with pytest.raises(UserError, match=r"^source\.png can't be read"), written_whole(tmp_path / "a.csv"):
        read()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_disk_costs_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(UserError, match=r"a\.csv can't be written \(Input/output error"), written_whole(path) as file:
        file.write("new")
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    # Of another file that is read meanwhile, the error is its own.
    with pytest.raises(OSError, match=r"source\.csv"), written_whole(path) as file:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "source.csv")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
@pytest.mark.parametrize("kind", ["torch", "numpy", "json", "bytes"])
def test_a_full_disk_costs_nothing(tmp_path, kind):
    """The largest size of a file of this process stands for the end of the disk."""
    path = tmp_path / "a.pth"
    path.write_text("old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"a\.pth can't be written \(.*MB are free there\)\. What was there before is"
        ):
            fill(kind)(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("reader", READERS)
def test_no_folder_that_can_not_be_read_is_left_out(locked, reader):
    with pytest.raises(UserError, match=r"locked can't be (read|listed) \(Permission denied\)"):
        READERS[reader](locked)


OPENERS = {
    "image": ("a.png", read_image),
    "size of an image": ("a.tif", lambda path: pixel_count(path) or read_image(path)),
    "mask": ("a.npy", read_mask),
    "map": ("a.npy", read_map),
    "video": ("a.mp4", open_video),
    "table": ("a.csv", lambda path: read_table(path, ())),
    "manifest": ("a.csv", lambda path: list(list_files(path))),
    "submission": ("a.csv", lambda path: read_submission(path, path.parent)),
    "paper": ("a.pdf", lambda path: list(read_figures(path))),
    "checkpoint": ("a.pth", load_checkpoint),
    "settings": ("a.json", Settings.load),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_pipe_is_no_file(tmp_path, opener):
    """Opened, it would wait for a writer for ever."""
    name, read = OPENERS[opener]
    os.mkfifo(tmp_path / name)

    def give_up(*_):
        raise AssertionError("it waits")  # no OSError, which readers catch

    earlier = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    try:
        with pytest.raises(UserError, match=re.escape(name)):
            read(tmp_path / name)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


def test_entries(locked):
    assert [path.name for path in entries(locked)] == ["authentic", "forged", "submission.csv"]
    assert entries(locked / "missing") == []
    with pytest.raises(UserError, match="locked can't be read"):
        entries(locked / "authentic" / "locked")
    with pytest.raises(UserError, match=r"a\.png can't be read \(Not a directory\)"):
        entries(locked / "authentic" / "a.png")


def test_files_below(tmp_path):
    for name in ("b/2.png", "b/.hidden", "a", "b/c/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == ["a", "b/2.png", "b/c/1"]
    with pytest.raises(UserError, match="missing"):
        files_below(tmp_path / "missing")


def test_a_path_that_is_spelled_out_ends_in_a_name(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert spelled_out(Path()) == tmp_path.resolve() / "a" / "b"
    assert spelled_out(Path("..")) == spelled_out(Path("../b/..")) == tmp_path.resolve() / "a"
    assert spelled_out(tmp_path / "link") == tmp_path / "link"
    assert spelled_out(Path("new")) == Path("new")


@pytest.mark.parametrize("own", [".", ".kept", "plain"])
def test_hidden_folders_are_left_out(tmp_path, monkeypatch, own):
    """As hidden files are; but not the folder that the user names."""
    root = tmp_path / own
    names = ["a.png", ".Trash-1000/files/old.png", ".thumbnails/a.png", "sub/.cache/b.png", "sub/c.png", "sub/.d.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    monkeypatch.chdir(tmp_path)
    shown = [Path(own, "a.png"), Path(own, "sub/c.png")]
    assert files_below(Path(own)) == shown
    assert find_images(Path(own)) == {"a": shown[0], "sub/c": shown[1]}
    assert [Path(path) for _, _, path in list_files(Path(own))] == shown


def test_folders_are_listed_in_one_place():
    """The standard library's functions leave out what they may not read."""
    elsewhere = {
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("*.py"), *ROOT.glob("common/**/*.py")]
        if WALKING.search(path.read_text())
    }
    own_code = "common/submission/inputs.py"
    assert elsewhere == {"common/files.py", own_code}

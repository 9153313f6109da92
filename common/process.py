"""Process settings that every program makes before it imports torch: OpenMP, malloc, Pillow, output, signals, errors.

On a CPU the first two can be worth more than a change of framework: OpenMP threads that do not spin while they wait,
and a malloc that keeps freed memory instead of returning it to the kernel after every layer. To measure their effect:
`python -m benchmarks.process_settings`.
"""

import atexit
import ctypes
import errno
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from multiprocessing import current_process
from types import FrameType
from typing import Any

from PIL import Image

from common.errors import UserError, readable

# glibc's mallopt parameters, <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def prepare() -> None:
    """Tune OpenMP and malloc (Linux with glibc), allow large images, and print only what the user is meant to read.

    A `UserError` is printed as its message alone, an `OSError` as what it says of its file; warnings of libraries only
    if Python is asked for them (-W). A character that the terminal can't show becomes an escape. A closed pipe
    (`| head`) ends the program quietly. SIGTERM, with which schedulers and containers stop a program, is a Ctrl-C.

    To be called before torch is imported, since OpenMP reads its environment once. Variables set by the user stay.
    """
    # Spinning threads become very slow when another process, such as a data loader's worker, needs a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # OpenCV's messages on broken files name no file; our errors do.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # albumentations otherwise asks its server for a newer version at every import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Above this Pillow warns of a decompression bomb, above twice this it refuses. Slide scans are smaller.
    Image.MAX_IMAGE_PIXELS = 250_000_000
    _keep_freed_memory()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what is odd in a file that it reads all the same
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _show_exception
    alone = current_process().name == "MainProcess" and rank() == 0  # a launcher ends the others
    if alone and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    atexit.register(_flush)


def rank() -> int:
    """Number of this process among those of a launcher (`torchrun`, `accelerate launch`); 0 for the main one."""
    return int(os.environ.get("RANK") or 0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def watched() -> dict[str, Any]:
    """Options of `joblib.Parallel` with which its processes end soon after this one, however that is.

    A killed program can't end its workers, which would go on to compute, or wait, for ever.
    """
    return {"initializer": _watch, "initargs": (os.getpid(),)}


def _watch(parent: int) -> None:
    """End this process once it is no child of `parent` any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _flush() -> None:
    """Write what is left of the output, if anyone still reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except (AttributeError, ValueError, OSError):  # there is none, or it is closed
        pass


def _discard_output() -> None:
    """Let nothing be written to a pipe that is closed, when the interpreter ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _keep_freed_memory() -> None:
    """Serve large blocks from the heap and never trim it, so that the memory of activations is reused."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def _show_exception(kind, error, traceback) -> None:
    if rank() > 0:
        # The main process most likely reports the same; the launcher then ends the others before they do.
        time.sleep(2)
    if issubclass(kind, BrokenPipeError):
        _discard_output()
    elif issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        print(f"error: {readable(str(error.filename or 'writing'))}: {error.strerror}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print(f"interrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)

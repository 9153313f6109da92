"""Settings of the process that every program makes before it imports torch.

Two of them can be worth more than any change of framework on a CPU: OpenMP threads that do not spin while they wait,
and a malloc that keeps its memory instead of giving it back to the kernel after every layer. What they bring on a
machine, alone and beside a busy neighbour: `python -m benchmarks.process_settings`.
"""

import ctypes
import os
import sys
import time

from PIL import Image

from common.errors import UserError

# glibc's mallopt parameters, <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def prepare() -> None:
    """Tune OpenMP and malloc (Linux with glibc), take large images, and show a `UserError` as one message.

    To be called before torch is imported: OpenMP reads its environment once. What the user has set there stays.
    """
    # Threads that spin collapse when anything else wants a core (a data loader's worker is enough).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # What OpenCV says of a broken file names no file; our errors do.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # albumentations asks its server for a newer version at every import otherwise.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Pillow warns of a quarter of this and refuses twice that as a decompression bomb. Slide scans lie below it.
    Image.MAX_IMAGE_PIXELS = 250_000_000
    _keep_freed_memory()
    sys.excepthook = _show_exception


def _keep_freed_memory() -> None:
    """Serve large blocks from the heap and never trim it: activations are reused, not mapped anew."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def _show_exception(kind, error, traceback) -> None:
    if int(os.environ.get("RANK", 0)) > 0:
        # The main process most likely says the same, or has gone while it was waited for: the launcher then ends the
        # others before they say it.
        time.sleep(2)
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print(f"interrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)

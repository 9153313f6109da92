"""The readers of all programs on a corpus of malformed files, in a process of its own with bounded memory.

`python -m tests.faults.readers DIR` prints, as JSON lines, how each reader took each file: `begin` before it, and
`result`, `refused` or `wrong` after it; so whoever reads the lines knows which file ended the process, if one did.
"""

import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from common.data.decoding import pixel_count
from common.data.images import read_image, read_picture
from common.data.labelled import read_labelled_table
from common.data.masks import read_mask
from common.data.samples import read_groups
from common.ensemble.settings import Settings
from common.errors import UserError
from common.evaluation.scoring import read_map, read_submission
from common.papers.pdf import read_figures
from common.process import prepare
from common.submission.shards import read_shard, shard_parts
from common.submission.sources import list_files
from common.tables import read_table
from common.training.checkpoint import load_checkpoint
from common.video.files import open_video, read_frames

MEMORY = 2_500_000_000
"""Bytes of address space that reading may take beyond what the process has after its imports."""


def _all(found) -> None:
    deque(found, 0)


def _frames(path: Path) -> None:
    _all(read_frames(open_video(path), range(12)))


READERS: dict[str, dict[str, Callable[[Path], object]]] = {
    "images": {
        "read_image": read_image,
        "second page": lambda path: read_picture(path, 1),
        "read_mask": read_mask,
        "pixel_count": pixel_count,
        "open_video": open_video,
    },
    "masks": {"read_mask": read_mask},
    "tables": {
        "read_table": lambda path: read_table(path, ("case_id",)),
        "manifest": lambda path: _all(list_files(path)),
        "groups": read_groups,
        "labelled": read_labelled_table,
        "submission": lambda path: read_submission(path, path.parent),
    },
    "settings": {"settings": Settings.load},
    "papers": {"read_figures": lambda path: _all(read_figures(path))},
    "videos": {"open_video": open_video, "read_frames": _frames},
    "models": {"load_checkpoint": load_checkpoint, "mapped": lambda path: load_checkpoint(path, mapped=True)},
    "shards": {"shard_parts": lambda path: shard_parts([path]), "read_shard": lambda path: _all(read_shard(path))},
}
"""Folder of the corpus → its readers by name."""
MAPS: dict[str, dict[str, Callable[[Path], object]]] = {
    "images": {"read_map": read_map},
    "masks": {"read_map": read_map},
}
"""The reader of probability maps. It comes after all others, because the memory that it takes is not freed."""


def attempt(read: Callable[[Path], object], path: Path) -> dict[str, object]:
    """How a reader took a file: `result`, `refused` with the reason, or `wrong`; seconds, and bytes beyond the peak."""
    begun, before = time.monotonic(), _peak()
    try:
        read(path)
        kind, note = "result", ""
    except UserError as error:
        kind, note = ("refused" if path.name in str(error) else "wrong"), str(error)
    except BaseException as error:  # whatever it is, SystemExit too
        kind, note = "wrong", f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - begun, 2)
    return {"kind": kind, "note": note[:300], "seconds": seconds, "more_memory": _peak() - before}


def _peak() -> int:
    """The most memory in use so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bound_memory(more: int = MEMORY) -> None:
    """Let this process have so many bytes of address space more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(folder: Path) -> None:
    """Let each reader read each file of a corpus."""
    prepare()
    bound_memory()
    for kind, readers in (*READERS.items(), *MAPS.items()):
        for path in sorted((folder / kind).iterdir()):
            for name, read in readers.items():
                place = {"file": f"{kind}/{path.name}", "reader": name}
                print(json.dumps({"kind": "begin"} | place), flush=True)
                print(json.dumps(attempt(read, path) | place), flush=True)
    print(json.dumps({"kind": "end"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

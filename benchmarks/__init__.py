"""Programs that measure, each a command: `python -m benchmarks.<name>`. See README.md."""

import re
from pathlib import Path


def high_water() -> float:
    """Peak memory of this process so far in MB (Linux)."""
    # Not getrusage, whose peak is inherited from the parent process.
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024

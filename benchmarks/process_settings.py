"""Effect of the process settings of `common.process` on training steps, alone and beside a busy process.

    python -m benchmarks.process_settings

Each cell is a process of its own (the settings must precede torch): median seconds of a step of the quick profile's
network, batch 8 at 256 px, without and with the settings; a ratio above 1 is faster. The neighbour is a process that
keeps one core busy, like a data loader's worker or another program.
"""

import os
import platform
import subprocess
import sys

STEP = """
import statistics, sys, time
if sys.argv[1] == "tuned":
    from common.process import prepare
    prepare()
import torch
import segmentation_models_pytorch as smp
torch.manual_seed(0)
network = smp.FPN(
    "tu-mobilenetv3_small_100", encoder_weights=None, decoder_pyramid_channels=64, decoder_segmentation_channels=32
)
image, target = torch.rand(8, 3, 256, 256), (torch.rand(8, 1, 256, 256) > 0.9).float()
seconds = []
for _ in range(12):
    start = time.perf_counter()
    torch.nn.functional.binary_cross_entropy_with_logits(network(image), target).backward()
    seconds.append(time.perf_counter() - start)
print(statistics.median(seconds[3:]))
"""


def main() -> None:
    """Time the four cells, interleaved, and print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores\n")
    print("| neighbour | default (s) | tuned (s) | ratio |\n|---|---:|---:|---:|")
    for neighbour in (False, True):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if neighbour else None
        try:
            rounds = [(_step_seconds("default"), _step_seconds("tuned")) for _ in range(3)]
        finally:
            if busy is not None:
                busy.kill()
        default, tuned = (min(column) for column in zip(*rounds, strict=True))
        print(f"| {'one busy' if neighbour else 'none'} | {default:.3f} | {tuned:.3f} | {default / tuned:.2f}× |")


def _step_seconds(settings: str) -> float:
    result = subprocess.run([sys.executable, "-c", STEP, settings], capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


if __name__ == "__main__":
    main()

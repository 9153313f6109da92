"""A plain fuzzer: it changes files of the corpus at random, and lets the readers of the programs read them.

    python -m tests.faults.fuzz --seconds 300 --seed 7

Each input that ends the process, takes too long or raises anything but an error that names the file is kept, with its
seed. The same seed makes the same inputs.
"""

import argparse
import os
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.metrics.rle import parse_annotation
from common.process import prepare
from tests.faults.corpus import KINDS, damaged_pictures, sound_pictures, wrong_arrays
from tests.faults.readers import READERS, attempt, bound_memory

HUNG = 30
"""Seconds after which a reader counts as hung."""
BATCH = 200
"""Inputs that one child process reads."""
VALUES = (0, 1, 0x7F, 0x80, 0xFF)
"""Bytes at the ends of the ranges of signed and unsigned numbers."""


def _parse(path: Path) -> None:
    try:
        parse_annotation(path.read_text(encoding="utf-8", errors="replace"), 40, 56)
    except UserError as error:  # whoever has the row names it
        raise UserError(f"{path}: {error}") from error


TARGETS: dict[str, dict[str, Callable[[Path], object]]] = {
    name: READERS[name] for name in ("images", "masks", "settings", "tables", "shards", "papers", "videos")
}
TARGETS["annotations"] = {"parse_annotation": _parse}


def seeds(target: str) -> list[tuple[str, bytes]]:
    """Suffix and content of the small files that inputs are mutated from."""
    if target == "annotations":
        texts = ("authentic", "[123, 4, 567, 8];[1653, 98]", "[]", "[1, 2240]", "[5,2,1,1]", "[[1, 2]]", "[1e3, 2]")
        return [(".txt", text.encode()) for text in texts]
    makers = {"images": [lambda: iter(sound_pictures().items()), *KINDS[target]], "masks": [wrong_arrays]}
    made = [entry for make in makers.get(target, KINDS[target]) for entry in make() if make is not damaged_pictures]
    return [(Path(name).suffix, content) for name, content in made if 0 < len(content) < 100_000]


def mutated(content: bytes, others: list[tuple[str, bytes]], rng: np.random.Generator) -> bytes:
    """A file with a few changes: bits, bytes, numbers, holes, repetitions, pieces of another one."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        if not changed:
            break
        near = int(rng.integers(2)) and min(len(changed), 128)  # headers matter more than pixels
        place = int(rng.integers(near or len(changed)))
        length = int(rng.integers(1, 1 + min(len(changed) - place, int(rng.choice([4, 16, 256])))))
        match int(rng.integers(7)):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place : place + length] = bytes([int(rng.choice(VALUES))]) * length
            case 2:
                number = int(rng.choice([0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 60_000]))
                changed[place : place + 4] = number.to_bytes(4, "little" if rng.integers(2) else "big")
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length] * int(rng.integers(1, 4))
            case 5:
                other = others[int(rng.integers(len(others)))][1]
                start = int(rng.integers(len(other)))
                changed[place : place + length] = other[start : start + length]
            case 6:
                del changed[max(1, place) :]
    return bytes(changed)


def main() -> None:
    """Fuzz for a while; the exit status is 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long")
    parser.add_argument("--seed", type=int, help="a whole number; random by default, and printed")
    parser.add_argument("--output", type=Path, default=Path("outputs/fuzz"), help="folder of what was found")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(f"seed {seed}, {options.seconds:g} s")
    prepare()
    made = {target: seeds(target) for target in options.targets}
    tried, found, until, number = Counter(), Counter(), time.monotonic() + options.seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < until:
            target = options.targets[number % len(options.targets)]
            done = _batch(target, made[target], (seed, number), Path(folder), options.output, found)
            tried[target] += done
            number += 1
    for target in options.targets:
        print(f"{target}: {tried[target]} inputs, {len(TARGETS[target])} readers each")
    for text, count in found.most_common():
        print(f"{count} × {text}")
    print(f"{sum(tried.values())} inputs, {sum(found.values())} faults{f', in {options.output}' if found else ''}")
    sys.exit(bool(found))


def _batch(target: str, made: list, seed: tuple[int, int], folder: Path, output: Path, found: Counter) -> int:
    """Let a child read a batch of inputs. It writes each one before it reads it, and a line after it."""
    log = folder / "log"
    log.write_text("")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            _child(target, made, seed, folder, output, log)
        finally:
            os._exit(0)
    began, lines = time.monotonic(), 0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        now = log.read_text().count("\n")
        if now != lines:
            began, lines = time.monotonic(), now
        if ended:
            break
        if time.monotonic() - began > HUNG:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.05)
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    for row in rows:
        if row[0] == "wrong":
            found[" ".join(row[1:])] += 1
    if os.WIFSIGNALED(status):
        signal_ = os.WTERMSIG(status)
        kind = "hung" if signal_ == signal.SIGKILL else f"died of signal {signal_}"
        for current in folder.glob("current*"):
            _keep(output, f"{kind.replace(' ', '_')}_{seed[0]}_{seed[1]}_{lines}{current.suffix}", current.read_bytes())
        found[f"{target}: {kind}"] += 1
    for current in folder.glob("current*"):
        current.unlink()
    return sum(row[0] == "done" for row in rows)


def _child(target: str, made: list, seed: tuple[int, int], folder: Path, output: Path, log: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of broken files
    bound_memory()
    rng = np.random.default_rng(seed)
    with log.open("a", buffering=1) as lines:
        for number in range(BATCH):
            suffix, content = made[int(rng.integers(len(made)))]
            path = folder / f"current{suffix}"
            path.write_bytes(mutated(content, made, rng))
            for name, read in TARGETS[target].items():
                took = attempt(read, path)
                if took["kind"] == "wrong" or float(str(took["seconds"])) > HUNG / 3:
                    kept = f"{name.replace(' ', '_')}_{seed[0]}_{seed[1]}_{number}{suffix}"
                    _keep(output, kept, path.read_bytes())
                    note = str(took["note"]).split(":")[0][:60].replace("\t", " ").replace("\n", " ")
                    lines.write(f"wrong\t{target}/{name}: {note} ({took['seconds']:.0f} s)\n")
            path.unlink()
            lines.write("done\n")


def _keep(output: Path, name: str, content: bytes) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / name).write_bytes(content)


if __name__ == "__main__":
    main()

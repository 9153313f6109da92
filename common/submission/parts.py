"""Resumable, sharded writing of tables: each part is written as files of its own, and all are merged in order.

The files lie in a folder beside the output, `<output>.parts`, until the merge. Any number of processes, on machines
that share it, write the parts in any order, and the last one merges. Started again after an interruption, a process
writes the missing parts, and those whose input files have changed since.
"""

import csv
import errno
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from common.files import write_json, written_whole
from common.submission.sources import Part

FAULTS = ("unreadable", "failed", "video not scored")
"""Counts of files with an error."""


class Parts:
    """The parts of one or more tables.

    Part 7 has a file `000007-<n>.csv` for the n-th table, rows without the header, and then a mark, `000007.json`, with
    its key, its files' stamp, the tables' sizes in bytes, and counts. It is done if the mark exists and has the right
    key and sizes. Stamps are compared by `remaining` alone, at the start of a run.
    """

    def __init__(self, tables: Mapping[Path, Sequence[str]], parts: Sequence[Part], run: str) -> None:
        """Find what was done; recover the parts of a merge that was killed.

        Args:
            tables: The files to be written, with the columns of each. The folder of the parts is beside the first.
            parts: All parts, numbered.
            run: What the rows depend on besides the part, hashed.
        """
        self.tables, self.parts, self.run = tables, parts, run
        output = next(iter(tables))
        self.folder = output.with_name(f"{output.name}.parts")
        self._claimed = output.with_name(f"{output.name}.parts.merging")
        with suppress(OSError):  # there is a killed merge
            self._claimed.rename(self.folder)

    def is_done(self, part: Part) -> bool:
        """Whether the part was written by a run with the same `run`."""
        return self._read_mark(part) is not None

    def _read_mark(self, part: Part) -> dict[str, Any] | None:
        """The mark of a part; None if the part is not done, or the mark is broken: then it is done again."""
        try:
            mark = json.loads(self._mark(self.folder, part).read_text())
            sizes = [path.stat().st_size for path in self._paths(self.folder, part)]
            right = mark["key"] == self._key(part) and mark["bytes"] == sizes and isinstance(mark["files"], str)
            right = right and all(isinstance(count, int) for count in mark["counts"].values())
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return None
        return mark if right else None

    def missing(self, parts: Iterable[Part] | None = None) -> list[Part]:
        """Those of `parts`, or of all, that are not done."""
        return [part for part in (self.parts if parts is None else parts) if not self.is_done(part)]

    def remaining(self, own: Sequence[Part]) -> list[Part]:
        """Those of `own` that are not done or whose files have changed; prints how many are done and how many outdated.

        Args:
            own: Parts that no other process does. The marks of those with changed files are removed, so that no other
                process merges them.
        """
        done = {part.number: mark for part in own if (mark := self._read_mark(part))}
        if outdated := sum(part.number not in done and self._mark(self.folder, part).exists() for part in own):
            print(f"{outdated} parts in {self.folder} are of other files, flags, models or code, and are done again")
        finished = [part for part in own if part.number in done]
        with ThreadPoolExecutor() as pool:  # a network file system answers many requests at once
            stamps = list(pool.map(Part.stamp, finished))
        changed = [part for part, stamp in zip(finished, stamps, strict=True) if stamp != done[part.number]["files"]]
        if changed:
            print(f"{len(changed)} parts in {self.folder} are of files that have changed since, and are done again")
        for part in changed:
            self._mark(self.folder, part).unlink(missing_ok=True)
            del done[part.number]
        if done:
            # Not repeated for an unreadable file: if one in a hundred is, that would be nearly every part.
            faults = sum(mark["counts"].get(name, 0) for mark in done.values() for name in FAULTS)
            print(
                f"continues: {len(done)} of {len(own)} parts are done, with {faults} files that have an error; to "
                f"start over, remove {self.folder}"
            )
        return [part for part in own if part.number not in done]

    @contextmanager
    def written(self, part: Part, counts: Counter[str]) -> Generator[list[Any]]:
        """A csv writer for each table; when the block ends, the part is done.

        Args:
            part: The part.
            counts: Stored with the part at the end of the block.
        """
        mark, paths = self._mark(self.folder, part), self._paths(self.folder, part)
        stamp = part.stamp()  # before the files are read, so that the next start notices a change in between
        try:
            if self.folder.is_dir():
                mark.unlink(missing_ok=True)  # before its tables change
            with ExitStack() as stack:
                yield [csv.writer(stack.enter_context(written_whole(path))) for path in paths]
            sizes = [path.stat().st_size for path in paths]
            write_json({"key": self._key(part), "files": stamp, "bytes": sizes, "counts": dict(counts)}, mark)
        except BaseException:
            with suppress(OSError):
                self.folder.rmdir()  # if it is empty
            raise

    def merge(self) -> Counter[str] | None:
        """Write the tables in the order of the parts, and remove the folder.

        Of several processes only the one that could rename the folder does it.

        Returns:
            The sum of the parts' counts; None if some are missing, or another process merges.

        Raises:
            UserError: A table can't be written.
        """
        if (self.parts and self.missing()) or not self._claim():
            return None
        counts: Counter[str] = Counter()
        try:
            for part in self.parts:
                counts.update(json.loads(self._mark(self._claimed, part).read_text())["counts"])
            for place, (path, columns) in enumerate(self.tables.items()):
                with written_whole(path, "wb") as table:
                    table.write(",".join(columns).encode() + b"\r\n")  # the line ending of `csv`
                    for part in self.parts:
                        with self._paths(self._claimed, part)[place].open("rb") as rows:
                            shutil.copyfileobj(rows, table)
        except FileNotFoundError:  # a process that was started meanwhile took this merge for killed
            return None
        except BaseException:
            with suppress(OSError):
                self._claimed.rename(self.folder)
            raise
        shutil.rmtree(self._claimed, ignore_errors=True)
        return counts

    def _claim(self) -> bool:
        try:
            self.folder.rename(self._claimed)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(self._claimed)  # of an older merge that was killed
            return self._claim()
        return True

    def _key(self, part: Part) -> str:
        return hashlib.sha256(f"{self.run} {part.kind} {part.digest}".encode()).hexdigest()[:16]

    def _mark(self, folder: Path, part: Part) -> Path:
        return folder / f"{part.number:06d}.json"

    def _paths(self, folder: Path, part: Part) -> list[Path]:
        return [folder / f"{part.number:06d}-{place}.csv" for place in range(len(self.tables))]

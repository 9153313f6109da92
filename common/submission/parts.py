"""Work in parts that survives what interrupts it: each is written whole, and all are merged in order.

Beside the output lies a folder, `<output>.parts`, until the end. Any number of processes, on machines that share it, do
the parts in any order; one that was lost is started again and does what is missing, and what was done of files that
have changed since; the last one merges.
"""

import csv
import errno
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from common.files import write_json, written_whole
from common.submission.sources import Part

COPIED_AT_A_TIME = 1 << 20
FAULTS = ("unreadable", "video not scored")
"""Counts of files that a part could not read."""


class Parts:
    """The parts of a table, or of several side by side.

    Of part 7 there is `000007-<n>.csv` for the n-th table, rows without the head, and then `000007.json`, which makes
    it done: its key, its files' stamp, the tables' bytes, and counts. With another key, or tables of other lengths, it
    is not done. The stamp is compared where a run goes on, by `remaining`, and not again while it does.
    """

    def __init__(self, tables: dict[Path, Sequence[str]], parts: Sequence[Part], run: str) -> None:
        """Take up what is there.

        Args:
            tables: The files to be written, and the columns of each. The folder lies beside the first.
            parts: All of them, numbered.
            run: Whatever decides about the rows besides the part itself.
        """
        self.tables, self.parts, self.run = tables, parts, run
        output = next(iter(tables))
        self.folder = output.with_name(f"{output.name}.parts")
        self._claimed = output.with_name(f"{output.name}.parts.merging")
        with suppress(OSError):  # who merged was ended from outside
            self._claimed.rename(self.folder)

    def is_done(self, part: Part) -> bool:
        """Whether the part was written, by a run that decides as this one does."""
        return self._done(part) is not None

    def _done(self, part: Part) -> dict[str, Any] | None:
        """The mark of a part that is done."""
        try:
            mark = json.loads(self._mark(self.folder, part).read_text())
            sizes = [path.stat().st_size for path in self._paths(self.folder, part)]
        except (OSError, ValueError):
            return None
        return mark if mark["key"] == self._key(part) and mark["bytes"] == sizes else None

    def missing(self, parts: Iterable[Part] | None = None) -> list[Part]:
        """Those of `parts`, or of all, that are not done."""
        return [part for part in (self.parts if parts is None else parts) if not self.is_done(part)]

    def remaining(self, own: Sequence[Part]) -> list[Part]:
        """Those of `own` that are to be done; says how many are done, and how many no longer count.

        Args:
            own: Parts that no other process does. Those whose files have changed are not done from now on, for the
                others too: none of them merges what they were.
        """
        done = {part.number: mark for part in own if (mark := self._done(part))}
        stale = sum(part.number not in done and self._mark(self.folder, part).exists() for part in own)
        if stale:
            print(f"{stale} parts in {self.folder} are of other files, flags, models or code, and are done anew")
        if changed := self._changed([part for part in own if part.number in done], done):
            print(f"{len(changed)} parts in {self.folder} are of files that have changed since, and are done anew")
        for part in changed:
            self._mark(self.folder, part).unlink(missing_ok=True)
            del done[part.number]
        if done:
            # Not done again for a broken file: where one in a hundred is, that would be nearly every part.
            faults = sum(mark["counts"].get(name, 0) for mark in done.values() for name in FAULTS)
            print(
                f"goes on: {len(done)} of {len(own)} parts are done, with {faults} files that could not be read; to "
                f"begin anew, remove {self.folder}"
            )
        return [part for part in own if part.number not in done]

    def _changed(self, parts: Sequence[Part], marks: dict[int, dict[str, Any]]) -> list[Part]:
        """Those whose files are no longer as their mark has them."""
        with ThreadPoolExecutor() as pool:  # a file system across a network answers many at once
            stamps = list(pool.map(Part.stamp, parts))
        return [part for part, stamp in zip(parts, stamps, strict=True) if stamp != marks[part.number]["files"]]

    @contextmanager
    def written(self, part: Part, counts: Counter[str]) -> Iterator[list[Any]]:
        """A csv writer for each table; when the block ends, the part is done.

        Args:
            part: The part.
            counts: Are kept beside it, as they are at the end of the block.
        """
        mark, paths = self._mark(self.folder, part), self._paths(self.folder, part)
        stamp = part.stamp()  # before a file is read: what changes meanwhile has another at the next start
        try:
            if self.folder.is_dir():
                mark.unlink(missing_ok=True)  # before its tables change
            with _all_written(paths) as files:
                yield [csv.writer(file) for file in files]
            sizes = [path.stat().st_size for path in paths]
            write_json({"key": self._key(part), "files": stamp, "bytes": sizes, "counts": dict(counts)}, mark)
        except BaseException:
            with suppress(OSError):
                self.folder.rmdir()  # if nothing is done
            raise

    def merge(self) -> Counter[str] | None:
        """Write the tables, in the order of the parts, and remove the folder.

        Of several processes one does it: the one that could rename the folder.

        Returns:
            The sum of the parts' counts; None where some are missing, or another process merges.

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
                    table.write(",".join(columns).encode() + b"\r\n")  # as `csv` ends its lines
                    for part in self.parts:
                        with self._paths(self._claimed, part)[place].open("rb") as rows:
                            shutil.copyfileobj(rows, table, COPIED_AT_A_TIME)
        except FileNotFoundError:  # a process that has started since took this one for lost
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
            shutil.rmtree(self._claimed)  # of a merge that was lost, before other parts were begun
            return self._claim()
        return True

    def _key(self, part: Part) -> str:
        return hashlib.sha256(f"{self.run} {part.kind} {part.digest}".encode()).hexdigest()[:16]

    def _mark(self, folder: Path, part: Part) -> Path:
        """The file that makes it done."""
        return folder / f"{part.number:06d}.json"

    def _paths(self, folder: Path, part: Part) -> list[Path]:
        return [folder / f"{part.number:06d}-{place}.csv" for place in range(len(self.tables))]


@contextmanager
def _all_written(paths: Sequence[Path]) -> Iterator[list[IO[str]]]:
    with ExitStack() as stack:
        yield [stack.enter_context(written_whole(path)) for path in paths]

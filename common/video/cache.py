"""Cache of the clips' face crops on disk, decoded once and read by every epoch.

The crops of up to 32 clips are in one shard: `shard_00007.npy`, uint8 (N, S, S, 3), and `shard_00007.json`, an entry
per clip. Both are written whole, the JSON file last: without either, a shard does not count. Shards are only added. A
clip whose file has changed is decoded again; its old crops stay until the folder is deleted.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import UserError, first_line, listing
from common.files import entries, write_json, written_whole
from common.video.clip_faces import FaceTrack, extract_faces
from common.video.clips import Clip, measure
from common.video.faces import BoxTable, FaceDetector

try:
    import fcntl
except ImportError:  # Windows: there, only one program may fill a cache at a time
    fcntl = None

VERSION = 1
"""Version of the crops, to be raised when the same settings give different ones."""
CLIPS_PER_SHARD = 32


@dataclass(frozen=True, eq=False)
class CachedClip:
    """The main face of a clip in n sampled frames. The crops stay on disk."""

    shard: Path
    offset: int
    """Position of the first crop in the shard."""
    found: np.ndarray
    """Whether the face was found in the frame: bool (n,)."""
    coverage: float
    """Share of all the clip's sampled frames in which the face was found, in [0, 1]."""
    warnings: tuple[str, ...]

    @property
    def crops(self) -> np.ndarray:
        """RGB, uint8 (n, S, S, 3), memory-mapped and read-only.

        Raises:
            UserError: The shard is broken.
        """
        try:
            # Mapped at each call: a map per shard that stays open would use up the files that a process may have open.
            crops = np.load(self.shard, mmap_mode="r")[self.offset : self.offset + len(self.found)]
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise _broken(self.shard, first_line(error)) from error
        if len(crops) != len(self.found):
            raise _broken(self.shard, "crops are missing")
        return crops


class ClipCache:
    """The cache for one detector, number of frames and crop size, in a folder that other caches may share."""

    def __init__(self, folder: Path, detector: FaceDetector, *, frames: int, size: int) -> None:
        """Read which clips are cached.

        Args:
            folder: Folder of all caches; made when it is filled.
            detector: Finds the faces.
            frames: Number of frames sampled per clip.
            size: Side of the crops in px.
        """
        self.detector = detector
        self.frames = frames
        self.size = size
        settings = hashlib.sha256(f"{VERSION},{detector.name},{frames},{size}".encode()).hexdigest()[:16]
        self.folder = folder / settings
        self._cached: dict[str, CachedClip] = {}
        self._shards: set[str] = set()
        self._read_shards()

    def fill(self, clips: Sequence[Clip], *, skip_bad_files: bool = False) -> list[Clip]:
        """Decode the clips that are not cached yet, after another process that fills the same cache has finished.

        Prints the warnings about decoded clips, by kind, and in how many of all clips no face was found.

        Args:
            clips: All that are needed.
            skip_bad_files: Leave out those that can't be decoded and print each, instead of raising.

        Returns:
            The clips that are cached now.

        Raises:
            UserError: Clips can't be decoded, of which the message lists all (the others are cached before); or the
                folder can't be written to.
        """
        keys: dict[Clip, str] = {}
        faults = []
        for clip in clips:
            try:
                keys[clip] = _key(clip.path)
            except UserError as error:
                faults.append(str(error))
        if not self._cached.keys() >= set(keys.values()):
            with _alone(self.folder):
                self._read_shards()
                missing = {key: clip for clip, key in keys.items() if key not in self._cached}
                faults += self._decode(missing)
            warned = {clip.path: self._cached[key].warnings for key, clip in missing.items() if key in self._cached}
            if rows := _kinds_of(warned):
                print(listing(f"of {len(warned)} new clips (each is described in {self.folder}):", rows))
        if faults:
            bad = listing(f"{len(faults)} bad files among {len(clips)} clips:", faults, most=len(faults))
            if not skip_bad_files:
                raise UserError(f"{bad}\nFix or remove them, or leave them out with skip_bad_files.")
            print(f"left out: {bad}")
        cached = [clip for clip in clips if keys.get(clip) in self._cached]
        faceless = sum(not self._cached[keys[clip]].found.any() for clip in cached)
        if faceless:
            lost = isinstance(self.detector, BoxTable) and faceless == len(cached)
            hint = ": the table of boxes has none for any sampled frame" if lost else ""
            print(f"no face was found in {faceless} of {len(cached)} clips{hint}")
        return cached

    def read(self, clip: Clip) -> CachedClip:
        """The cached crops of a clip.

        Raises:
            UserError: It is not cached, has changed since, or can't be read.
        """
        key = _key(clip.path)
        if key not in self._cached:
            raise UserError(f"{clip.path} is not in the cache {self.folder}, or has changed since. Start again.")
        return self._cached[key]

    def _decode(self, clips: dict[str, Clip]) -> list[str]:
        """Add clips to the cache, in new shards; returns the errors of those that can't be decoded."""
        faults: list[str] = []
        pending: dict[str, tuple[Clip, FaceTrack, tuple[str, ...]]] = {}
        for key, clip in tqdm(clips.items(), "finding faces", unit="clip", leave=False, disable=None):
            try:
                faces = extract_faces(clip.path, self.detector, frames=self.frames, size=self.size)
                pending[key] = clip, faces.tracks[0], faces.warnings
            except UserError as error:
                faults.append(str(error))
            if len(pending) == CLIPS_PER_SHARD:
                self._write_shard(pending)
                pending = {}
        if pending:
            self._write_shard(pending)
        return faults

    def _write_shard(self, clips: dict[str, tuple[Clip, FaceTrack, tuple[str, ...]]]) -> None:
        rows, offset = [], 0
        for key, (clip, face, warnings) in clips.items():
            arrays = {name: getattr(face, name).tolist() for name in ("indices", "found", "boxes")}
            entry = {"key": key, "file": str(clip.path), "offset": offset, **arrays}
            rows.append(entry | {"coverage": face.coverage, "warnings": warnings})
            offset += len(face.found)
        names = (f"shard_{number:05}" for number in count())
        path = self.folder / f"{next(name for name in names if name not in self._shards)}.npy"
        path.with_suffix(".json").unlink(missing_ok=True)  # left over where the crops of a shard were deleted
        with written_whole(path, "wb") as file:
            np.save(file, np.concatenate([face.crops for _, face, _ in clips.values()]))
        settings = {"version": VERSION, "detector": self.detector.name, "frames": self.frames, "size": self.size}
        write_json(settings | {"clips": rows}, path.with_suffix(".json"))
        self._read_shards()

    def _read_shards(self) -> None:
        """Read the entries of shards that are new since the last call.

        Raises:
            UserError: One is broken, or the folder can't be listed.
        """
        try:
            found = entries(self.folder)
        except UserError as error:
            raise UserError(f"{error} Choose another place for the cache if that can't be done.") from error
        for path in found:
            is_new = path.match("shard_*.json") and path.stem not in self._shards
            if not is_new or not path.with_suffix(".npy").is_file():
                continue
            self._shards.add(path.stem)
            try:
                clips = json.loads(path.read_text(encoding="utf-8"))["clips"]
                self._cached |= {entry["key"]: _cached_clip(path.with_suffix(".npy"), entry) for entry in clips}
            except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
                raise _broken(path, first_line(error)) from error


def _cached_clip(shard: Path, entry: dict[str, Any]) -> CachedClip:
    """A clip as its shard's JSON has it.

    Raises:
        ValueError: A value is of another kind; KeyError or TypeError where there is none.
    """
    offset, found, coverage, warnings = (entry[name] for name in ("offset", "found", "coverage", "warnings"))
    if (
        not isinstance(offset, int)
        or offset < 0
        or not isinstance(coverage, int | float)
        or not isinstance(found, list)
    ):
        raise ValueError("a clip with wrong values")
    if not all(isinstance(value, bool) for value in found) or not all(isinstance(text, str) for text in warnings):
        raise ValueError("a clip with wrong values")
    return CachedClip(shard, offset, np.array(found, bool), coverage, tuple(warnings))


def _broken(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is broken ({reason}). Delete the folder {path.parent}: the clips are decoded again.")


def _kinds_of(warnings: dict[Path, tuple[str, ...]]) -> list[str]:
    """A line for each kind of warning, but for those about the number of faces: how many clips, and one of them."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path, texts in warnings.items():
        for text in texts:
            kinds[re.sub(r"\d+(\.\d+)?", "n", re.split("[:,]", text)[0])].append(path)
    known = ("n faces", "no face found")
    return [f"{kind}: {len(of)}, for instance {of[0]}" for kind, of in sorted(kinds.items()) if kind not in known]


def _key(path: Path) -> str:
    """Key of a clip: its path, size and date, so that a changed file is another clip."""
    found = measure(path)  # first: it refuses a link to itself, which can't be resolved
    return hashlib.sha256(f"{path.resolve()},{found}".encode(errors="surrogateescape")).hexdigest()[:24]


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """A lock on a folder between processes; a process that dies releases it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}). Choose another place for the cache.") from error
    with file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that fills {folder}")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield

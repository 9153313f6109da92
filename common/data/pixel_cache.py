"""Cache of decoded images and masks on disk, filled in the first epoch and read in later ones.

One file holds the images of a data folder in one form, each in a slot of fixed size and place, so that several
processes can read and fill it at once. A slot begins with the CRC-32 of its pixels; an empty slot is all zeros. A slot
that was written in part (a process died, the disk was full) has a wrong checksum and counts as empty. The file's name
is a hash of the content of the images and the form, on which alone the pixels depend.
"""

import hashlib
import os
import shutil
import weakref
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL

from common.data.samples import Sample
from common.errors import UserError
from common.files import entries
from common.forensics import ela

VERSION = 1
"""Of the pixels; increase it when the same images and form give other pixels than before."""
SUM_BYTES = 4


class Form(NamedTuple):
    """What a cache keeps of an image and its union mask."""

    channels: int
    """3 for RGB; 4 for RGB and error level analysis."""
    size: int | None
    """Side of the square that both were resized to; None for the pixels as they were decoded."""


class PixelCache:
    """The images of a data folder in one form."""

    def __init__(self, folder: Path, samples: Sequence[Sample], form: Form, bound: float) -> None:
        """Open or create the file; if that fails, nothing is kept, and `note` says why.

        Forgeries come first, since some are drawn more often than others and some networks see no other images. Apart
        from that an epoch draws at random and all images are worth the same: the first that fit are kept, the others
        never.

        Args:
            folder: Of all caches.
            samples: All opened samples of the data folder, in any order, so that every fold finds the same slots.
            form: What is kept.
            bound: Bytes that the folder may take, its other caches included, which count as if they were full. Half of
                the free disk stays free.
        """
        samples = sorted(samples, key=lambda sample: (not sample.forged, sample.case_id))
        self.form = form
        self.path = folder / f"{form.size or 'whole'}_{form.channels}ch_{_key(samples, form)}.pixels"
        self.note = ""
        """Why nothing is kept, or not all images; for the user."""
        self._sides = np.array([(form.size or s.height, form.size or s.width) for s in samples]).reshape(-1, 2)
        ends = np.cumsum(SUM_BYTES + self._sides.prod(axis=1) * (form.channels + 1))
        self._starts = np.append(0, ends)[:-1]
        self._open()
        room = self._room(bound)
        self.kept = int(np.searchsorted(ends, room, side="right"))
        """Number of images that fit."""
        self.size = int(ends[self.kept - 1]) if self.kept else 0
        """Bytes of all of them."""
        if self._writes and self.kept:
            # The full length, in holes, so that caches opened from now on leave room for it.
            with suppress(OSError):  # it can still be filled, or `write` prints that it can't
                os.ftruncate(self._file, max(self.size, os.fstat(self._file).st_size))
        if self.kept < len(samples) and not self.note:
            self.note = (
                f"{self.kept} of {len(samples)} images fit into the cache, {max(room, 0) / 1e6:,.0f} of "
                f"{ends[-1] / 1e6:,.0f} MB. Raise the limit, or delete {folder} if other runs' images fill it"
            )
        self._slots = {str(sample.image): slot for slot, sample in enumerate(samples[: self.kept])}

    def slots(self, samples: Sequence[Sample]) -> np.ndarray:
        """The slot of each sample, int64 (len(samples),); -1 for one that is not kept."""
        return np.array([self._slots.get(str(sample.image), -1) for sample in samples], np.int64)

    def read(self, slot: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The image, uint8 (H, W, C), and the union mask, uint8 (H, W), of a slot; None while it is empty."""
        height, width = self._sides[slot]
        count = height * width
        content = np.empty(SUM_BYTES + count * (self.form.channels + 1), np.uint8)
        # Not a memory map: a failing disk or a truncated file would kill the process.
        if os.preadv(self._file, [content.data], self._starts[slot]) < len(content):
            return None
        expected, mask, image = np.split(content, (SUM_BYTES, SUM_BYTES + count))
        if expected.tobytes() != _checksum(content[SUM_BYTES:]):
            return None
        return image.reshape(height, width, self.form.channels), mask.reshape(height, width)

    def write(self, slot: int, image: np.ndarray, mask: np.ndarray) -> None:
        """Fill a slot; after a failure (the disk is full, for instance) no more are filled."""
        if not self._writes or not image.shape[:2] == mask.shape == tuple(self._sides[slot]):  # a file has changed
            return
        content = np.concatenate([np.zeros(SUM_BYTES, np.uint8), mask.ravel(), image.ravel()])
        content[:SUM_BYTES] = np.frombuffer(_checksum(content[SUM_BYTES:]), np.uint8)
        try:
            whole = os.pwrite(self._file, content.data, self._starts[slot]) == len(content)
        except OSError:
            whole = False
        if not whole:
            self._writes = False
            print(f"note: {self.path} can't be filled further (is the disk full?); the run continues without it")

    def _open(self) -> None:
        self._file, self._writes = -1, False
        if not hasattr(os, "preadv"):
            self.note = "no decoded image is kept: this system has no preadv"
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._writes = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), True
        except OSError as error:
            self.note = f"{self.path} can't be written ({error.strerror}): no decoded image is added to it"
            with suppress(OSError):
                self._file = os.open(self.path, os.O_RDONLY)
        if self._file >= 0:
            weakref.finalize(self, os.close, self._file)

    def _room(self, bound: float) -> float:
        """Bytes that this file may take."""
        if self._file < 0:
            return 0.0
        try:
            found = entries(self.path.parent)
        except UserError as error:
            self.note = f"no decoded image is kept, as other caches can't be counted: {error}"
            return 0.0
        others = [path for path in found if path.suffix == ".pixels" and path != self.path and path.exists()]
        own = os.fstat(self._file).st_blocks * 512  # on disk, without slots that are still holes
        taken = sum(path.stat().st_size for path in others)  # with their holes
        return min(bound - taken, own + shutil.disk_usage(self.path.parent).free // 2)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: it opens the file itself, and needs no names of images."""
        return self.__dict__ | {"_slots": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _key(samples: Sequence[Sample], form: Form) -> str:
    """Hash of everything that determines the place of a slot and its pixels."""
    made_by = [VERSION, *form, cv2.__version__, PIL.__version__, ela.QUALITY, ela.AMPLIFICATION]
    lines = (f"{s.case_id},{s.forged},{s.height},{s.width},{s.image_hash},{s.mask_hash}" for s in samples)
    return hashlib.sha256("\n".join([str(made_by), *lines]).encode()).hexdigest()[:16]


def _checksum(pixels: np.ndarray) -> bytes:
    """CRC-32; never 0, as an empty slot has it."""
    return (zlib.crc32(pixels.data) or 1).to_bytes(SUM_BYTES, "little")

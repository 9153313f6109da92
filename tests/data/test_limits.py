"""What a header claims is refused before memory is taken; and threads that decode share what memory there is."""

import io
import multiprocessing
import os
import struct
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.data import decoding, limits
from common.data.arrays import load_array
from common.data.decoding import decode, decoded, pixel_count
from common.data.images import read_image
from common.data.limits import Room
from common.data.masks import read_mask
from common.data.samples import Sample, open_samples
from common.errors import UserError


def refused(read, path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tif", ".jp2", ".avif"])
def test_the_limit_of_pixels_is_the_users(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (50, 40)).save(path)
    monkeypatch.setenv("FORGERY_MAX_PIXELS", "1999")
    assert "FORGERY_MAX_PIXELS=2000" in refused(read_image, path)
    assert pixel_count(path) == 0
    monkeypatch.setenv("FORGERY_MAX_PIXELS", "900")  # Pillow counts from twice the limit itself
    assert "FORGERY_MAX_PIXELS=2000" in refused(read_image, path)
    monkeypatch.setenv("FORGERY_MAX_PIXELS", "2000")
    assert read_image(path).shape == (40, 50, 3)
    assert pixel_count(path) == 2000
    monkeypatch.setenv("FORGERY_MAX_BYTES", "7999")
    assert "FORGERY_MAX_BYTES=" in refused(read_image, path)


def test_a_limit_above_pillows_own_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (40, 50, 3)


def test_a_notebook_without_pillows_limit_keeps_it_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("RGB", (50, 40)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").shape == (40, 50, 3) and pixel_count(tmp_path / "a.tif") == 2000
    assert Image.MAX_IMAGE_PIXELS is None
    monkeypatch.setenv("FORGERY_MAX_PIXELS", "1999")  # ours holds all the same
    assert "FORGERY_MAX_PIXELS=2000" in refused(read_image, tmp_path / "a.tif")


@pytest.mark.parametrize("value", ["many", "0", "-5", "1e9"])
def test_a_limit_that_is_none(tmp_path, monkeypatch, value):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    monkeypatch.setenv("FORGERY_MAX_PIXELS", value)
    with pytest.raises(UserError, match=f"FORGERY_MAX_PIXELS is '{value}'"):
        read_image(tmp_path / "a.png")


def npy(shape: tuple[int, ...], kind: str = "|u1", content: bytes = b"") -> bytes:
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    "shape", [(1, 10**6, 10**6), (2**40, 2**40), (10**5, 10**5), (1, -4, 5), (2, 3, 5), (2**63, 2**63)]
)
def test_an_array_that_claims_more_than_is_there(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(npy(shape, content=bytes(20)))
    refused(read_mask, tmp_path / "a.npy")


def test_the_limit_of_bytes_holds_for_arrays(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.ones((1, 40, 50), np.uint8))
    monkeypatch.setenv("FORGERY_MAX_BYTES", "1999")
    assert "FORGERY_MAX_BYTES=2000" in refused(read_mask, tmp_path / "a.npy")
    monkeypatch.setenv("FORGERY_MAX_BYTES", "2000")
    assert read_mask(tmp_path / "a.npy").all()


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_labels_are_counted_before_they_become_channels(tmp_path, monkeypatch, suffix):
    labels = np.zeros((40, 50), np.uint8)
    labels[0] = np.arange(50)
    if suffix == ".npy":
        np.save(tmp_path / "a.npy", labels)
    else:
        Image.fromarray(labels).save(tmp_path / "a.png")
    monkeypatch.setenv("FORGERY_MAX_BYTES", str(49 * 2000 - 1))
    assert f"FORGERY_MAX_BYTES={49 * 2000}" in refused(read_mask, tmp_path / f"a{suffix}")
    monkeypatch.setenv("FORGERY_MAX_BYTES", str(49 * 2000))
    assert read_mask(tmp_path / f"a{suffix}").shape == (49, 40, 50)


def test_python_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    assert "run code" in refused(lambda path: load_array(path, "a mask"), tmp_path / "a.npy")


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), SystemError("odd"), AssertionError()])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    Image.new("L", (5, 4)).save(tmp_path / "a.png")

    def fail(*_):
        raise error

    monkeypatch.setattr(decoding, "_converted", fail)
    refused(read_image, tmp_path / "a.png")
    monkeypatch.undo()
    monkeypatch.setattr("common.data.images._on_white", fail)
    Image.new("RGBA", (5, 4)).save(tmp_path / "b.png")
    refused(read_image, tmp_path / "b.png")
    with pytest.raises(UserError, match=r"a\.png"), decoded(tmp_path / "a.png"):
        raise error
    monkeypatch.undo()
    assert read_image(tmp_path / "b.png").shape == (4, 5, 3)  # the room is free again


# --- the memory of all threads


class Meter:
    """The most that was held at once, by how many, and who began when."""

    def __init__(self):
        self.lock, self.held, self.most, self.holders, self.most_holders = threading.Lock(), 0, 0, 0, 0

    def hold(self, room: Room, amount: int, seconds: float = 0.002) -> None:
        with room.taken(amount):
            with self.lock:
                self.held, self.holders = self.held + amount, self.holders + 1
                self.most, self.most_holders = max(self.most, self.held), max(self.most_holders, self.holders)
            time.sleep(seconds)
            with self.lock:
                self.held, self.holders = self.held - amount, self.holders - 1


class Metered(Room):
    """Keeps how much was asked for, and how much was left then."""

    def __init__(self, size: int):
        super().__init__(size)
        self.asked, self.lowest = [], []

    @contextmanager
    def taken(self, amount: int) -> Generator[None]:
        with super().taken(amount):
            self.asked.append(amount)
            self.lowest.append(self._free)
            yield


def together(*tasks) -> None:
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=16))
def test_no_more_than_there_is(amounts):
    room, meter = Room(100), Meter()
    together(*[lambda amount=amount: meter.hold(room, amount) for amount in amounts])
    assert meter.most <= 100


def test_small_ones_go_side_by_side_and_large_ones_alone():
    room, meter = Room(100), Meter()
    together(*[lambda: meter.hold(room, 10, 0.2)] * 8)
    assert meter.most_holders == 8
    meter = Meter()
    together(*[lambda: meter.hold(room, 5000, 0.01)] * 4)
    assert meter.most_holders == 1


def test_a_large_one_is_not_overtaken_for_ever():
    room, began, stop = Room(100), threading.Event(), threading.Event()

    def small():
        while not stop.is_set():
            with room.taken(60):
                time.sleep(0.001)

    def large():
        time.sleep(0.02)
        with room.taken(100):
            began.set()
        stop.set()

    together(small, small, small, large)
    assert began.is_set()


def test_errors_give_back_what_they_took():
    room = Room(100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), room.taken(80):
            1 / 0
    with room.taken(100), room.taken(100):  # one thread does not wait for itself
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_all_of_it():
    """Data loaders fork while other threads decode."""
    room, inside, done = Room(100), threading.Event(), threading.Event()

    def holder():
        with room.taken(100):
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=holder, daemon=True)
    thread.start()
    inside.wait(20)
    child = multiprocessing.get_context("fork").Process(target=lambda: room.taken(50).__enter__())
    child.start()
    child.join(20)
    alive = child.is_alive()
    if alive:
        child.kill()
    done.set()
    thread.join(20)
    assert not alive and child.exitcode == 0


def test_readers_keep_to_it(tmp_path, monkeypatch):
    """As all threads of a run read: pictures of many sizes, broken ones among them."""
    room = Metered(60_000)
    monkeypatch.setattr(decoding, "ROOM", room)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    rng, samples = np.random.default_rng(0), []
    for number in range(60):
        path = tmp_path / f"{number}.png"
        side = int(rng.integers(4, 160))
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
        if number % 7 == 0:
            path.write_bytes(path.read_bytes()[:-40])
        samples.append(Sample(case_id=str(number), image=path, mask=None, group=str(number)))
    found = open_samples(samples)
    wrong = [number for number, sample in enumerate(found) if isinstance(sample, UserError)]
    assert wrong == list(range(0, 60, 7))
    assert len(room.lowest) == 60 and max(room.asked) > 60_000
    assert min(room.lowest) >= 0


def test_a_picture_from_memory_is_counted_by_its_header():
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40)).save(buffer, "WEBP")
    assert pixel_count(buffer) == 2000
    assert limits.limit(limits.PIXELS) == 500_000_000


def test_decode_gives_what_the_file_has(tmp_path):
    Image.new("I;16", (5, 4), 777).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png").values == 777).all()

"""What is read back is what was put in, or nothing: whatever happened to the file."""

import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data.pixel_cache import Form, PixelCache
from common.data.samples import Sample

WHOLE, SQUARE = Form(3, None), Form(4, 8)
PIXELS = {"a": (5, 7), "b": (6, 4), "c": (9, 9)}
BYTES = {"a": 4 + 35 * 4, "b": 4 + 24 * 4, "c": 4 + 81 * 4}
"""Of a slot in the form WHOLE: the sum, three channels and the mask."""


@pytest.fixture
def samples() -> list[Sample]:
    return [
        Sample(case_id=name, image=Path(f"{name}.png"), mask=None, group=name, height=h, width=w, image_hash=name * 4)
        for name, (h, w) in PIXELS.items()
    ]


def content(cache: PixelCache, slot: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the right size, others in every slot."""
    rng = np.random.default_rng(slot)
    height, width = [*PIXELS.values()][slot] if cache.form.size is None else (cache.form.size,) * 2
    image = rng.integers(0, 256, (height, width, cache.form.channels), dtype=np.uint8)
    return image, rng.integers(0, 2, (height, width), dtype=np.uint8)


def fill(cache: PixelCache, *slots: int) -> None:
    for slot in slots:
        cache.write(slot, *content(cache, slot))


def filled(cache: PixelCache) -> list[bool]:
    """Whether each slot holds its pixels; any other than those, or than nothing, is a failure."""
    found = [cache.read(slot) for slot in range(cache.kept)]
    for slot, pixels in enumerate(found):
        if pixels is not None:
            for ours, theirs in zip(pixels, content(cache, slot), strict=True):
                assert ours.dtype == np.uint8 and ours.flags.writeable
                np.testing.assert_array_equal(ours, theirs)
    return [pixels is not None for pixels in found]


@pytest.mark.parametrize("form", [WHOLE, SQUARE])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_pixels_come_back(tmp_path, samples, form, order):
    cache = PixelCache(tmp_path / "cache", samples, form, 1e9)
    assert cache.kept == 3 and filled(cache) == [False] * 3
    for count, slot in enumerate(order, 1):
        fill(cache, slot)
        assert sum(filled(cache)) == count
    again = PixelCache(tmp_path / "cache", samples, form, 1e9)
    assert filled(again) == [True] * 3 and again.note == ""
    assert again.path.stat().st_size == again.size


def test_black_pixels_are_not_an_empty_slot(tmp_path, samples):
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)
    cache.write(0, np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7), np.uint8))
    image, mask = cache.read(0)
    assert not image.any() and not mask.any()
    assert cache.read(1) is None


def test_slots_do_not_depend_on_the_order_or_on_which_are_asked_for(tmp_path, samples):
    first = PixelCache(tmp_path, samples, WHOLE, 1e9)
    second = PixelCache(tmp_path, samples[::-1], WHOLE, 1e9)
    assert second.path == first.path
    stranger = replace(samples[0], image=Path("elsewhere/a.png"))
    for cache in (first, second):
        assert cache.slots([samples[2], samples[0], stranger]).tolist() == [2, 0, -1]
        assert cache.slots([]).tolist() == []


@pytest.mark.parametrize(
    "change",
    [
        {"image_hash": "other"},
        {"mask_hash": "other"},
        {"height": 7, "width": 5},
        {"case_id": "d"},
    ],
)
def test_other_content_is_another_file(tmp_path, samples, change):
    before = PixelCache(tmp_path, samples, WHOLE, 1e9).path
    assert PixelCache(tmp_path, [replace(samples[0], **change), *samples[1:]], WHOLE, 1e9).path != before
    assert PixelCache(tmp_path, samples, WHOLE, 1e9).path == before
    forms = [WHOLE, SQUARE, Form(3, 8), Form(3, 16)]
    assert len({PixelCache(tmp_path, samples, form, 1e9).path for form in forms}) == len(forms)


@pytest.mark.parametrize("damage", ["cut", "flipped", "sum", "half"])
def test_damaged_slots_count_as_empty_and_are_filled_again(tmp_path, samples, damage):
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)
    fill(cache, 0, 1, 2)
    start = BYTES["a"] + BYTES["b"]  # of the last slot
    with cache.path.open("r+b") as file:
        if damage == "cut":
            file.truncate(start + 50)
        elif damage == "half":  # the process that wrote it died, or the disk was full
            file.seek(start + 100)
            file.write(bytes(BYTES["c"] - 100))
        else:
            file.seek(start + (0 if damage == "sum" else 77))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    assert filled(cache) == [True, True, False]
    fill(cache, 2)
    assert filled(cache) == [True] * 3


@pytest.mark.parametrize(
    ("bound", "kept"),
    [(0, 0), (BYTES["a"] - 1, 0), (BYTES["a"], 1), (BYTES["a"] + BYTES["b"], 2), (sum(BYTES.values()) - 1, 2)],
)
def test_the_first_images_that_fit_are_kept(tmp_path, samples, bound, kept):
    cache = PixelCache(tmp_path, samples, WHOLE, bound)
    assert cache.kept == kept and cache.size <= bound
    assert cache.slots(samples).tolist() == [*range(kept), *[-1] * (3 - kept)]
    assert cache.note.startswith(f"{kept} of 3 images fit into the cache")
    fill(cache, *range(kept))
    assert cache.path.stat().st_size == cache.size and filled(cache) == [True] * kept


def test_forgeries_come_first(tmp_path, samples):
    forged = [replace(s, image=Path("forged") / s.image, mask=Path("mask.npy"), mask_hash="mask") for s in samples]
    cache = PixelCache(tmp_path, [*samples, *forged], WHOLE, sum(BYTES.values()))
    assert cache.slots(samples).tolist() == [-1, -1, -1]
    assert cache.slots(forged).tolist() == [0, 1, 2]


def test_the_bound_counts_what_others_take_and_will_take(tmp_path, samples):
    other = tmp_path / "other.pixels"
    other.write_bytes(bytes(range(1, 256)) * 100)
    taken = other.stat().st_size
    first = PixelCache(tmp_path, samples, WHOLE, taken + sum(BYTES.values()))
    assert first.kept == 3 and first.path.stat().st_blocks == 0  # nothing is in it yet
    assert PixelCache(tmp_path, samples, SQUARE, taken + sum(BYTES.values())).kept == 0
    slot = 4 + 64 * 5
    assert PixelCache(tmp_path, samples, SQUARE, taken + sum(BYTES.values()) + 2 * slot).kept == 2
    (tmp_path / "no_cache.txt").write_bytes(bytes(10**5))
    assert PixelCache(tmp_path, samples, WHOLE, taken + sum(BYTES.values()) + 2 * slot).kept == 3


def test_a_cache_that_vanishes_takes_nothing(tmp_path, samples):
    """Between its being listed and its being asked for its size; a link to nothing is listed as well."""
    (tmp_path / "gone.pixels").symlink_to(tmp_path / "nowhere")
    assert PixelCache(tmp_path, samples, WHOLE, sum(BYTES.values())).kept == 3


def test_half_of_the_free_disk_stays_free(tmp_path, samples, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * (BYTES["a"] + 1)))
    assert PixelCache(tmp_path, samples, WHOLE, 1e9).kept == 1


def test_a_full_disk_ends_the_filling_with_one_note(tmp_path, samples, capsys):
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)
    cache.path.unlink()
    cache.path.symlink_to("/dev/full")  # every write fails there for want of space
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)
    fill(cache, 0, 1, 2)
    assert capsys.readouterr().out.count("can't be filled further") == 1
    assert filled(cache) == [False] * 3


def test_a_folder_that_cannot_be_made_means_no_cache(tmp_path, samples):
    (tmp_path / "file").write_text("")
    cache = PixelCache(tmp_path / "file" / "cache", samples, WHOLE, 1e9)
    assert cache.kept == 0 and cache.slots(samples).tolist() == [-1] * 3
    assert "can't be written (Not a directory)" in cache.note


def test_a_folder_that_cannot_be_listed_means_no_cache(tmp_path, samples, monkeypatch):
    """What others take there can't be counted. Permissions bind no administrator: the refusal is made up."""

    def refuse(place="."):
        raise PermissionError(13, "Permission denied", str(place))

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refuse)
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)
    assert cache.kept == 0 and cache.slots(samples).tolist() == [-1] * 3
    assert "no decoded image is kept" in cache.note and "can't be read (Permission denied)" in cache.note


def test_pixels_of_another_size_than_expected_are_not_put_in(tmp_path, samples):
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)
    fill(cache, 1)
    cache.write(0, np.ones((7, 5, 3), np.uint8), np.ones((7, 5), np.uint8))
    cache.write(0, np.ones((5, 7, 3), np.uint8), np.ones((50, 7), np.uint8))  # would reach into the next slot
    assert filled(cache) == [False, True, False]


def test_a_worker_that_is_not_forked_opens_it_itself(tmp_path, samples):
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)
    fill(cache, 0)
    other = pickle.loads(pickle.dumps(cache))
    assert filled(other) == [True, False, False]
    fill(other, 1)
    assert filled(cache) == [True, True, False]


def test_several_processes_fill_and_read_it_at_once(tmp_path, samples):
    cache = PixelCache(tmp_path, samples, WHOLE, 1e9)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            fill(cache, int(rng.integers(3)))
            filled(cache)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(seed,)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert filled(cache) == [True] * 3


def test_files_are_closed_with_their_caches(tmp_path, samples):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        PixelCache(tmp_path, samples, WHOLE, 1e9)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

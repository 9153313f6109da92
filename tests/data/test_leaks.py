"""What tells two classes apart by their files' headers."""

import numpy as np
import pytest
from PIL import Image

from common.data.leaks import LEAST, leak_note, telling_signs

COUNT = 2 * LEAST


@pytest.fixture
def write(tmp_path):
    """Writes images of noise, of a quality and size by their number; of odd numbers they are the second class."""

    def write(quality, size=lambda number: (40, 30), suffix="jpg", count=COUNT):
        rng, paths = np.random.default_rng(0), []
        for number in range(count):
            width, height = size(number)
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            paths.append(tmp_path / f"{number}.{suffix}")
            image.save(paths[-1], **{"quality": quality(number)} if suffix == "jpg" else {})
        return paths

    return write


LABELS = [bool(number % 2) for number in range(COUNT)]
GROUPS = [str(number // 2) for number in range(COUNT)]


def test_another_quality_of_one_class_is_told(write):
    paths = write(lambda number: 75 if number % 2 else 90)
    assert telling_signs(paths, LABELS, GROUPS) == {"file format and JPEG tables": 1.0}
    note = leak_note(paths, LABELS, GROUPS, ("authentic", "forged images"))
    assert note.startswith("authentic and forged images are told apart by how their files are stored: file format")
    assert "(AUC 1.00 on other sources)" in note


def test_another_size_of_one_class_is_told(write):
    assert telling_signs(write(lambda number: 90, lambda number: (40 + number % 2, 30)), LABELS, GROUPS) == {
        "width and height": 1.0
    }


def test_what_both_classes_share_is_none(write):
    paths = write(lambda number: 60 + 5 * (number // 2 % 5), lambda number: (40 + number // 2 % 3, 30))
    assert leak_note(paths, LABELS, GROUPS, ("real", "generated")) is None
    assert telling_signs(write(None, suffix="png"), LABELS, GROUPS) == {}


def test_sizes_that_occur_once_tell_nothing_of_other_files(write):
    assert telling_signs(write(lambda number: 90, lambda number: (40 + number, 30)), LABELS, GROUPS) == {}


def test_a_sign_of_one_source_tells_nothing_of_others(write):
    """Six cameras, whose photographs are all of one class; each has its own size."""
    paths = write(lambda number: 90, lambda number: (40 + number // 8, 30), count=48)
    cameras = [number // 8 for number in range(48)]
    labels = [bool(camera % 2) for camera in cameras]
    assert telling_signs(paths, labels, [str(camera) for camera in cameras]) == {}
    assert telling_signs(paths, labels, [str(number) for number in range(48)]) == {"width and height": 1.0}


def test_a_rare_class_is_not_lost_among_many_files(write, monkeypatch):
    monkeypatch.setattr("common.data.leaks.MOST", 60)
    paths = write(lambda number: 75 if number < LEAST else 90, count=160)
    labels = [number < LEAST for number in range(160)]
    assert telling_signs(paths, labels, [str(number) for number in range(160)])["file format and JPEG tables"] > 0.95


def test_few_files_and_broken_ones(write, tmp_path):
    paths = write(lambda number: 75 if number % 2 else 90)
    assert telling_signs(paths[:-2], LABELS[:-2], GROUPS[:-2]) == {}
    paths[0].write_bytes(b"no image")
    paths[1].write_bytes(b"no image")
    assert telling_signs(paths, LABELS, GROUPS)["file format and JPEG tables"] > 0.9

import json
import multiprocessing

import cv2
import numpy as np

from common.app.corrections import append_line, correction, keep
from common.app.examining import Mark
from common.data.samples import load_authentic
from common.ensemble.evidence import passing
from common.making.importing import find_source
from common.metrics.rle import decode

WRITERS, LINES = 4, 25


def _write(path, number):
    for line in range(LINES):
        append_line(path, {"writer": number, "line": line, "regions": [1] * 3000})


def test_lines_of_several_programs_are_whole(tmp_path):
    path = tmp_path / "marks.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    wanted = [(writer, line) for writer in range(WRITERS) for line in range(LINES)]
    assert sorted((one["writer"], one["line"]) for one in found) == wanted


def test_a_line_that_was_broken_off_breaks_no_other(tmp_path):
    path = tmp_path / "marks.jsonl"
    append_line(path, {"n": 1})
    path.write_bytes(path.read_bytes() + b'{"n": 2, "reg')
    append_line(path, {"n": 3, "name": "caf\udce9\n"})
    lines = path.read_bytes().split(b"\n")
    assert [json.loads(lines[n])["n"] for n in (0, 2)] == [1, 3]
    assert lines[1] == b'{"n": 2, "reg' and lines[3:] == [b""]


def test_a_correction_says_what_was_found_and_where(examined, copied_mask):
    found = correction(examined, "c1", Mark("natural", "inset"))
    assert (found["file"], found["sha256"], found["figure"]) == ("forged.png", "ab" * 32, "")
    said = [found[name] for name in ("finding", "relation", "verdict", "reason")]
    assert said == ["c1", "reuse", "natural", "inset"]
    assert 0.8 < found["score"] <= 1
    masks = [decode(runs, found["height"], found["width"]) for runs in found["regions"]]
    copy = examined.entries["c1"].group.copies[0]
    np.testing.assert_array_equal(masks[:2], [copy.source, copy.target])
    for (x, y, width, height), mask in zip(found["boxes"], masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, width, height)
    json.dumps(found)
    assert correction(examined, "c1", None)["verdict"] is None


def test_reviewed_figures_are_what_training_reads(examined, forged, tmp_path):
    counted = frozenset({"c1"})
    keep(tmp_path, examined, {"c1": Mark("right")}, counted)
    content = find_source(tmp_path)
    assert not content.faults and len(content.samples) == 1
    mask = cv2.imread(str(content.samples[0].mask), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask > 0, passing(examined.entries["c1"].group, 0))
    # The reviewer thinks better of it.
    keep(tmp_path, examined, {"c1": Mark("natural", "channel")}, counted)
    assert not list((tmp_path / "images").iterdir()) and not list((tmp_path / "masks").iterdir())
    (sample,) = load_authentic(tmp_path / "authentic", [])
    np.testing.assert_array_equal(cv2.imread(str(sample.image))[..., ::-1], forged)
    keep(tmp_path, examined, {}, counted)
    assert not list((tmp_path / "authentic").iterdir())


def test_a_figure_with_an_open_finding_is_not_authentic(examined, tmp_path):
    keep(tmp_path, examined, {"c1": Mark("wrong")}, frozenset({"c1", "c2"}))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

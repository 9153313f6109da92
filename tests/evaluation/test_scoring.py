import csv
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.data.images import read_image
from common.data.masks import read_mask
from common.errors import UserError, readable
from common.evaluation.report import write_report
from common.evaluation.scoring import read_map, read_submission, score_submission, summarize, with_probabilities
from common.metrics import rle

GOOD = [("1", "authentic"), ("2", "authentic"), ("3", "authentic")]


def write_submission(folder, rows):
    lines = ["case_id,annotation", *(f'{case_id},"{text}"' for case_id, text in rows)]
    (folder / "s.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path):
    """Forged images 1 and 2 of 40 × 50, with maps; 3 is authentic."""
    for name in ("masks", "maps"):
        (tmp_path / name).mkdir()
    for case_id in "12":
        mask = np.zeros((40, 50), np.uint8)
        mask[:8, :8] = 1
        np.save(tmp_path / "masks" / f"{case_id}.npy", mask)
        np.save(tmp_path / "maps" / f"{case_id}.npy", mask.astype(np.float16))
    write_submission(tmp_path, GOOD)
    return tmp_path


def write(name, text=None, array=None):
    """A fault: a file of the folder written anew, or removed."""

    def spoil(folder):
        if array is not None:
            np.save(folder / name, array)
        elif text is not None:
            (folder / name).write_text(text)
        else:
            (folder / name).unlink()

    return spoil


def rows(*rows):
    """A fault of the submission."""
    return lambda folder: write_submission(folder, rows)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (write("s.csv"), "s.csv does not exist"),
        (write("s.csv", text=""), "it has: nothing"),
        (write("s.csv", text="case_id,annotation\n"), "no rows"),
        (write("s.csv", text="case_id,mask\n1,authentic\n"), "lacks the column annotation"),
        (write("s.csv", text="case_id,annotation\n1,[101, 102]\n"), "line 2: 3 fields, but the head has 2"),
        (write("s.csv", text='case_id,annotation\n1,"authentic\n'), "line 2: can't be read as a table"),
        (write("s.csv", text="case_id,annotation\n1\n2,authentic\n"), r"line 2 \(case_id 1\): list 1 is ''"),
        (write("s.csv", text='case_id,annotation\n1,authentic\n"2,authentic\n3",authentic\n'), "line 3: .*line break"),
        (write("s.csv", text="case_id,annotation,\n\n1,authentic,x\n"), "line 3: the field 'x' is in a column without"),
        (rows(GOOD[0], *GOOD), "line 3: case_id 1 is already on line 2"),
        (write("s.csv", text="case_id,annotation,case_id\n1,authentic,2\n"), "s.csv has the column case_id twice"),
        (rows(GOOD[0], ("2", f"[1, {'9' * 5000}]"), GOOD[2]), "line 3 .*list 1 is .* not a list of numbers"),
        (rows(GOOD[0], ("2", f"[{'9' * 4300}, {'9' * 4300}]"), GOOD[2]), "line 3 .*more than 18 digits"),
        (rows(GOOD[0], ("2", "[" * 50_000), GOOD[2]), "line 3 .*list 1 is "),
        (rows(*GOOD[::2]), "1 masks in .*masks have no row in .*s.csv.*:\n  2"),
        (rows(("1", "forged"), *GOOD[1:]), r"s.csv, line 2 \(case_id 1\): list 1 is 'forged'"),
        (rows(*GOOD[:2], ("3", "[1, 2, 3]")), r"s.csv, line 4 \(case_id 3\): list 1: 3 numbers"),
        (rows(GOOD[0], ("2", "[1999, 3]"), GOOD[2]), r"line 3 .*run 1 \(start 1999, length 3\) ends at 2001, outside"),
        (write("masks/1.npy", array=np.zeros((40, 50))), "1.npy: a mask channel marks no pixel"),
        (write("masks/1.npy", text="no array"), "1.npy cannot be read"),
        (write("masks/1.png", text=""), "share the case id '1'"),
        (write("maps/1.npy"), "1 forged images have no probability map in .*maps.*:\n  1"),
        (write("maps/1.npy", array=np.zeros((9, 8), np.float32)), "1.npy is 9×8, the image's mask 40×50"),
        (write("maps/1.npy", array=np.full((40, 50), 2.0)), r"outside \[0, 1\]"),
        (write("maps/1.npy", array=np.full((40, 50), np.nan)), "or nan"),
        (write("maps/1.npy", array=np.zeros((1, 40, 50))), r"shape \(1, 40, 50\)"),
        (write("maps/1.npy", text="no array"), "1.npy cannot be read as a map"),
        (write("groups.csv", text=""), "groups.csv can.t be read"),
    ],
)
def test_faults_are_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        score_submission(read_submission(folder / "s.csv", folder / "masks", folder / "maps"))


@pytest.mark.parametrize("name", ["masks", "maps"])
def test_a_missing_folder_is_named(folder, name):
    folders = {"masks": folder / "masks", "maps": folder / "maps", name: folder / "nowhere"}
    with pytest.raises(UserError, match=re.escape(f"{folder / 'nowhere'} is not a folder")):
        read_submission(folder / "s.csv", **folders)


def test_rows_keep_the_submissions_order_and_what_does_not_apply_is_nan(folder):
    truth = rle.format_annotation([rle.encode(np.load(folder / "masks" / "2.npy"))])
    write_submission(folder, [("3", "[1, 1]"), ("2", truth), ("1", "authentic")])
    table = score_submission(read_submission(folder / "s.csv", folder / "masks")).rows.set_index("case_id")
    assert table.index.tolist() == ["3", "2", "1"]
    assert table["of1"].tolist() == [0, 1, 0]
    assert table["pixel_f1"].isna().tolist() == [True, False, False]
    assert table["pixel_iou"].tolist()[1:] == [1, 0]  # a forged image called authentic counts as 0
    assert table["pixel_auc"].isna().all()
    assert table["area_share"].tolist() == [0, 64 / 2000, 64 / 2000]


def test_leading_zeros_and_long_annotations_survive(folder):
    checkerboard = (np.indices((600, 700)).sum(axis=0) % 2).astype(np.uint8)  # 210,000 runs, megabytes of text
    np.save(folder / "masks" / "001.npy", checkerboard)
    write_submission(folder, [*GOOD, ("001", rle.format_annotation([rle.encode(checkerboard)]))])
    table = score_submission(read_submission(folder / "s.csv", folder / "masks")).rows.set_index("case_id")
    assert table.loc["001", "of1"] == 1


def test_lines_are_those_where_a_row_begins(folder):
    write_submission(folder, [("1", "authentic"), ("2", "[1,\n\n 2]"), ("3", "authentic")])
    rows = read_submission(folder / "s.csv", folder / "masks")
    assert [row.where.split(", ")[-1] for row in rows] == [
        f"line {n} (case_id {i})" for n, i in ((2, 1), (3, 2), (6, 3))
    ]


def test_empty_columns_of_a_spreadsheet_are_left_out(folder):
    (folder / "s.csv").write_text("case_id,,annotation,,\n1,,authentic,,\n2,,authentic\n3,,authentic,,,\n")
    rows = read_submission(folder / "s.csv", folder / "masks")
    assert [(row.case_id, row.annotation) for row in rows] == GOOD


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_maps_of_1_bit(folder, suffix):
    forged = np.random.default_rng(0).random((40, 50)) < 0.3
    Image.fromarray(forged).save(folder / f"map{suffix}")
    np.testing.assert_array_equal(read_map(folder / f"map{suffix}", (40, 50)), forged.astype(np.float32))
    assert read_mask(folder / f"map{suffix}").tolist() == [forged.astype(int).tolist()]
    assert read_image(folder / f"map{suffix}").tolist() == (255 * forged[..., None].repeat(3, 2)).tolist()


def test_maps_are_found_by_the_names_that_a_submission_gives_them(folder):
    write_submission(folder, [(name, "authentic") for name in ("1", "2", "a", "a_map", "b", "c/d", "e")])
    maps = folder / "png"
    (maps / "c").mkdir(parents=True)
    written = ("1_map", "2_map", "a_map", "a_map_map", "a_mask", "a_overlay", "c/d_map")
    for name in (*written, "e"):
        Image.new("L", (5, 5)).save(maps / f"{name}.png")
    np.save(maps / "b.npy", np.zeros((5, 5), np.float16))
    Image.new("L", (5, 5)).save(maps / "b_map.png")
    found = {row.case_id: row.map for row in read_submission(folder / "s.csv", folder / "masks", maps)}
    expected = {"1": "1_map.png", "2": "2_map.png", "a": "a_map.png", "a_map": "a_map_map.png", "b": "b.npy"}
    assert found == {name: maps / file for name, file in (expected | {"c/d": "c/d_map.png", "e": "e.png"}).items()}


@pytest.mark.parametrize(("place", "spelled"), [("masks", "."), ("masks/sub", ".."), ("maps", "../masks")])
def test_kinds_are_found_from_within_the_folder_of_masks(folder, monkeypatch, place, spelled):
    (folder / "groups.csv").write_text("case_id,group,kind\n1,a,splice\n2,a,copymove\n")
    (folder / place).mkdir(exist_ok=True)
    monkeypatch.chdir(folder / place)
    found = read_submission(folder / "s.csv", Path(spelled))
    assert [row.kind for row in found] == ["splice", "copymove", ""]


def test_a_neighbours_array_is_no_map(folder):
    write_submission(folder, [(name, "authentic") for name in ("1", "2", "3", "3_map")])
    (folder / "maps" / "3.npy").unlink(missing_ok=True)
    np.save(folder / "maps" / "3_map.npy", np.zeros((5, 5), np.float16))
    found = {row.case_id: row.map for row in read_submission(folder / "s.csv", folder / "masks", folder / "maps")}
    assert found["3"] is None and found["3_map"] == folder / "maps" / "3_map.npy"


def test_maps_of_8_bits(folder):
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).save(folder / "map.png")
    assert read_map(folder / "map.png", (1, 3)).tolist() == [[0, pytest.approx(0.2), 1]]
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "map.png")
    with pytest.raises(UserError, match="a map is"):
        read_map(folder / "map.png")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_masks_and_maps_of_any_name_belong_to_the_case_ids_of_a_submission(folder):
    names = ["a\nb", "\x1b[31m", os.fsdecode(b"caf\xe9"), "=1+1", "|$x$<b>"]
    for name in names:
        for place in ("masks", "maps"):
            shutil.copy(folder / place / "1.npy", folder / place / f"{name}.npy")
    with (folder / "s.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("case_id", "annotation"),
                *GOOD,
                *((readable(name), "[1, 1]") for name in names[:4]),
                (names[4], "authentic"),
            ]
        )
    rows = read_submission(folder / "s.csv", folder / "masks", folder / "maps")
    assert [bool(row.mask and row.map) for row in rows] == [True, True, False] + [True] * 5
    assert [row.case_id for row in rows][3:] == [r"a\nb", r"\x1b[31m", r"caf\xe9", "=1+1", "|$x$<b>"]
    evaluation = score_submission(rows)
    assert (evaluation.rows["pixel_f1"][3:7] > 0).all()
    report = write_report(folder / "report", evaluation, rows, {}, {}).read_text()
    assert "\x1b" not in report
    table = pd.read_csv(folder / "report" / "images.csv", dtype=str, keep_default_na=False)
    assert table["case_id"].tolist() == [row.case_id for row in rows]


HEAD = "case_id,kind,forged_probability,threshold,n_instances,error\n"


def test_probabilities_belong_to_their_images(folder):
    write_submission(folder, [("3", "[1, 1]"), ("2", "[1, 4];[9, 2]"), ("1", "authentic"), ("clip", "authentic")])
    evaluation = score_submission(read_submission(folder / "s.csv", folder / "masks"))
    assert math.isnan(evaluation.mode_threshold) and math.isnan(summarize(evaluation)["image_auc"])
    lines = ["1,image,0.25,0.7,0,", "2,image,1.0,0.7,2,", "clip,video,,,,", "3,image,0.75,0.7,1,", "4,image,0.5,0.7,3,"]
    (folder / "scores.csv").write_text(HEAD + "\n".join(lines) + "\n")
    evaluation = with_probabilities(evaluation, folder / "scores.csv")
    assert evaluation.rows["probability"].tolist()[:3] == [0.75, 1.0, 0.25]
    assert math.isnan(evaluation.rows["probability"][3])
    assert evaluation.mode_threshold == 0.7
    figures = summarize(evaluation)
    assert figures["image_auc"] == 0.5  # of 1.0 and 0.25 forged, 0.75 authentic
    assert figures["calibration_error"] == pytest.approx((0.75 + 0 + 0.75) / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,kind\n1,image\n", "needs the columns case_id, forged_probability"),
        (HEAD + "1,image,1.5,0.65,0,\n", "the row of 1 has a value that is no probability"),
        (HEAD + "2,image,0.5,0.65,0,\n1,image,high,0.65,0,\n", "the row of 1 has a value"),
        (HEAD + "1,image,0.5,0.65,,\n", "the row of 1 has a value"),
        (HEAD + f"1,image,0.5,0.65,{'9' * 5000},\n", "the row of 1 has a value"),
        (HEAD + "1,image,nan,0.65,0,\n", "the row of 1 has a value"),
        (HEAD + "1,image,0.9,0.65,1,\n", "is not of this submission: 1 has other regions there"),
        (HEAD + "9,image,0.9,0.65,1,\n", "is not of this submission. Write both in one run"),
        (HEAD, "is not of this submission"),
    ],
)
def test_faults_of_the_table_of_probabilities_are_named(folder, text, message):
    (folder / "scores.csv").write_text(text)
    evaluation = score_submission(read_submission(folder / "s.csv", folder / "masks"))
    with pytest.raises(UserError, match=message):
        with_probabilities(evaluation, folder / "scores.csv")

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.errors import UserError
from common.evaluation.report import choose_examples, tables, write_evaluation
from common.evaluation.scoring import read_submission, score_submission


def write_csv(path, rows):
    path.write_text("\n".join(["case_id,annotation", *(f'{case_id},"{text}"' for case_id, text in rows)]) + "\n")
    return path


@pytest.fixture
def evaluated(tmp_path):
    """A hit, a miss and a false alarm with maps, on 40 × 60 images of which `c` has no file."""
    for name in ("test_masks", "test_images", "maps"):
        (tmp_path / name).mkdir()
    mask = np.zeros((1, 40, 60), np.uint8)
    mask[0, :20, :30] = 1
    for case_id in "ab":
        np.save(tmp_path / "test_masks" / f"{case_id}.npy", mask)
        Image.new("RGB", (60, 40), "white").save(tmp_path / "test_images" / f"{case_id}.png")
    for case_id, level in {"a": 0.9, "b": 0.2, "c": 0.3}.items():
        np.save(tmp_path / "maps" / f"{case_id}.npy", (mask[0] * level).astype(np.float16))
    half = ", ".join(f"{40 * column + 1}, 20" for column in range(30))
    submission = write_csv(tmp_path / "s.csv", [("a", f"[{half}]"), ("b", "authentic"), ("c", "[1, 50]")])
    submission = read_submission(submission, tmp_path / "test_masks", tmp_path / "maps")
    return tmp_path, submission, score_submission(submission)


def test_tables_show_the_figures(evaluated):
    text = tables(evaluated[2])
    cells = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in text.splitlines() if row.count("|") == 3}
    assert cells["oF1"] == cells["oF1 of all-authentic"] == "0.3333"
    assert cells["lift over all-authentic"] == "+0.0000"
    assert cells["image FPR"] == "1.0000"
    assert cells["image AUC of the maps' 99.9 % quantile"] == "0.5000"
    assert "| xlarge          |      2 | 0.5000 |" in text
    assert "tiny" not in text


def test_report_folder(evaluated):
    folder, submission, evaluation = evaluated
    images = {case_id: folder / "test_images" / f"{case_id}.png" for case_id in "ab"}
    path = write_evaluation(folder / "deep" / "report", evaluation, submission, images)
    text = path.read_text()
    for name in ("sizes.png", "scores.png", "predictions.png"):
        assert f"]({name})" in text
        with Image.open(path.parent / name) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.std() > 10
    rows = pd.read_csv(path.parent / "images.csv", keep_default_na=False, na_values=[""])
    assert rows["of1"].tolist() == [1, 0, 0]
    # Three rows of four pictures; the sheet is the last picture read. Truth is blue, prediction orange.
    blue, orange = pixels[..., 2].astype(int) - pixels[..., 0] > 60, pixels[..., 0].astype(int) - pixels[..., 2] > 60
    columns = np.array_split(np.arange(pixels.shape[1]), 4)
    below = slice(40, None)  # without the names of the columns
    assert blue[below, columns[1]].mean() > 0.02 and not orange[below, columns[1]].any()
    assert orange[below, columns[2]].mean() > 0.02 and not blue[below, columns[2]].any()


def test_report_without_maps_and_images_drops_the_older_plots(evaluated):
    folder, _, evaluation = evaluated
    (folder / "report").mkdir()
    (folder / "report" / "scores.png").write_bytes(b"of an older run")
    submission = read_submission(folder / "s.csv", folder / "test_masks")
    evaluation = score_submission(submission)
    text = write_evaluation(folder / "report", evaluation, submission, {}).read_text()
    assert "scores.png" not in text and not (folder / "report" / "scores.png").exists()
    assert (folder / "report" / "predictions.png").exists()
    assert "AUC" not in text


def test_an_image_of_another_size_is_named(evaluated):
    folder, submission, evaluation = evaluated
    Image.new("RGB", (30, 30)).save(folder / "test_images" / "a.png")
    with pytest.raises(UserError, match=r"a\.png is 30×30, the mask .*a\.npy 40×60"):
        write_evaluation(folder / "report", evaluation, submission, {"a": folder / "test_images" / "a.png"})


def test_chosen_examples_are_a_mix():
    found = [(f"hit{i}", "large", 0.1, 1, 1, 1 - i / 100) for i in range(20)]
    found.append(("hit_tiny", "tiny", 0.001, 1, 1, 0.6))
    rows = [*found, ("poor", "small", 0.01, 1, 2, 0.2), ("miss", "tiny", 0.001, 1, 0, 0.0)]
    rows += [("alarm", "authentic", 0.0, 0, 1, 0.0), ("right", "authentic", 0.0, 0, 0, 1.0)]
    table = pd.DataFrame(rows, columns=["case_id", "size", "area_share", "n_truth", "n_predicted", "of1"])
    chosen = choose_examples(table)
    assert [verdict for _, verdict in chosen] == ["hit"] * 5 + ["poor hit", "miss", "false alarm"]
    assert [case_id for case_id, _ in chosen[:3]] == ["hit0", "hit_tiny", "hit1"]


def test_threshold_is_one_for_the_whole_set(evaluated):
    evaluation = evaluated[2]
    # Map `a` is right up to 0.9, map `b` up to 0.2: together only thresholds up to 0.2 serve both.
    assert evaluation.threshold == float(np.float16(0.2))
    assert math.isclose(evaluation.curves["xlarge"].max(), 2)


def test_names_and_kinds_stay_texts(evaluated):
    """In the report's tables and pictures: no formula, no markup, no other cell."""
    folder, submission, _ = evaluated
    names = {"a": r"$\frac$ {|}", "b": "![](http://x)<script>", "c": "=1+1"}
    rows = [replace(row, case_id=names[row.case_id], kind="<img src=x>|![](y)\x1b[31m") for row in submission]
    text = write_evaluation(folder / "report", score_submission(rows), rows, {}).read_text()
    assert r"\<img src=x>\|![]\(y)\x1b[31m" in text
    (line,) = [line for line in text.splitlines() if "img src" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == len(
        re.findall(r"\|", text.splitlines()[-1 + text.splitlines().index(line)])
    )
    assert (folder / "report" / "predictions.png").stat().st_size
    table = pd.read_csv(folder / "report" / "images.csv", keep_default_na=False)
    assert table["case_id"].tolist() == list(names.values())

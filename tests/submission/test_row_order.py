from pathlib import Path

import pytest

from common.errors import UserError
from common.submission.row_order import find_sample, sample_order

IDS = ["1", "10", "2"]


def write(path, *ids):
    path.write_text("case_id,annotation\n" + "".join(f"{i},authentic\n" for i in ids))
    return path


def submission_rows(case_ids, named, folder):
    """With `named`, or the sample that is found."""
    sample = named or find_sample(folder)
    return case_ids if sample is None else sample_order(case_ids, sample, folder, required=named is not None)


def test_without_a_sample_the_images_order(tmp_path):
    (tmp_path / "images").mkdir()
    assert submission_rows(IDS, None, tmp_path / "images") == IDS


@pytest.mark.parametrize("place", ["test_images/sample_submission.csv", "sample_submission.csv"])
def test_a_sample_in_or_beside_the_folder_gives_the_order(tmp_path, place):
    (tmp_path / "test_images").mkdir()
    write(tmp_path / place, "2", "1", "10")
    assert submission_rows(IDS, None, tmp_path / "test_images") == ["2", "1", "10"]


@pytest.mark.parametrize(("place", "spelled"), [("test_images", "."), ("test_images/sub", "..")])
def test_a_sample_beside_the_folder_in_which_the_user_is(tmp_path, monkeypatch, place, spelled):
    (tmp_path / place).mkdir(parents=True)
    write(tmp_path / "sample_submission.csv", "10", "2", "1")
    monkeypatch.chdir(tmp_path / place)
    assert submission_rows(IDS, None, Path(spelled)) == ["10", "2", "1"]
    (tmp_path / "test_images").rename(tmp_path / "train_images")
    assert submission_rows(IDS, None, Path(spelled)) == IDS


def test_a_sample_beside_a_link_belongs_to_it(tmp_path):
    (tmp_path / "elsewhere/pictures").mkdir(parents=True)
    (tmp_path / "test_images").symlink_to(tmp_path / "elsewhere/pictures")
    write(tmp_path / "sample_submission.csv", "2", "10", "1")
    assert submission_rows(IDS, None, tmp_path / "test_images") == ["2", "10", "1"]


def test_a_sample_beside_another_folder_is_not_its_own(tmp_path):
    (tmp_path / "train_images").mkdir()
    write(tmp_path / "sample_submission.csv", "2", "1")
    assert submission_rows(IDS, None, tmp_path / "train_images") == IDS


def test_a_foreign_sample_is_left_aside_and_told(tmp_path, capsys):
    (tmp_path / "test_images").mkdir()
    write(tmp_path / "sample_submission.csv", "77")
    assert submission_rows(IDS, None, tmp_path / "test_images") == IDS
    assert "lists none of these images and is ignored" in capsys.readouterr().out


def test_a_single_image_does_not_look_around(tmp_path):
    write(tmp_path / "sample_submission.csv", "2")
    (tmp_path / "1.png").write_bytes(b"")
    assert submission_rows(["1"], None, tmp_path / "1.png") == ["1"]


def test_a_row_without_an_image_stays_and_surplus_is_told(tmp_path, capsys):
    sample = write(tmp_path / "s.csv", "2", "77")
    assert submission_rows(IDS, sample, tmp_path) == ["2", "77"]
    assert "2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case_id,annotation\n8,authentic\n", "none of the 1 case ids"),
        ("case_id,annotation\n1,authentic\n1,authentic\n", "lists 1 more than once"),
        ("id,annotation\n1,authentic\n", "needs the columns case_id; it has id, annotation"),
        ("", "can't be read"),
    ],
)
def test_a_wrong_sample_is_named(tmp_path, content, message):
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        submission_rows(IDS, tmp_path / "s.csv", tmp_path)


def test_a_missing_sample_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file"):
        submission_rows(IDS, tmp_path / "nowhere.csv", tmp_path)

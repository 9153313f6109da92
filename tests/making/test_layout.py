"""A data folder appears whole or not at all, and only data folders are ever replaced."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.data.images import read_image
from common.data.masks import read_mask
from common.data.samples import load_samples
from common.errors import UserError
from common.making.layout import new_folder, write_groups, write_image, write_mask, write_sample_submission

ROOT = Path(__file__).parents[2]


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_folder_appears_at_the_end(tmp_path):
    output = tmp_path / "deep" / "data"
    with new_folder(output) as folder:
        assert not output.exists() and folder.parent == output.parent
        (folder / "groups.csv").write_text("case_id,group,kind\n")
    assert names(output) == ["groups.csv", "train_images", "train_masks"]
    assert names(output.parent) == ["data"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, ZeroDivisionError])
def test_nothing_stays_of_a_broken_run_and_the_old_folder_does(tmp_path, error):
    output = tmp_path / "data"
    with new_folder(output) as folder:
        (folder / "groups.csv").write_text("old")
    with pytest.raises(error), new_folder(output, overwrite=True) as folder:
        (folder / "groups.csv").write_text("new")
        raise error
    assert names(tmp_path) == ["data"] and (output / "groups.csv").read_text() == "old"


def test_overwriting_has_to_be_asked_for_and_leaves_nothing_old(tmp_path):
    output = tmp_path / "data"
    with new_folder(output) as folder:
        (folder / "sample_submission.csv").touch()
    with pytest.raises(UserError, match="or overwrite it"), new_folder(output):
        pass
    with new_folder(output, overwrite=True):
        pass
    assert names(output) == ["train_images", "train_masks"] and names(tmp_path) == ["data"]


def test_other_folders_and_files_are_never_replaced(tmp_path):
    precious = tmp_path / "home"
    (precious / "train_images").mkdir(parents=True)
    (precious / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex"), new_folder(precious, overwrite=True):
        pass
    with pytest.raises(UserError, match="no folder"), new_folder(precious / "thesis.tex", overwrite=True):
        pass
    assert names(precious) == ["thesis.tex", "train_images"]


@pytest.mark.parametrize("output", [".", "..", "/", "deep/.."])
def test_a_folder_that_has_no_name_of_its_own_is_refused(tmp_path, monkeypatch, output):
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(UserError, match=r"is a folder already\. Name a new one in it"), new_folder(Path(output)):
        pass
    assert names(tmp_path) == ["work"] and names(tmp_path / "work") == ["deep"]


def test_the_index_of_its_images_belongs_to_a_data_folder(tmp_path):
    with new_folder(tmp_path / "data") as folder:
        write_image(folder / "train_images" / "authentic" / "1.png", np.zeros((8, 8, 3), np.uint8))
    load_samples(tmp_path / "data")
    assert (tmp_path / "data" / "train_index.csv").is_file()
    with new_folder(tmp_path / "data", overwrite=True):
        pass
    assert names(tmp_path / "data") == ["train_images", "train_masks"]


def test_what_a_killed_write_left_belongs_to_a_data_folder(tmp_path):
    with new_folder(tmp_path / "data") as folder:
        (folder / "train_index.csv.0123abcd.partial").touch()
    (tmp_path / "data" / "thesis.partial").touch()
    with pytest.raises(UserError, match=r"thesis\.partial \(of 1"), new_folder(tmp_path / "data", overwrite=True):
        pass
    (tmp_path / "data" / "thesis.partial").unlink()
    with new_folder(tmp_path / "data", overwrite=True):
        pass
    assert names(tmp_path / "data") == ["train_images", "train_masks"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "data").mkdir()
    with new_folder(tmp_path / "data"):
        pass
    assert names(tmp_path / "data") == ["train_images", "train_masks"]


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / "data.partial" / "train_images").mkdir(parents=True)
    with new_folder(tmp_path / "data"):
        pass
    assert names(tmp_path) == ["data"]


def test_what_only_looks_like_a_leftover_stays(tmp_path):
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"data\.partial exists and is no data folder"), new_folder(tmp_path / "data"):
        pass
    assert names(tmp_path / "data.partial") == ["thesis.tex"]


def test_a_run_that_was_killed_between_its_renamings_loses_nothing(tmp_path):
    """The old folder is set aside, and the new one not yet in its place."""
    (tmp_path / "data.replaced" / "train_images").mkdir(parents=True)
    (tmp_path / "data.replaced" / "groups.csv").touch()
    with pytest.raises(UserError, match=r"data exists\. Choose"), new_folder(tmp_path / "data"):
        pass
    assert names(tmp_path / "data") == ["groups.csv", "train_images"] and names(tmp_path) == ["data"]


def test_two_programs_do_not_build_one_folder(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom common.making.layout import new_folder\n"
        "with new_folder(Path(sys.argv[1])):\n print('up', flush=True)\n sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "up\n"
        match = f"data is being written by another program: process {other.pid} on "
        with pytest.raises(UserError, match=match), new_folder(tmp_path / "data", overwrite=True):
            pass
        other.stdin.close()
    assert names(tmp_path / "data") == ["train_images", "train_masks"] and names(tmp_path) == ["data"]


@pytest.mark.parametrize("output", ["source", "source/data", "."])
def test_source_and_output_lie_apart(tmp_path, output):
    source = tmp_path / "source"
    source.mkdir()
    with (
        pytest.raises(UserError, match="within each other"),
        new_folder(tmp_path / output, overwrite=True, source=source),
    ):
        pass
    assert source.is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"), new_folder(tmp_path / "file" / "data"):
        pass


def test_the_files_of_a_folder(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    write_image(tmp_path / "a" / "1.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a" / "1.png"), image)
    write_mask(tmp_path / "m" / "1.npy", np.array([[[0, 3]], [[True, 0]]]))
    assert np.load(tmp_path / "m" / "1.npy").dtype == np.uint8
    assert read_mask(tmp_path / "m" / "1.npy").tolist() == [[[0, 1]], [[1, 0]]]
    write_groups(tmp_path, [("2", "b", ""), ("1", "a", "splice"), ("1", "a", "splice")])
    assert (tmp_path / "groups.csv").read_text() == "case_id,group,kind\n1,a,splice\n2,b,\n"
    write_sample_submission(tmp_path, ["10", "9"])
    assert (tmp_path / "sample_submission.csv").read_text() == "case_id,annotation\n10,authentic\n9,authentic\n"

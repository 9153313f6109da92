import pytest

from common.errors import UserError
from common.files import written_whole


def test_writes_and_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with written_whole(path) as file:
        file.write("ä\n")
        assert not path.exists()
    assert path.read_bytes() == "ä\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(error), written_whole(path) as file:
        file.write("half")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_of_two_that_write_at_once_the_last_is_kept_whole(tmp_path):
    path = tmp_path / "b.txt"
    with written_whole(path) as first:
        first.write("first")
        with written_whole(path) as second:
            second.write("second")
        assert path.read_text() == "second"
        assert len(list(tmp_path.glob("b.txt*.partial"))) == 1
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/b\.txt can't be written"), written_whole(tmp_path / "file" / "b.txt"):
        pass

import pytest

from common.errors import UserError
from common.tables import markdown_table, read_table


def test_text_stays_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("case_id,group\n007,NA\n1.0,\n")
    assert read_table(path, ["case_id"]).to_dict("list") == {"case_id": ["007", "1.0"], "group": ["NA", ""]}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "can't be read"), (b"\xff\xfe\x00", "can't be read"), (b"id\n1\n", "needs the columns case_id; it has id")],
)
def test_what_is_no_table_is_named(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"t\.csv {message}"):
        read_table(tmp_path / "t.csv", ["case_id"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv can't be read"):
        read_table(tmp_path / "none.csv", ["case_id"])


def test_columns_of_a_printed_table_are_aligned():
    lines = markdown_table(["size", "oF1"], [["large", 0.5], ["a", float("nan")], ["b", 12]]).splitlines()
    assert lines == [
        "| size  |    oF1 |",
        "|-------|-------:|",
        "| large | 0.5000 |",
        "| a     |      – |",
        "| b     |     12 |",
    ]

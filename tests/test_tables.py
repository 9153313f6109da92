import re

import pytest

from common.errors import UserError
from common.submission.sources import list_files
from common.tables import markdown_table, read_table, spreadsheet_cell


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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            '"a.png,1\na.png,2\n',
            r", line 2: can't be read as a table \(unexpected end .*\)\. Close or remove the quote",
        ),
        ('a.png,1\n"b.png,2\nc.png,"3"\n', r", line 3: can't be read"),
        (
            'a.png,1\n"b.png,2\nc.png",3\n',
            r", line 3: the column file has a name with a line break, 'b\.png,2.*\. Remove the line break, or close",
        ),
        ('a.png,"1"2\n', r", line 2: can't be read"),
        ("a.png,1\n\nb,png,2\n", r", line 4: 3 fields, but the head has 2\. Put a field with commas between quotes"),
    ],
)
def test_no_row_vanishes_in_another(tmp_path, rows, message):
    path = tmp_path / "t.csv"
    path.write_text(f"file,case_id\n{rows}")
    with pytest.raises(UserError, match=rf"t\.csv{message}"):
        read_table(path, ["file"])
    if "line break" not in message:  # which the name of a file in a manifest may have
        with pytest.raises(UserError, match=rf"t\.csv{message}"):
            list(list_files(path))


def test_columns_without_a_name_are_left_out_if_they_are_empty(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(",case_id, ,group,,\n,1,,a,,\n\n,2,,\n,3\n,,,,,,,,\n")
    table = read_table(path, ["case_id"])
    assert table.to_dict("list") == {"case_id": ["1", "2", "3", ""], "group": ["a", "", "", ""]}
    path.write_text(f"case_id,,group,\n1,,a,\n\n2,,b,{70 * 'c'}\n")
    with pytest.raises(UserError, match=r"t\.csv, line 4: the field 'c{60}\.\.\.' is in a column without a name"):
        read_table(path, ["case_id"])


def test_long_fields_are_read(tmp_path):
    for number, size in enumerate((131_072, 131_073, 3_000_000)):
        (tmp_path / "t.csv").write_text(f"case_id,text\n{number},{size * 'a'}\n")
        assert read_table(tmp_path / "t.csv", ["case_id"])["text"].str.len().tolist() == [size]


def test_a_column_twice_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("file,label,file\na,real,b\n")
    with pytest.raises(UserError, match=r"t\.csv has the column file twice"):
        read_table(tmp_path / "t.csv", ["file"])


def test_quoted_fields_blank_lines_and_short_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufefffile,notes\r\n"a, b","two\nlines, ""quoted"""\r\n\r\nc\r\n'.encode())
    table = read_table(path, ["file"]).to_dict("list")
    assert table == {"file": ["a, b", "c"], "notes": ['two\nlines, "quoted"', ""]}


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


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("figure [1] (a) <0.05, 3 < 4!.png", None),
        (r"C:\images\1.png", None),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("a\\\\|b", "a" + 5 * "\\" + "|b"),
        ("<script>alert(1)</script>", r"\<script>alert(1)\</script>"),
        ("<!-- \\<img src=x>", r"\<!-- \\\<img src=x>"),
        ("![](http://x) [a](javascript:b)", r"![]\(http://x) [a]\(javascript:b)"),
        ("line\nand\rreturn\t\x1b[31m\u2028\udce9", r"line\nand\rreturn\t\x1b[31m\u2028\xe9"),
    ],
)
def test_a_text_stays_in_its_cell(text, cell):
    lines = markdown_table(["name", "more"], [[text, 1]]).split("\n")
    assert len(lines) == 3
    assert lines[2] == f"| {text if cell is None else cell} |    1 |"
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])) == 3


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        *(("=1+1", "'=1+1"), ("+a.png", "'+a.png"), ("-b", "'-b"), ("@c", "'@c"), ("＝1", "'＝1")),
        *(("a=1", "a=1"), ("", ""), ("'=1", "'=1"), (-3.5, -3.5), (-3, -3), (" =1", " =1")),
    ],
)
def test_no_text_is_a_formula(value, cell):
    assert spreadsheet_cell(value) == cell

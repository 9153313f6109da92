import csv
import pickle

import pytest

from common.errors import UserError, described, first_line, flag_of, listing, readable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("figure 1 (a) é µ 日本 🙂.png", None),
        ("narrow\u202fspace no\xa0break soft\xadhyphen join\u200der", None),
        ("\x1b]0;title\x07 \x1b[2J", r"\x1b]0;title\x07 \x1b[2J"),
        ("a\nb\rc\td\0e\x7f\x85\x9b", r"a\nb\rc\td\x00e\x7f\x85\x9b"),
        ("lines\u2028\u2029 bidi\u202egnp.exe\u2066", r"lines\u2028\u2029 bidi\u202egnp.exe\u2066"),
        ("caf\udce9 half\ud800", r"caf\xe9 half\ud800"),
        (r"back\nslash", None),
    ],
)
def test_names_on_one_line_that_everything_takes(text, expected):
    shown = readable(text)
    assert shown == (text if expected is None else expected) == readable(shown)
    assert len(shown.splitlines()) == 1 and shown.encode()
    assert list(csv.reader([shown]))


def test_messages_keep_their_lines_and_nothing_else_that_moves_a_cursor():
    error = UserError(listing("2 files:", ["\x1b[31ma\nb.png", "caf\udce9.png"]) + "\nFix \x08them.")
    assert str(error) == "2 files:\n  \\x1b[31ma\\nb.png\n  caf\\xe9.png\nFix \\x08them."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert first_line(error) == "2 files:"


def test_errors_of_any_kind_are_one_entry():
    assert described(UserError("a\nb")) == r"a\nb"
    assert described(ValueError("\x1bc\n")) == r"ValueError: \x1bc\n"
    assert described(ValueError()) == "ValueError"
    assert first_line(OSError("x\x1b\ny")) == r"x\x1b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((), "--min-region"),
        ((True,), "--min-region"),
        ((False,), "--no-min-region"),
        ((0,), "--min-region 0"),
        (("",), "--min-region ''"),
        (("two words",), "--min-region 'two words'"),
        (([0.5, 1],), "--min-region 0.5 1"),
    ],
)
def test_flags_can_be_pasted_into_a_shell(value, expected):
    assert flag_of("min_region", *value) == expected

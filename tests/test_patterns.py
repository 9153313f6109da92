import pytest

from common.errors import UserError
from common.patterns import checked, search_all


def test_matches_with_their_groups():
    assert search_all(r"(\d+)(x)?(y)?", ["a12x", "b", "", "é7y\n", "\udce9 0"], "pattern") == [
        ["12x", "12", "x", None],
        *(None, None),
        ["7y", "7", None, "y"],
        ["0", "0", None, None],
    ]
    assert search_all("a", [], "pattern") == []


def test_many_texts():
    texts = [f"été {number % 7}_{number}" for number in range(20_000)]
    found = search_all(r"(\d)_", texts, "pattern")
    assert [match and match[1] for match in found] == [str(number % 7) for number in range(20_000)]


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "(a{99999999999999999999})", "(", "(?P<1>a)", "(?i", "*"])
def test_what_is_no_pattern_is_named(pattern):
    for use in (checked, lambda pattern, name: search_all(pattern, ["a"], name)):
        with pytest.raises(UserError, match=r"(?s)The identity pattern .* is no regular expression"):
            use(pattern, "identity pattern")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("^(a+)+$", "a" * 40 + "!"), ("(x+x+)+y", "x" * 60), ("(.*?,){30}P", "1," * 45)],
)
def test_what_takes_years_ends_within_seconds(monkeypatch, pattern, text):
    monkeypatch.setattr("common.patterns.MOST_SECONDS", 2)
    with pytest.raises(UserError, match=f"takes more than 2 s, at '{text}'"):
        search_all(pattern, ["1", "2", text, "3"], "pattern")

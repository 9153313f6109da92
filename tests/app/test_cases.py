import pytest

from common.app.cases import Cases
from common.errors import UserError


def test_each_page_sees_its_own_case_alone():
    cases = Cases()
    one, other = cases.open("one"), cases.open("other")
    assert cases.of(one.token) is one and cases.of(other.token) is other and one.token != other.token
    for token in ("", "one", None, ["x"], one.token[:-1]):
        with pytest.raises(UserError, match="Drop it again"):
            cases.of(token)


def test_a_case_ends_with_the_next_drop_and_with_its_page():
    cases = Cases()
    first = cases.open("page")
    second = cases.open("page")
    with pytest.raises(UserError):
        cases.of(first.token)
    cases.close("page")
    cases.close("page")
    with pytest.raises(UserError):
        cases.of(second.token)
    assert len(cases) == 0


def test_what_was_used_least_recently_makes_room(examined):
    cases = Cases(most_bytes=2 * examined.nbytes)
    kept = [cases.open(f"page {n}") for n in range(3)]
    for case in kept:
        case.figures.append(examined)
    cases.of(kept[0].token)
    cases.shrink()
    assert len(cases) == 2 and cases.of(kept[0].token) and cases.of(kept[2].token)
    with pytest.raises(UserError):
        cases.of(kept[1].token)
    Cases(most_bytes=0).shrink()


def test_the_last_case_stays_however_large(examined):
    cases = Cases(most_bytes=1)
    case = cases.open("page")
    case.figures.append(examined)
    cases.shrink()
    assert cases.of(case.token) is case


def test_memory_is_counted(examined):
    pixels = examined.searched.image.shape[0] * examined.searched.image.shape[1]
    assert examined.nbytes >= 5 * pixels  # the picture, and two regions

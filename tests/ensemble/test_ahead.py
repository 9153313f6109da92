from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from common.ensemble.ahead import ahead, threads


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_results_come_in_order(pool, count):
    assert list(ahead(pool, lambda x: x * x, iter(range(20)), count)) == [x * x for x in range(20)]


def test_nothing_comes_of_nothing(pool):
    assert list(ahead(pool, abs, [])) == []


@pytest.mark.parametrize("count", [1, 3])
def test_so_many_are_ahead_and_no_more(pool, count):
    taken = []
    results = ahead(pool, abs, (taken.append(number) or number for number in range(10)), count)
    assert taken == []
    for number, result in enumerate(results):
        assert result == number
        assert len(taken) == min(number + 1 + count, 10)


def test_the_next_is_done_while_one_is_used(pool):
    done = [Event(), Event()]
    for number, _ in enumerate(ahead(pool, lambda number: done[number].set(), range(2))):
        assert done[1].wait(30), f"while {number} is used"


def test_an_error_is_raised_in_its_place(pool):
    results = ahead(pool, lambda x: 6 // x, [2, 3, 0, 1], count=3)
    assert [next(results), next(results)] == [3, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_drops_what_has_not_begun():
    begun, may_end, dropped = Event(), Event(), []
    with pytest.raises(KeyboardInterrupt), threads(1) as pool:
        first = pool.submit(lambda: begun.set() or may_end.wait(30))
        later = pool.submit(dropped.append, 1)
        assert begun.wait(30)
        later.add_done_callback(lambda _: may_end.set())
        raise KeyboardInterrupt
    assert first.result()
    assert later.cancelled()
    assert dropped == []


def test_without_an_error_all_is_done():
    done = []
    with threads(2) as pool:
        for number in range(20):
            pool.submit(done.append, number)
    assert sorted(done) == list(range(20))

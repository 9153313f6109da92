"""Work that threads do ahead of who asks for it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(pool: Executor, work: Callable[[T], R], items: Iterable[T], count: int = 1) -> Iterator[R]:
    """The results of items in their order; while one is being used, the work on the next ones goes on.

    As `Executor.map` with its `buffersize`, which Python has from 3.14 on.

    Args:
        pool: Does the work.
        work: On one item. What it raises is raised where its result is asked for.
        items: Taken as they are needed.
        count: Results that may be under way or ready beside the one in use, at least 1: so many are in memory.
    """
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def threads(count: int, **options: Any) -> Iterator[ThreadPoolExecutor]:
    """A `ThreadPoolExecutor` that ends with the block; if an exception ends that, what has not begun is dropped.

    It takes up jobs in the order in which they are given, so that a job may wait for earlier ones.
    """
    with ThreadPoolExecutor(count, **options) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

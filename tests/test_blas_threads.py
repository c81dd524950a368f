"""One BLAS thread inside tasks, and as many as before once the last of them has ended."""

from __future__ import annotations

import threading

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from actstore.queries.blas import single_threaded


def threads() -> set[int]:
    """Return the thread counts of the BLAS libraries that are loaded."""
    import scipy.linalg  # noqa: F401 - brings one

    return {b["num_threads"] for b in ThreadpoolController().info() if b["user_api"] == "blas"}


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_last_task_lifts_the_limit_whichever_thread_set_it(first_out: int) -> None:
    entered, leave = [threading.Event() for _ in "ab"], [threading.Event() for _ in "ab"]
    inside: list[set[int]] = []

    def task(number: int) -> None:
        with single_threaded():
            inside.append(threads())
            entered[number].set()
            leave[number].wait(30)

    with threadpool_limits(3, user_api="blas"):
        workers = [threading.Thread(target=task, args=(number,)) for number in (0, 1)]
        for number, worker in enumerate(workers):
            worker.start()
            assert entered[number].wait(30)
        for number in (first_out, 1 - first_out):
            assert threads() == {1}
            leave[number].set()
            workers[number].join(30)
        assert inside == [{1}, {1}]
        assert threads() == {3}
        with single_threaded():  # the limit is another thread's now
            assert threads() == {1}
        assert threads() == {3}

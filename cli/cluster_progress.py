"""How far a cluster is with an answer, asked of its scheduler now and then, for a bar."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: seconds between two questions
INTERVAL = 0.5

#: states of a task that is still to be done
_TO_DO = frozenset({"waiting", "processing", "queued", "no-worker"})


@contextmanager
def followed(told: Callable[[int, int], None]) -> Iterator[None]:
    """Tell what the cluster has done, while dask computes on it within the context.

    Parameters
    ----------
    told : callable
        Takes how many tasks are done, and of how many.
    """
    import dask
    from distributed import default_client
    from distributed.client import futures_of

    client = default_client()

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        futures = client.get(graph, keys, sync=False, **options)
        wanted = [future.key for future in futures_of(futures)]
        done = threading.Event()

        def ask() -> None:
            total = 0
            while not done.wait(INTERVAL if total else INTERVAL / 5):
                with suppress(Exception):  # who computes is told by gather() that it is lost
                    left, known = client.run_on_scheduler(_tasks, keys=wanted)
                    total = max(total, known)
                    told(total - left, total)

        asking = threading.Thread(target=ask, name="actstore-progress", daemon=True)
        asking.start()
        try:
            return client.gather(futures)
        finally:
            done.set()
            asking.join(10 * INTERVAL)

    with dask.config.set(scheduler=get):
        yield


def _tasks(keys: list[Any], dask_scheduler: Any) -> tuple[int, int]:
    """Return how many tasks are to be done for the keys, and how many there are (on a scheduler).

    What was done and is needed no more is forgotten there, so the latter falls in the end.
    """
    known: set[Any] = set()
    left = 0
    ahead = [dask_scheduler.tasks[key] for key in keys if key in dask_scheduler.tasks]
    while ahead:
        task = ahead.pop()
        if task not in known:
            known.add(task)
            left += task.state in _TO_DO
            ahead += task.dependencies
    return left, len(known)

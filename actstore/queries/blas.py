"""One BLAS thread inside each dask task: two levels of threads slow each other down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limit:
    """A limit of the whole process that nests over threads: the first sets it, the last lifts it.

    BLAS has one thread count a process; were each task to save and restore it by itself,
    two tasks that overlap would restore each other's limit and leave it on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limiter: Any = None
        self._controller: ThreadpoolController | None = None

    def __reduce__(self) -> str:
        """Pickle by name: each worker process has one of its own, and locks cannot travel."""
        return "single_threaded"

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._controller = self._controller or ThreadpoolController()
                self._take_control()
                self._limiter = self._controller.limit(limits=1, user_api="blas")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._take_control()
                    self._limiter.restore_original_limits()
                    self._take_control()  # from this thread, for whoever comes next

    def _take_control(self) -> None:
        """Let this thread set what another has set: the last to leave need not be the first.

        From threadpoolctl 3.8 on only the thread that set a limit can lift it; others are
        ignored without a word, and BLAS would stay on one thread after a query.
        """
        assert self._controller is not None
        for library in self._controller.lib_controllers:
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread(force=True)


single_threaded = _Limit()

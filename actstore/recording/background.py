"""One writer thread: training goes on while the epoch before is written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Runs jobs one after another in a thread, at most one of them waiting or running.

    A second job waits for the first, so that a disk slower than the training slows it
    down instead of filling the memory. What a job raises is raised by the next call.
    After that no further job is accepted: an epoch must not be committed after a lost one.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="actstore-writer")
        self._running: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` after the one before it, which is waited for."""
        self.wait()
        self._running = self._pool.submit(job)

    def check(self) -> None:
        """Raise what the last job raised, if it has ended; never wait."""
        if self._running is not None and self._running.done():
            self._running.result()

    def wait(self) -> None:
        """Wait for the last job and raise what it raised."""
        if self._running is not None:
            self._running.result()

    def close(self) -> None:
        """End the thread after its last job; raises nothing."""
        self._pool.shutdown(wait=True)

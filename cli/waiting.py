"""A bar for work that takes longer than two seconds: how much is done, and how long still."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SILENT_SECONDS = 2.0


@contextmanager
def waiting(what: str, *, after: float = SILENT_SECONDS) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal's stderr, once the work has taken two seconds, that it goes on.

    Parameters
    ----------
    what : str
        What is done, such as ``"verifying"``.
    after : float
        Seconds until the bar is shown.

    Yields
    ------
    callable
        Takes how many parts are done, and of how many: from then on the time left is shown.
    """
    begun = time.monotonic()  # as rich measures it
    bar: Any = None
    known: dict[str, int] = {}

    def show() -> None:
        nonlocal bar
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        shown = Progress(*columns, console=Console(stderr=True), transient=True)
        shown.add_task(what, total=known.get("total"), completed=known.get("completed", 0))
        shown.tasks[0].start_time = begun
        shown.start()
        bar = shown

    def told(done: int, of: int) -> None:
        known.update(completed=done, total=of)
        if bar is not None:
            bar.update(bar.task_ids[0], **known)

    timer = threading.Timer(after, show)
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield told
    finally:
        timer.cancel()
        if timer.ident is not None:  # it was started: what it shows is shown before it is stopped
            timer.join()
        if bar is not None:
            bar.stop()

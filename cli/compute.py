"""Computing an answer: where the work runs, and a progress bar on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from actstore.errors import ActstoreError, MissingExtraError

SILENT_SECONDS = 2.0


@contextmanager
def planning() -> Iterator[None]:
    """Build a graph without importing distributed, which dask does to choose how to rechunk."""
    import dask

    with dask.config.set({"array.rechunk.method": "tasks"}):
        yield


@contextmanager
def scheduler(workers: int | None, address: str | None, threads: int) -> Iterator[None]:
    """Compute within the context on threads, on ``workers`` processes, or at ``address``."""
    if workers is None and address is None:
        import dask
        import dask.threaded

        # The function, not its name: for a name dask imports distributed, half a second.
        with dask.config.set(scheduler=dask.threaded.get, num_workers=threads), _progress():
            yield
        return
    with ExitStack() as opened:
        _connect(opened, workers, address)
        yield  # outside _connect, so that an error of the work is not taken for one of the address


def _connect(opened: ExitStack, workers: int | None, address: str | None) -> None:
    """Make the work of this process go to a cluster of our own, or to the one at ``address``."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise MissingExtraError(
            "--workers and --scheduler need dask.distributed; "
            "install it with: pip install 'actstore[distributed]'"
        ) from error
    try:
        if address is not None:
            opened.enter_context(Client(address, timeout="10s"))
            return
        cluster = opened.enter_context(
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
            )
        )
        opened.enter_context(Client(cluster))
    except (TimeoutError, OSError, ValueError) as error:
        what = (
            "no worker process can be started"
            if address is None
            else (f"no dask scheduler answers at {address!r}")
        )
        remedy = "leave --workers out" if address is None else "check the address"
        raise ActstoreError(f"{what} ({error}); {remedy}") from error


@contextmanager
def _progress() -> Iterator[None]:
    """Show a bar on a terminal's stderr once the work has taken two seconds."""
    if not sys.stderr.isatty():
        yield
        return
    from dask.callbacks import Callback

    begun = time.monotonic()
    bar: Any = None
    done = 0

    def after(_key: Any, _value: Any, _graph: Any, state: Any, _worker: Any) -> None:
        nonlocal bar, done
        done += 1
        if bar is None and time.monotonic() - begun > SILENT_SECONDS:
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.add_task("computing", total=None)
            bar.start()
        if bar is not None:
            total = sum(len(state[part]) for part in ("ready", "waiting", "running", "finished"))
            bar.update(bar.task_ids[0], completed=len(state["finished"]), total=total)

    try:
        with Callback(posttask=after):
            yield
    finally:
        if bar is not None:
            bar.stop()

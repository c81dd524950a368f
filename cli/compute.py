"""Computing an answer: where the work runs, and a progress bar on stderr."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from actstore._version import __version__
from actstore.errors import ActstoreError, MissingExtraError, WorkerLostError

from .cluster_progress import followed
from .options import runs_elsewhere
from .waiting import waiting

CONNECT_SECONDS = 5.0
#: memory of a query whose processes are this one's; a running cluster has bounds of its own
MEMORY = "2GiB"


@dataclasses.dataclass(frozen=True)
class Crew:
    """Who computes: threads of this process, processes of its own, or a running cluster.

    Attributes
    ----------
    workers : int or None
        Tasks at a time; None is as many as there are cores and fit into the memory.
    processes : bool
        Whether the workers are not threads of this process.
    threads : int
        Of each worker process.
    address : str or None
        Of the scheduler of a running cluster.
    memory : int or None
        Bytes that a running cluster gives its workers, if it bounds them.
    """

    workers: int | None
    processes: bool = False
    threads: int = 1
    address: str | None = None
    memory: int | None = None

    def bounds(self, memory: str | None) -> dict[str, Any]:
        """Return what the answer is to stay within, as ``actstore.explain`` takes it."""
        own = self.memory if self.address else MEMORY
        return {
            "memory": memory or own,
            "workers": self.workers,
            "processes": self.processes,
            "threads": self.threads,
        }

    @contextmanager
    def at_work(self, workers: int | None = None, *, bar: bool = True) -> Iterator[None]:
        """Compute within the context, at most ``workers`` tasks at a time."""
        count = workers or self.workers or os.cpu_count() or 1
        shown = bar and sys.stderr.isatty()
        if not self.processes:
            import dask
            import dask.threaded

            # The function, not its name: for a name dask imports distributed, half a second.
            with (
                dask.config.set(scheduler=dask.threaded.get, num_workers=count),
                _threads_followed() if shown else nullcontext(),
            ):
                yield
            return
        with ExitStack() as opened:
            if self.address is None:
                opened.enter_context(_own_cluster(count))
            if shown:
                opened.enter_context(followed(opened.enter_context(waiting("computing"))))
            with _losses(self.address):
                yield


@contextmanager
def planning() -> Iterator[None]:
    """Build a graph without importing distributed, which dask does to choose how to rechunk."""
    import dask

    with dask.config.set({"array.rechunk.method": "tasks"}):
        yield


@contextmanager
def crew(workers: int | None, scheduler: str | None) -> Iterator[Crew]:
    """Find out who computes by ``--workers`` and ``--scheduler``; stay connected to a cluster."""
    if not runs_elsewhere(scheduler):
        processes = scheduler == "processes" or (scheduler is None and workers is not None)
        if processes:
            _distributed()
        yield Crew(workers, processes)
        return
    assert scheduler is not None
    with _connected(scheduler) as client:
        yield _crew_of(client, scheduler)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError(
            "--workers and --scheduler need dask.distributed; "
            "install it with: pip install 'actstore[distributed]'"
        ) from error
    return distributed


def _connected(address: str) -> Any:
    """Return a client of the scheduler at ``address``."""
    distributed = _distributed()
    try:
        # Asked first, because a client asks for as long as it is let, and does not say why.
        where = distributed.comm.get_address_host_port(address)
        socket.create_connection(where, timeout=CONNECT_SECONDS).close()
        return distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise ActstoreError(
            f"no dask scheduler answers at {address!r} ({error}); give the address that "
            "'dask scheduler' prints, such as tcp://127.0.0.1:8786"
        ) from error


def _crew_of(client: Any, address: str) -> Crew:
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ActstoreError(
            f"the dask scheduler at {address!r} has no workers; start some: dask worker {address}"
        ) from error
    _check_versions(client, address)
    threads = client.nthreads().values()
    limits = [worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()]
    return Crew(
        workers=sum(threads),
        processes=True,
        threads=max(threads),
        address=address,
        memory=len(threads) * min(limits) if all(limits) else None,
    )


def _check_versions(client: Any, address: str) -> None:
    """Raise unless the cluster has this actstore: a worker without it would be lost silently."""
    of_one = importlib.metadata.version
    try:
        found = {*client.run(of_one, "actstore").values()}
        found.add(client.run_on_scheduler(of_one, "actstore"))
    except importlib.metadata.PackageNotFoundError:
        found = {"none"}
    if found != {__version__}:
        raise ActstoreError(
            f"the cluster of {address!r} has actstore {', '.join(sorted(found))}, and this is "
            f"{__version__}; install the same where its scheduler and its workers run"
        )


@contextmanager
def _own_cluster(workers: int) -> Iterator[None]:
    """Start worker processes on this machine, and make the work of this process go to them."""
    distributed = _distributed()
    # port 0: any that is free, without a word about those that are taken
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with ExitStack() as opened:
        try:
            with _without_interrupt():
                cluster = opened.enter_context(
                    distributed.LocalCluster(n_workers=workers, **options)
                )
                client = opened.enter_context(distributed.Client(cluster))
                client.run(_warn_plainly)
        except (OSError, RuntimeError) as error:
            raise ActstoreError(
                f"no worker process can be started ({error}); leave --workers out"
            ) from error
        yield  # outside of try: an error of the work is not one of the start


def _warn_plainly() -> None:
    """Let a worker warn as the command does: one line, on the same stderr."""
    from . import show_warning

    warnings.showwarning = show_warning


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: this one ends them, without their tracebacks."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is ignored stays so in a child
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _losses(address: str | None) -> Iterator[None]:
    """Say in a sentence what a cluster raises when processes of it are lost."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    from actstore.errors import StoreNotFoundError

    try:
        yield
    except KeyboardInterrupt:
        # The client then forgets its tasks, of which asyncio complains one by one.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except KilledWorker as error:
        raise WorkerLostError(
            "a worker process was lost each time it computed the same part of the answer, most "
            "likely for want of memory; give --memory, or fewer workers"
        ) from error
    except (FutureCancelledError, CommClosedError) as error:
        raise ActstoreError(
            f"the dask scheduler at {address!r} was lost; ask again when it runs: moments that "
            "were cached are kept"
        ) from error
    except StoreNotFoundError as error:
        raise StoreNotFoundError(
            f"a worker of {address!r} finds {error}; a store must be found there by the same path"
        ) from error


@contextmanager
def _threads_followed() -> Iterator[None]:
    """Show a bar over the tasks of threads once the work has taken two seconds."""
    from dask.callbacks import Callback

    with waiting("computing") as told:

        def after(_key: Any, _value: Any, _graph: Any, state: Any, _worker: Any) -> None:
            parts = ("ready", "waiting", "running", "finished")
            told(len(state["finished"]), sum(len(state[part]) for part in parts))

        with Callback(posttask=after):
            yield

"""Several runs of a sweep at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from actstore.errors import WorkerLostError
from actstore.training.plan import RunPlan
from actstore.training.progress import Progress, RecordedEpoch
from actstore.training.run import Data, RunOptions, record_run

_PATIENCE = 60.0  # seconds for a process to finish or drop its epoch when the sweep ends early


def record_in_parallel(
    plans: Sequence[RunPlan],
    devices: Sequence[torch.device],
    data_dir: str | os.PathLike[str] | None,
    options: RunOptions,
    progress: Progress,
) -> None:
    """Train the runs, the widest first, one at a time on each of ``devices``.

    When a run fails or the sweep is interrupted the others finish or drop their epochs, and
    can be resumed.

    Raises
    ------
    WorkerLostError
        If a process ends by itself, such as for want of memory.
    """
    # A wide run that begins last would keep one process busy and the others waiting.
    waiting = sorted(plans, key=lambda plan: plan.width)
    workers: list[_Worker] = []
    try:
        workers = [_Worker.start(device, data_dir, options) for device in devices]
        for worker in workers:
            worker.give(waiting)
        while busy := [worker for worker in workers if worker.plan is not None]:
            for ready in wait([worker.connection for worker in busy]):
                worker = next(worker for worker in busy if worker.connection is ready)
                if worker.tell(progress):
                    worker.give(waiting)
    except BaseException:
        for worker in workers:
            worker.interrupt()
        raise
    finally:
        for worker in workers:
            worker.end()


@dataclass
class _Worker:
    """A process and the pipe to it."""

    process: BaseProcess
    connection: Connection
    plan: RunPlan | None = None

    @classmethod
    def start(
        cls,
        device: torch.device,
        data_dir: str | os.PathLike[str] | None,
        options: RunOptions,
    ) -> _Worker:
        context = _context()
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, str(device), data_dir, options))
        process.start()
        there.close()  # so that reading ends when the process does
        return cls(process, here)

    def give(self, waiting: list[RunPlan]) -> None:
        """Send the next run, or the word that there is none."""
        self.plan = waiting.pop() if waiting else None
        try:
            self.connection.send(self.plan)
        except BrokenPipeError:
            if self.plan is not None:
                raise self._lost() from None

    def tell(self, progress: Progress) -> bool:
        """Pass one message on; return whether it was the end of the run."""
        assert self.plan is not None
        try:
            step, arguments = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._lost() from None
        if step == "failed":
            raise arguments[0]
        getattr(progress, step)(self.plan, *arguments)
        return bool(step == "run_ended")

    def interrupt(self) -> None:
        """Ask the process to finish or drop its epoch: a Ctrl-C of ours."""
        if self.process.is_alive():
            self.process.terminate()

    def end(self) -> None:
        """Wait for the process."""
        self.connection.close()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _lost(self) -> WorkerLostError:
        self.process.join(_PATIENCE)
        name = self.plan.name if self.plan is not None else "no run"
        return WorkerLostError(
            f"the process that trained {name!r} ended with code {self.process.exitcode}; resume "
            "with fewer jobs if memory was short"
        )


def _context() -> Any:
    """Return how processes begin: never as a copy of this one, which may have touched a GPU.

    A server that has imported PyTorch, and nothing more, is copied where a system can; that
    saves the seconds of importing it in every process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Teller:
    """The progress inside a process: every step goes through the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run_started(self, plan: RunPlan, first_epoch: int) -> None:
        self._send("run_started", first_epoch)

    def epoch_ended(self, plan: RunPlan, epoch: int) -> None:
        self._send("epoch_ended", epoch)

    def epoch_recorded(self, plan: RunPlan, recorded: RecordedEpoch) -> None:
        self._send("epoch_recorded", recorded)

    def run_ended(self, plan: RunPlan, n_bytes: int) -> None:
        self._send("run_ended", n_bytes)

    def sweep_started(self, *_: Any) -> None:
        """Say nothing: the sweep is not this process's."""

    def _send(self, step: str, *arguments: Any) -> None:
        try:
            self._connection.send((step, arguments))
        except ConnectionError:
            # Whoever started the sweep is gone, however that came: stop as they would have.
            raise KeyboardInterrupt from None


def _work(
    connection: Connection,
    device: str,
    data_dir: str | os.PathLike[str] | None,
    options: RunOptions,
) -> None:
    """Train what comes through the pipe until nothing does."""
    # A terminal sends Ctrl-C to every process of the sweep. Only the first one acts on it and
    # ends the others by SIGTERM, once: a second interrupt could cut short the closing of a store.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data = Data(torch.device(device), data_dir)
    try:
        while (plan := connection.recv()) is not None:
            record_run(plan, data, options, _Teller(connection))
    except (KeyboardInterrupt, EOFError):
        return
    except Exception as error:
        connection.send(("failed", (_sendable(error),)))


def _sendable(error: Exception) -> Exception:
    """Return the error, or one with its words if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

"""Processes of the crash campaign that are killed, and numbers that they count together."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: what changes a disk, as Python's audit events name it
CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


class Tally:
    """Numbers that forked processes count together."""

    def __init__(self) -> None:
        self._numbers = mmap.mmap(-1, 16)

    def add(self, what: int, number: int) -> None:
        """Count ``what`` by so many more; one process at a time counts each."""
        new = self.read()[what] + number
        self._numbers[8 * what : 8 * what + 8] = new.to_bytes(8, "little")

    def read(self) -> tuple[int, int]:
        """Return committed epochs that were compared after kills, and checks of readers."""
        return tuple(int.from_bytes(self._numbers[k : k + 8], "little") for k in (0, 8))  # type: ignore[return-value]


EPOCHS, READS = 0, 1
TALLY = Tally()


def fork(job: Callable[[], object], log: Path) -> int:
    """Run a job in a process of its own; what it raises is appended to ``log``."""
    child = os.fork()
    if not child:
        try:
            job()
        except BaseException:
            with log.open("a") as file:
                traceback.print_exc(file=file)
            os._exit(1)
        os._exit(0)
    return child


def run(job: Callable[[], object], log: Path) -> None:
    """Run a job in a process of its own and raise if it fails."""
    if os.waitpid(fork(job, log), 0)[1]:
        raise AssertionError(log.read_text())


def killed_before(change: int, job: Callable[[], object], store: Path, log: Path) -> bool:
    """Run a job and kill it before its n-th change of the store; return whether it got so far."""

    def job_with_hook() -> None:
        seen = 0
        inside = str(store)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event == "open":
                writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            else:
                writes = event in CHANGES
            if writes and str(arguments[0]).startswith(inside):
                if seen == change:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(hook)
        job()

    status = os.waitpid(fork(job_with_hook, log), 0)[1]
    if os.WIFSIGNALED(status):
        return True
    if status:
        raise AssertionError(log.read_text())
    return False


def counted(path: Path, job: Callable[[], int]) -> Callable[[], object]:
    """Return a job that leaves its result in a file."""
    return lambda: path.write_text(str(job()))

"""One writing process a run: a lock that names its owner and shows that the owner is alive.

The lock is the file ``<run>/epoch/lock``: inside an array's folder, because whatever lies in a
group's folder and is no group or array makes Zarr readers warn. It holds the owner's process
and machine; the owner renews the file's time while it lives. A lock whose owner is known to
have ended (same machine, no such process) is taken over; one that might be alive never is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TextIO

from actstore import schema
from actstore.errors import RunLockedError

try:
    import fcntl
except ImportError:  # Windows: two takers of one stale lock at the same instant are not told apart
    fcntl = None  # type: ignore[assignment]

HEARTBEAT = 30.0  # seconds between two signs of life
STALE = 10 * HEARTBEAT  # a lock without a sign of life for so long has probably lost its owner


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes
    ----------
    pid : int
    host : str
    place : str
        Machine, boot and process namespace: only within it does ``pid`` mean anything.
    began : str
        When the process started, in the kernel's clock: a process number can be given again.
    """

    pid: int
    host: str
    place: str
    began: str

    @classmethod
    def here(cls) -> Self:
        """Return this process."""
        return cls(os.getpid(), socket.gethostname(), _place(), _began(os.getpid()))

    @property
    def ended(self) -> bool:
        """Whether the process is known to have ended; False if that cannot be known from here."""
        if self.place != _place():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return _began(self.pid) != self.began


class RunLock:
    """The right to write one run, held from :meth:`acquire` to :meth:`release`.

    Parameters
    ----------
    path : Path
        The lock's file.
    owner : Owner
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        done = threading.Event()
        threading.Thread(target=_beat, args=(path, done), name="actstore-lock", daemon=True).start()
        # Also when the writer is forgotten or the interpreter ends, so that in a notebook a cell
        # that failed can be run again.
        self._release = weakref.finalize(self, _release, path, owner, done)

    @classmethod
    def acquire(cls, store: Path, run: str) -> Self:
        """Take the lock of a run.

        Raises
        ------
        RunLockedError
            If another writer has it, or may have it.
        """
        path = lock_path(store, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = Owner.here()
        with _exclusive(path) as file:
            holder = _read(file.read())
            if holder is not None and not holder.ended:
                age = time.time() - os.fstat(file.fileno()).st_mtime
                raise RunLockedError(_refusal(run, path, holder, age))
            file.seek(0)
            file.truncate()
            file.write(json.dumps(dataclasses.asdict(owner)))
        return cls(path, owner)

    def release(self) -> None:
        """Give the lock up; a process forked from the owner gives up nothing."""
        self._release()


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _release(path: Path, owner: Owner, done: threading.Event) -> None:
    done.set()
    if os.getpid() != owner.pid:
        return
    with contextlib.suppress(OSError):
        if _read(path.read_text()) == owner:
            path.unlink()


def lock_path(store: Path, run: str) -> Path:
    """Return where the lock of a run lies."""
    return store / run / schema.EPOCH / "lock"


def lock_state(store: Path, run: str) -> tuple[Owner, float] | None:
    """Return who holds the lock of a run and the seconds since the last sign of life, or None."""
    path = lock_path(store, run)
    try:
        holder = _read(path.read_text())
        age = time.time() - path.stat().st_mtime
    except OSError:
        return None
    return None if holder is None else (holder, age)


def _refusal(run: str, path: Path, holder: Owner, age: float) -> str:
    who = f"process {holder.pid} on {holder.host}"
    if holder == Owner.here():
        return (
            f"run {run!r} is already open for writing in this process ({who}); "
            "close the writer that has it"
        )
    if age <= STALE:
        return (
            f"run {run!r} is being written by {who} (last sign of life {age:.0f} s ago); "
            "wait for it, end it, or write another run"
        )
    return (
        f"run {run!r} is locked by {who}, which has shown no sign of life for {age / 60:.0f} "
        f"minutes; if that process has ended, remove {str(path)!r} and try again"
    )


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[TextIO]:
    """Open the lock's file for reading and writing, alone for as long as the block lasts."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with open(descriptor, "r+") as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # some network file systems have no locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.stat(path), os.fstat(descriptor))
            except FileNotFoundError:
                same = False
            if same:  # else its holder removed it while this process waited for it
                yield file
                return


def _read(text: str) -> Owner | None:
    """Return the owner that a lock names; None if it is empty (its writer was killed)."""
    try:
        return Owner(**json.loads(text))
    except (json.JSONDecodeError, TypeError):
        return None


def _place() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _began(pid: int) -> str:
    """Return the start of a process in ticks since boot, or '' where the system does not say."""
    try:
        # The second field is a name in parentheses that may hold spaces; state is field 3, the
        # start field 22. A killed process that nobody has waited for yet is a zombie (Z).
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]

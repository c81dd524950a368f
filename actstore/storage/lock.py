"""One writing process a run: a lock that names its owner and shows that the owner is alive.

The lock is the file ``<run>/epoch/lock``: inside an array's folder, because whatever lies in a
group's folder and is no group or array makes Zarr readers warn. It holds the owner's process
and machine; the owner renews the file's time while it lives. A lock whose owner is known to
have ended (same machine, no such process) is taken over; one that might be alive never is.
In a bucket it is an object that only one of several claims can create or replace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import uuid
import weakref
from pathlib import Path
from typing import Self

from actstore import schema
from actstore.errors import RunLockedError
from actstore.storage.files import Files

HEARTBEAT = 30.0  # seconds between two signs of life
STALE = 10 * HEARTBEAT  # a lock without a sign of life for so long has probably lost its owner

#: claims that this process holds: the file of one that was given up stays where a disk or a server
#: cannot be reached
_HELD: set[str] = set()


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
    claim : str
        Tells one taking of a lock from another of the same process.
    """

    pid: int
    host: str
    place: str
    began: str
    claim: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    @classmethod
    def here(cls) -> Self:
        """Return this process."""
        return cls(os.getpid(), socket.gethostname(), _place(), _began(os.getpid()))

    @property
    def ended(self) -> bool:
        """Whether the process is known to have ended, or to have given this lock up.

        False if that cannot be known from here.
        """
        if self.place != _place():
            return False
        if self.pid == os.getpid() and self.claim not in _HELD:
            return True
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
    files : Files
        The store's.
    key : str
        The lock's file.
    owner : Owner
    """

    def __init__(self, files: Files, key: str, owner: Owner) -> None:
        self.owner = owner
        done = threading.Event()
        beat = threading.Thread(
            target=_beat, args=(files, key, done), name="actstore-lock", daemon=True
        )
        beat.start()
        # Also when the writer is forgotten or the interpreter ends, so that in a notebook a cell
        # that failed can be run again.
        self._release = weakref.finalize(self, _release, files, key, owner, done)

    @classmethod
    def acquire(cls, files: Files, run: str) -> Self:
        """Take the lock of a run.

        Raises
        ------
        RunLockedError
            If another writer has it, or may have it.
        """
        key = lock_key(run)
        owner = Owner.here()
        _HELD.add(owner.claim)

        def refuse(held: bytes, age: float) -> None:
            holder = _owner(held)
            if holder is not None and not holder.ended:
                raise RunLockedError(_refusal(run, f"{files.place}/{key}", holder, age))

        try:
            files.claim(key, json.dumps(dataclasses.asdict(owner)).encode(), refuse)
        except BaseException:
            _HELD.discard(owner.claim)
            raise
        return cls(files, key, owner)

    def release(self) -> None:
        """Give the lock up; a process forked from the owner gives up nothing."""
        self._release()


def _beat(files: Files, key: str, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            files.touch(key)


def _release(files: Files, key: str, owner: Owner, done: threading.Event) -> None:
    done.set()
    _HELD.discard(owner.claim)
    if os.getpid() != owner.pid:
        return
    with contextlib.suppress(OSError):
        if _owner(files.read(key)) == owner:
            files.remove(key)


def lock_key(run: str) -> str:
    """Return the key of the lock of a run."""
    return f"{run}/{schema.EPOCH}/lock"


def lock_state(files: Files, run: str) -> tuple[Owner, float] | None:
    """Return who holds the lock of a run and the seconds since the last sign of life, or None."""
    try:
        held, age = files.seen(lock_key(run))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    holder = _owner(held)
    return None if holder is None else (holder, age)


def _refusal(run: str, place: str, holder: Owner, age: float) -> str:
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
        f"minutes; if that process has ended, remove {place!r} and try again"
    )


def _owner(held: bytes) -> Owner | None:
    """Return the owner that a lock names; None if it is empty (its writer was killed)."""
    try:
        return Owner(**json.loads(held))
    except (ValueError, TypeError):
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

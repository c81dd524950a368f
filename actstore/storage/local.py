"""Files of a store on a disk: sealed metadata, fsync on request, removal without half groups."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from actstore.storage.files import PARTIAL, Entry, Files, Refuse, seal
from actstore.storage.seal import DOCUMENT

try:
    import fcntl
except ImportError:  # Windows: two takers of one stale lock at the same instant are not told apart
    fcntl = None  # type: ignore[assignment]


class LocalFiles(LocalStore, Files):
    """A folder that Zarr arrays are written to.

    It differs from zarr's own class in two points: every ``zarr.json`` is sealed, and with
    ``durable`` a file is on the disk before it gets its name, so that a power failure never
    leaves a truncated one in the place of the one before it.

    Parameters
    ----------
    root : path
    durable : bool
        Whether to fsync files as they are written, and folders in :meth:`sync`.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False, durable: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self.durable = durable
        self._unsynced: set[Path] = set()

    def with_read_only(self, read_only: bool = False) -> LocalFiles:
        """Return the same store, read-only or not."""
        return type(self)(self.root, read_only=read_only, durable=self.durable)

    async def set(self, key: str, value: Buffer) -> None:
        """Replace the object ``key`` whole."""
        value = seal(key, value)
        if not self.durable:
            return await super().set(key, value)
        self._check_writable()
        path = self.root / key
        self._unsynced.add(path.parent)
        await asyncio.to_thread(_put_durably, path, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write the object ``key`` unless it is there."""
        # Zarr would write a file beside it first, even for the root group of a store that several
        # processes write, and one that opens the store would sweep it away.
        if (self.root / key).exists():
            return
        await super().set_if_not_exists(key, seal(key, value))

    @property
    def place(self) -> str:
        """Path of the folder."""
        return str(self.root)

    def has(self, key: str) -> bool:
        """Return whether there is a file of this key."""
        return (self.root / key).exists()

    def has_folder(self, key: str) -> bool:
        """Return whether there is a folder of this key."""
        return (self.root / key).is_dir()

    def read(self, key: str) -> bytes:
        """Return a file whole."""
        return (self.root / key).read_bytes()

    def tail(self, key: str, count: int) -> bytes:
        """Return the last ``count`` bytes of a file, or all of a shorter one."""
        with (self.root / key).open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - count))
            return file.read()

    def children(self, folder: str) -> list[Entry]:
        """Return what a folder holds, by name."""
        with os.scandir(self.root / folder) as found:
            return sorted(Entry(entry.name, entry.is_dir()) for entry in found)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file below a folder, as far as they are still there."""
        found = {}
        for path, _, names in os.walk(self.root / folder):
            below = os.path.relpath(path, self.root).replace(os.sep, "/")
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a writer renames what it finishes
                    size = os.stat(os.path.join(path, name)).st_size
                    found[name if below == "." else f"{below}/{name}"] = size
        return found

    def put(self, key: str, parts: Iterable[Any]) -> None:
        """Replace the object ``key`` whole by bytes that come in parts, without zarr's loop."""
        self._check_writable()
        path = self.root / key
        if self.durable:
            self._unsynced.add(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path, parts) as temporary:
            if self.durable:
                fsync(temporary)
            temporary.replace(path)

    def create(self, key: str, data: bytes) -> None:
        """Write a file whole, or raise FileExistsError if there is one already."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        # A link fails where the name is taken; a rename would replace what is there.
        with _temporary(path, [data]) as temporary:
            os.link(temporary, path)

    def remove(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""
        (self.root / key).unlink(missing_ok=True)

    def remove_tree(self, folder: str) -> None:
        """Remove a folder from the leaves up."""
        remove_tree(self.root / folder)

    def partials(self, folder: str) -> list[str]:
        """Return the keys of what killed writers left half written below a folder."""
        return sorted(key for key in self.sizes(folder) if key.endswith(PARTIAL))

    def sync(self) -> None:
        """Bring the names of all files written since the last call to the disk.

        Every folder from the file's up to the store's own parent, because each may be new.
        """
        folders: set[Path] = set()
        for folder in self._unsynced:
            above = folder.relative_to(self.root).parents
            folders.update({folder, *(self.root / part for part in above), self.root.parent})
        self._unsynced.clear()
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            with contextlib.suppress(FileNotFoundError):
                fsync(folder)

    def seen(self, key: str) -> tuple[bytes, float]:
        """Return a file and the seconds since it was written or touched."""
        path = self.root / key
        return path.read_bytes(), time.time() - path.stat().st_mtime

    def touch(self, key: str) -> None:
        """Make a file as if it had just been written."""
        os.utime(self.root / key)

    def claim(self, key: str, data: bytes, refuse: Refuse) -> None:
        """Write a file that one process at a time may take from another."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path) as file:
            if held := file.read():
                refuse(held, time.time() - os.fstat(file.fileno()).st_mtime)
            file.seek(0)
            file.truncate()
            file.write(data)


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder from the leaves up, each group's and array's ``zarr.json`` last.

    Killed half-way it leaves whole groups, never a folder that Zarr does not recognise.
    """
    for path, _, names in os.walk(folder, topdown=False):
        for name in sorted(names, key=lambda name: name == DOCUMENT):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(path, name))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[io.BufferedRandom]:
    """Open a file for reading and writing, alone for as long as the block lasts."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with open(descriptor, "r+b") as file:
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


def _write_all(file: io.FileIO, part: Any) -> None:
    # A raw write may take less than it was given, at the latest beyond 2 GiB.
    left = memoryview(part).cast("B")
    while len(left):
        left = left[file.write(left) :]


def _put_durably(path: Path, value: Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, [value.as_buffer_like()]) as temporary:
        fsync(temporary)
        temporary.replace(path)


@contextlib.contextmanager
def _temporary(path: Path, parts: Iterable[Any]) -> Iterator[Path]:
    temporary = path.with_suffix(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        with temporary.open("wb", buffering=0) as file:
            for part in parts:
                _write_all(file, part)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)

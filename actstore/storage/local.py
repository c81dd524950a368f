"""Files of a store on a disk: sealed metadata, fsync on request, removal without half groups."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import LocalStore

from actstore.storage.seal import DOCUMENT, sealed

#: what zarr and this module call a file that is not yet renamed to its own name
PARTIAL = ".partial"


class LocalFiles(LocalStore):
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
        value = _seal(key, value)
        if not self.durable:
            return await super().set(key, value)
        self._check_writable()
        path = self.root / key
        self._unsynced.add(path.parent)
        await asyncio.to_thread(_put_durably, path, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write the object ``key`` unless it is there."""
        await super().set_if_not_exists(key, _seal(key, value))

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


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_file(path: Path, data: bytes) -> None:
    """Write a file whole, or raise FileExistsError if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A link fails where the name is taken; a rename would replace what is there.
    with _temporary(path, [data]) as temporary:
        os.link(temporary, path)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole, in the place of one that may be there."""
    with _temporary(path, [data]) as temporary:
        temporary.replace(path)


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


def partial_files(folder: Path) -> list[Path]:
    """Return the files that a killed writer left half written."""
    return sorted(folder.rglob(f"*{PARTIAL}"))


def _write_all(file: io.FileIO, part: Any) -> None:
    # A raw write may take less than it was given, at the latest beyond 2 GiB.
    left = memoryview(part).cast("B")
    while len(left):
        left = left[file.write(left) :]


def _seal(key: str, value: Buffer) -> Buffer:
    if key.rsplit("/", 1)[-1] != DOCUMENT:
        return value
    return default_buffer_prototype().buffer.from_bytes(sealed(value.to_bytes()))


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

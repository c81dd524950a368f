"""The files of a store, wherever they lie: what the storage modules do besides arrays.

A *key* is the path of a file below the store, with slashes, as Zarr names it. A folder is
what keys have in common; in a bucket there is nothing else to it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype

from actstore.storage.seal import DOCUMENT, sealed

#: what zarr and this package call a file that is not yet renamed to its own name
PARTIAL = ".partial"

#: requests to a bucket at the same time
AT_ONCE = 16

#: raises if what is held must not be taken: its bytes, and seconds since they were written
Refuse: TypeAlias = Callable[[bytes, float], None]


class Entry(NamedTuple):
    """What a folder holds."""

    name: str
    is_folder: bool


class Files(Store):
    """A Zarr store whose ``zarr.json`` documents are sealed, with whole files beside arrays."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Path or URL, as a user is told it."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Return whether there is a file of this key."""

    @abstractmethod
    def has_folder(self, key: str) -> bool:
        """Return whether there is a folder of this key."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return a file whole.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """

    @abstractmethod
    def tail(self, key: str, count: int) -> bytes:
        """Return the last ``count`` bytes of a file, or all of a shorter one."""

    @abstractmethod
    def children(self, folder: str) -> list[Entry]:
        """Return what a folder holds, by name."""

    @abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file below a folder, by key."""

    @abstractmethod
    def put(self, key: str, parts: Iterable[Any]) -> None:
        """Replace a file whole by bytes in parts, each of them gone when the next is asked for."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write a file whole, or raise FileExistsError if there is one already."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""

    @abstractmethod
    def remove_tree(self, folder: str) -> None:
        """Remove a folder, each group's and array's ``zarr.json`` after what lies below it.

        Killed half-way it leaves whole groups, never a folder that Zarr does not recognise.
        """

    @abstractmethod
    def partials(self, folder: str) -> list[str]:
        """Return the keys of what killed writers left half written below a folder."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy a file to this machine."""
        path.write_bytes(self.read(key))

    def send(self, key: str, path: Path) -> None:
        """Replace a file whole by one of this machine."""
        self.put(key, [path.read_bytes()])

    def remember(self, folder: str) -> None:
        """Read all metadata below a folder at once, for a check that asks for them repeatedly."""

    @abstractmethod
    def sync(self) -> None:
        """Wait until what was written survives a power failure, if that was asked for."""

    @abstractmethod
    def seen(self, key: str) -> tuple[bytes, float]:
        """Return a file and the seconds since it was written or touched."""

    @abstractmethod
    def touch(self, key: str) -> None:
        """Make a file as if it had just been written."""

    @abstractmethod
    def claim(self, key: str, data: bytes, refuse: Refuse) -> None:
        """Write a file that one process at a time may take from another.

        Parameters
        ----------
        key : str
        data : bytes
            Different at every call.
        refuse : callable
            Asked about what is there; of several claims at once one succeeds, and the others
            are asked about it.
        """


def seal(key: str, value: Buffer) -> Buffer:
    """Return what is to be written at a key: metadata get their checksum."""
    if key.rsplit("/", 1)[-1] != DOCUMENT:
        return value
    return default_buffer_prototype().buffer.from_bytes(sealed(value.to_bytes()))

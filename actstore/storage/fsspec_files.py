"""Files of a store at any URL that fsspec has a driver for: to read, and over SFTP to write.

A store can be read from whatever lists folders and returns files. To write one, a file has to
appear whole or not at all, and of two processes that create it one has to succeed: fsspec promises
neither, so that is allowed only where the protocol does. SFTP has two renames: ``posix-rename``
replaces a file at once, and the plain one fails where a file is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import io
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from actstore.errors import StoreUnreachableError, StoreWriteError
from actstore.storage.driver import Driver, driver_of
from actstore.storage.files import PARTIAL, Entry, Files, Refuse, seal
from actstore.storage.seal import DOCUMENT

T = TypeVar("T")

#: names in a folder with what a driver knows of each; Zarr calls a method of the class "list"
Listed: TypeAlias = list[tuple[str, dict[str, Any]]]
Keys: TypeAlias = list[str]
Entries: TypeAlias = list[Entry]
Parts: TypeAlias = list[Buffer | None]

#: what is not there, also where a file is asked for in the place of a folder
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FsspecFiles(Files):
    """A folder of a file system of fsspec that Zarr arrays are read from.

    Parameters
    ----------
    url : str
        Such as ``sftp://host/path`` or ``https://host/path``.
    read_only : bool

    Raises
    ------
    StoreWriteError
        If it is not for reading only, and the file system cannot put a file whole.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.url = url.rstrip("/")
        self._driver: Driver = driver_of(self.url)
        if not (read_only or self._driver.renames):
            scheme = self.url.partition("://")[0]
            refused = StoreWriteError(
                f"{self.url!r} can be read but not written: {scheme}:// does not promise that a "
                "file appears whole and is created once; write to a folder, s3://, gs://, az:// "
                "or sftp://"
            )
            refused.strerror = "it can only be read"  # for who says the rest otherwise
            raise refused

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FsspecFiles) and (self.url, self.read_only) == (
            other.url,
            other.read_only,
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        # Every process has connections and credentials of its own.
        return functools.partial(type(self), read_only=self.read_only), (self.url,)

    def __str__(self) -> str:
        return self.url

    def with_read_only(self, read_only: bool = False) -> FsspecFiles:
        """Return the same store, read-only or not."""
        return type(self)(self.url, read_only=read_only)

    # ------------------------------------------------------------ what zarr calls

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a file or a part of it, None if it is not there."""
        with contextlib.suppress(*_ABSENT):
            return prototype.buffer.from_bytes(await asyncio.to_thread(self._part, key, byte_range))
        return None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> Parts:
        """Return parts of files."""
        asked = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*asked))

    async def exists(self, key: str) -> bool:
        """Return whether there is a file ``key``."""
        return await asyncio.to_thread(self.has, key)

    async def set(self, key: str, value: Buffer) -> None:
        """Replace the file ``key`` whole."""
        await asyncio.to_thread(self.put, key, [seal(key, value).to_bytes()])

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write the file ``key`` unless it is there."""
        if not await self.exists(key):
            with contextlib.suppress(FileExistsError):
                await asyncio.to_thread(self.create, key, seal(key, value).to_bytes())

    async def delete(self, key: str) -> None:
        """Remove the file ``key``."""
        await asyncio.to_thread(self.remove, key)

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in await asyncio.to_thread(self.sizes, ""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin so."""
        for key in await asyncio.to_thread(self.sizes, prefix.rpartition("/")[0]):
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        with contextlib.suppress(*_ABSENT):
            for name, _ in await asyncio.to_thread(self.children, prefix.rstrip("/")):
                yield name

    # ------------------------------------------------------------ what this package calls

    @property
    def place(self) -> str:
        """URL of the folder."""
        return self.url

    def has(self, key: str) -> bool:
        """Return whether there is a file of this key."""
        try:
            return bool(self._info(key)["type"] == "file")
        except _ABSENT:
            return False

    def has_folder(self, key: str) -> bool:
        """Return whether there is a folder of this key, with something in it."""
        with contextlib.suppress(*_ABSENT):
            return bool(self.children(key))
        return False

    def read(self, key: str) -> bytes:
        """Return a file whole."""
        return self._read(lambda system: bytes(system.cat_file(self._at(key))))

    def tail(self, key: str, count: int) -> bytes:
        """Return the last ``count`` bytes of a file, or all of a shorter one."""
        size = self._info(key)["size"]
        if size is None:
            return self.read(key)[-count:]
        return self._range(key, max(0, size - count), size)

    def children(self, folder: str) -> Entries:
        """Return what a folder holds, by name."""
        return sorted(Entry(name, info["type"] == "directory") for name, info in self._list(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file below a folder, by key."""
        return {
            key: info["size"] if info["size"] is not None else self._info(key)["size"] or 0
            for key, info in self._below(folder)
            if info["type"] != "directory"
        }

    def put(self, key: str, parts: Iterable[Any]) -> None:
        """Replace a file whole by bytes in parts."""
        self._check_writable()
        data = io.BytesIO()
        for part in parts:
            data.write(part)
        with self._aside(key, data.getbuffer()) as aside:
            self._driver.ask(lambda system: system.ftp.posix_rename(aside, self._at(key)))

    def create(self, key: str, data: bytes) -> None:
        """Write a file whole, or raise FileExistsError if there is one already."""
        self._check_writable()
        with self._aside(key, data) as aside:
            try:
                self._driver.ask(lambda system: system.ftp.rename(aside, self._at(key)))
            except OSError as error:
                # The answer to a first attempt may have been lost, and this one was the second.
                held = None
                with contextlib.suppress(*_ABSENT):
                    held = self.read(key)
                if held is None:
                    raise
                if held != data:
                    raise FileExistsError(errno.EEXIST, "it is there already", key) from error

    def remove(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""
        self._check_writable()
        with contextlib.suppress(FileNotFoundError):
            self._driver.ask(lambda system: system.ftp.remove(self._at(key)))

    def remove_tree(self, folder: str) -> None:
        """Remove a folder from the leaves up, each group's and array's ``zarr.json`` last."""
        with contextlib.suppress(FileNotFoundError):
            found = sorted(self._list(folder), key=lambda one: one[0] == DOCUMENT)
            for name, info in found:
                if info["type"] == "directory":
                    self.remove_tree(f"{folder}/{name}")
                else:
                    self.remove(f"{folder}/{name}")
            self._driver.ask(lambda system: system.ftp.rmdir(self._at(folder)))

    def partials(self, folder: str) -> Keys:
        """Return the keys of what killed writers left half written below a folder."""
        return sorted(key for key in self.sizes(folder) if key.endswith(PARTIAL))

    def sync(self) -> None:
        """Do nothing: SFTP cannot ask for it."""

    def seen(self, key: str) -> tuple[bytes, float]:
        """Return a file and the seconds since it was written, by this machine's clock."""
        held = self.read(key)
        written = self._info(key).get("mtime")
        if not isinstance(written, datetime):  # the server does not say: as if it were new
            return held, 0.0
        return held, max(0.0, time.time() - written.astimezone(UTC).timestamp())

    def touch(self, key: str) -> None:
        """Make a file as if it had just been written."""
        self._driver.ask(lambda system: system.ftp.utime(self._at(key), None))

    def claim(self, key: str, data: bytes, refuse: Refuse) -> None:
        """Write a file that one process at a time may take from another."""
        while True:
            with contextlib.suppress(FileExistsError):
                self.create(key, data)
                return
            with contextlib.suppress(FileNotFoundError):  # released meanwhile
                held, age = self.seen(key)
                refuse(held, age)
                self._take_away(key, held)

    def _take_away(self, key: str, held: bytes) -> None:
        """Remove a file if it still holds these bytes; of several that try one succeeds."""
        aside = self._at(f"{key}.{hashlib.sha256(held).hexdigest()[:32]}{PARTIAL}")
        with contextlib.suppress(OSError):  # another was faster, and what is there now is its own
            self._driver.ask(lambda system: system.ftp.rename(self._at(key), aside))
            if self._driver.ask(lambda system: bytes(system.cat_file(aside))) != held:
                self._driver.ask(lambda system: system.ftp.rename(aside, self._at(key)))

    # ------------------------------------------------------------ what the driver is asked

    def _at(self, key: str) -> str:
        return f"{self._driver.path.rstrip('/')}/{key}".rstrip("/") if key else self._driver.path

    def _read(self, request: Callable[[Any], T]) -> T:
        try:
            return self._driver.ask(request)
        except (*_ABSENT, StoreUnreachableError):
            raise
        except OSError as error:
            raise StoreUnreachableError(
                f"{self.url!r} cannot be read ({error.strerror or error}); check the URL, the "
                "credentials and the network"
            ) from error

    def _info(self, key: str) -> dict[str, Any]:
        return self._read(lambda system: dict(system.info(self._at(key))))

    def _part(self, key: str, part: ByteRequest | None) -> bytes:
        if part is None:
            return self.read(key)
        if isinstance(part, RangeByteRequest):
            return self._range(key, part.start, part.end)
        if isinstance(part, OffsetByteRequest):
            return self._range(key, part.offset, None)
        return self.tail(key, part.suffix)

    def _range(self, key: str, start: int, end: int | None) -> bytes:
        data = self._read(
            lambda system: bytes(system.cat_file(self._at(key), start=start, end=end))
        )
        if self._driver.on_the_web and start and (end is None or len(data) > end - start):
            # Plain web servers know no ranges, and send the whole. Where the rest of a file was
            # asked for, its length tells.
            size = self._info(key)["size"] if end is None else None
            if end is not None or len(data) == size:
                return data[start:end]
        return data if end is None else data[: end - start]

    def _list(self, folder: str) -> Listed:
        """Return the names in a folder with what the driver knows of each."""
        at = self._at(folder).strip("/")

        def request(system: Any) -> Any:
            system.invalidate_cache()  # other processes write there
            return system.ls(self._at(folder), detail=True)

        found: Listed = []
        for info in self._read(request):
            place = unquote(info["name"]) if self._driver.on_the_web else info["name"]
            above, _, name = place.strip("/").rpartition("/")
            if above == at and name and not (self._driver.on_the_web and "?" in name):
                found.append((name, info))
        return found

    def _below(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every file and folder below a folder; nothing if it is not there."""
        with contextlib.suppress(*_ABSENT):
            for name, info in self._list(folder):
                key = f"{folder}/{name}" if folder else name
                yield key, info
                if info["type"] == "directory":
                    yield from self._below(key)

    @contextlib.contextmanager
    def _aside(self, key: str, data: Any) -> Iterator[str]:
        """Upload a file beside its place, for a rename; remove it if it was not renamed."""
        aside = f"{self._at(key)}.{uuid.uuid4().hex}{PARTIAL}"

        def upload(system: Any) -> None:
            system.ftp.putfo(io.BytesIO(data), aside)

        def upload_into_new_folder(system: Any) -> None:
            system.makedirs(aside.rpartition("/")[0], exist_ok=True)
            upload(system)

        renamed = False
        try:
            try:
                self._driver.ask(upload)
            except FileNotFoundError:
                self._driver.ask(upload_into_new_folder)
            yield aside
            renamed = True
        finally:
            if not renamed:
                with contextlib.suppress(OSError):
                    self._driver.ask(lambda system: system.ftp.remove(aside))

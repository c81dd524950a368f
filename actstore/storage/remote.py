"""Files of a store in a bucket: one request writes an object whole, and of two creators one wins.

An object appears at once with all its bytes, or not at all, and whoever asks afterwards sees it:
the order in which a writer puts objects is the order in which readers meet them. So an epoch is
committed by its marker as on a disk, and nothing need be brought to a disk. Credentials and
endpoints come from the environment that the tools of each provider read.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from actstore.errors import MissingExtraError, StoreNotFoundError, StoreUnreachableError
from actstore.storage.files import AT_ONCE, Entry, Files, Refuse, seal
from actstore.storage.seal import DOCUMENT

try:
    import obstore
    from obstore import exceptions
except ImportError as error:
    raise MissingExtraError(
        "a store in a bucket was given and obstore, which reads and writes it, is not installed; "
        'pip install "actstore[cloud]"'
    ) from error

from actstore.storage.bucket import is_refusal, open_bucket, refusal

#: seconds in which a request is repeated: a question is not kept waiting, a training survives
#: that the network is away for a while
READ_PATIENCE, WRITE_PATIENCE = 10, 240

#: objects above this size are uploaded in parts of it, several at once
PART_BYTES = 2**23


class RemoteFiles(ObjectStore[Any], Files):
    """A prefix of a bucket that Zarr arrays are written to.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, or what else obstore opens: ``gs://``, ``az://``, ``memory://``
        (the latter for as long as the process lives).
    read_only : bool
        Whether to refuse writes, and to give up on a server that does not answer much sooner.

    Raises
    ------
    StoreNotFoundError
        If that is no URL of a bucket.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url if url.endswith("://") else url.rstrip("/")
        self._known: dict[str, bytes] = {}
        self._claimed: dict[str, str] = {}  # folder -> lock
        patience = READ_PATIENCE if read_only else WRITE_PATIENCE
        super().__init__(open_bucket(self.url, patience), read_only=read_only)

    def __reduce__(self) -> tuple[Any, ...]:
        # Credentials are not sent along: every process has its own environment.
        return functools.partial(type(self), read_only=self.read_only), (self.url,)

    def __str__(self) -> str:
        return self.url

    def with_read_only(self, read_only: bool = False) -> RemoteFiles:
        """Return the same store, read-only or not."""
        return type(self)(self.url, read_only=read_only)

    # ------------------------------------------------------------ what zarr calls

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or a part of it, None if it is not there."""
        if byte_range is None and key in self._known:
            return prototype.buffer.from_bytes(self._known[key])
        with self._reading():
            found = await super().get(key, prototype, byte_range)
        if byte_range is None and found is not None:
            self._note(key, found.to_bytes)
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        with self._reading():
            return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """Return whether there is an object ``key``."""
        with self._reading():
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Replace the object ``key`` whole."""
        value = seal(key, value)
        with self._writing():
            await super().set(key, value)
        self._note(key, value.to_bytes)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write the object ``key`` unless it is there."""
        if key not in self._known:
            with self._writing():
                await super().set_if_not_exists(key, seal(key, value))

    async def delete(self, key: str) -> None:
        """Remove the object ``key``."""
        self._forget(key)
        with self._writing():
            await super().delete(key)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the names in a folder."""
        with self._reading():
            async for name in super().list_dir(prefix):
                yield name

    # ------------------------------------------------------------ what this package calls

    @property
    def place(self) -> str:
        """URL of the prefix."""
        return self.url

    def has(self, key: str) -> bool:
        """Return whether there is an object of this key."""
        if self.read_only and key in self._known:
            return True
        with self._reading():
            try:
                obstore.head(self.store, key)
            except FileNotFoundError:
                return False
            return True

    def has_folder(self, key: str) -> bool:
        """Return whether there is an object below this key."""
        with self._reading():
            return any(len(some) for some in obstore.list(self.store, key or None, chunk_size=1))

    def read(self, key: str) -> bytes:
        """Return an object whole."""
        if key in self._known:
            return self._known[key]
        with self._reading():
            return bytes(obstore.get(self.store, key).bytes())

    def tail(self, key: str, count: int) -> bytes:
        """Return the last ``count`` bytes of an object, or all of a shorter one."""
        with self._reading():
            try:
                found = obstore.get(self.store, key, options={"range": {"suffix": count}})
            except exceptions.NotSupportedError:  # Azure: ask for the size first
                size = obstore.head(self.store, key)["size"]
                start = max(0, size - count)
                return bytes(obstore.get_range(self.store, key, start=start, end=size))
            return bytes(found.bytes())

    def children(self, folder: str) -> list[Entry]:
        """Return what a folder holds, by name."""
        with self._reading():
            found = obstore.list_with_delimiter(self.store, folder or None)
        names = [Entry(path.rsplit("/", 1)[-1], True) for path in found["common_prefixes"]]
        names += [Entry(meta["path"].rsplit("/", 1)[-1], False) for meta in found["objects"]]
        return sorted(names)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every object below a folder, by key."""
        with self._reading():
            listed = obstore.list(self.store, folder or None).collect()
        return {meta["path"]: meta["size"] for meta in listed}

    def put(self, key: str, parts: Iterable[Any]) -> None:
        """Replace an object whole by bytes that come in parts."""
        self._check_writable()
        data = io.BytesIO()
        for part in parts:
            data.write(part)
        with self._writing():
            # What was uploaded in parts appears when the last one is there, or never.
            obstore.put(self.store, key, data.getbuffer(), chunk_size=PART_BYTES)
        self._note(key, data.getvalue)

    def fetch(self, key: str, path: Path) -> None:
        """Copy an object to this machine, piece by piece."""
        with self._reading(), path.open("wb") as file:
            for piece in obstore.get(self.store, key):
                file.write(piece)

    def send(self, key: str, path: Path) -> None:
        """Replace an object whole by a file of this machine, piece by piece."""
        with self._writing():
            obstore.put(self.store, key, path, chunk_size=PART_BYTES)

    def create(self, key: str, data: bytes) -> None:
        """Write an object whole, or raise FileExistsError if there is one already."""
        with self._writing():
            try:
                obstore.put(self.store, key, data, mode="create")
            except exceptions.AlreadyExistsError as error:
                # The answer to a first attempt may have been lost, and this one was the second.
                if self.read(key) != data:
                    raise FileExistsError(errno.EEXIST, "it is there already", key) from error

    def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._forget(key)
        with self._writing(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.store, key)

    def remove_tree(self, folder: str) -> None:
        """Remove what lies below a folder, each group's and array's ``zarr.json`` last."""
        documents: dict[int, list[str]] = {}
        others = []
        for key in self.sizes(folder):
            self._forget(key)
            if key.rsplit("/", 1)[-1] == DOCUMENT:
                documents.setdefault(key.count("/"), []).append(key)
            else:
                others.append(key)
        with self._writing():
            for keys in [others, *(documents[depth] for depth in sorted(documents, reverse=True))]:
                if keys:
                    obstore.delete(self.store, keys)

    def partials(self, folder: str) -> list[str]:
        """Return nothing: of an upload that was interrupted there is nothing to see."""
        return []

    def remember(self, folder: str) -> None:
        """Read all metadata below a folder at once, and answer from memory from now on."""
        keys = [key for key in self.sizes(folder) if key.rsplit("/", 1)[-1] == DOCUMENT]
        with ThreadPoolExecutor(AT_ONCE) as readers:
            self._known.update(zip(keys, readers.map(self.read, keys), strict=True))

    def sync(self) -> None:
        """Do nothing: what the server has taken is safe."""

    def seen(self, key: str) -> tuple[bytes, float]:
        """Return an object and the seconds since it was written, by this machine's clock."""
        with self._reading():
            found = obstore.get(self.store, key)
            return bytes(found.bytes()), _age(found.meta["last_modified"])

    def touch(self, key: str) -> None:
        """Write an object once more as it is, unless another process writes it meanwhile."""
        with self._writing():
            found = obstore.get(self.store, key)
            self._replace(key, bytes(found.bytes()), found.meta)

    def claim(self, key: str, data: bytes, refuse: Refuse) -> None:
        """Write an object that one process at a time may take from another."""
        while True:
            with self._writing(), contextlib.suppress(exceptions.AlreadyExistsError):
                obstore.put(self.store, key, data, mode="create")
                break
            with self._reading(), contextlib.suppress(FileNotFoundError):  # released meanwhile
                found = obstore.get(self.store, key)
                held = bytes(found.bytes())
                if held == data:  # put by a first attempt whose answer was lost
                    break
                refuse(held, _age(found.meta["last_modified"]))
                if self._replace(key, data, found.meta):
                    break
        self._claimed[_folder(key)] = key

    def _note(self, key: str, data: Callable[[], bytes]) -> None:
        """Keep metadata that nobody else changes: the root's, and those of runs that are claimed.

        Zarr asks for all groups above an array that it makes, and would write them anew.
        """
        if key == DOCUMENT or (key.endswith(f"/{DOCUMENT}") and _folder(key) in self._claimed):
            self._known[key] = data()

    def _forget(self, key: str) -> None:
        self._known.pop(key, None)
        if self._claimed.get(_folder(key)) == key:  # the lock: from now on others write
            del self._claimed[_folder(key)]
            for known in [one for one in self._known if _folder(one) == _folder(key)]:
                del self._known[known]

    def _replace(self, key: str, data: bytes, version: Any) -> bool:
        """Replace an object that is still the one that was read; say whether it was."""
        known = {k: version[k] for k in ("e_tag", "version") if version.get(k) is not None}
        with self._writing(), contextlib.suppress(exceptions.PreconditionError, FileNotFoundError):
            obstore.put(self.store, key, data, mode=known)  # type: ignore[arg-type]
            return True
        return False

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_refusal(error):
                raise
            why = self._refused(error)
            if isinstance(why, FileNotFoundError):
                raise StoreNotFoundError(f"no store at {self.url!r}: {why.strerror}") from error
            raise StoreUnreachableError(
                f"{self.url!r} cannot be read ({why.strerror}); check the URL, the credentials "
                "and the network"
            ) from why

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_refusal(error):
                raise
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> OSError:
        """Return what was refused; a server that is lost is not waited for so long again."""
        why = refusal(error, self.url)
        why.__cause__ = error
        if isinstance(why, ConnectionError):
            self.store = open_bucket(self.url, READ_PATIENCE)
        return why


def _folder(key: str) -> str:
    """Return the first part of a key: the run that it belongs to."""
    return key.partition("/")[0]


def _age(written: datetime) -> float:
    return max(0.0, time.time() - written.astimezone(UTC).timestamp())

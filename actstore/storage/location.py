"""Opening the root group of a store, or saying why it cannot be opened."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Literal, TypeAlias

import zarr
import zarr.errors

from actstore import schema
from actstore.errors import (
    ActstoreError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreWriteError,
)
from actstore.storage.files import PARTIAL, Files
from actstore.storage.local import LocalFiles
from actstore.storage.seal import DOCUMENT, sealed

StorePath: TypeAlias = str | os.PathLike[str]

#: what obstore opens, and a store can be written to; other URLs are for the drivers of fsspec
BUCKETS = frozenset({"s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "memory"})


def anywhere(path: StorePath) -> str:
    """Return the path as a process finds it that runs in another folder: a task may go to one."""
    where = os.fspath(path)
    return where if "://" in where else os.path.abspath(where)


def files_at(path: StorePath, *, read_only: bool = False, durable: bool = False) -> Files:
    """Return the files of what is, or may be, a store: of a folder, or below a URL.

    Raises
    ------
    StoreNotFoundError
        If the URL cannot be understood.
    MissingExtraError
        If it is a URL, and what opens it is not installed.
    StoreUnreachableError
        If its server does not answer, or lets these credentials not in.
    StoreWriteError
        If it is a URL that stores can only be read from, and ``read_only`` is false.
    """
    where = anywhere(path)
    if where.startswith("file://"):
        from urllib.parse import urlsplit
        from urllib.request import url2pathname  # takes long to import

        where = url2pathname(urlsplit(where).path)
    elif re.match(r"(s3|gs|az|memory|sftp|https?|ftp|hf):/[^/]", os.fspath(path)):
        raise StoreNotFoundError(
            f"{os.fspath(path)!r} is no URL; write two slashes, and give it as text (a Path of it "
            "has one)"
        )
    if "://" not in where:
        return LocalFiles(Path(where), read_only=read_only, durable=durable)
    if "::" not in where and where.partition("://")[0] in BUCKETS:
        from actstore.storage.remote import RemoteFiles

        return RemoteFiles(where, read_only=read_only)
    from actstore.storage.fsspec_files import FsspecFiles

    return FsspecFiles(where, read_only=read_only)


def open_root(
    path: StorePath, *, mode: Literal["r", "r+"] = "r", durable: bool = False
) -> zarr.Group:
    """Open the root group of the store at ``path``.

    Parameters
    ----------
    path : str or path
    mode : {"r", "r+"}
        To read, or to read and write what is there.
    durable : bool
        Whether what is written is brought to the disk at once.

    Raises
    ------
    StoreNotFoundError
        If nothing is there, or what is there was not written by actstore.
    StoreFormatError
        If it was written in a later format.
    StoreCorruptError
        If its ``zarr.json`` cannot be read.
    """
    where = os.fspath(path)
    files = files_at(where, read_only=mode == "r", durable=durable)
    if isinstance(files, LocalFiles) and not files.root.exists():  # zarr would make the folder
        raise _nothing_at(where)
    try:
        root = zarr.open_group(files, mode=mode, zarr_format=3, use_consolidated=False)
    except (zarr.errors.NodeNotFoundError, zarr.errors.ContainsArrayError) as error:
        raise _not_a_store(where, files) from error
    except ActstoreError:  # some are an OSError too
        raise
    except OSError as error:
        raise StoreNotFoundError(
            f"the store {where!r} cannot be opened ({error.strerror or error}); "
            "check that the path is right and its permissions let you in"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorruptError(
            f"the metadata of {where!r} ({DOCUMENT}) cannot be read: {error}; "
            "put that file back from a copy"
        ) from error
    if "actstore_format" not in root.attrs:
        raise _not_a_store(where, files)
    schema.check_format(root.attrs, where)
    return root


def open_or_create_root(path: StorePath, *, durable: bool = False) -> zarr.Group:
    """Open the root group of the store at ``path`` for writing; make the store if none is there.

    Several processes may make one store at once: they write the same root group.

    Raises
    ------
    StoreNotFoundError
        If there is something else at ``path``.
    StoreWriteError
        If the store cannot be made there.
    """
    where = os.fspath(path)
    # Asked by a reader, who does not wait long for a server at a mistaken URL.
    reader, files = files_at(where, read_only=True), files_at(where, durable=durable)
    try:
        if not reader.has(DOCUMENT) and is_free(path):
            document = {
                "zarr_format": 3,
                "node_type": "group",
                "attributes": schema.root_attributes(),
            }
            with contextlib.suppress(FileExistsError):
                files.create(DOCUMENT, sealed(json.dumps(document).encode()))
        for name, _ in files.children(""):
            if name.endswith(PARTIAL):  # of a creation that was killed, or came second
                files.remove(name)
    except ActstoreError:  # some are an OSError too
        raise
    except OSError as error:
        # Another process was first, and swept the file of this one; or it is a file.
        if isinstance(error, NotADirectoryError) or files.has(DOCUMENT):
            return open_root(path, mode="r+", durable=durable)
        raise StoreWriteError(
            f"no store can be made at {where!r} ({error.strerror or error}); "
            "give a folder that can be written"
        ) from error
    return open_root(path, mode="r+", durable=durable)


def is_free(path: StorePath) -> bool:
    """Return whether nothing is there but, perhaps, the beginning of a store."""
    try:
        held = files_at(path, read_only=True).children("")
        return all(name.endswith(PARTIAL) for name, _ in held)
    except ActstoreError:  # some are an OSError too
        raise
    except FileNotFoundError:
        return True
    except OSError:  # something is there
        return False


def _nothing_at(where: str) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"no store at {where!r}; record one with 'actstore record', or check the path"
    )


def _not_a_store(where: str, files: Files) -> StoreNotFoundError:
    if files.has(DOCUMENT):
        found = "a Zarr hierarchy that actstore did not write (no actstore_format)"
    elif files.has(".zgroup") or files.has(".zarray"):
        found = "Zarr of version 2, and stores are version 3"
    elif files.has_folder(""):
        found = "a folder without a Zarr group"
    elif isinstance(files, LocalFiles):
        found = "a file"
    else:
        return _nothing_at(where)
    return StoreNotFoundError(
        f"{where!r} is not an actstore store: it is {found}; give the folder that "
        "'actstore record' or Recorder wrote"
    )

"""Opening the root group of a store, or saying why it cannot be opened."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal, TypeAlias

import zarr
import zarr.errors

from actstore import schema
from actstore.errors import StoreCorruptError, StoreNotFoundError, StoreWriteError
from actstore.storage.local import PARTIAL, LocalFiles
from actstore.storage.seal import DOCUMENT

StorePath: TypeAlias = str | os.PathLike[str]


def anywhere(path: StorePath) -> str:
    """Return the path as a process finds it that runs in another folder: a task may go to one."""
    where = os.fspath(path)
    return where if "://" in where else os.path.abspath(where)


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
    if not Path(where).exists():
        raise StoreNotFoundError(
            f"no store at {where!r}; record one with 'actstore record', or check the path"
        )
    files = LocalFiles(Path(anywhere(where)), read_only=mode == "r", durable=durable)
    try:
        root = zarr.open_group(files, mode=mode, zarr_format=3, use_consolidated=False)
    except (zarr.errors.NodeNotFoundError, zarr.errors.ContainsArrayError) as error:
        raise _not_a_store(where) from error
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
        raise _not_a_store(where)
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
    where = Path(path)
    document = where / DOCUMENT
    try:
        if not document.exists() and _is_free(where):
            with contextlib.suppress(zarr.errors.ContainsGroupError):
                zarr.create_group(
                    LocalFiles(where, durable=durable),
                    zarr_format=3,
                    attributes=schema.root_attributes(),
                )
        for partial in where.glob(f"*{PARTIAL}"):  # of a creation that was killed, or came second
            partial.unlink(missing_ok=True)
    except OSError as error:
        if document.exists():  # another process was first, and swept the file of this one
            return open_root(path, mode="r+", durable=durable)
        raise StoreWriteError(
            f"no store can be made at {str(where)!r} ({error.strerror or error}); "
            "give a folder that can be written"
        ) from error
    return open_root(path, mode="r+", durable=durable)


def _is_free(where: Path) -> bool:
    """Whether nothing is there but, perhaps, the beginning of a store of another process."""
    if not where.exists():
        return True
    return where.is_dir() and all(entry.name.endswith(PARTIAL) for entry in where.iterdir())


def _not_a_store(where: str) -> StoreNotFoundError:
    if not Path(where).is_dir():
        found = "a file"
    elif Path(where, DOCUMENT).exists():
        found = "a Zarr hierarchy that actstore did not write (no actstore_format)"
    elif Path(where, ".zgroup").exists() or Path(where, ".zarray").exists():
        found = "Zarr of version 2, and stores are version 3"
    else:
        found = "a folder without a Zarr group"
    return StoreNotFoundError(
        f"{where!r} is not an actstore store: it is {found}; give the folder that "
        "'actstore record' or Recorder wrote"
    )

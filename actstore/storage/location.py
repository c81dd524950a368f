"""Opening the root group of a store, or saying why it cannot be opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

import zarr
import zarr.errors

from actstore import schema
from actstore.errors import StoreNotFoundError

StorePath: TypeAlias = str | os.PathLike[str]


def open_root(path: StorePath, *, mode: Literal["r", "r+"] = "r") -> zarr.Group:
    """Open the root group of the store at ``path``.

    Raises
    ------
    StoreNotFoundError
        If nothing is there, or what is there was not written by actstore.
    StoreFormatError
        If it was written in a later format.
    """
    where = os.fspath(path)
    try:
        root = zarr.open_group(where, mode=mode, zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, zarr.errors.NodeTypeValidationError, NotADirectoryError) as error:
        if Path(where).exists():
            raise _not_a_store(where) from error
        raise StoreNotFoundError(
            f"no store at {where!r}; record one with 'actstore record', or check the path"
        ) from error
    if "actstore_format" not in root.attrs:
        raise _not_a_store(where)
    schema.check_format(root.attrs, where)
    return root


def open_or_create_root(path: StorePath) -> zarr.Group:
    """Open the root group of the store at ``path`` for writing; make the store if none is there."""
    where = os.fspath(path)
    if not Path(where).exists():
        zarr.create_group(where, zarr_format=3, attributes=schema.root_attributes())
    return open_root(path, mode="r+")


def _not_a_store(where: str) -> StoreNotFoundError:
    if Path(where, "zarr.json").exists():
        found = "a Zarr hierarchy that actstore did not write (no actstore_format)"
    else:
        found = "no Zarr group"
    return StoreNotFoundError(
        f"{where!r} is not an actstore store: it holds {found}; give the folder that "
        "'actstore record' or Recorder wrote"
    )

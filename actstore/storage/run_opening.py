"""Opening a run for writing: begun or continued, its lock taken, its arrays of one length."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import zarr

from actstore import schema
from actstore.errors import InvalidParameterError, NotInStoreError, RunExistsError
from actstore.storage import layout
from actstore.storage.cleaning import (
    delete_run,
    even_lengths,
    files_of_group,
    is_remains,
    settle,
    sweep,
    tidy,
)
from actstore.storage.location import StorePath, open_or_create_root, open_root
from actstore.storage.lock import RunLock
from actstore.storage.reading import is_run, marker_slots, member, read_marker
from actstore.storage.refusal import already_there, plain, refusals
from actstore.storage.seal import DOCUMENT, sealed


def begin(
    store: StorePath,
    name: str,
    *,
    slots: int,
    attributes: Mapping[str, Any],
    overwrite: bool,
    durable: bool,
) -> tuple[zarr.Group, RunLock]:
    """Make a run, and the store if there is none; see ``RunWriter.create``."""
    schema.check_name("run", name)
    if slots < 1:
        raise InvalidParameterError(f"a run of {slots} epochs was asked for; it needs one")
    where = os.fspath(store)
    root = open_or_create_root(store, durable=durable)
    found = is_run(member(root, name, where))
    if found and not overwrite:
        raise already_there(where, name)
    files = files_of_group(root)
    taken = files.has_folder(name)
    if taken and not (found or is_remains(files, name)):
        raise RunExistsError(
            f"{where!r} holds something else called {name!r}; give the run another name"
        )
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**attributes, "slots": slots},
    }
    data = sealed(json.dumps(document, default=plain).encode())
    with refusals(where, f"run {name!r}"):
        if taken:
            lock = RunLock.acquire(files, name)
            delete_run(root, name)
            lock.release()
        try:  # of two processes that create the run at once, one succeeds
            files.create(f"{name}/{DOCUMENT}", data)
        except FileExistsError as error:
            raise already_there(where, name) from error
        return _claimed(where, root, name)


def reopen(store: StorePath, name: str, *, durable: bool) -> tuple[zarr.Group, RunLock]:
    """Open a run that is not complete; see ``RunWriter.append``."""
    where = os.fspath(store)
    root = open_root(store, mode="r+", durable=durable)
    found = member(root, name, where)
    if found is None or not is_run(found):
        raise NotInStoreError(f"no run {name!r} in {where!r}; create it first")
    if is_complete(found):
        tidy(store, name)
        raise RunExistsError(f"run {name!r} is complete: nothing is left to append")
    with refusals(where, f"run {name!r}"):
        return _claimed(where, root, name)


def is_complete(run: zarr.Group | zarr.Array[Any]) -> bool:
    """Return whether a run was closed after its last epoch."""
    return bool(run.attrs.get("complete"))


def _claimed(where: str, root: zarr.Group, name: str) -> tuple[zarr.Group, RunLock]:
    """Take the run's lock, and give it the shape that a writer expects."""
    lock = RunLock.acquire(files_of_group(root), name)
    try:
        group = member(root, name, where)
        if not isinstance(group, zarr.Group) or not is_run(group) or is_complete(group):
            raise RunExistsError(
                f"run {name!r} was changed by another process at the same time; try again"
            )
        if not len(marker_slots(read_marker(group, where))):
            layout.make_marker(group, slots=int(group.attrs["slots"]))  # type: ignore[arg-type]
        settle(group)
        sweep(group)
        even_lengths(group)
        return group, lock
    except BaseException:
        lock.release()
        raise

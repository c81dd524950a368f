"""Mending a store: rolling back what was not finished, dropping bad caches, dropping an epoch."""

from __future__ import annotations

import os

import numpy as np
import zarr

from actstore import schema
from actstore.errors import NotInStoreError
from actstore.storage import layout
from actstore.storage.cleaning import drop_slot, even_lengths, files_of_group, settle
from actstore.storage.files import Files
from actstore.storage.finding import Finding
from actstore.storage.location import StorePath, open_root
from actstore.storage.lock import RunLock, lock_key
from actstore.storage.progress import Progress
from actstore.storage.reading import is_run, marker_slots, member
from actstore.storage.verify import verify


def repair(
    store: StorePath, *, deep: bool = False, progress: Progress | None = None
) -> list[Finding]:
    """Remove what killed writers left and caches that are wrong; return what is still found.

    Committed data are never touched: damage to them stays, and is returned.

    Parameters
    ----------
    store : str or path
    deep : bool
        See :func:`~actstore.storage.verify.verify`.
    progress : callable, optional
        Is told how many runs are done, and of how many: each is looked at before and after.

    Raises
    ------
    RunLockedError
        If a run that needs it is being written.
    """
    where = os.fspath(store)
    told: Progress = (lambda done, of: None) if progress is None else progress
    found = verify(store, deep=deep, progress=lambda done, of: told(done, 2 * of))
    root = open_root(store, mode="r+")
    files = files_of_group(root)
    for name in sorted({finding.run for finding in found if finding.action}):
        mine = [finding for finding in found if finding.run == name and finding.action]
        if is_run(member(root, name, where)):
            lock = RunLock.acquire(files, name)
            try:
                group = root[name]
                assert isinstance(group, zarr.Group)
                settle(group)
                for finding in mine:
                    _mend(group, finding)
            finally:
                lock.release()
        else:
            for finding in mine:
                _remove(files, finding.path)
    return verify(store, deep=deep, progress=lambda done, of: told(of + done, 2 * of))


def drop_epoch(store: StorePath, run: str, epoch: int) -> None:
    """Take one committed epoch out of a run, for good.

    Raises
    ------
    NotInStoreError
        If the store does not hold it.
    RunLockedError
        If the run is being written.
    """
    where = os.fspath(store)
    root = open_root(store, mode="r+")
    group = member(root, run, where)
    if not isinstance(group, zarr.Group) or not is_run(group):
        raise NotInStoreError(f"no run {run!r} in {where!r}")
    lock = RunLock.acquire(files_of_group(root), run)
    try:
        settle(group)
        marker = np.asarray(layout.array_of(group, schema.EPOCH)[:])
        held = marker_slots(marker)
        slots = np.flatnonzero(marker == epoch)
        if epoch < 0 or not len(slots):
            numbers = ", ".join(map(str, marker[held])) or "none"
            raise NotInStoreError(f"no epoch {epoch} in run {run!r}; it holds {numbers}")
        if len(held) == 1:  # a run without an epoch is not complete, and can be continued
            group.update_attributes({"complete": False})
        drop_slot(group, int(slots[0]))
    finally:
        lock.release()


def _mend(group: zarr.Group, finding: Finding) -> None:
    if finding.path == lock_key(group.basename) or finding.action == "settle":
        return  # a stale lock was taken over to come here, and goes with ours
    if finding.action == "empty slot":
        drop_slot(group, finding.slot)
    elif finding.action == "even lengths":
        even_lengths(group)
    else:
        _remove(files_of_group(group), finding.path)


def _remove(files: Files, key: str) -> None:
    if files.has_folder(key):
        files.remove_tree(key)
    else:
        files.remove(key)

"""Taking things out of a store: runs, epochs, replaced values, and what killed writers left."""

from __future__ import annotations

import contextlib
import errno
import json
from typing import Any

import numpy as np
import zarr

from actstore import schema
from actstore.errors import ActstoreError
from actstore.storage import layout
from actstore.storage.files import PARTIAL, Files
from actstore.storage.location import StorePath, files_at, open_root
from actstore.storage.lock import RunLock, lock_key
from actstore.storage.precision import KEEP_BITS
from actstore.storage.reading import DAMAGE, chunk_files, chunk_names, marker_slots, read_marker
from actstore.storage.seal import DOCUMENT, is_intact, sealed
from actstore.storage.successors import SUCCESSORS, as_documented

_REMOVED = {"zarr_format": 3, "node_type": "group", "attributes": {"actstore_removed": True}}


def delete_run(root: zarr.Group, name: str) -> None:
    """Remove a run: at once for readers, then from the disk.

    The first step takes from its group what makes it a run. A removal that was killed after
    it leaves remains that readers do not see and the next writer of the name removes.
    """
    files = files_of_group(root)
    document = f"{name}/{DOCUMENT}"
    try:
        files.put(document, [sealed(json.dumps(_REMOVED).encode())])
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        files.remove(document)  # a full disk is a reason to remove a run, not to keep it
    files.remove_tree(name)


def is_remains(files: Files, folder: str) -> bool:
    """Return whether a folder is what a killed creation or removal of a run or array left."""
    try:
        document = files.read(f"{folder}/{DOCUMENT}")
    except (FileNotFoundError, NotADirectoryError):
        locks = (lock_key(folder), f"{folder}/lock")
        return all(key in locks or key.endswith(PARTIAL) for key in files.sizes(folder))
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return bool(json.loads(document)["attributes"]["actstore_removed"])
    return False


def sweep(group: zarr.Group) -> None:
    """Remove what a killed writer left in a run, but for values in slots: those are overwritten.

    Half-written files, all of a first epoch that was not committed, and metrics that no
    committed epoch has.

    Raises
    ------
    StoreCorruptError
        If the marker cannot tell what is committed: then nothing is removed.
    """
    files, run = files_of_group(group), group.path
    for partial in files.partials(run):
        files.remove(partial)
    if not is_intact(json.loads(files.read(f"{run}/{DOCUMENT}"))):
        return  # its attributes cannot be trusted to say what belongs to it
    begun = not len(marker_slots(read_marker(group, files.place)))
    metrics: Any = [] if begun else group.attrs["metrics"]
    for name, is_folder in files.children(run):
        if is_folder and name not in (schema.EPOCH, *metrics):
            held = begun or not files.has(f"{run}/{name}/{DOCUMENT}")
            if held or not isinstance(group[name], zarr.Group):
                files.remove_tree(f"{run}/{name}")


def tidy(store: StorePath, run: str) -> None:
    """Remove what a writer left that was killed at the very end, after its run was complete.

    Nobody opens such a run for writing again. Where that cannot be done now, it stays.
    """
    reader = files_at(store, read_only=True)
    if not (reader.has(lock_key(run)) or reader.partials(run)):
        return
    with contextlib.suppress(ActstoreError, OSError):
        root = open_root(store, mode="r+")
        lock = RunLock.acquire(files_of_group(root), run)
        try:
            group = root[run]
            assert isinstance(group, zarr.Group)
            settle(group)
            sweep(group)
        finally:
            lock.release()


def settle(group: zarr.Group) -> None:
    """Put the arrays of a compacted run in their place, if its attributes name any.

    The attribute goes last: killed before, another call does the rest.

    Parameters
    ----------
    group : zarr.Group
        The run's, open for writing by the holder of its lock.
    """
    successors: Any = group.attrs.get(SUCCESSORS)
    if not successors:
        return
    files = files_of_group(group)
    for path, document in successors.items():
        files.put(f"{group.path}/{path}/{DOCUMENT}", [sealed(json.dumps(document).encode())])
        moments = f"{group.path}/{path.rpartition('/')[0]}/{schema.MOMENTS}"
        if _kept_bits(files, moments) != group.attrs.get(KEEP_BITS):
            files.remove_tree(moments)
    files.sync()
    for path, document in successors.items():
        remove_others(files, as_documented(files, f"{group.path}/{path}", document))
    group.attrs.put({k: v for k, v in group.attrs.items() if k != SUCCESSORS})
    files.sync()


def _kept_bits(files: Files, moments: str) -> Any:
    """Return the bits of the values that cached moments are of; None if that cannot be read."""
    try:
        return json.loads(files.read(f"{moments}/{DOCUMENT}"))["attributes"].get(KEEP_BITS)
    except DAMAGE:
        return None


def remove_others(files: Files, array: zarr.Array[Any]) -> None:
    """Remove the values under names with the other separator: old ones, or never taken over."""
    if array.metadata.encode_chunk_key((0,)) == "c.0":
        files.remove_tree(f"{array.path}/c")
        return
    for name in chunk_files(files.sizes(array.path), array.path):
        if name.startswith("c."):
            files.remove(f"{array.path}/{name}")


def drop_slot(group: zarr.Group, slot: int) -> None:
    """Make a slot of a run as if it had never been written; its marker first.

    Parameters
    ----------
    group : zarr.Group
        The run's, open for writing.
    slot : int
        Place on the epoch axis.
    """
    marker = layout.array_of(group, schema.EPOCH)
    if marker[slot] != schema.NO_EPOCH:
        # Every other trace of the epoch names this time, so that nothing mixes old and new.
        group.update_attributes({"revised": schema.now()})
        marker[slot] = schema.NO_EPOCH
    for array in arrays_below(group):
        if array.path == marker.path or layout.epoch_length(array) is None:
            continue
        if array.ndim == 1 and array.chunks[0] > 1:  # one object for the whole axis
            layout.array_of(group, _below(array, group))[slot] = np.asarray(array.fill_value)[()]
            continue
        for name in chunk_names(array, slot):
            files_of_group(group).remove(f"{array.path}/{name}")


def arrays_below(group: zarr.Group) -> list[zarr.Array[Any]]:
    """Return all arrays in a group and the groups below it."""
    return [a for _, a in group.members(max_depth=None) if isinstance(a, zarr.Array)]


def even_lengths(group: zarr.Group) -> None:
    """Give all arrays of a run the marker's length: its writer was killed as it trimmed them.

    The marker is trimmed last, so nothing is cut off; arrays only become longer.
    """
    slots = layout.array_of(group, schema.EPOCH).shape[0]
    for array in arrays_below(group):
        if layout.epoch_length(array) not in (None, slots):
            array.resize((slots, *array.shape[1:]))


def files_of_group(group: zarr.Group) -> Files:
    """Return the files that a group opened by this package lies in."""
    assert isinstance(group.store, Files)
    return group.store


def _below(array: zarr.Array[Any], group: zarr.Group) -> str:
    return array.path.removeprefix(f"{group.path}/")

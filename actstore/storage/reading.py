"""Committed values read from disk, or an error: damage is never handed on as NaN or as numbers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from actstore import schema
from actstore.errors import NotInStoreError, StoreCorruptError, StoreUnreachableError
from actstore.storage.chunk import read_chunk
from actstore.storage.layout import DATA_CHECKSUM, values_checksum
from actstore.storage.precision import KEEP_BITS
from actstore.storage.slab import read_slab
from actstore.storage.successors import open_array

Array: TypeAlias = npt.NDArray[Any]

#: what tells a run from other groups
RUN_ATTRIBUTES = frozenset({"width", "seed", "hyper_parameters"})

#: what zarr and its codecs raise on bytes that are not what was written
DAMAGE = (ValueError, RuntimeError, LookupError, TypeError, OSError)


class Committed:
    """An array of which only committed epochs are asked for: whatever is missing is an error.

    Zarr reads a chunk that is not there as the fill value. The writer stores finite values
    only, so a NaN in a committed epoch is a lost chunk.

    Parameters
    ----------
    array : zarr.Array
        Floats, with an epoch axis first.
    store : str
        Path of the store, for errors.
    """

    def __init__(self, array: zarr.Array[Any], store: str) -> None:
        self.array = array
        self.store = store
        self.shape = array.shape
        self.ndim = array.ndim
        self.dtype = array.dtype

    def __getitem__(self, key: Any) -> Array:
        """Return the values, read and checked.

        Raises
        ------
        StoreCorruptError
            If they cannot be read, or a chunk of them is not there.
        NotInStoreError
            If another process rewrote them since the array was opened.
        """
        try:
            values = self._slab(key)
            if values is not None:  # a missing chunk was an error
                return values
            values = np.asarray(self.array[key])
            if self._has_gap(values):
                raise ValueError("a chunk is missing")
        except DAMAGE as error:
            if self._is_replaced():
                raise rewritten(self.array.path, self.store) from error
            raise corrupt(self.array.path, self.store, error) from error
        return values

    def _is_replaced(self) -> bool:
        """Whether the run was compacted since the array was opened."""
        run, _, path = self.array.path.partition("/")
        with contextlib.suppress(*DAMAGE):
            group = zarr.open_group(self.array.store, path=run, mode="r", use_consolidated=False)
            now = open_array(group, path)
            return bool(now.attrs.get(KEEP_BITS) != self.array.attrs.get(KEEP_BITS))
        return False

    def _slab(self, key: Any) -> Array | None:
        """Return the values if they are some samples of one epoch, and not for zarr to read."""
        asked = key if isinstance(key, tuple) else (key,)
        epochs, rows = (*asked, slice(None))[:2]
        if self.ndim < 2 or len(asked) > 2 or not isinstance(rows, slice):
            return None
        if isinstance(epochs, slice):
            start, stop, step = epochs.indices(self.shape[0])
            if stop - start != 1 or step != 1:
                return None
        elif isinstance(epochs, int | np.integer) and 0 <= epochs < self.shape[0]:
            start = int(epochs)
        else:
            return None
        first, last, step = rows.indices(self.shape[1])
        if step != 1 or first >= last:
            return None
        values = read_slab(self.array, start, first, last)
        return values if values is None or isinstance(epochs, slice) else values[0]

    def _has_gap(self, values: Array) -> bool:
        # A lost chunk is NaN as a whole: one look at every place that is a chunk's length
        # from the last, and at the end of each axis, meets every chunk.
        if values.ndim < self.ndim:
            return bool(np.isnan(values.sum()))
        steps = [
            np.unique(np.append(np.arange(0, length, chunk), length - 1))
            for length, chunk in zip(values.shape, self.array.chunks, strict=True)
            if length
        ]
        return len(steps) == values.ndim and bool(np.isnan(values[np.ix_(*steps)]).any())


def read_samplewise(array: zarr.Array[Any], store: str) -> Array:
    """Return labels or sample indices whole.

    Raises
    ------
    StoreCorruptError
        If they are not what was written.
    """
    try:
        values = read_chunk(array, 0)
    except FileNotFoundError:  # right where all are the fill value; the checksum tells
        values = np.full(array.shape, array.fill_value, array.dtype)
    except DAMAGE as error:
        raise corrupt(array.path, store, error) from error
    if values_checksum(values) != array.attrs.get(DATA_CHECKSUM):
        raise corrupt(array.path, store, "the values do not match their checksum")
    return values


def read_marker(group: zarr.Group, store: str) -> Array:
    """Return the marker of a run whole; empty if the run has only begun.

    Raises
    ------
    StoreCorruptError
        If it cannot be read, or is lost.
    """
    begun = "splits" in group.attrs  # written before the first epoch is committed
    # Asked first only where it may be missing: zarr's error for a missing array keeps the frames
    # alive that it passed through, and with them a writer that holds the lock.
    marker = group.get(schema.EPOCH) if begun or schema.EPOCH in group else None
    if marker is not None:
        assert isinstance(marker, zarr.Array)
        with contextlib.suppress(FileNotFoundError):
            return _read_whole(marker, store).astype("int64", copy=False)
        # The writer stores it even where it is -1 throughout, which is what a lost one reads as.
        if not begun:
            return np.full(marker.shape, schema.NO_EPOCH, "int64")
    elif not begun:  # killed before it had room for an epoch
        return np.empty(0, "int64")
    raise corrupt(f"{group.path}/{schema.EPOCH}", store, "the marker of committed epochs is lost")


def read_epochwise(array: zarr.Array[Any], store: str) -> Array:
    """Return a metric whole; NaN where none of it was written.

    Raises
    ------
    StoreCorruptError
        If it cannot be read.
    """
    try:
        return _read_whole(array, store)
    except FileNotFoundError:
        return np.full(array.shape, array.fill_value, array.dtype)


def _read_whole(array: zarr.Array[Any], store: str) -> Array:
    try:
        if array.shards is None and array.shape[0] <= array.chunks[0]:
            return read_chunk(array, 0)
        return np.asarray(array[:])
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        raise corrupt(array.path, store, error) from error


def member(root: zarr.Group, name: str, store: str) -> zarr.Group | zarr.Array[Any] | None:
    """Return what a store holds under a name, or None if it holds nothing there.

    Raises
    ------
    StoreCorruptError
        If its metadata cannot be read.
    """
    try:
        return root.get(name)
    except DAMAGE as error:
        raise corrupt(f"{name}/zarr.json", store, error) from error


def is_run(node: zarr.Group | zarr.Array[Any] | None) -> bool:
    """Return whether a member of the root group is a run, and not a group of the user's own."""
    return isinstance(node, zarr.Group) and set(node.attrs) >= RUN_ATTRIBUTES


def rewritten(path: str, store: str) -> NotInStoreError:
    """Return the error of an array that was compacted after it, or its run, was opened."""
    return NotInStoreError(
        f"{path!r} of {store!r} was rewritten after it was opened; open the store again"
    )


def corrupt(path: str, store: str, why: object) -> StoreCorruptError | StoreUnreachableError:
    """Return the error of an object that is damaged or lost, or of a server that is."""
    if isinstance(why, StoreUnreachableError):
        return StoreUnreachableError(*why.args)
    return StoreCorruptError(
        f"{path!r} of {store!r} cannot be read ({str(why).rstrip('.')}); "
        f"'actstore verify {store}' lists what is damaged"
    )


def marker_slots(marker: Array) -> Array:
    """Return the places of committed epochs on the epoch axis."""
    return np.flatnonzero(marker != schema.NO_EPOCH)


def chunk_names(array: zarr.Array[Any], slot: int) -> list[str]:
    """Return the keys, below the array, of the objects that hold one epoch of it."""
    grid = array.shards or array.chunks
    counts = [
        range(-(-length // step)) for length, step in zip(array.shape[1:], grid[1:], strict=True)
    ]
    encode = array.metadata.encode_chunk_key
    return [encode((slot // grid[0], *rest)) for rest in itertools.product(*counts)]


def chunk_files(keys: Iterable[str], array: str) -> list[str]:
    """Return the names, below an array, of the files with values, whatever their separator."""
    below = (key.removeprefix(f"{array}/") for key in keys)
    return sorted(name for name in below if name.startswith(("c/", "c.")))

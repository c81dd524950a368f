"""The checks of one array of a run: its shape, its objects and, deeply, its values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr

from actstore.errors import ActstoreError, StoreCorruptError
from actstore.storage import layout
from actstore.storage.checked_run import CheckedRun
from actstore.storage.finding import Finding, told
from actstore.storage.reading import (
    DAMAGE,
    Committed,
    chunk_names,
    read_samplewise,
)
from actstore.storage.snapshot import check_finite

Array: TypeAlias = npt.NDArray[Any]

BLOCK_BYTES = 2**28  # activations are read in blocks of about this many bytes


def check_shape(run: CheckedRun, path: str, shape: tuple[int, ...]) -> Iterator[Finding]:
    """Check that an array is as long as it is said to be."""
    array = run.array(path)
    if array is None:
        return
    found = array.shape
    same = len(found) == len(shape) and all(b in (-1, a) for a, b in zip(found, shape, strict=True))
    needed = int(run.committed[-1]) + 1
    trimmed = layout.epoch_length(array)
    if same:
        return
    if (
        trimmed is not None
        and needed <= trimmed < run.length
        and not run.attributes.get("complete")
    ):
        problem = "is shorter than the marker: its writer was killed as it closed the run"
        yield Finding("leftover", f"{run.name}/{path}", problem, "even lengths")
    else:
        yield run.damage(path, f"has shape {found}, and {shape} is expected")


def check_metric(run: CheckedRun, path: str) -> Iterator[Finding]:
    """Check that the values of a metric can be read."""
    array = run.array(path)
    if array is None:
        return
    if not run.has(path, "c/0"):
        yield run.damage(path, "its values are missing")
        return
    try:
        array[:]
    except DAMAGE as error:
        yield run.damage(path, f"cannot be read: {told(error)}")


def check_samplewise(run: CheckedRun, path: str) -> Iterator[Finding]:
    """Check labels or sample indices against their checksum."""
    array = run.array(path)
    if array is None:
        return
    try:
        read_samplewise(array, run.files.place)
    except StoreCorruptError as error:
        yield run.damage(path, str(error.__cause__ or "does not match its checksum"))


def check_large(run: CheckedRun, path: str) -> Iterator[Finding]:
    """Check activations or the readout: every committed epoch must be there, whole."""
    array = run.array(path)
    if array is None:
        return
    sizes = run.sizes(path)
    for slot in run.committed:
        if slot >= array.shape[0]:
            return  # found as a wrong shape
        for name in chunk_names(array, slot):
            problem = _missing_or_cut(run, array, name, sizes)
            if problem:
                yield run.damage(f"{path}/{name}", problem)
                break
        else:
            if run.deep:
                yield from _check_values(run, path, array, int(slot))


def _check_values(
    run: CheckedRun, path: str, array: zarr.Array[Any], slot: int
) -> Iterator[Finding]:
    where = f"{path}/{chunk_names(array, slot)[0]}"
    try:
        for block in blocks(Committed(array, run.files.place), slot):
            check_finite(block, "it")
    except ActstoreError as error:
        told(error)
        yield run.damage(where, f"cannot be read: {error.__cause__ or error}")


def _missing_or_cut(
    run: CheckedRun, array: zarr.Array[Any], name: str, sizes: dict[str, int]
) -> str:
    """Say what is wrong with the object of an epoch, as far as its size and its index tell."""
    key = f"{array.path}/{name}"
    found = sizes.get(key)
    if found is None:
        return "is missing"
    if array.shards is None:
        return "" if found > 4 else "is cut short"
    chunks = math.prod(s // c for s, c in zip(array.shards, array.chunks, strict=True))
    size = 16 * chunks + 4  # offset and length of each chunk, and the checksum of them
    if found < size:
        return "is cut short"
    index = run.files.tail(key, size)
    if google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
        return "its index of chunks is damaged"
    offset, length = np.frombuffer(index[:-4], "<u8").reshape(-1, 2).T
    if (length == np.iinfo("u8").max).any():
        return "a chunk is missing in it"
    return "" if (offset + length <= found - size).all() else "is cut short"


def blocks(array: Committed, slot: int) -> Iterator[Array]:
    """Read one epoch in blocks of samples of bounded size, checked.

    Raises
    ------
    StoreCorruptError
        If a block cannot be read.
    """
    if array.ndim == 1:
        yield array[slot : slot + 1]
        return
    length = array.shape[1]
    chunk = array.array.chunks[1]
    row_bytes = array.dtype.itemsize * math.prod(array.shape[2:])
    rows = max(chunk, BLOCK_BYTES // max(1, row_bytes) // chunk * chunk)
    for start in range(0, length, rows):
        yield array[slot, start : start + rows]

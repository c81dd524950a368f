"""Rewriting a store with fewer bits a value, run by run.

The new values of an array lie beside the old ones, under names of chunks with another
separator (``c.0.0.0`` and ``c/0/0/0``: Zarr knows both), until all are written; then its
``zarr.json`` is replaced, which is one step on a disk and in a bucket, and names the new ones
and the codecs that suit them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from actstore import schema
from actstore.errors import ActstoreError, StoreWriteError
from actstore.storage import layout
from actstore.storage.catalogue import Catalogue
from actstore.storage.cleaning import files_of_group, sweep
from actstore.storage.files import Files
from actstore.storage.location import files_at, open_root
from actstore.storage.lock import RunLock
from actstore.storage.precision import (
    KEEP_BITS,
    PRECISION,
    Change,
    as_attribute,
    from_attribute,
    measure,
)
from actstore.storage.reading import Committed, chunk_files
from actstore.storage.run import Run
from actstore.storage.seal import DOCUMENT, sealed
from actstore.storage.shards import write_epoch

Array: TypeAlias = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Compacted:
    """What became of one run.

    Attributes
    ----------
    run : str
    before, after : int
        Bytes of its activations; ``after`` is ``before`` where nothing was written.
    change : Change
        The largest change to the answers, measured at its first epoch.
    outcome : {"compacted", "would be compacted", "left as it is"}
    """

    run: str
    before: int
    after: int
    change: Change
    outcome: str


def compact(selection: Catalogue, *, keep_bits: int, dry_run: bool = False) -> Iterator[Compacted]:
    """Round the activations of the selected runs to ``keep_bits`` bits of mantissa, for good.

    At every moment a run is as it was or, all its epochs at once, rounded. What a killed
    compaction left is used or removed by another. It takes room for one run more. Cached moments
    are removed, being of the values before.

    Parameters
    ----------
    selection : Store
        Whole runs are rewritten, whatever epochs are selected.
    keep_bits : int
        1 to 23.
    dry_run : bool
        Whether to measure the change and write nothing.

    Yields
    ------
    Compacted
        For each run, when it is done. Runs of moments only, without an epoch, or of no more bits
        than these are left as they are.

    Raises
    ------
    RunLockedError
        If a run is being written; those before it are done.
    StoreCorruptError
        If a run's activations cannot be read.
    StoreWriteError
        If the disk refuses.
    """
    schema.check_keep_bits(keep_bits)
    for run in selection.values():
        before = _bytes(run)
        stored = dict(run.attrs.get(PRECISION) or {})
        done = stored.get("finished", True) and keep_bits >= stored.get(
            KEEP_BITS, schema.MANTISSA_BITS
        )
        if done or not run.keeps_samples or not len(run.committed):
            yield Compacted(run.name, before, before, from_attribute(stored), "left as it is")
            continue
        interrupted = not stored.get("finished", True) and stored[KEEP_BITS] == keep_bits
        # What an interrupted compaction measured holds; some layers may be rounded already.
        change = from_attribute(stored)
        if not interrupted:
            change = change + _measured(run, keep_bits)
        if dry_run:
            yield Compacted(run.name, before, before, change, "would be compacted")
            continue
        try:
            _rewrite(run, keep_bits, change)
        except ActstoreError:  # some are an OSError too
            raise
        except OSError as error:
            raise StoreWriteError(
                f"run {run.name!r} of {run.path!r} could not be rewritten "
                f"({error.strerror or error}); its epochs are as they were: make room, or mend the "
                "disk, and compact again"
            ) from error
        yield Compacted(run.name, before, _bytes(run), change, "compacted")


def _layers(run: Run) -> list[str]:
    return [f"{split}/{layer}" for split in run.splits for layer in run.layers(split)]


def _measured(run: Run, keep_bits: int) -> Change:
    change = Change()
    for path in _layers(run):
        array = run.array(f"{path}/{schema.ACTIVATIONS}")
        slot = int(np.flatnonzero(run._marker == run.committed[0])[0])
        change |= measure((x for _, x in _shards(array, slot, run.path)), keep_bits)
    return change


def _rewrite(run: Run, keep_bits: int, change: Change) -> None:
    root = open_root(run.path, mode="r+")
    files = files_of_group(root)
    lock = RunLock.acquire(files, run.name)
    try:
        group = root[run.name]
        assert isinstance(group, zarr.Group)
        sweep(group)
        marker = np.asarray(layout.array_of(group, schema.EPOCH)[:])
        slots = np.flatnonzero(marker != schema.NO_EPOCH)
        epoch = int(marker[slots[0]])
        begun = as_attribute(keep_bits, epoch, change, finished=False)
        group.update_attributes({PRECISION: begun})
        switches = []
        for path in _layers(run):
            array = layout.array_of(group, f"{path}/{schema.ACTIVATIONS}")
            _remove_others(files, array)
            if array.attrs.get(KEEP_BITS) == keep_bits:  # a compaction was killed after its switch
                files.remove_tree(f"{run.name}/{path}/{schema.MOMENTS}")
                continue
            first = next(_shards(array, int(slots[0]), run.path))[1]
            after = _successor(array, keep_bits, sparse=layout.is_sparse(first))
            for slot in slots.tolist():
                for start, x in _shards(array, slot, run.path):
                    write_epoch(after, slot, x, first=start)
            switches.append((path, after))
        files.sync()
        # "revised" names the values anew: what was computed of those before is not mixed with them.
        group.update_attributes({"revised": schema.now()})
        for path, after in switches:
            files.put(f"{after.path}/{DOCUMENT}", [sealed(_document(after))])
            files.remove_tree(f"{run.name}/{path}/{schema.MOMENTS}")
        finished = as_attribute(keep_bits, epoch, change, finished=True)
        group.update_attributes({PRECISION: finished, KEEP_BITS: keep_bits})
        files.sync()
        for _, after in switches:
            _remove_others(files, after)
    finally:
        lock.release()


def _successor(array: zarr.Array[Any], keep_bits: int, *, sparse: bool) -> zarr.Array[Any]:
    """Return the array that is to take the place of another, as if it were there already."""
    encoding: Any = array.metadata.chunk_key_encoding  # type: ignore[union-attr]
    rows = (array.shards or array.chunks)[1]
    drawn_up = layout.create_activations(
        zarr.create_group(MemoryStore(), zarr_format=3),
        slots=array.shape[0],
        samples=array.shape[1],
        width=array.shape[2],
        sparse=sparse,
        blocks=-(-array.shape[1] // rows),
        keep_bits=keep_bits,
        separator="." if encoding.separator == "/" else "/",
    )
    return zarr.Array(zarr.AsyncArray(drawn_up.metadata, array.store_path))


def _document(array: zarr.Array[Any]) -> bytes:
    written: Any = array.metadata.to_buffer_dict(default_buffer_prototype())
    document: bytes = written[DOCUMENT].to_bytes()
    return document


def _remove_others(files: Files, array: zarr.Array[Any]) -> None:
    """Remove the values under the other names: old ones, or of a compaction that was killed."""
    if array.metadata.encode_chunk_key((0,)) == "c.0":
        files.remove_tree(f"{array.path}/c")
        return
    for name in chunk_files(files.sizes(array.path), array.path):
        if name.startswith("c."):
            files.remove(f"{array.path}/{name}")


def _shards(array: zarr.Array[Any], slot: int, store: str) -> Iterator[tuple[int, Array]]:
    """Yield the samples of an epoch a shard at a time, each with the place of its first."""
    committed = Committed(array, store)
    rows = (array.shards or array.chunks)[1]
    for first in range(0, array.shape[1], rows):
        yield first, committed[slot, first : first + rows]


def _bytes(run: Run) -> int:
    files = files_at(run.path, read_only=True)
    return sum(
        sum(files.sizes(f"{run.name}/{path}/{schema.ACTIVATIONS}").values())
        for path in _layers(run)
    )

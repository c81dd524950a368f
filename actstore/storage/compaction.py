"""Rewriting a store with fewer bits a value, run by run, each in one step.

The new values of an array lie beside the old ones, under names of chunks with another
separator (``c.0.0.0`` and ``c/0/0/0``: Zarr knows both), until all of a run are written. Then
the document of the run says that all its arrays are the new ones, with the codecs that suit them;
see :mod:`actstore.storage.successors`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import MemoryStore

from actstore import schema
from actstore.errors import ActstoreError, StoreWriteError
from actstore.storage import layout
from actstore.storage.catalogue import Catalogue
from actstore.storage.cleaning import files_of_group, remove_others, settle, sweep, tidy
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
from actstore.storage.progress import Counter, Progress
from actstore.storage.reading import Committed, marker_slots
from actstore.storage.run import Run
from actstore.storage.shards import write_epoch
from actstore.storage.successors import SUCCESSORS, document_of

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


def compact(
    selection: Catalogue,
    *,
    keep_bits: int,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Iterator[Compacted]:
    """Round the activations of the selected runs to ``keep_bits`` bits of mantissa, for good.

    At every moment a run is as it was or, all its layers and epochs at once, rounded: this package
    sees no mixture of both, and another Zarr reader whole arrays. What a killed compaction left is
    finished or removed by another. It takes room for one run more. Cached moments are removed,
    being of the values before.

    Parameters
    ----------
    selection : Store
        Whole runs are rewritten, whatever epochs are selected.
    keep_bits : int
        1 to 23.
    dry_run : bool
        Whether to measure the change and write nothing.
    progress : callable, optional
        Is told how many values are done, and of how many.

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
    told = Counter(
        sum(_values(run, keep_bits, dry_run=dry_run) for run in selection.values()), progress
    )
    for run in selection.values():
        before = _bytes(run)
        change = from_attribute(dict(run.attrs.get(PRECISION) or {}))
        rounded = _is_rounded(run, keep_bits)
        if not _has_samples(run) or (rounded and not run.successors):
            if not dry_run:
                tidy(run.path, run.name)
            yield Compacted(run.name, before, before, change, "left as it is")
            continue
        if not rounded:
            change = change + _measured(run, keep_bits, told)
        if dry_run:
            yield Compacted(run.name, before, before, change, "would be compacted")
            continue
        try:
            _rewrite(run, keep_bits, change, told)
        except ActstoreError:  # some are an OSError too
            raise
        except OSError as error:
            raise StoreWriteError(
                f"run {run.name!r} of {run.path!r} could not be rewritten "
                f"({error.strerror or error}); its epochs are whole: make room, or mend the disk, "
                "and compact again"
            ) from error
        yield Compacted(run.name, before, _bytes(run), change, "compacted")


def _has_samples(run: Run) -> bool:
    return run.keeps_samples and len(run.committed) > 0


def _is_rounded(run: Run, keep_bits: int) -> bool:
    return keep_bits >= (run.keep_bits or schema.MANTISSA_BITS)


def _values(run: Run, keep_bits: int, *, dry_run: bool) -> int:
    """Return how many values are to be read: those of an epoch to measure, then all."""
    if not _has_samples(run) or _is_rounded(run, keep_bits):
        return 0
    epochs = 1 if dry_run else 1 + len(run.committed)
    return epochs * sum(int(np.prod(run.array(path).shape[1:])) for path in _layers(run))


def _layers(run: Run) -> list[str]:
    return [
        f"{split}/{layer}/{schema.ACTIVATIONS}"
        for split in run.splits
        for layer in run.layers(split)
    ]


def _measured(run: Run, keep_bits: int, told: Counter) -> Change:
    change = Change()
    slot = int(marker_slots(run._marker)[0])
    for path in _layers(run):
        shards = _shards(run.array(path), slot, run.path, told)
        change |= measure((x for _, x in shards), keep_bits)
    return change


def _rewrite(run: Run, keep_bits: int, change: Change, told: Counter) -> None:
    # Brought to the disk: what is rounded cannot be had back after a power failure.
    root = open_root(run.path, mode="r+", durable=True)
    files = files_of_group(root)
    lock = RunLock.acquire(files, run.name)
    try:
        group = root[run.name]
        assert isinstance(group, zarr.Group)
        settle(group)
        sweep(group)
        held: Any = group.attrs.get(KEEP_BITS, schema.MANTISSA_BITS)
        if keep_bits >= held:
            return
        marker = np.asarray(layout.array_of(group, schema.EPOCH)[:])
        slots = marker_slots(marker).tolist()
        successors = {}
        for path in _layers(run):
            array = layout.array_of(group, path)
            remove_others(files, array)
            first = next(_shards(array, slots[0], run.path, lambda count: None))[1]
            after = _successor(array, keep_bits, sparse=layout.is_sparse(first))
            for slot in slots:
                for start, x in _shards(array, slot, run.path, told):
                    write_epoch(after, slot, x, first=start)
            successors[path] = document_of(after)
        files.sync()
        # The step. "revised" names the values anew: what was computed of those before is not
        # mixed with them.
        precision = as_attribute(keep_bits, int(marker[slots[0]]), change)
        facts = {KEEP_BITS: keep_bits, PRECISION: precision, "revised": schema.now()}
        group.update_attributes({**facts, SUCCESSORS: successors})
        files.sync()
        settle(group)
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


def _shards(
    array: zarr.Array[Any], slot: int, store: str, told: Callable[[int], None]
) -> Iterator[tuple[int, Array]]:
    """Yield the samples of an epoch a shard at a time, each with the place of its first."""
    committed = Committed(array, store)
    rows = (array.shards or array.chunks)[1]
    for first in range(0, array.shape[1], rows):
        x = committed[slot, first : first + rows]
        yield first, x
        told(x.size)  # once it is used


def _bytes(run: Run) -> int:
    files = files_at(run.path, read_only=True)
    return sum(sum(files.sizes(f"{run.name}/{path}").values()) for path in _layers(run))

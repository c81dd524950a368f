"""Rewriting a store with fewer bits a value, run by run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from actstore import schema
from actstore.errors import ActstoreError, StoreWriteError
from actstore.storage import layout
from actstore.storage.catalogue import Catalogue
from actstore.storage.cleaning import files_of_group, sweep
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
from actstore.storage.reading import Committed
from actstore.storage.run import Run
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

    One shard after another is replaced, each at once: at every moment each epoch is there,
    as it was or rounded, and a compaction that was killed is finished by another. Cached
    moments are removed, being of the values before.

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
        # What an interrupted compaction measured holds; its first epoch is rounded already.
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
                f"({error.strerror or error}); each epoch is there, some of them rounded: mend the "
                "disk and compact again"
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
    lock = RunLock.acquire(files_of_group(root), run.name)
    try:
        group = root[run.name]
        assert isinstance(group, zarr.Group)
        sweep(group)
        marker = np.asarray(layout.array_of(group, schema.EPOCH)[:])
        slots = np.flatnonzero(marker != schema.NO_EPOCH)
        epoch = int(marker[slots[0]])
        begun = as_attribute(keep_bits, epoch, change, finished=False)
        # "revised" names the values anew: what was computed of those before is not mixed with them.
        group.update_attributes({PRECISION: begun, "revised": schema.now()})
        for path in _layers(run):
            array = layout.array_of(group, f"{path}/{schema.ACTIVATIONS}")
            array.update_attributes({KEEP_BITS: keep_bits})
            array = layout.array_of(group, f"{path}/{schema.ACTIVATIONS}")
            for slot in slots.tolist():
                for first, x in _shards(array, slot, run.path):
                    write_epoch(array, slot, x, first=first)
            files_of_group(group).remove_tree(f"{run.name}/{path}/{schema.MOMENTS}")
        finished = as_attribute(keep_bits, epoch, change, finished=True)
        group.update_attributes({PRECISION: finished, KEEP_BITS: keep_bits})
    finally:
        lock.release()


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

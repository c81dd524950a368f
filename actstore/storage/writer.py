"""Writing a run: an epoch goes into the store whole or not at all.

All shards of an epoch are written first, then its readout and metrics, and last its
number into the run's ``epoch`` array. Readers keep only slots whose number is not -1,
so a writer killed at any point leaves the store as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Any, Self, TypeAlias

import numpy.typing as npt
import zarr

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.moments import Moments
from actstore.storage import layout
from actstore.storage.cleaning import arrays_below, files_of_group
from actstore.storage.location import StorePath
from actstore.storage.lock import RunLock
from actstore.storage.reading import DAMAGE, marker_slots, read_marker
from actstore.storage.refusal import refusals
from actstore.storage.run_arrays import RunArrays
from actstore.storage.run_opening import begin, is_complete, reopen
from actstore.storage.seal import DOCUMENT
from actstore.storage.shards import Blocks
from actstore.storage.snapshot import Snapshot

Array: TypeAlias = npt.NDArray[Any]


class RunWriter:
    """One run of a store, open for writing by this process alone.

    Make one with :meth:`create` or :meth:`append`, and end with :meth:`close`.

    Attributes
    ----------
    name : str
        The run's name, which is the path of its group.
    committed : tuple of int
        Epochs in the store, in order.
    """

    def __init__(self, store: StorePath, group: zarr.Group, lock: RunLock) -> None:
        self._store = os.fspath(store)
        self._group = group
        self._lock = lock
        self._files = files_of_group(group)
        self._closed = False
        self.name = group.basename
        self._parts = RunArrays(self._store, group)
        self._first: Snapshot | None = None  # what later epochs must look like
        self.committed: tuple[int, ...] = ()
        self._next = 0  # the slot after the last committed one
        self._refresh()

    @classmethod
    def create(
        cls,
        store: StorePath,
        name: str,
        *,
        slots: int,
        attributes: Mapping[str, Any],
        overwrite: bool = False,
        durable: bool = False,
    ) -> Self:
        """Begin the run ``name`` with room for ``slots`` epochs; make the store if there is none.

        Parameters
        ----------
        store : str or path
        name : str
        slots : int
            Most epochs that the run can hold.
        attributes : mapping
            See :func:`actstore.schema.run_attributes`.
        overwrite : bool
            Whether a run of this name may be removed.
        durable : bool
            Whether each epoch is on the disk, and not only with the operating system, before
            it is committed: safe against a power failure too.

        Raises
        ------
        RunExistsError
            If the store holds the run and ``overwrite`` is false.
        RunLockedError
            If another process is writing it.
        StoreWriteError
            If the disk refuses.
        """
        # Without a name for the lock: zarr's error for a missing group keeps this frame alive.
        return cls._of(
            store,
            *begin(
                store, name, slots=slots, attributes=attributes, overwrite=overwrite,
                durable=durable,
            ),
        )  # fmt: skip

    @classmethod
    def append(cls, store: StorePath, name: str, *, durable: bool = False) -> Self:
        """Open an interrupted run to continue after its last committed epoch.

        Files that a killed writer left half written are removed first, also where the run is
        complete.

        Raises
        ------
        NotInStoreError
            If the store does not hold the run.
        RunExistsError
            If the run is complete.
        RunLockedError
            If another process is writing it.
        StoreWriteError
            If the disk refuses.
        """
        return cls._of(store, *reopen(store, name, durable=durable))

    @classmethod
    def _of(cls, store: StorePath, group: zarr.Group, lock: RunLock) -> Self:
        try:
            with refusals(os.fspath(store), f"run {group.basename!r}"):
                return cls(store, group, lock)
        except BaseException:
            lock.release()
            raise

    @property
    def complete(self) -> bool:
        """Whether the run was closed after its last epoch."""
        return is_complete(self._group)

    @property
    def full(self) -> bool:
        """Whether no slot is left."""
        return self._next >= int(self._parts.marker.shape[0])

    def write(
        self,
        epoch: int,
        activations: Mapping[str, Mapping[str, npt.ArrayLike]],
        *,
        labels: Mapping[str, npt.ArrayLike],
        samples: Mapping[str, npt.ArrayLike] | None = None,
        readout: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        metrics: Mapping[str, float] | None = None,
        moments: Mapping[str, Mapping[str, Moments]] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        """Write one epoch and commit it.

        Parameters
        ----------
        epoch : int
            Completed passes; later than every committed epoch.
        activations : mapping of split to mapping of layer to array
            Each ``(sample, neuron)``, stored as float32; or the number of neurons, where
            ``blocks`` writes the samples or the run keeps moments only.
        labels : mapping of split to array
            Each ``(sample,)``, integer classes or floats.
        samples : mapping of split to array, optional
            Original indices of the samples; 0, 1, 2, … where not given.
        readout : (weight, bias), optional
            ``(output, neuron)`` and ``(output,)``.
        metrics : mapping of str to float, optional
            Such as ``train_error``.
        moments : mapping of split to mapping of layer to Moments, optional
            Computed while the samples passed: kept, so that no query need compute them.
        blocks : Blocks, optional
            How several processes write the samples of the epoch, each some of them.

        Raises
        ------
        InvalidDataError
            If anything is not finite or not shaped as in the epochs before.
        InvalidParameterError
            If the epoch is not later than the last, or no slot is left.
        StoreWriteError
            If the disk refuses; nothing of the epoch is then visible.
        """
        snapshot = Snapshot.checked(activations, labels, samples, readout, metrics, moments)
        if self._parts.moments_only and {s: set(m) for s, m in snapshot.moments.items()} != {
            s: set(layers) for s, layers in snapshot.activations.items()
        }:
            raise InvalidDataError(
                f"run {self.name!r} keeps moments only, and epoch {epoch} came without those of "
                "every layer; pass moments="
            )
        if self._closed:
            raise InvalidParameterError(
                f"epoch {epoch} was given after run {self.name!r} was closed; open it again"
            )
        with refusals(self._store, f"epoch {epoch} of run {self.name!r}", self._intact):
            self._refresh()
            slot = self._free_slot(epoch)
            expected = self._first or (self._parts.stored_shape() if self.committed else None)
            if expected is not None:
                snapshot.check_same(expected, self.name, epoch)
            else:
                self._parts.prepare(snapshot, blocks, epoch)
            if self._parts.moments_only:
                self._parts.write_moments(slot, snapshot)
            elif blocks is not None:
                blocks.write(slot)
            else:
                self._parts.write_activations(slot, snapshot)
            self._parts.write_readout(slot, snapshot)
            self._parts.write_metrics(slot, snapshot)
            self._files.sync()
            self._parts.commit(slot, epoch)
            if not self._parts.moments_only:
                # Only now: a cache that a killed writer left would be believed of what comes next.
                self._parts.write_moments(slot, snapshot)
            self._files.sync()
        self.committed, self._next = (*self.committed, int(epoch)), slot + 1
        self._first = self._first or snapshot.without_data()

    def close(self, *, complete: bool) -> None:
        """End the writing and let others write the run.

        Parameters
        ----------
        complete : bool
            Whether the run has all its epochs: unused slots are given back, and no epoch can
            be appended any more.

        Raises
        ------
        InvalidDataError
            If the run is said to be complete and holds no epoch.
        """
        if self._closed:
            return
        try:
            if complete:
                with refusals(self._store, f"the end of run {self.name!r}", self._intact):
                    self._finish()
        finally:
            self._closed = True
            self._lock.release()

    def update_provenance(self, **facts: Any) -> None:
        """Add facts that are known only at the end, such as the wall time, to the provenance."""
        known = dict(self._group.attrs["provenance"])  # type: ignore[arg-type]
        self._group.update_attributes({"provenance": {**known, **facts}})

    def _refresh(self) -> None:
        """Read the marker: after an error or an interruption only the disk knows what it holds."""
        # A write would make the folders of a store that was moved or unmounted anew, for nobody.
        if not self._files.has(f"{self.name}/{DOCUMENT}"):
            raise FileNotFoundError(errno.ENOENT, "the folder of the run is gone")
        marker = read_marker(self._group, self._store)
        used = marker_slots(marker)
        self.committed = tuple(int(epoch) for epoch in marker[used])
        self._next = int(used[-1]) + 1 if len(used) else 0

    def _intact(self) -> tuple[int, ...]:
        with contextlib.suppress(*DAMAGE):
            self._refresh()
        return self.committed

    def _finish(self) -> None:
        self._refresh()
        if not self.committed:
            raise InvalidDataError(
                f"run {self.name!r} holds no epoch and cannot be complete; record one first"
            )
        # The marker comes last: append() gives all arrays the marker's length, so that a writer
        # killed in between leaves nothing that cannot be resumed.
        arrays = [a for a in arrays_below(self._group) if layout.epoch_length(a) is not None]
        for array in sorted(arrays, key=lambda a: a.path == self._parts.marker.path):
            if layout.epoch_length(array) != self._next:
                array.resize((self._next, *array.shape[1:]))
        self._group.update_attributes({"complete": True, "finished": schema.now()})
        self._files.sync()

    def _free_slot(self, epoch: int) -> int:
        if epoch < 0:
            raise InvalidParameterError(f"epoch {epoch} was given; epochs count from 0")
        if self.committed and epoch <= self.committed[-1]:
            raise InvalidParameterError(
                f"epoch {epoch} comes after epoch {self.committed[-1]}, which run {self.name!r} "
                "already holds; record epochs in ascending order"
            )
        if self._next >= self._parts.marker.shape[0]:
            raise InvalidParameterError(
                f"run {self.name!r} has room for {self._next} epochs and all are recorded; "
                "create it with more slots"
            )
        return self._next

"""Writing a run: an epoch goes into the store whole or not at all.

All shards of an epoch are written first, then its readout and metrics, and last its
number into the run's ``epoch`` array. Readers keep only slots whose number is not -1,
so a writer killed at any point leaves the store as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from actstore import schema
from actstore.errors import (
    InvalidDataError,
    InvalidParameterError,
    NotInStoreError,
    RunExistsError,
)
from actstore.kernels.moments import Moments
from actstore.storage import cache, layout
from actstore.storage.cache import Leaf
from actstore.storage.chunk import write_chunk
from actstore.storage.cleaning import (
    arrays_below,
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
from actstore.storage.precision import KEEP_BITS, PRECISION, Change, as_attribute, measure
from actstore.storage.reading import (
    DAMAGE,
    is_run,
    marker_slots,
    member,
    read_epochwise,
    read_marker,
    read_samplewise,
)
from actstore.storage.refusal import already_there, plain, refusals
from actstore.storage.seal import DOCUMENT, sealed
from actstore.storage.shards import Blocks, write_epoch
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
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self.name = group.basename
        self._marker = layout.array_of(group, schema.EPOCH)
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
            return cls._locked(store, root, name)

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
        where = os.fspath(store)
        root = open_root(store, mode="r+", durable=durable)
        found = member(root, name, where)
        if found is None or not is_run(found):
            raise NotInStoreError(f"no run {name!r} in {where!r}; create it first")
        if _is_complete(found):
            tidy(store, name)
            raise RunExistsError(f"run {name!r} is complete: nothing is left to append")
        with refusals(where, f"run {name!r}"):
            return cls._locked(store, root, name)

    @classmethod
    def _locked(cls, store: StorePath, root: zarr.Group, name: str) -> Self:
        """Take the run's lock, and give it the shape that a writer expects."""
        lock = RunLock.acquire(files_of_group(root), name)
        try:
            group = member(root, name, os.fspath(store))
            if not isinstance(group, zarr.Group) or not is_run(group) or _is_complete(group):
                raise RunExistsError(
                    f"run {name!r} was changed by another process at the same time; try again"
                )
            if not len(marker_slots(read_marker(group, os.fspath(store)))):
                layout.make_marker(group, slots=int(group.attrs["slots"]))  # type: ignore[arg-type]
            settle(group)
            sweep(group)
            even_lengths(group)
            return cls(store, group, lock)
        except BaseException:
            lock.release()
            raise

    @property
    def complete(self) -> bool:
        """Whether the run was closed after its last epoch."""
        return _is_complete(self._group)

    @property
    def full(self) -> bool:
        """Whether no slot is left."""
        return self._next >= int(self._marker.shape[0])

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
        if self._moments_only and {s: set(m) for s, m in snapshot.moments.items()} != {
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
            expected = self._first or self._stored_shape()
            if expected is not None:
                snapshot.check_same(expected, self.name, epoch)
            else:
                self._prepare(snapshot, blocks, epoch)
            if self._moments_only:
                self._write_moments(slot, snapshot)
            elif blocks is not None:
                blocks.write(slot)
            else:
                self._write_activations(slot, snapshot)
            self._write_readout(slot, snapshot)
            self._write_metrics(slot, snapshot)
            self._files.sync()
            self._put_value(self._marker, slot, epoch)
            if not self._moments_only:
                # Only now: a cache that a killed writer left would be believed of what comes next.
                self._write_moments(slot, snapshot)
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

    @property
    def keeps(self) -> tuple[str, ...]:
        """What the run keeps of a layer: its activations, its moments or both."""
        return schema.kept(self._group.attrs)

    @property
    def _keep_bits(self) -> int | None:
        asked: Any = self._group.attrs.get(KEEP_BITS)
        return None if asked is None else int(asked)

    @property
    def _moments_only(self) -> bool:
        return schema.ACTIVATIONS not in self.keeps

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
        for array in sorted(arrays, key=lambda a: a.path == self._marker.path):
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
        if self._next >= self._marker.shape[0]:
            raise InvalidParameterError(
                f"run {self.name!r} has room for {self._next} epochs and all are recorded; "
                "create it with more slots"
            )
        return self._next

    def _stored_shape(self) -> Snapshot | None:
        """Return what the committed epochs hold, without their data, or None if there is none."""
        if not self.committed:
            return None
        groups = dict(self._group.groups())
        contents: Any = self._group.attrs["splits"]
        readout = groups.pop(schema.READOUT, None)
        return Snapshot(
            activations={
                split: {
                    layer: np.empty((0, width), "f4")
                    for layer, width in contents[split]["layers"].items()
                }
                for split in groups
            },
            labels={s: self._samplewise(g, schema.LABEL) for s, g in groups.items()},
            samples={s: self._samplewise(g, schema.SAMPLE) for s, g in groups.items()},
            readout=None
            if readout is None
            else (
                np.empty(layout.array_of(readout, schema.WEIGHT).shape[1:]),
                np.empty(layout.array_of(readout, schema.BIAS).shape[1:]),
            ),
            metrics={},
        )

    def _samplewise(self, group: zarr.Group, name: str) -> Array:
        return read_samplewise(layout.array_of(group, name), self._store)

    def _prepare(self, snapshot: Snapshot, blocks: Blocks | None, epoch: int) -> None:
        """Make the arrays of the first epoch, in place of what a failed attempt left of it."""
        sweep(self._group)
        self._arrays.clear()
        slots = self._marker.shape[0]
        for split, layers in snapshot.activations.items():
            group = self._group.create_group(split)
            layout.create_samplewise(group, schema.LABEL, snapshot.labels[split])
            layout.create_samplewise(group, schema.SAMPLE, snapshot.samples[split])
            for layer, x in layers.items():
                inner = group.create_group(layer)
                if self._moments_only:
                    continue
                layout.create_activations(
                    inner,
                    slots=slots,
                    samples=len(snapshot.labels[split]),
                    width=x.shape[1],
                    sparse=layout.is_sparse(x) if blocks is None else blocks.sparse[split, layer],
                    blocks=1 if blocks is None else blocks.count,
                    keep_bits=self._keep_bits,
                )
        if snapshot.readout is not None:
            group = self._group.create_group(schema.READOUT)
            weight, bias = snapshot.readout
            dims = (schema.OUTPUT, schema.NEURON)
            for name, values in ((schema.WEIGHT, weight), (schema.BIAS, bias)):
                layout.create_epochwise(
                    group, name, slots=slots, rest=values.shape, dims=dims[: values.ndim]
                )
        contents = {**snapshot.contents(), "metrics": []}
        if self._keep_bits is not None and blocks is None and not self._moments_only:
            contents[PRECISION] = self._measured(snapshot, epoch)
        self._group.update_attributes(contents)

    def _measured(self, snapshot: Snapshot, epoch: int) -> dict[str, Any]:
        """Return what rounding does to the answers about the first epoch, as an attribute."""
        assert self._keep_bits is not None
        change = Change()
        for layers in snapshot.activations.values():
            for x in layers.values():
                change |= measure([x], self._keep_bits)
        return as_attribute(self._keep_bits, epoch, change)

    def _write_activations(self, slot: int, snapshot: Snapshot) -> None:
        for split, layers in snapshot.activations.items():
            for layer, x in layers.items():
                path = f"{split}/{layer}/{schema.ACTIVATIONS}"
                write_epoch(self._array(path), slot, x)

    def _write_moments(self, slot: int, snapshot: Snapshot) -> None:
        created = str(self._group.attrs.get("created", ""))
        bits = None if self._moments_only else self._keep_bits
        for split, layers in snapshot.moments.items():
            for layer, moments in layers.items():
                leaf = Leaf(self._store, self.name, split, layer, created, bits)
                if not self._moments_only:
                    cache.write(leaf, slot, moments)
                    continue
                group = self._group[f"{split}/{layer}"]
                assert isinstance(group, zarr.Group)
                cache.put(leaf, slot, moments, files=group)

    def _write_readout(self, slot: int, snapshot: Snapshot) -> None:
        if snapshot.readout is not None:
            weight, bias = snapshot.readout
            write_chunk(self._array(f"{schema.READOUT}/{schema.WEIGHT}"), weight, slot, 0, 0)
            write_chunk(self._array(f"{schema.READOUT}/{schema.BIAS}"), bias, slot, 0)

    def _write_metrics(self, slot: int, snapshot: Snapshot) -> None:
        stored: Any = self._group.attrs["metrics"]
        known: set[str] = set(stored)
        for name in sorted(known | snapshot.metrics.keys()):
            if name not in known:
                self._new_metric(name)
            # A killed attempt at this slot may have left a metric that this one does not have.
            value = snapshot.metrics.get(name, float("nan"))
            self._put_value(self._array(name), slot, value)
        if snapshot.metrics.keys() - known:
            # Only now, with a value in it: the name vouches for the array.
            self._group.update_attributes({"metrics": sorted(known | snapshot.metrics.keys())})

    def _put_value(self, array: zarr.Array[Any], slot: int, value: float) -> None:
        """Give the marker or a metric its value of a slot; nobody else writes them."""
        values = read_epochwise(array, self._store).copy()
        values[slot] = value
        write_chunk(array, values, 0)

    def _array(self, path: str) -> zarr.Array[Any]:
        """Return an array of the run; its metadata are read once."""
        if path not in self._arrays:
            self._arrays[path] = layout.array_of(self._group, path)
        return self._arrays[path]

    def _new_metric(self, name: str) -> None:
        self._files.remove_tree(f"{self.name}/{name}")  # of a killed attempt
        layout.create_epochwise(self._group, name, slots=self._marker.shape[0], rest=(), dims=())


def _is_complete(group: zarr.Group | zarr.Array[Any]) -> bool:
    return bool(group.attrs.get("complete"))

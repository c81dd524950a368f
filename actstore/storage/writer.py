"""Writing a run: an epoch goes into the store whole or not at all.

All shards of an epoch are written first, then its readout and metrics, and last its
number into the run's ``epoch`` array. Readers keep only slots whose number is not -1,
so a writer killed at any point leaves the store as it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
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
    StoreWriteError,
)
from actstore.storage import layout
from actstore.storage.location import StorePath, open_or_create_root
from actstore.storage.snapshot import Snapshot

Array: TypeAlias = npt.NDArray[Any]


class RunWriter:
    """One run of a store, open for writing by this process alone.

    Make one with :meth:`create` or :meth:`append`.

    Attributes
    ----------
    name : str
        The run's name, which is the path of its group.
    committed : tuple of int
        Epochs in the store, in order.
    complete : bool
        Whether the run was closed after its last epoch.
    """

    def __init__(self, group: zarr.Group) -> None:
        self._group = group
        self.name = group.basename
        self._marker = _array(group, schema.EPOCH)
        epochs = np.asarray(self._marker[:])
        self.committed: tuple[int, ...] = tuple(int(e) for e in epochs[epochs >= 0])
        self._first: Snapshot | None = None  # what later epochs must look like

    @classmethod
    def create(
        cls,
        store: StorePath,
        name: str,
        *,
        slots: int,
        attributes: Mapping[str, Any],
        overwrite: bool = False,
    ) -> Self:
        """Begin the run ``name`` with room for ``slots`` epochs; make the store if there is none.

        Raises
        ------
        RunExistsError
            If the store holds the run and ``overwrite`` is false.
        """
        schema.check_name("run", name)
        if slots < 1:
            raise InvalidParameterError(f"a run of {slots} epochs was asked for; it needs one")
        root = open_or_create_root(store)
        if name in root:
            if not overwrite:
                raise RunExistsError(
                    f"run {name!r} is already in {os.fspath(store)!r}; "
                    "resume it, overwrite it, or give another name"
                )
            delete_run(root, name)
        group = root.create_group(name, attributes=dict(attributes))
        layout.create_marker(group, slots=slots)
        return cls(group)

    @classmethod
    def append(cls, store: StorePath, name: str) -> Self:
        """Open an interrupted run to continue after its last committed epoch.

        Files that a killed writer left half written are removed first.

        Raises
        ------
        NotInStoreError
            If the store does not hold the run.
        RunExistsError
            If the run is complete.
        """
        root = open_or_create_root(store)
        if name not in root:
            raise NotInStoreError(f"no run {name!r} in {os.fspath(store)!r}; create it first")
        group = root[name]
        assert isinstance(group, zarr.Group)
        if group.attrs.get("complete"):
            raise RunExistsError(f"run {name!r} is complete: nothing is left to append")
        for partial in Path(store, name).rglob("*.partial"):
            partial.unlink(missing_ok=True)
        if schema.EPOCH not in group:
            raise InvalidDataError(
                f"run {name!r} was interrupted before it had room for an epoch; overwrite it"
            )
        return cls(group)

    @property
    def complete(self) -> bool:
        """Whether the run was closed after its last epoch."""
        return bool(self._group.attrs.get("complete"))

    def write(
        self,
        epoch: int,
        activations: Mapping[str, Mapping[str, npt.ArrayLike]],
        *,
        labels: Mapping[str, npt.ArrayLike],
        samples: Mapping[str, npt.ArrayLike] | None = None,
        readout: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write one epoch and commit it.

        Parameters
        ----------
        epoch : int
            Completed passes; later than every committed epoch.
        activations : mapping of split to mapping of layer to array
            Each ``(sample, neuron)``, stored as float32.
        labels : mapping of split to array
            Each ``(sample,)``, integer classes or floats.
        samples : mapping of split to array, optional
            Original indices of the samples; 0, 1, 2, … where not given.
        readout : (weight, bias), optional
            ``(output, neuron)`` and ``(output,)``.
        metrics : mapping of str to float, optional
            Such as ``train_error``.

        Raises
        ------
        InvalidDataError
            If anything is not finite or not shaped as in the epochs before.
        InvalidParameterError
            If the epoch is not later than the last, or no slot is left.
        StoreWriteError
            If the disk refuses; nothing of the epoch is then visible.
        """
        snapshot = Snapshot.checked(activations, labels, samples, readout, metrics)
        slot = self._free_slot(epoch)
        expected = self._first or self._stored_shape()
        if expected is not None:
            snapshot.check_same(expected, self.name, epoch)
        try:
            self._write_activations(slot, snapshot)
            self._write_readout(slot, snapshot)
            self._write_metrics(slot, snapshot)
            self._marker[slot] = epoch
        except OSError as error:
            raise StoreWriteError(
                f"epoch {epoch} of run {self.name!r} could not be written "
                f"({error.strerror or error}); the {len(self.committed)} epochs before it are "
                "intact: mend the disk and resume"
            ) from error
        self.committed = (*self.committed, int(epoch))
        self._first = self._first or snapshot.without_data()

    def close(self, *, complete: bool) -> None:
        """End the writing; ``complete=True`` gives unused slots back and marks the run done."""
        if not complete:
            return
        used = len(self.committed)
        if used < self._marker.shape[0]:
            for array in _arrays(self._group):
                if array.metadata.dimension_names[0] == schema.EPOCH:  # type: ignore[index,union-attr]
                    array.resize((used, *array.shape[1:]))
        self._group.update_attributes({"complete": True, "finished": schema.now()})

    def update_provenance(self, **facts: Any) -> None:
        """Add facts that are known only at the end, such as the wall time, to the provenance."""
        known = dict(self._group.attrs["provenance"])  # type: ignore[arg-type]
        self._group.update_attributes({"provenance": {**known, **facts}})

    def _free_slot(self, epoch: int) -> int:
        if epoch < 0:
            raise InvalidParameterError(f"epoch {epoch} was given; epochs count from 0")
        if self.committed and epoch <= self.committed[-1]:
            raise InvalidParameterError(
                f"epoch {epoch} comes after epoch {self.committed[-1]}, which run {self.name!r} "
                "already holds; record epochs in ascending order"
            )
        slot = len(self.committed)
        if slot >= self._marker.shape[0]:
            raise InvalidParameterError(
                f"run {self.name!r} has room for {slot} epochs and all are recorded; "
                "create it with more slots"
            )
        return slot

    def _stored_shape(self) -> Snapshot | None:
        if not self.committed:
            return None
        splits = {name: g for name, g in self._group.groups() if name != schema.READOUT}
        return Snapshot(
            activations={
                split: {
                    layer: np.empty((0, *_array(g, schema.ACTIVATIONS).shape[1:]), "float32")
                    for layer, g in group.groups()
                }
                for split, group in splits.items()
            },
            labels={s: np.asarray(_array(g, schema.LABEL)[:]) for s, g in splits.items()},
            samples={s: np.asarray(_array(g, schema.SAMPLE)[:]) for s, g in splits.items()},
            readout=None,
            metrics={},
        ).without_data()

    def _write_activations(self, slot: int, snapshot: Snapshot) -> None:
        slots = self._marker.shape[0]
        for split, layers in snapshot.activations.items():
            group = self._group.require_group(split)
            for name, values in (
                (schema.LABEL, snapshot.labels[split]),
                (schema.SAMPLE, snapshot.samples[split]),
            ):
                if slot == 0:
                    if name in group:  # of an attempt that was killed before it committed
                        del group[name]
                    layout.create_samplewise(group, name, values)
            for layer, x in layers.items():
                inner = group.require_group(layer)
                if slot == 0 and schema.ACTIVATIONS in inner:
                    del inner[schema.ACTIVATIONS]
                if slot == 0:
                    layout.create_activations(
                        inner,
                        slots=slots,
                        samples=x.shape[0],
                        width=x.shape[1],
                        sparse=layout.is_sparse(x),
                    )
                _array(inner, schema.ACTIVATIONS)[slot] = x

    def _write_readout(self, slot: int, snapshot: Snapshot) -> None:
        if snapshot.readout is None:
            return
        weight, bias = snapshot.readout
        group = self._group.require_group(schema.READOUT)
        for name, values, dims in (
            (schema.WEIGHT, weight, (schema.OUTPUT, schema.NEURON)),
            (schema.BIAS, bias, (schema.OUTPUT,)),
        ):
            if name not in group:
                layout.create_epochwise(
                    group, name, slots=self._marker.shape[0], rest=values.shape, dims=dims
                )
            _array(group, name)[slot] = values

    def _write_metrics(self, slot: int, snapshot: Snapshot) -> None:
        stored = {name for name, _ in self._group.arrays()} - {schema.EPOCH}
        for name in snapshot.metrics.keys() - stored:
            layout.create_epochwise(
                self._group, name, slots=self._marker.shape[0], rest=(), dims=()
            )
        # A killed attempt at this slot may have left a metric that this one does not have.
        for name in stored | snapshot.metrics.keys():
            _array(self._group, name)[slot] = snapshot.metrics.get(name, float("nan"))


def delete_run(root: zarr.Group, name: str) -> None:
    """Remove a run; its marker goes first, so that a reader never meets half of it."""
    group = root[name]
    if isinstance(group, zarr.Group) and schema.EPOCH in group:
        _array(group, schema.EPOCH)[:] = schema.NO_EPOCH
    del root[name]


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _arrays(group: zarr.Group) -> list[zarr.Array[Any]]:
    return [a for _, a in group.members(max_depth=None) if isinstance(a, zarr.Array)]

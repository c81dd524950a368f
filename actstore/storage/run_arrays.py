"""The arrays of a run that is written: made for its first epoch, then filled slot by slot."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from actstore import schema
from actstore.storage import cache, layout
from actstore.storage.cache import Leaf
from actstore.storage.chunk import write_chunk
from actstore.storage.cleaning import files_of_group, sweep
from actstore.storage.precision import KEEP_BITS, PRECISION, Change, as_attribute, measure
from actstore.storage.reading import read_epochwise, read_samplewise
from actstore.storage.shards import Blocks, write_epoch
from actstore.storage.snapshot import Snapshot

Array: TypeAlias = npt.NDArray[Any]


class RunArrays:
    """The arrays of one run, open for writing.

    Parameters
    ----------
    store : str
        Path of the store.
    group : zarr.Group
        The run's.

    Attributes
    ----------
    marker : zarr.Array
        ``epoch``: the number of the epoch in each slot.
    """

    def __init__(self, store: str, group: zarr.Group) -> None:
        self._store = store
        self._group = group
        self._files = files_of_group(group)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self.name = group.basename
        self.marker = layout.array_of(group, schema.EPOCH)

    @property
    def _keep_bits(self) -> int | None:
        asked: Any = self._group.attrs.get(KEEP_BITS)
        return None if asked is None else int(asked)

    @property
    def moments_only(self) -> bool:
        """Whether the run keeps no activations."""
        return schema.ACTIVATIONS not in schema.kept(self._group.attrs)

    def stored_shape(self) -> Snapshot:
        """Return what the committed epochs hold, without their data."""
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

    def prepare(self, snapshot: Snapshot, blocks: Blocks | None, epoch: int) -> None:
        """Make the arrays of the first epoch, in place of what a failed attempt left of it."""
        sweep(self._group)
        self._arrays.clear()
        slots = self.marker.shape[0]
        for split, layers in snapshot.activations.items():
            group = self._group.create_group(split)
            layout.create_samplewise(group, schema.LABEL, snapshot.labels[split])
            layout.create_samplewise(group, schema.SAMPLE, snapshot.samples[split])
            for layer, x in layers.items():
                inner = group.create_group(layer)
                if self.moments_only:
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
        if self._keep_bits is not None and blocks is None and not self.moments_only:
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

    def write_activations(self, slot: int, snapshot: Snapshot) -> None:
        """Write the samples of an epoch."""
        for split, layers in snapshot.activations.items():
            for layer, x in layers.items():
                path = f"{split}/{layer}/{schema.ACTIVATIONS}"
                write_epoch(self._array(path), slot, x)

    def write_moments(self, slot: int, snapshot: Snapshot) -> None:
        """Write the moments of an epoch, if it came with any."""
        created = str(self._group.attrs.get("created", ""))
        bits = None if self.moments_only else self._keep_bits
        for split, layers in snapshot.moments.items():
            for layer, moments in layers.items():
                leaf = Leaf(self._store, self.name, split, layer, created, bits)
                if not self.moments_only:
                    cache.write(leaf, slot, moments)
                    continue
                group = self._group[f"{split}/{layer}"]
                assert isinstance(group, zarr.Group)
                cache.put(leaf, slot, moments, files=group)

    def write_readout(self, slot: int, snapshot: Snapshot) -> None:
        """Write the readout of an epoch, if it came with one."""
        if snapshot.readout is not None:
            weight, bias = snapshot.readout
            write_chunk(self._array(f"{schema.READOUT}/{schema.WEIGHT}"), weight, slot, 0, 0)
            write_chunk(self._array(f"{schema.READOUT}/{schema.BIAS}"), bias, slot, 0)

    def commit(self, slot: int, epoch: int) -> None:
        """Make the epoch in a slot one that readers see."""
        self._put_value(self.marker, slot, epoch)

    def write_metrics(self, slot: int, snapshot: Snapshot) -> None:
        """Write the metrics of an epoch."""
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
        layout.create_epochwise(self._group, name, slots=self.marker.shape[0], rest=(), dims=())

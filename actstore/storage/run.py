"""One run of a store, read lazily."""

from __future__ import annotations

import copy
import dataclasses
import functools
import html
import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from dask.highlevelgraph import HighLevelGraph

from actstore import schema
from actstore.errors import NotInStoreError
from actstore.storage.epochs import Epochs, places_of
from actstore.storage.precision import KEEP_BITS
from actstore.storage.reading import (
    Committed,
    marker_slots,
    read_epochwise,
    read_marker,
    read_samplewise,
    rewritten,
)
from actstore.storage.seal import SEAL
from actstore.storage.successors import SUCCESSORS, open_array

Array: TypeAlias = npt.NDArray[Any]


class Run:
    """One training in a store: what it holds, and its arrays as lazy datasets.

    Attributes
    ----------
    name : str
    path : str
        Path of the store.
    attrs : dict
        What the recorder wrote about the run.
    successors : dict
        Documents of arrays that a compaction replaces, see :mod:`actstore.storage.successors`.
    block_bytes : int or None
        Most bytes of activations that one task reads; None is a whole epoch.
    """

    def __init__(self, group: zarr.Group, path: str) -> None:
        self.name = group.basename
        self.path = path
        self.attrs: dict[str, Any] = dict(group.attrs)
        self.attrs.pop(SEAL, None)
        self.successors: dict[str, Any] = self.attrs.pop(SUCCESSORS, {})
        self.block_bytes: int | None = None
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._logged: dict[str, Array] = {}

    def __repr__(self) -> str:
        return f"<actstore.Run {self.name!r}: {len(self.epochs)} epochs>"

    def _repr_html_(self) -> str:
        shown = self.metrics().assign_attrs(self.attrs)  # xarray escapes what it shows
        return f"<p>{html.escape(repr(self))}</p>{shown._repr_html_()}"

    @property
    def width(self) -> int:
        """Neurons in the recorded layer."""
        return int(self.attrs["width"])

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.attrs["seed"])

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """Settings of the training other than width and seed."""
        return dict(self.attrs["hyper_parameters"])

    @property
    def complete(self) -> bool:
        """Whether the training was recorded to its end."""
        return bool(self.attrs.get("complete")) and len(self.committed) > 0

    @functools.cached_property
    def _marker(self) -> Array:
        return read_marker(self._group, self.path)

    @functools.cached_property
    def committed(self) -> Array:
        """All epochs in the store ``(epoch,)`` int64, whatever is selected."""
        return np.take(self._marker, marker_slots(self._marker))

    @functools.cached_property
    def slots(self) -> Array:
        """Places of the selected epochs on the stored epoch axis ``(epoch,)`` int64."""
        # An epoch that was dropped leaves an empty slot between the others.
        return marker_slots(self._marker)

    @property
    def epochs(self) -> Array:
        """Selected epochs ``(epoch,)`` int64."""
        return np.take(self._marker, self.slots)

    @functools.cached_property
    def _contents(self) -> Mapping[str, Any]:
        """What the writer says the run holds; nothing before the first epoch is committed."""
        if not len(self.committed):  # what a killed writer began is not to be seen
            return {"splits": {}, "outputs": 0, "metrics": []}
        if "splits" in self.attrs:
            return self.attrs
        # The first epoch was committed after the attributes were read.
        return dict(zarr.open_group(self._group.store_path, mode="r").attrs)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the fixed evaluation sets."""
        return tuple(sorted(self._contents["splits"]))

    @property
    def keeps_samples(self) -> bool:
        """Whether activations were stored, and not their moments only."""
        return schema.ACTIVATIONS in schema.kept(self.attrs)

    @property
    def keep_bits(self) -> int | None:
        """Bits of mantissa that stored activations keep; None for all, or if there are none."""
        return self.attrs.get(KEEP_BITS) if self.keeps_samples else None

    @property
    def keeps_moments(self) -> bool:
        """Whether moments were stored while recording."""
        return schema.MOMENTS in schema.kept(self.attrs)

    def shape(self, split: str, layer: str) -> tuple[int, int]:
        """Return the number of samples and of neurons of a layer."""
        parts = self._contents["splits"][split]
        return int(parts["samples"]), int(parts["layers"][layer])

    def successor(self, split: str, layer: str) -> str:
        """Return the document of activations that a compaction has not put in its place, or ''."""
        document = self.successors.get(f"{split}/{layer}/{schema.ACTIVATIONS}")
        return "" if document is None else json.dumps(document)

    @property
    def has_readout(self) -> bool:
        """Whether the readout's weight and bias were recorded."""
        return bool(self._contents["outputs"])

    def layers(self, split: str) -> tuple[str, ...]:
        """Names of the layers recorded on a split."""
        return tuple(sorted(self._contents["splits"][split]["layers"]))

    def check(self, split: str, layer: str) -> None:
        """Raise NotInStoreError unless the run holds this layer on this split."""
        if split not in self.splits:
            raise NotInStoreError(
                f"no split {split!r} in run {self.name!r}; "
                f"it holds {', '.join(self.splits) or 'none'}"
            )
        if layer not in self.layers(split):
            raise NotInStoreError(
                f"no layer {layer!r} in run {self.name!r}; "
                f"it holds {', '.join(self.layers(split)) or 'none'}"
            )

    def select(self, epoch: Epochs) -> Run:
        """Return the run narrowed to these epochs, of those that are selected.

        Raises
        ------
        NotInStoreError
            If one of them is not there.
        """
        places = places_of(self.epochs, epoch, self.name)
        narrowed = copy.copy(self)  # with what has been read of it
        narrowed.slots = np.take(self.slots, places)
        return narrowed

    def in_blocks(self, block_bytes: int | None) -> Run:
        """Return the run with its activations read in blocks of samples of about this size.

        A block is at least a stored chunk of samples: a smaller one would be decoded again and
        again.
        """
        changed = copy.copy(self)
        changed.block_bytes = block_bytes
        return changed

    def block_rows(self, split: str, layer: str) -> int:
        """Return how many samples of a layer one task reads."""
        array = self.array(f"{split}/{layer}/{schema.ACTIVATIONS}")
        _, samples, width = array.shape
        if self.block_bytes is None:
            return max(1, int(samples))
        chunk = array.chunks[1]
        return int(min(samples, max(1, self.block_bytes // (4 * width) // chunk) * chunk))

    def group(self, path: str) -> zarr.Group:
        """Return the Zarr group at ``path`` below the run."""
        group = self._group[path]
        assert isinstance(group, zarr.Group)
        return group

    def array(self, path: str) -> zarr.Array[Any]:
        """Return the Zarr array at ``path`` below the run.

        Raises
        ------
        NotInStoreError
            If another process compacted the run since it was opened.
        """
        if path not in self._arrays:
            array = open_array(self._group, path)
            if array.basename == schema.ACTIVATIONS and array.attrs.get(KEEP_BITS) != (
                self.keep_bits
            ):
                raise rewritten(array.path, self.path)
            self._arrays[path] = array
        return self._arrays[path]

    def coords(self) -> dict[str, Any]:
        """Return width, seed and hyper-parameters: what tells this run from the others."""
        return {"width": self.width, "seed": self.seed, **self.hyper_parameters}

    def metrics(self) -> xr.Dataset:
        """Return the logged metrics, one ``(epoch,)`` float64 variable each, in memory."""
        return _described(
            xr.Dataset(
                {name: (schema.EPOCH, self.metric(name)) for name in self._contents["metrics"]},
                coords={schema.EPOCH: self.epochs},
            )
        )

    def metric(self, name: str) -> Array:
        """Return one metric at the selected epochs ``(epoch,)``; NaN if it was not logged."""
        if name not in self._contents["metrics"]:
            return np.full(len(self.slots), np.nan)
        if name not in self._logged:  # as it is in every slot, committed or not
            self._logged[name] = read_epochwise(self.array(name), self.path)
        return np.take(self._logged[name], self.slots)

    def readout(self) -> xr.Dataset:
        """Return ``weight (epoch, output, neuron)`` and ``bias (epoch, output)``, lazily.

        Raises
        ------
        NotInStoreError
            If the run was recorded without its readout.
        """
        if not self.has_readout:
            raise NotInStoreError(f"run {self.name!r} was recorded without its readout")
        return _described(
            xr.Dataset(
                {
                    schema.WEIGHT: self._lazy("readout/weight"),
                    schema.BIAS: self._lazy("readout/bias"),
                },
                coords={schema.EPOCH: self.epochs},
            )
        )

    def labels(self, split: str) -> xr.DataArray:
        """Return the labels ``(sample,)`` in memory, with original indices as coordinate."""
        return xr.DataArray(
            read_samplewise(self.array(f"{split}/{schema.LABEL}"), self.path),
            dims=schema.SAMPLE,
            coords={
                schema.SAMPLE: read_samplewise(self.array(f"{split}/{schema.SAMPLE}"), self.path)
            },
            attrs=schema.describe(schema.LABEL),
        )

    def dataset(self, split: str = "test", layer: str = schema.DEFAULT_LAYER) -> xr.Dataset:
        """Return the activations of a layer with labels, metrics and attributes.

        Parameters
        ----------
        split, layer : str

        Returns
        -------
        Dataset
            ``activations (epoch, sample, neuron)`` float32, one dask chunk an epoch (or a block
            of its samples, see :meth:`in_blocks`), the ``label (sample)`` and the metrics
            ``(epoch)``. Lazy: activations are read when values are asked for.

        Raises
        ------
        NotInStoreError
            If the run does not hold the split or the layer.
        """
        self.check(split, layer)
        if not self.keeps_samples:
            raise NotInStoreError(
                f"run {self.name!r} keeps moments only, and the activations of its samples are "
                "asked for; ask what moments answer (reconstruction, clones, noise, scaling, "
                "spectrum), or record it again with keep='activations'"
            )
        label = self.labels(split)
        data = xr.Dataset(
            {
                schema.ACTIVATIONS: self._lazy(
                    f"{split}/{layer}/{schema.ACTIVATIONS}", self.block_rows(split, layer)
                )
            },
            coords={schema.EPOCH: self.epochs, schema.LABEL: label},
            attrs={
                **self.coords(),
                "run": self.name,
                "split": split,
                "layer": layer,
                "model": self.attrs.get("model", ""),
                "dataset": self.attrs.get("dataset", ""),
            },
        )
        return _described(data.assign_coords(self.metrics().data_vars))

    def _lazy(self, path: str, rows: int | None = None) -> tuple[tuple[str, ...], da.Array]:
        array = self.array(path)
        names: Any = array.metadata.dimension_names  # type: ignore[union-attr]
        first, *rest = array.shape[1:]
        rows = rows or first
        starts = range(0, first, rows)
        # A committed epoch never changes unless the run is revised (an epoch dropped, precision
        # lowered), so the place and these two times name the data.
        token = dask_token(
            self.path, self.name, self.attrs.get("created"), self.attrs.get("revised"), path,
            self.slots.tolist(), rows,
        )  # fmt: skip
        name = f"{path.rsplit('/', 1)[-1]}-{token}"
        committed = Committed(array, self.path)
        # Written out: slicing a dask array by place takes a millisecond an epoch.
        tasks: dict[Any, Any] = {
            (name, e, b, *(0 for _ in rest)): (
                EpochRead(self.name, committed, slot, start, min(start + rows, first)),
            )
            for e, slot in enumerate(self.slots.tolist())
            for b, start in enumerate(starts)
        }
        chunks = (
            (1,) * len(self.slots),
            tuple(min(rows, first - start) for start in starts),
            *((n,) for n in rest),
        )
        lazy: da.Array = da.Array(  # type: ignore[no-untyped-call]
            HighLevelGraph.from_collections(name, tasks), name, chunks, dtype=array.dtype
        )
        return tuple(names), lazy


@dataclasses.dataclass(frozen=True)
class EpochRead:
    """The task that reads a block of an epoch."""

    run: str
    array: Committed
    slot: int
    start: int
    stop: int

    def __call__(self) -> Array:
        """Return the values ``(1, …)``."""
        return self.array[self.slot : self.slot + 1, self.start : self.stop]

    @property
    def name(self) -> str:
        """Name of the array that is read."""
        return self.array.array.basename

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        inner = math.prod(self.array.shape[2:])
        return (self.stop - self.start) * inner * int(self.array.dtype.itemsize)


def dask_token(*parts: Any) -> str:
    """Return a name that is the same for the same parts."""
    from dask.base import tokenize

    return str(tokenize(*parts))


def _described(data: xr.Dataset) -> xr.Dataset:
    """Give every variable its long name and units (Dataset.map would drop them again)."""
    for name, variable in data.variables.items():
        variable.attrs.update(schema.describe(str(name)))
    return data

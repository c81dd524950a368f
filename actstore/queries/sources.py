"""What a query is asked of: runs of a store or labelled arrays, as lazy moments by epoch."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels import moments as kernel
from actstore.queries.blas import single_threaded
from actstore.queries.graph import Output, over_epochs
from actstore.storage.cache import Leaf, load_moments, worthwhile
from actstore.storage.catalogue import Catalogue
from actstore.storage.run import Run, dask_token

#: what every query takes: a store, a selection of one, or a dataset with ``activations``
Data: TypeAlias = Catalogue | xr.Dataset
Array: TypeAlias = npt.NDArray[Any]

_MOMENTS = {
    schema.COUNT: Output((), *schema.LABELS[schema.COUNT], dtype="int64"),
    schema.MEAN: Output((schema.NEURON,), *schema.LABELS[schema.MEAN]),
    schema.COMOMENT: Output((schema.NEURON, schema.OTHER_NEURON), *schema.LABELS[schema.COMOMENT]),
}
_MOMENT_DIMS: tuple[list[str], ...] = ([], [schema.NEURON], [schema.NEURON, schema.OTHER_NEURON])


@dataclasses.dataclass(frozen=True)
class Source:
    """One run, or one dataset, that a query is asked of.

    Attributes
    ----------
    name : str
    coords : dict
        Width, seed and hyper-parameters.
    epochs : (epoch,) int64
    width : int
        Neurons, dead ones included.
    moments : callable of (split, cache)
        Returns a lazy dataset of ``count (epoch)``, ``mean (epoch, neuron)`` and
        ``comoment (epoch, neuron, other_neuron)``.
    run : Run or None
        Where labels, readout and metrics are, if the source is a run.
    named : dict
        Split and layer by the dataset's own attributes, whatever was asked for.
    """

    name: str
    coords: Mapping[str, Any]
    epochs: Array
    width: int
    moments: Callable[..., xr.Dataset]
    run: Run | None = None
    named: Mapping[str, str] = dataclasses.field(default_factory=dict)


def sources(data: Data, *, layer: str, split: str = "test") -> list[Source]:
    """Return what to ask, one source a run.

    Raises
    ------
    NotInStoreError
        If a run does not hold the layer or the split.
    InvalidDataError
        If the dataset has no ``activations (sample, neuron)``, or there is no run.
    """
    if isinstance(data, xr.Dataset):
        return [_from_dataset(data)]
    if not isinstance(data, Catalogue):
        raise InvalidParameterError(
            f"a query was asked of a {type(data).__name__}; "
            "give a Store (actstore.open) or an xarray Dataset with 'activations'"
        )
    if not len(data):
        raise InvalidDataError(f"{data.path!r} holds no run yet; record one first")
    found = []
    for run in data.values():
        if len(run.committed):
            run.check(split, layer)
            found.append(_from_run(run, layer, split))
    if not found:
        raise InvalidDataError(
            f"no run of {data.path!r} has a committed epoch yet; wait for the first"
        )
    return found


def last_epoch(data: Data) -> Data:
    """Return the data narrowed to the last selected epoch of every run."""
    if isinstance(data, Catalogue):
        return data.narrow(lambda run: run.select(int(run.epochs[-1])) if len(run.epochs) else run)
    if isinstance(data, xr.Dataset) and schema.EPOCH in data.dims:
        return data.isel({schema.EPOCH: [-1]})
    return data


def _from_run(run: Run, layer: str, split: str) -> Source:
    shape = run.array(f"{split}/{layer}/{schema.ACTIVATIONS}").shape
    return Source(
        name=run.name,
        coords=run.coords(),
        epochs=run.epochs,
        width=int(shape[2]),
        # kept, so that all kernels of an answer read the moments of an epoch in one task
        moments=functools.cache(functools.partial(_run_moments, run, layer)),
        run=run,
    )


def _run_moments(run: Run, layer: str, split: str, *, cache: bool | None = None) -> xr.Dataset:
    run.check(split, layer)
    _, samples, width = run.array(f"{split}/{layer}/{schema.ACTIVATIONS}").shape
    _check_samples(int(samples), f"split {split!r} of run {run.name!r}")
    leaf = Leaf(run.path, run.name, split, layer, str(run.attrs.get("created", "")))
    use_cache = worthwhile(int(samples), int(width)) if cache is None else cache
    sizes = {schema.NEURON: int(width), schema.OTHER_NEURON: int(width)}

    def load(_epoch: int, slot: Array) -> tuple[Array | int, ...]:
        found = load_moments(leaf, int(slot), cache=use_cache)
        return found.count, found.mean, found.comoment

    return over_epochs(
        load,
        [xr.DataArray(run.slots, dims=schema.EPOCH)],
        _MOMENTS,
        epochs=run.epochs,
        sizes=sizes,
        token=dask_token(leaf, run.attrs.get("revised"), run.slots.tolist(), use_cache),
    )


def _from_dataset(data: xr.Dataset) -> Source:
    if schema.ACTIVATIONS not in data:
        raise InvalidDataError(
            f"the dataset holds {', '.join(map(str, data.data_vars)) or 'nothing'}; a variable "
            "'activations' with dims (sample, neuron) or (epoch, sample, neuron) is needed"
        )
    x = data[schema.ACTIVATIONS]
    missing = {schema.SAMPLE, schema.NEURON} - set(x.dims)
    extra = set(x.dims) - {schema.EPOCH, schema.SAMPLE, schema.NEURON}
    if missing or extra:
        raise InvalidDataError(
            f"'activations' has dims {x.dims}; expected (sample, neuron) or (epoch, sample, neuron)"
        )
    if schema.EPOCH not in x.dims:
        x = x.expand_dims(schema.EPOCH)
    if schema.EPOCH not in x.coords:
        x = x.assign_coords({schema.EPOCH: np.arange(x.sizes[schema.EPOCH])})
    x = x.transpose(schema.EPOCH, schema.SAMPLE, schema.NEURON)
    _check_samples(x.sizes[schema.SAMPLE], "the dataset")
    width = x.sizes[schema.NEURON]
    known = {k: v for k, v in data.attrs.items() if k not in ("run", "split", "layer")}
    scalars = {k: v for k, v in known.items() if isinstance(v, int | float | bool) or k == "model"}
    return Source(
        name=str(data.attrs.get("run", "dataset")),
        coords={"seed": 0, **scalars, "width": width},
        epochs=x[schema.EPOCH].values,
        width=width,
        moments=functools.partial(_dataset_moments, x.drop_vars(set(x.coords) - {schema.EPOCH})),
        named={key: str(data.attrs[key]) for key in ("split", "layer") if key in data.attrs},
    )


def _dataset_moments(x: xr.DataArray, split: str = "", *, cache: bool | None = None) -> xr.Dataset:
    """Moments of each block of samples, merged pair by pair; no more than two blocks meet."""
    x = x.chunk({schema.EPOCH: 1, schema.NEURON: -1})
    assert x.chunks is not None
    edges = np.cumsum([0, *x.chunks[x.get_axis_num(schema.SAMPLE)]])
    parts = [
        xr.apply_ufunc(
            _block_moments,
            x.isel({schema.SAMPLE: slice(start, stop)}),
            input_core_dims=[[schema.SAMPLE, schema.NEURON]],
            output_core_dims=_MOMENT_DIMS,
            dask="parallelized",
            output_dtypes=["int64", "float64", "float64"],
            dask_gufunc_kwargs={"output_sizes": {schema.OTHER_NEURON: x.sizes[schema.NEURON]}},
        )
        for start, stop in itertools.pairwise(edges)
    ]
    while len(parts) > 1:
        pairs = [_merged(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    return _as_moments(parts[0])


def _block_moments(x: Array) -> tuple[Array, Array, Array]:
    with single_threaded():
        return _stacked([kernel.moments(one) for one in x])


def _merged(a: tuple[xr.DataArray, ...], b: tuple[xr.DataArray, ...]) -> tuple[xr.DataArray, ...]:
    def merge(*arrays: Array) -> tuple[Array, Array, Array]:
        pairs = zip(*arrays, strict=True)
        return _stacked(
            [kernel.merge(kernel.Moments(*p[:3]), kernel.Moments(*p[3:])) for p in pairs]
        )

    merged: tuple[xr.DataArray, ...] = xr.apply_ufunc(
        merge,
        *a,
        *b,
        input_core_dims=_MOMENT_DIMS * 2,
        output_core_dims=_MOMENT_DIMS,
        dask="parallelized",
        output_dtypes=["int64", "float64", "float64"],
    )
    return merged


def _stacked(found: list[kernel.Moments]) -> tuple[Array, Array, Array]:
    if len(found) == 1:  # the usual case, without a copy
        one = found[0]
        return np.asarray([one.count]), one.mean[None], one.comoment[None]
    return (
        np.asarray([m.count for m in found]),
        np.stack([m.mean for m in found]),
        np.stack([m.comoment for m in found]),
    )


def _as_moments(arrays: tuple[xr.DataArray, ...]) -> xr.Dataset:
    names = (schema.COUNT, schema.MEAN, schema.COMOMENT)
    return xr.Dataset(
        {n: a.assign_attrs(schema.describe(n)) for n, a in zip(names, arrays, strict=True)}
    )


def _check_samples(samples: int, what: str) -> None:
    if samples < 3:
        raise InvalidDataError(f"{what} has {samples} samples; at least 3 are needed")

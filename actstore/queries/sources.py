"""What a query is asked of: runs of a store or labelled arrays, as lazy moments by epoch."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError, UndecidedWarning
from actstore.kernels import moments as kernel
from actstore.queries.graph import Output, over_epochs
from actstore.storage.cache import BLOCK_BYTES, Leaf, load_moments, worthwhile
from actstore.storage.catalogue import Catalogue
from actstore.storage.location import anywhere
from actstore.storage.run import Run, dask_token

#: what every query takes: a store, a selection of one, or a dataset with ``activations``
Data: TypeAlias = Catalogue | xr.Dataset
Array: TypeAlias = npt.NDArray[Any]

#: samples of an array in memory are multiplied in blocks of about this many bytes of float32
_ARRAY_BYTES = 2**25

_MOMENTS = {
    schema.COUNT: Output((), *schema.LABELS[schema.COUNT], dtype="int64"),
    schema.MEAN: Output((schema.NEURON,), *schema.LABELS[schema.MEAN]),
    schema.COMOMENT: Output((schema.NEURON, schema.OTHER_NEURON), *schema.LABELS[schema.COMOMENT]),
}


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
    samples : int
        Samples of the split that was asked for.
    chunk_bytes : int
        Size of a dataset's largest chunk.
    """

    name: str
    coords: Mapping[str, Any]
    epochs: Array
    width: int
    moments: Callable[..., xr.Dataset]
    run: Run | None = None
    named: Mapping[str, str] = dataclasses.field(default_factory=dict)
    samples: int = 0
    chunk_bytes: int = 0


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
    data.look_ahead()
    for run in data.values():
        if len(run.committed):
            run.check(split, layer)
            found.append(_from_run(run, layer, split))
    if not found:
        raise InvalidDataError(
            f"no run of {data.path!r} has a committed epoch yet; wait for the first"
        )
    return found


def warn_of_few_samples(found: Sequence[Source]) -> None:
    """Warn where a layer has fewer than two samples a neuron.

    Warns
    -----
    UndecidedWarning
        R² that is fitted and scored on so few samples flatters the subsets.
    """
    few = [source for source in found if source.samples < 2 * source.width]
    if few:
        worst = max(few, key=lambda source: source.width / source.samples)
        warnings.warn(
            f"{len(few)} of {len(found)} runs have fewer than two samples a neuron (at worst "
            f"{worst.samples} samples for {worst.width} neurons), which flatters R²; record more "
            "samples, or fit on one split and score on another",
            UndecidedWarning,
            stacklevel=3,
        )


def compared_epochs(found: Sequence[Source]) -> list[int]:
    """Return the different last epochs at which runs are compared, ascending.

    Warns
    -----
    UndecidedWarning
        If there are several: runs that stopped at other epochs differ in more than their settings.
    """
    last = [int(source.epochs[-1]) for source in found]
    epochs = sorted(set(last))
    if len(epochs) > 1:
        told = [f"{epoch} ({last.count(epoch)} of the runs)" for epoch in epochs]
        several = ", ".join(told[:4]) + (f" and {len(told) - 4} others" if len(told) > 4 else "")
        warnings.warn(
            f"runs are compared at different last epochs, {several}; finish those that stopped "
            "early, leave them out, or select an epoch that all hold",
            UndecidedWarning,
            stacklevel=3,
        )
    return epochs


def last_epoch(data: Data) -> Data:
    """Return the data narrowed to the last selected epoch of every run."""
    if isinstance(data, Catalogue):
        return data.narrow(lambda run: run.select(int(run.epochs[-1])) if len(run.epochs) else run)
    if isinstance(data, xr.Dataset) and schema.EPOCH in data.dims:
        return data.isel({schema.EPOCH: [-1]})
    return data


def _from_run(run: Run, layer: str, split: str) -> Source:
    return Source(
        name=run.name,
        coords=run.coords(),
        epochs=run.epochs,
        width=run.shape(split, layer)[1],
        samples=run.shape(split, layer)[0],
        # kept, so that all kernels of an answer read the moments of an epoch in one task
        moments=functools.cache(functools.partial(_run_moments, run, layer)),
        run=run,
    )


def _run_moments(run: Run, layer: str, split: str, *, cache: bool | None = None) -> xr.Dataset:
    run.check(split, layer)
    samples, width = run.shape(split, layer)
    _check_samples(samples, f"split {split!r} of run {run.name!r}")
    leaf = Leaf(
        anywhere(run.path), run.name, split, layer, str(run.attrs.get("created", "")),
        run.keep_bits, run.successor(split, layer),
    )  # fmt: skip
    worth = run.keeps_moments or worthwhile(samples, width)
    use_cache = worth if cache is None else cache
    sizes = {schema.NEURON: width, schema.OTHER_NEURON: width}

    load = Loading(leaf, use_cache, run.block_bytes or BLOCK_BYTES)
    return over_epochs(
        load,
        [xr.DataArray(run.slots, dims=schema.EPOCH)],
        _MOMENTS,
        epochs=run.epochs,
        sizes=sizes,
        token=dask_token(load, run.attrs.get("revised"), run.slots.tolist()),
    )


@dataclasses.dataclass(frozen=True)
class Loading:
    """The task that reads the moments of an epoch from the cache, or computes them."""

    leaf: Leaf
    cache: bool
    block_bytes: int

    def __call__(self, _epoch: int, slot: Array) -> tuple[Any, ...]:
        """Return count, mean and co-moment of the epoch in a slot."""
        return _parts(
            load_moments(self.leaf, int(slot), cache=self.cache, block_bytes=self.block_bytes)
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
    blocks = {} if x.chunks else {schema.SAMPLE: _even_rows(x.sizes[schema.SAMPLE], width)}
    chunked = x.chunk({schema.EPOCH: 1, schema.NEURON: -1, **blocks})
    known = {k: v for k, v in data.attrs.items() if k not in ("run", "split", "layer")}
    scalars = {k: v for k, v in known.items() if isinstance(v, int | float | bool) or k == "model"}
    return Source(
        name=str(data.attrs.get("run", "dataset")),
        coords={"seed": 0, **scalars, "width": width},
        epochs=x[schema.EPOCH].values,
        width=width,
        moments=functools.cache(functools.partial(_dataset_moments, chunked)),
        named={key: str(data.attrs[key]) for key in ("split", "layer") if key in data.attrs},
        samples=x.sizes[schema.SAMPLE],
        chunk_bytes=max(chunked.chunksizes[schema.SAMPLE]) * width * x.dtype.itemsize,
    )


def _even_rows(samples: int, width: int) -> int:
    """Return the rows of equal blocks of an array in memory: several cores then share its work."""
    blocks = max(1, -(-4 * samples * width // _ARRAY_BYTES))
    return -(-samples // blocks)


def _dataset_moments(x: xr.DataArray, split: str = "", *, cache: bool | None = None) -> xr.Dataset:
    """Moments of each block of samples, merged pair by pair; no more than two blocks meet."""
    width = x.sizes[schema.NEURON]
    over = functools.partial(
        over_epochs,
        outputs=_MOMENTS,
        epochs=x[schema.EPOCH].values,
        sizes={schema.NEURON: width, schema.OTHER_NEURON: width},
    )
    edges = np.cumsum([0, *x.chunksizes[schema.SAMPLE]])
    blocks = [x.isel({schema.SAMPLE: slice(*pair)}) for pair in itertools.pairwise(edges)]
    # the same data name the same tasks, so that two queries of it read them once
    parts = [over(_block_moments, [b], token=dask_token("moments", b.data.name)) for b in blocks]
    while len(parts) > 1:
        pairs = [
            over(
                _merged,
                [*a.data_vars.values(), *b.data_vars.values()],
                token=dask_token("merged", a[schema.MEAN].data.name, b[schema.MEAN].data.name),
            )
            for a, b in zip(parts[::2], parts[1::2], strict=False)
        ]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    return parts[0]


def _block_moments(_epoch: int, x: Array) -> tuple[Any, ...]:
    return _parts(kernel.moments(x))


def _merged(_epoch: int, *six: Array) -> tuple[Any, ...]:
    a, b = kernel.Moments(int(six[0]), *six[1:3]), kernel.Moments(int(six[3]), *six[4:])
    return _parts(kernel.merge(a, b))


def _parts(moments: kernel.Moments) -> tuple[Any, ...]:
    return moments.count, moments.mean, moments.comoment


def _check_samples(samples: int, what: str) -> None:
    if samples < 3:
        raise InvalidDataError(f"{what} has {samples} samples; at least 3 are needed")

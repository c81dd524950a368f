"""Dask graphs of answers, written out task by task: one task an epoch, or a block of subsets of it.

The general tools (``apply_ufunc``, ``concat`` with an outer join) wrap every output of every run in
layers of their own and split chunks where runs of different widths meet: 200 epochs of 8 widths
made 2.9 million tasks and took 20 s to build. Written out it is a few tasks an epoch and variable.
"""

from __future__ import annotations

import functools
import itertools
import operator
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from actstore import schema
from actstore.queries.blas import single_threaded

Array: TypeAlias = npt.NDArray[Any]

SUBSET = "subset"

#: value of a variable where a run has none, by kind of dtype
FILL = {"f": np.nan, "b": False, "i": -1, "U": ""}


class Output(NamedTuple):
    """A variable that a kernel returns: its dims after ``epoch`` and ``subset``, and labels.

    ``by_subset`` is False for what is the same for every subset, where a kernel answers for
    subsets: it has no dim ``subset``.
    """

    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    dtype: str = "float64"
    by_subset: bool = True


#: ``kernel(epoch, *arrays, [numbers of subsets])`` returns its outputs in order
EpochKernel: TypeAlias = Callable[..., tuple[Any, ...]]


def over_epochs(
    kernel: EpochKernel,
    arguments: Sequence[xr.DataArray],
    outputs: Mapping[str, Output],
    *,
    epochs: Array,
    sizes: Mapping[str, int],
    subsets: int | None = None,
    blocks: int = 1,
    token: str | None = None,
) -> xr.Dataset:
    """Apply a kernel to the arrays of each epoch, in ``blocks`` tasks an epoch.

    Parameters
    ----------
    kernel : callable
        Given the number of the epoch, the arrays of that epoch without their dim ``epoch``, and
        with ``subsets`` the numbers of the subsets to answer for ``(subset,)``.
    arguments : sequence of DataArray
        With ``epoch`` as the first dim, one chunk an epoch, or without it: the same for all
        epochs. Chunks along one more dim are put together.
    outputs : mapping of str to Output
    epochs : (epoch,) int64
    sizes : mapping of str to int
        Lengths of the outputs' dims.
    subsets, blocks : int
        How many subsets there are, and how many tasks share them out.
    token : str, optional
        Names the tasks; the same token must mean the same answer.

    Returns
    -------
    Dataset
        The outputs, with the leading dims ``(epoch,)`` or ``(epoch, subset)``. Lazy.
    """
    token = token or uuid.uuid4().hex
    name = f"answer-{token}"
    given = [_Argument.of(a) for a in arguments]
    held = [a.data for a in arguments]
    call = _Call(kernel, tuple(given), tuple(o.dtype for o in outputs.values()))
    edges = _edges(subsets, blocks)
    tasks: dict[Any, Any] = {}
    constants = [None if g.by_epoch else (name, "argument", k) for k, g in enumerate(given)]
    for key, array in zip(constants, held, strict=True):
        if key is not None:
            tasks[key] = array
    for e, epoch in enumerate(epochs.tolist()):
        parts = [
            g.keys(array, e) if key is None else key
            for g, array, key in zip(given, held, constants, strict=True)
        ]
        for b, numbers in enumerate(edges):
            tasks[name, e, b] = (call, epoch, numbers, *parts)
    layers = {name: tasks}
    arrays = {}
    for k, (label, output) in enumerate(outputs.items()):
        own = f"{label}-{token}"
        tail = (0,) * len(output.dims)
        split = subsets is not None and output.by_subset
        layers[own] = {
            (own, e, *((b,) if split else ()), *tail): (operator.getitem, (name, e, b), k)
            for e in range(len(epochs))
            for b in (range(len(edges)) if split else (0,))
        }
        chunks = [(1,) * len(epochs)]
        if split:
            chunks.append(tuple(len(numbers) for numbers in edges if numbers is not None))
        arrays[label] = own, (*chunks, *((sizes[d],) for d in output.dims))
    sources = [a for a in held if isinstance(a, da.Array)]
    graph = _graph(layers, {own: {name} for own, _ in arrays.values()}, {name: sources})
    return xr.Dataset(
        {
            label: (
                (
                    schema.EPOCH,
                    *((SUBSET,) if subsets is not None and output.by_subset else ()),
                    *output.dims,
                ),
                _array(graph, own, chunks, output.dtype),
                {"long_name": output.long_name, "units": output.units},
            )
            for (label, output), (own, chunks) in zip(outputs.items(), arrays.values(), strict=True)
        },
        coords={schema.EPOCH: epochs},
    )


def beside(results: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    """Put datasets side by side along a new first dim; what one does not have is its fill.

    Epochs are put together in ascending order. Along any other dim, one dataset's labels are the
    first of the longest one's. Lazy variables have one chunk an epoch, and keep it.
    """
    labels = {d: _labels(results, d) for d in dict.fromkeys(d for r in results for d in r.sizes)}
    places = [
        np.searchsorted(labels[schema.EPOCH][0], r[schema.EPOCH].values)
        if schema.EPOCH in r.sizes
        else np.zeros(0, int)
        for r in results
    ]
    variables = {}
    for name in dict.fromkeys(str(k) for r in results for k in r.data_vars):
        like = next(r[name].variable for r in results if name in r)
        lengths = [len(labels[d][0]) for d in like.dims]
        parts = [r[name].variable if name in r else None for r in results]
        lazy = any(p is not None and isinstance(p.data, da.Array) for p in parts)
        put = _lazily_beside if lazy else _beside
        data = put(parts, places, [str(d) for d in like.dims], lengths, like.dtype)
        variables[name] = ((dim, *like.dims), data, like.attrs)
    return xr.Dataset(
        variables, coords={str(d): (d, values, attrs) for d, (values, attrs) in labels.items()}
    )


class _Argument(NamedTuple):
    """How the array of one epoch is found: in how many pieces, along which axis."""

    by_epoch: bool
    axis: int | None

    @classmethod
    def of(cls, array: xr.DataArray) -> _Argument:
        by_epoch = bool(array.dims) and array.dims[0] == schema.EPOCH
        if not isinstance(array.data, da.Array):
            return cls(by_epoch, None)
        cut = [k for k, n in enumerate(array.data.numblocks) if n > 1 and (k or not by_epoch)]
        assert len(cut) <= 1, f"{array.name} is cut along several dims: {array.data.chunks}"
        return cls(by_epoch, cut[0] if cut else None)

    def keys(self, array: Any, epoch: int) -> Any:
        """Return what a task is given: a key, a list of keys, or the values themselves."""
        if not isinstance(array, da.Array):
            return array[epoch : epoch + 1]
        tail = [0] * (array.ndim - 1)
        if self.axis is None:
            return (array.name, epoch, *tail)
        return [
            (array.name, epoch, *tail[: self.axis - 1], k, *tail[self.axis :])
            for k in range(array.numblocks[self.axis])
        ]


class _Call(NamedTuple):
    """The task of an epoch: arrays of one epoch in, outputs with a leading dim of length 1 out."""

    kernel: EpochKernel
    arguments: tuple[_Argument, ...]
    dtypes: tuple[str, ...]

    def __call__(self, epoch: int, numbers: range | None, *arrays: Any) -> tuple[Array, ...]:
        own = []
        for array, argument in zip(arrays, self.arguments, strict=True):
            whole = np.concatenate(array, argument.axis) if argument.axis is not None else array
            own.append(whole[0] if argument.by_epoch else whole)
        if numbers is not None:
            own.append(np.asarray(numbers))
        with single_threaded():
            found = self.kernel(epoch, *own)
        return tuple(
            np.asarray(value, dtype)[None] for value, dtype in zip(found, self.dtypes, strict=True)
        )


def task_kernel(task: Any) -> Any:
    """Return the kernel of a task of :func:`over_epochs`, or what another task calls."""
    called = task[0] if isinstance(task, tuple) and task else None
    return called.kernel if isinstance(called, _Call) else called


def _edges(subsets: int | None, blocks: int) -> list[range | None]:
    if subsets is None:
        return [None]
    size = -(-subsets // blocks)
    return [range(start, min(start + size, subsets)) for start in range(0, subsets, size)]


def _graph(
    layers: Mapping[str, Any], inner: Mapping[str, set[str]], sources: Mapping[str, Sequence[Any]]
) -> HighLevelGraph:
    """Put layers together with the graphs of the arrays that they read."""
    together: dict[str, Any] = {}
    depend: dict[str, set[str]] = {}
    for array in (a for arrays in sources.values() for a in arrays):
        together.update(array.dask.layers)
        depend.update(array.dask.dependencies)
    together.update(layers)
    for layer in layers:
        depend[layer] = {*inner.get(layer, ()), *(a.name for a in sources.get(layer, ()))}
    return HighLevelGraph(together, depend)


def _labels(results: Iterable[xr.Dataset], dim: Any) -> tuple[Array, Any]:
    """Return labels and attributes of a dim that covers that of every dataset."""
    held = [r for r in results if dim in r.sizes]
    longest = max(held, key=lambda r: r.sizes[dim])
    if dim not in longest.coords:
        # runs of different widths are aligned by number, which the answer then shows
        return np.arange(longest.sizes[dim]), {}
    values = longest[dim].values
    if dim == schema.EPOCH:
        values = np.unique(np.concatenate([r[dim].values for r in held]))
    return values, longest[dim].attrs


def _beside(
    parts: Sequence[xr.Variable | None],
    places: Sequence[Array],
    dims: Sequence[str],
    lengths: Sequence[int],
    dtype: Any,
) -> Array:
    whole = np.full((len(parts), *lengths), FILL[dtype.kind], dtype)
    for r, part in enumerate(parts):
        if part is not None:
            sizes = zip(dims, part.shape, strict=True)
            where = [places[r] if d == schema.EPOCH else np.arange(n) for d, n in sizes]
            at: Any = (r, *np.ix_(*where))
            whole[at] = part.values
    return whole


def _lazily_beside(
    parts: Sequence[xr.Variable | None],
    places: Sequence[Array],
    dims: Sequence[str],
    lengths: Sequence[int],
    dtype: Any,
) -> da.Array:
    name = f"beside-{uuid.uuid4().hex}"
    arrays = [None if p is None else _dask(p.data) for p in parts]
    # what all have in the same pieces stays in pieces; what must be padded is one piece
    held = [a for a in arrays if a is not None]
    chunks: list[tuple[int, ...]] = []
    for k, (d, length) in enumerate(zip(dims, lengths, strict=True)):
        same = {a.chunks[k] for a in held}
        if d == schema.EPOCH:
            chunks.append((1,) * length)
        else:
            chunks.append(same.pop() if len(same) == 1 else (length,))
    epoch = dims.index(schema.EPOCH) if schema.EPOCH in dims else None
    pieces = []
    for index in itertools.product(*(range(len(c)) for c in chunks)):
        shape = (1, *(c[i] for c, i in zip(chunks, index, strict=True)))
        pad = functools.partial(_padded, shape, FILL[np.dtype(dtype).kind], np.dtype(dtype))
        pieces.append((index, pad))
    tasks: dict[Any, Any] = {}
    sources = []
    for r, array in enumerate(arrays):
        if array is None:
            tasks.update({(name, r, *index): (pad,) for index, pad in pieces})
            continue
        goal = {
            k: 1 if k == epoch else (-1 if len(chunks[k]) == 1 else chunks[k])
            for k in range(array.ndim)
        }
        array = array.rechunk(goal)  # type: ignore[no-untyped-call]
        sources.append(array)
        own = array.name
        if epoch is None:
            tasks.update({(name, r, *index): (pad, (own, *index)) for index, pad in pieces})
            continue
        there = {int(p): e for e, p in enumerate(places[r])}
        for index, pad in pieces:
            e = there.get(index[epoch])
            key = None if e is None else (own, *index[:epoch], e, *index[epoch + 1 :])
            tasks[name, r, *index] = (pad,) if key is None else (pad, key)
    graph = _graph({name: tasks}, {}, {name: sources})
    return _array(graph, name, ((1,) * len(parts), *chunks), dtype)


def _array(graph: HighLevelGraph, name: str, chunks: Sequence[Any], dtype: Any) -> da.Array:
    return da.Array(graph, name, tuple(chunks), dtype=dtype)  # type: ignore[no-untyped-call]


def _dask(data: Any) -> da.Array:
    array: da.Array = da.asarray(data)  # type: ignore[no-untyped-call]
    return array


def _padded(shape: tuple[int, ...], fill: Any, dtype: Any, block: Array | None = None) -> Array:
    if block is not None and block.shape == shape[1:]:
        return block[None].astype(dtype, copy=False)
    whole = np.full(shape, fill, dtype)
    if block is not None:
        whole[0][tuple(slice(n) for n in block.shape)] = block
    return whole

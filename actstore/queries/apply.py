"""Applying a kernel to the moments of every epoch, lazily, and putting the runs together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore._version import __version__
from actstore.errors import InvalidDataError, InvalidParameterError
from actstore.kernels.moments import Moments, alive
from actstore.queries.graph import SUBSET, Output, beside, over_epochs
from actstore.queries.sources import Source

Array: TypeAlias = npt.NDArray[Any]

__all__ = [
    "SUBSET",
    "Kernel",
    "Layer",
    "Output",
    "concat_runs",
    "describe",
    "per_epoch",
    "subset_blocks",
]

#: fewer dask tasks than this leave cores idle: the subsets of an epoch are then shared out
FEW_TASKS = 8
SUBSET_BLOCKS = 4


class Layer(NamedTuple):
    """What a kernel sees of one epoch: moments of the neurons that are alive, and where they are.

    Attributes
    ----------
    moments : tuple of Moments
        One a split that was asked for, of the alive neurons alone.
    alive : (neuron,) int64
        Their places among all ``width`` neurons.
    width : int
        Neurons, dead ones included.
    """

    moments: tuple[Moments, ...]
    alive: Array
    width: int

    @property
    def comoment(self) -> Array:
        """The co-moment of the first split ``(neuron, neuron)``."""
        return self.moments[0].comoment

    @property
    def samples(self) -> int:
        """Samples of the first split."""
        return self.moments[0].count

    def spread(self, values: Array, *, fill: Any) -> Array:
        """Return values of the alive neurons at their places among all, ``fill`` elsewhere."""
        whole = np.full((*values.shape[:-1], self.width), fill, values.dtype)
        whole[..., self.alive] = values
        return whole


#: a kernel returns its outputs in order, each with the leading dim ``subset`` if it was given one
Kernel: TypeAlias = Callable[..., tuple[Any, ...]]


def per_epoch(
    kernel: Kernel,
    source: Source,
    splits: Sequence[str],
    outputs: Mapping[str, Output],
    *,
    sizes: Mapping[str, int],
    cache: bool | None,
    extra: Sequence[xr.DataArray] = (),
    subsets: int | None = None,
    blocks: int = 1,
) -> xr.Dataset:
    """Apply ``kernel(layer, *extra)`` to each epoch of a source.

    With ``subsets`` the kernel is also given, last, the numbers of the subsets to answer for;
    ``blocks`` tasks then share them out. ``extra`` arrays have ``epoch`` as their first dim.

    Returns
    -------
    Dataset
        The outputs with the leading dims ``(epoch,)`` or ``(epoch, subset)``. Lazy.
    """
    if source.run is None and len(splits) > 1:
        raise InvalidParameterError(
            f"splits {splits[0]!r} and {splits[1]!r} were asked of a dataset, which holds one "
            "split; ask them of a store"
        )
    arguments = [
        moments[name]
        for moments in (source.moments(split, cache=cache) for split in splits)
        for name in (schema.COUNT, schema.MEAN, schema.COMOMENT)
    ]
    name, held = source.name, len(arguments)  # a closure over the source would carry its data

    def on_layer(epoch: int, *arrays: Array) -> tuple[Any, ...]:
        layer = _layer(arrays[:held], f"epoch {epoch} of run {name!r}")
        return kernel(layer, *arrays[held:])

    return over_epochs(
        on_layer, [*arguments, *extra], outputs, epochs=source.epochs, sizes=sizes,
        subsets=subsets, blocks=blocks,
    )  # fmt: skip


def subset_blocks(found: Sequence[Source], subsets: int) -> int:
    """Return into how many tasks to share the subsets of an epoch."""
    tasks = sum(len(source.epochs) for source in found)
    return 1 if tasks >= FEW_TASKS else min(subsets, SUBSET_BLOCKS)


def concat_runs(results: Sequence[xr.Dataset], found: Sequence[Source]) -> xr.Dataset:
    """Put results of runs side by side along ``run``; what a run does not have is NaN."""
    keys = list(dict.fromkeys(key for source in found for key in source.coords))
    names = [source.name for source in found]
    whole = beside(results, schema.RUN)
    coords = {key: (schema.RUN, column([s.coords.get(key) for s in found])) for key in keys}
    labelled = whole.assign_coords({schema.RUN: names, **coords})
    for name in [schema.EPOCH, *keys]:
        if name in labelled.coords:
            labelled[name].attrs.update(schema.describe(name))
    return labelled


def describe(
    data: xr.Dataset, query: str, found: Sequence[Source] = (), **parameters: Any
) -> xr.Dataset:
    """Write into a result what it answers and how: a saved result explains itself."""
    own = {key: named for source in found for key, named in source.named.items()}
    kept = {k: own.get(k, v) for k, v in parameters.items() if v is not None}
    attrs = {k: list(v) if isinstance(v, tuple | list) else v for k, v in kept.items()}
    attrs = {
        k: int(v) if isinstance(v, bool) else v for k, v in attrs.items()
    }  # NetCDF has no bool
    return data.assign_attrs({"query": query, **attrs, "actstore_version": __version__})


def _layer(parts: Sequence[Array], where: str) -> Layer:
    moments = [Moments(int(parts[i]), *parts[i + 1 : i + 3]) for i in range(0, len(parts), 3)]
    mask = alive(moments[0])
    if not mask.any():
        raise InvalidDataError(
            f"all {mask.size} neurons are dead (zero variance) at {where}; "
            "choose another epoch or layer"
        )
    if not mask.all():
        keep = np.ix_(mask, mask)
        moments = [Moments(m.count, m.mean[mask], m.comoment[keep]) for m in moments]
    return Layer(tuple(moments), np.flatnonzero(mask), mask.size)


def column(values: list[Any]) -> Array:
    """Values of one setting over runs, as numbers if all are, else as words."""
    if all(isinstance(v, int | float | bool) for v in values):
        return np.asarray(values)
    if all(isinstance(v, int | float | bool) or v is None for v in values):
        return np.asarray([np.nan if v is None else float(v) for v in values])
    return np.asarray(["" if v is None else str(v) for v in values])

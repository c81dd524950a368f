"""Logits of recorded networks and of parts of them, from stored activations and readout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidDataError
from actstore.kernels.partition import random_partition
from actstore.queries.blas import single_threaded
from actstore.queries.sources import Source

Array: TypeAlias = npt.NDArray[Any]

MEMBER = "member"


def _bare(array: xr.DataArray) -> xr.DataArray:
    return (
        array.isel({schema.EPOCH: 0}, drop=True)
        .reset_coords(drop=True)
        .drop_vars(array.dims, errors="ignore")
    )


def same_labels(found: Sequence[Source], split: str) -> xr.DataArray:
    """Return the labels ``(sample,)`` that all runs have, in memory.

    Raises
    ------
    InvalidDataError
        If runs differ in samples or labels.
    """
    assert found[0].run is not None
    first = found[0].run.labels(split)
    for source in found[1:]:
        assert source.run is not None
        if not first.identical(source.run.labels(split)):
            raise InvalidDataError(
                f"split {split!r} of run {source.name!r} has other samples or labels than run "
                f"{found[0].name!r}; networks are compared on the same samples only"
            )
    return first


def logits_of(source: Source, split: str, layer: str) -> xr.DataArray:
    """Return the logits ``(sample, output)`` of a run, lazily."""
    assert source.run is not None
    readout = source.run.readout()

    def kernel(x: Array, weight: Array, bias: Array) -> Array:
        with single_threaded():
            return x.astype(np.float64) @ weight.T + bias

    logits: xr.DataArray = xr.apply_ufunc(
        kernel,
        _bare(source.run.dataset(split, layer)[schema.ACTIVATIONS]),
        _bare(readout[schema.WEIGHT]),
        _bare(readout[schema.BIAS]),
        # samples are no core dim: where an epoch is read in blocks of them, so are its logits
        input_core_dims=[[schema.NEURON], [schema.OUTPUT, schema.NEURON], [schema.OUTPUT]],
        output_core_dims=[[schema.OUTPUT]],
        dask="parallelized",
        output_dtypes=["float64"],
    )
    return logits


def clone_logits(source: Source, split: str, layer: str, size: int, rng_seed: int) -> xr.DataArray:
    """Return the logits ``(member, sample, output)`` of disjoint subsets, rescaled."""
    assert source.run is not None
    parts = random_partition(source.width, size, seed=rng_seed)
    count = source.width // size
    readout = source.run.readout()

    def kernel(x: Array, weight: Array, bias: Array) -> Array:
        with single_threaded():
            return np.stack(
                [
                    count * (x[:, parts == k].astype(np.float64) @ weight[:, parts == k].T) + bias
                    for k in range(count)
                ],
                axis=1,
            )

    logits: xr.DataArray = xr.apply_ufunc(
        kernel,
        _bare(source.run.dataset(split, layer)[schema.ACTIVATIONS]),
        _bare(readout[schema.WEIGHT]),
        _bare(readout[schema.BIAS]),
        input_core_dims=[[schema.NEURON], [schema.OUTPUT, schema.NEURON], [schema.OUTPUT]],
        output_core_dims=[[MEMBER, schema.OUTPUT]],
        dask="parallelized",
        output_dtypes=["float64"],
        dask_gufunc_kwargs={"output_sizes": {MEMBER: count}},
    )
    return logits.transpose(MEMBER, schema.SAMPLE, schema.OUTPUT)

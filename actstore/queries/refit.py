"""The error of a linear readout that is fitted anew to a subset of the neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.kernels.readout import readout_errors
from actstore.kernels.reconstruction import random_subsets
from actstore.kernels.refit import one_hot_cross_moment, refit_weights
from actstore.queries.blas import single_threaded
from actstore.queries.reconstruction import SIZE, size_coords
from actstore.queries.sources import Source

Array: TypeAlias = npt.NDArray[Any]

REFIT_SUBSET = "refit_subset"


def refitted(
    source: Source,
    fit_split: str,
    score_split: str,
    layer: str,
    sizes: Sequence[int],
    subsets: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
) -> xr.Dataset:
    """Return ``error_refit (epoch, refit_subset, subset_size)``, fitted on one split, scored on another.

    The fit needs the moments of ``fit_split`` and its co-moment with the one-hot labels, which is
    one pass over its samples; every subset's readout follows from them.
    """  # noqa: E501
    run = source.run
    assert run is not None
    moments = source.moments(fit_split, cache=cache)
    fit, score = run.dataset(fit_split, layer), run.dataset(score_split, layer)
    n_classes = int(run.readout().sizes[schema.OUTPUT])
    exist = [(k, size) for k, size in enumerate(sizes) if size <= source.width]
    orders = random_subsets(source.width, subsets=subsets, seed=rng_seed)

    def kernel(
        comoment: Array, mean: Array, x_fit: Array, y_fit: Array, x: Array, y: Array
    ) -> Array:
        out = np.full((len(x), subsets, len(sizes)), np.nan)
        with single_threaded():
            for e in range(len(x)):
                moment = one_hot_cross_moment(x_fit[e], y_fit, n_classes)
                weights = np.zeros((subsets * len(exist), n_classes, source.width))
                biases = np.zeros((subsets * len(exist), n_classes))
                for t, order in enumerate(orders):
                    for j, (_, size) in enumerate(exist):
                        subset = order[:size]
                        weight, bias = refit_weights(
                            comoment[e], moment.cross, mean[e], moment.mean_y, subset, ridge=ridge
                        )
                        weights[t * len(exist) + j][:, subset] = weight
                        biases[t * len(exist) + j] = bias
                wrong = readout_errors(x[e], y, weights, biases).wrong
                shares = wrong.reshape(subsets, len(exist)) / len(y)
                out[e][:, [k for k, _ in exist]] = shares
        return out

    def bare(array: xr.DataArray) -> xr.DataArray:
        whole = array.drop_vars([c for c in array.coords if c != schema.EPOCH])
        return whole.chunk({d: -1 for d in whole.dims if d != schema.EPOCH})

    errors = xr.apply_ufunc(
        kernel,
        moments[schema.COMOMENT],
        moments[schema.MEAN],
        bare(fit[schema.ACTIVATIONS]).rename({schema.SAMPLE: "fit_sample"}),
        bare(fit[schema.LABEL]).rename({schema.SAMPLE: "fit_sample"}),
        bare(score[schema.ACTIVATIONS]),
        bare(score[schema.LABEL]),
        input_core_dims=[
            [schema.NEURON, schema.OTHER_NEURON],
            [schema.NEURON],
            ["fit_sample", schema.NEURON],
            ["fit_sample"],
            [schema.SAMPLE, schema.NEURON],
            [schema.SAMPLE],
        ],
        output_core_dims=[[REFIT_SUBSET, SIZE]],
        dask="parallelized",
        output_dtypes=["float64"],
        dask_gufunc_kwargs={"output_sizes": {REFIT_SUBSET: subsets, SIZE: len(sizes)}},
    )
    text = "error of the subset with its readout fitted anew"
    return xr.Dataset(
        {"error_refit": errors.assign_attrs(long_name=text, units="1")}
    ).assign_coords({**size_coords(sizes), REFIT_SUBSET: np.arange(subsets)})

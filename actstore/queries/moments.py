"""Count, mean and centred co-moment of a layer: what every other question is asked of."""

from __future__ import annotations

import xarray as xr

from actstore import schema
from actstore.kernels.moments import Moments, alive
from actstore.queries.apply import concat_runs, describe
from actstore.queries.sources import Data, sources


def moments(
    data: Data,
    *,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    cache: bool | None = None,
) -> xr.Dataset:
    r"""Return the moments of a layer at every epoch.

    .. math:: μ = \frac1n \sum x, \qquad C = \sum (x - μ)(x - μ)^T

    Parameters
    ----------
    data : Store or Dataset
        A store, a selection of it, or a dataset with ``activations (epoch, sample, neuron)``.
    split, layer : str
    cache : bool, optional
        Whether to read and keep them in the store; by default if they are smaller than the
        activations.

    Returns
    -------
    Dataset
        ``count (run, epoch)``, ``mean (run, epoch, neuron)``, ``comoment (run, epoch, neuron,
        other_neuron)`` float64, ``total_variance (run, epoch)``, ``is_alive (run, epoch, neuron)``
        bool: whether the neuron varies. Runs of different widths are padded with NaN and False.
        Lazy: nothing is read until values are asked for.

    Raises
    ------
    NotInStoreError
        If a run does not hold the split or the layer.

    References
    ----------
    Not a measurement of arXiv 2106.03485, but what its regressions are made of: from the moments
    they follow exactly, and the samples are read once. Chan, Golub & LeVeque (1983), Am. Stat. 37:
    the merging of blocks.
    """
    found = sources(data, split=split, layer=layer)
    results = []
    for source in found:
        one = source.moments(split, cache=cache)
        variances = xr.apply_ufunc(
            lambda c: c.diagonal(axis1=-2, axis2=-1).sum(-1),
            one[schema.COMOMENT],
            input_core_dims=[[schema.NEURON, schema.OTHER_NEURON]],
            dask="parallelized",
            output_dtypes=["float64"],
        )
        total = (variances / (one[schema.COUNT] - 1)).assign_attrs(
            long_name="sum of the neurons' variances", units="1"
        )
        varies = xr.apply_ufunc(
            lambda *layer: alive(Moments(*layer)),
            *(one[name] for name in (schema.COUNT, schema.MEAN, schema.COMOMENT)),
            input_core_dims=[[], [schema.NEURON], [schema.NEURON, schema.OTHER_NEURON]],
            output_core_dims=[[schema.NEURON]],
            dask="parallelized",
            output_dtypes=["bool"],
        ).assign_attrs(long_name="whether the neuron varies", units="1")
        results.append(one.assign(total_variance=total, is_alive=varies))
    return describe(concat_runs(results, found), "moments", found, split=split, layer=layer)

"""How much of a layer random subsets of its neurons carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from actstore import schema
from actstore.kernels.reconstruction import cross_prefix_r2, prefix_r2, random_subsets
from actstore.queries.apply import SUBSET, Layer, Output, concat_runs, describe, per_epoch
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.graph import over_epochs
from actstore.queries.parameters import (
    check_positive,
    check_seed_and_ridge,
    subset_sizes,
)
from actstore.queries.sources import Data, Source, sources, warn_of_few_samples

SIZE = "subset_size"

OUTPUTS = {
    "r2": Output((SIZE,), "variance-weighted R² of all neurons from the subset"),
    "r2_heldout": Output((SIZE,), "variance-weighted R² of the neurons outside the subset"),
    "alive": Output((), "neurons that are not dead", dtype="int64", by_subset=False),
}


def reconstruction(
    data: Data,
    *,
    subset_size: int | Sequence[int] | str | None = None,
    subsets: int = 40,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    fit_split: str | None = None,
    score_split: str | None = None,
    rng_seed: int = 0,
    ridge: float = 1e-8,
    cache: bool | None = None,
) -> xr.Dataset:
    r"""Return R² of the layer from random subsets of its neurons.

    A ridge regression from the subset to the layer leaves of the co-moment C the Schur complement
    of the subset. With the neurons in random order and :math:`C + λI = L L^T` it follows for
    every subset size w at once, without a regression: but for λ,

    .. math::

        r2(w) = 1 - \frac{\sum_{j ≥ w} \|L_{:,j}\|^2}{\operatorname{tr} C}, \quad
        r2\_heldout(w) = 1 - \frac{\sum_{j ≥ w} \|L_{:,j}\|^2}{\sum_{i ≥ w} C_{ii}},

    over all neurons, as in the paper, and over those outside the subset: in the first the
    subset's own neurons count as explained, which makes it rise whatever the data do.

    Parameters
    ----------
    data : Store or Dataset
        A store, a selection of it, or a dataset with ``activations (epoch, sample, neuron)``.
    subset_size : int, sequence of int, "all" or None
        Sizes w to answer for; None is the width, its half, its quarter, … 1.
    subsets : int
        Random subsets a size (the paper: 40). The subsets of one number are nested.
    split, layer : str
        Which activations; the regression is fitted and scored on the same samples, as in the
        paper, unless ``fit_split`` and ``score_split`` are given.
    fit_split, score_split : str, optional
        Fit on one split and score on another, from their moments alone.
    rng_seed : int
        Seed of the subsets.
    ridge : float
        λ relative to the mean variance of the neurons; 0 to 1e-6 agree to 4 digits.
    cache : bool, optional
        Whether moments are kept in the store; by default if they are smaller than the activations.

    Returns
    -------
    Dataset
        ``r2, r2_heldout (run, epoch, subset, subset_size)`` float64, NaN where a subset does not
        exist (and ``r2_heldout`` of the whole layer); ``alive (run, epoch)``: neurons that are
        not dead; dead ones are in no subset. Lazy: nothing is read until values are asked for.

    Raises
    ------
    InvalidParameterError
        If a size is below 1 or above the width.
    InvalidDataError
        On asking for values, if every neuron is dead.
    NotInStoreError
        If a run does not hold a split or the layer.

    Notes
    -----
    Against the paper's script: R² is that of its regression (fitted and scored on the same
    samples), with λ relative to the mean variance, where its ``alpha`` of 1e-8 is absolute;
    neurons without variance are left out; and the sizes of one subset are nested, where the
    paper draws each size anew: the mean over subsets is the same in expectation, and sizes share
    their deviations from it.

    References
    ----------
    arXiv 2106.03485, figure 4e of the NeurIPS version (R² of a "chunk"); its reference semantics
    are those of the authors' code.

    Examples
    --------
    >>> from actstore.testing import planted_dataset
    >>> result = reconstruction(planted_dataset(), subset_size=[4, 8, 16])
    >>> result.r2_heldout.mean("subset").dims
    ('run', 'epoch', 'subset_size')
    """
    check_positive(subsets=subsets)
    check_seed_and_ridge(rng_seed, ridge)
    fit, score = fit_split or split, score_split or fit_split or split
    found = sources(data, split=fit, layer=layer)
    if fit == score:
        warn_of_few_samples(found)
    sizes = subset_sizes(subset_size, found)
    results = [
        curves_of(
            source, (fit,) if fit == score else (fit, score), sizes, subsets=subsets,
            rng_seed=rng_seed, ridge=ridge, cache=cache, blocks=blocks_for(found, subsets),
        )
        for source in found
    ]  # fmt: skip
    return describe(
        concat_runs(results, found),
        "reconstruction",
        found,
        split=score,
        fit_split=fit,
        layer=layer,
        subsets=subsets,
        rng_seed=rng_seed,
        ridge=ridge,
    )


def curves_of(
    source: Source,
    splits: tuple[str, ...],
    sizes: Sequence[int],
    *,
    subsets: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
    blocks: int,
) -> xr.Dataset:
    """Return the R² curves of one source; fitted on the first split, scored on the last."""

    def kernel(layer: Layer, numbers: np.ndarray[Any, Any]) -> tuple[Any, ...]:
        n = len(layer.alive)
        orders = random_subsets(n, subsets=subsets, seed=rng_seed)[numbers]
        whole = np.full((2, len(numbers), len(sizes)), np.nan)
        exist = np.flatnonzero(np.asarray(sizes) <= n)
        wanted = np.asarray(sizes)[exist]
        for t, order in enumerate(orders):
            if len(layer.moments) == 1:
                curves = prefix_r2(layer.comoment, order, ridge=ridge)
                whole[:, t, exist] = np.stack(curves)[:, wanted - 1]
            else:
                fit, score = layer.moments
                whole[:, t, exist] = cross_prefix_r2(
                    fit, score, order, sizes=wanted.tolist(), ridge=ridge
                )
        return whole[0], whole[1], n

    curves = per_epoch(
        kernel, source, splits, OUTPUTS, sizes={SIZE: len(sizes)}, cache=cache, subsets=subsets,
        blocks=blocks,
    )  # fmt: skip
    return curves.assign_coords({**size_coords(sizes), SUBSET: np.arange(subsets)})


def at_sizes(every: xr.Dataset, sizes: Sequence[int]) -> xr.Dataset:
    """Return the R² curves of some sizes out of those of every size; NaN beyond the width."""
    width = every.sizes[SIZE]
    exist = np.flatnonzero(np.asarray(sizes) <= width)
    places = np.asarray(sizes)[exist] - 1

    def kernel(_epoch: int, *curves: np.ndarray[Any, Any]) -> tuple[Any, ...]:
        found = np.full((len(curves), len(curves[0]), len(sizes)), np.nan)
        for chosen, curve in zip(found, curves, strict=True):
            chosen[:, exist] = curve[:, places]
        return tuple(found)

    outputs = {
        name: output._replace(dims=(SUBSET, *output.dims))
        for name, output in OUTPUTS.items()
        if output.by_subset
    }
    return over_epochs(
        kernel,
        [every[name] for name in outputs],
        outputs,
        epochs=every[schema.EPOCH].values,
        sizes={SIZE: len(sizes), SUBSET: every.sizes[SUBSET]},
    ).assign_coords({**size_coords(sizes), SUBSET: every[SUBSET]})


def size_coords(sizes: Sequence[int]) -> dict[str, Any]:
    """Return the coordinate ``subset_size``."""
    attrs = {"long_name": "neurons in the subset", "units": "neurons"}
    return {SIZE: (SIZE, np.asarray(sizes), attrs)}

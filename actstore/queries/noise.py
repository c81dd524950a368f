"""Whether what a subset misses of its layer is independent noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.kernels.independence import (
    marchenko_pastur_edge,
    residual_correlations,
    sampling_floor,
)
from actstore.kernels.reconstruction import random_subsets
from actstore.queries.apply import SUBSET, Layer, Output, concat_runs, describe, per_epoch
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.parameters import check_positive, subset_sizes
from actstore.queries.reconstruction import SIZE, size_coords
from actstore.queries.sources import Data, Source, sources

Array: TypeAlias = npt.NDArray[Any]

CORRELATIONS = {
    "residual_correlation_heldout": Output(
        (SIZE,), "mean absolute correlation of residuals, neurons outside the subset"
    ),
    "residual_correlation": Output(
        (SIZE,), "mean absolute correlation of residuals, all neurons (the paper's)"
    ),
    "largest_eigenvalue": Output((SIZE,), "largest eigenvalue of the residual correlations"),
}
REFERENCES = {
    "sampling_floor": Output((SIZE,), "mean absolute correlation of independent noise"),
    "marchenko_pastur_edge": Output((SIZE,), "largest eigenvalue expected of independent noise"),
    "alive": Output((), "neurons that are not dead", dtype="int64"),
    "count": Output((), "samples", dtype="int64"),
}


def noise(
    data: Data,
    *,
    subset_size: int | Sequence[int] | str | None = None,
    subsets: int = 40,
    eigenvalues: bool = False,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    rng_seed: int = 0,
    ridge: float = 1e-8,
    cache: bool | None = None,
) -> xr.Dataset:
    r"""Return how strongly the residuals of subsets correlate, beside what noise would give.

    The residuals of the regression of the layer on a subset have the covariance
    :math:`C_{22} - C_{21} C_{11}^{-1} C_{12}`. ``residual_correlation_heldout`` is the mean
    absolute correlation over pairs of neurons outside the subset; ``residual_correlation`` is the
    paper's, over all pairs, whose fall to zero at w = W is arithmetic: the subset's own residuals
    are zero.

    Parameters
    ----------
    data : Store or Dataset
        A store, a selection of it, or a dataset with ``activations (epoch, sample, neuron)``.
    subset_size : int, sequence of int, "all" or None
        Sizes w to answer for; None is the width, its half, its quarter, … 1.
    subsets : int
        Random subsets a size (the paper: 40).
    eigenvalues : bool
        Whether to compute the largest eigenvalues of the residual correlations as well.
    split, layer : str
        Which activations.
    rng_seed : int
        Seed of the subsets.
    ridge : float
        λ relative to the mean variance of the neurons.
    cache : bool, optional
        Whether moments are kept in the store; by default if they are smaller than the activations.

    Returns
    -------
    Dataset
        ``residual_correlation_heldout``, ``residual_correlation`` and, if asked for,
        ``largest_eigenvalue`` with dims ``(run, epoch, subset, subset_size)``;
        ``sampling_floor`` :math:`\sqrt{2 / (π \, dof)}` with dof = samples − 1 − w, and
        ``marchenko_pastur_edge`` with dims ``(run, epoch, subset_size)``; ``alive`` and
        ``count (run, epoch)``. NaN where fewer than two neurons are outside. Lazy: nothing is
        read until values are asked for.

    Raises
    ------
    InvalidParameterError
        If a size is below 1 or above the width.
    InvalidDataError
        On asking for values, if every neuron is dead.
    NotInStoreError
        If a run does not hold the split or the layer.

    Notes
    -----
    About 10,000 samples are needed: with N samples independent residuals still show a mean of
    ``sampling_floor``. The floor is a lower bound, since a regression on noisy neurons injects an
    error that the residuals share.

    References
    ----------
    arXiv 2106.03485, section 3 and figure 2 (correlation of the residuals).

    Examples
    --------
    >>> from actstore.testing import planted_dataset
    >>> result = noise(planted_dataset(), subset_size=[8, 16])
    >>> bool((result.residual_correlation <= result.residual_correlation_heldout).all())
    True
    """
    check_positive(subsets=subsets)
    found = sources(data, split=split, layer=layer)
    sizes = subset_sizes(subset_size, found)
    results = [
        _one(source, split, sizes, subsets, eigenvalues, rng_seed, ridge, cache,
             blocks_for(found, subsets))
        for source in found
    ]  # fmt: skip
    return describe(
        concat_runs(results, found),
        "noise",
        split=split,
        layer=layer,
        subsets=subsets,
        rng_seed=rng_seed,
        ridge=ridge,
    )


def _one(
    source: Source,
    split: str,
    sizes: Sequence[int],
    subsets: int,
    eigenvalues: bool,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
    blocks: int,
) -> xr.Dataset:
    outputs = {k: v for k, v in CORRELATIONS.items() if eigenvalues or k != "largest_eigenvalue"}

    def kernel(layer: Layer, numbers: Array) -> tuple[Array, ...]:
        n = len(layer.alive)
        orders = random_subsets(n, subsets=subsets, seed=rng_seed)[numbers]
        exist = np.flatnonzero(np.asarray(sizes) <= n)
        wanted = np.asarray(sizes)[exist].tolist()
        whole = np.full((3, len(numbers), len(sizes)), np.nan)
        for t, order in enumerate(orders):
            found = residual_correlations(
                layer.comoment, order, sizes=wanted, ridge=ridge, eigenvalues=eigenvalues
            )
            whole[:, t, exist] = found
        return tuple(whole[: len(outputs)])

    def references(layer: Layer) -> tuple[Any, ...]:
        n = len(layer.alive)
        w = np.where(np.asarray(sizes) <= n, np.asarray(sizes, float), np.nan)
        dof = layer.samples - 1 - w
        return sampling_floor(dof), marchenko_pastur_edge(n - w, dof), n, layer.samples

    lengths = {SIZE: len(sizes)}
    measured = per_epoch(
        kernel, source, (split,), outputs, sizes=lengths, cache=cache, subsets=subsets,
        blocks=blocks,
    )  # fmt: skip
    expected = per_epoch(references, source, (split,), REFERENCES, sizes=lengths, cache=cache)
    return xr.merge([measured, expected]).assign_coords(
        {**size_coords(sizes), SUBSET: np.arange(subsets)}
    )

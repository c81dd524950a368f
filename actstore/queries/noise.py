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
from actstore.queries.null import Factors, check_factors, judged, null_of
from actstore.queries.parameters import (
    check_positive,
    check_seed_and_ridge,
    subset_sizes,
)
from actstore.queries.reconstruction import SIZE, size_coords
from actstore.queries.sources import Data, Source, sources, warn_of_few_samples

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
    "sampling_floor": Output(
        (SIZE,), "mean absolute correlation of independent noise", by_subset=False
    ),
    "alive": Output((), "neurons that are not dead", dtype="int64", by_subset=False),
    "count": Output((), "samples", dtype="int64", by_subset=False),
}
EDGE = {
    "marchenko_pastur_edge": Output(
        (SIZE,), "largest eigenvalue expected of noise", by_subset=False
    )
}


def noise(
    data: Data,
    *,
    subset_size: int | Sequence[int] | str | None = None,
    subsets: int = 40,
    factors: Factors = "gap",
    repeats: int = 20,
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
    paper's, over all pairs. The subset's own residuals are zero, so it is the held-out value
    times :math:`(W - w)(W - w - 1) / (W (W - 1))`, whose fall to zero at w = W is arithmetic.

    Parameters
    ----------
    data : Store or Dataset
        A store, a selection of it, or a dataset with ``activations (epoch, sample, neuron)``.
    subset_size : int, sequence of int, "all" or None
        Sizes w to answer for; None is the width, its half, its quarter, … 1.
    subsets : int
        Random subsets a size (the paper: 40).
    factors : int, "gap", "bic", a sequence of these, or None
        Number of shared signals of the matched null, or the rule that chooses it: "gap" puts the
        border where consecutive eigenvalues differ most, "bic" counts every correlation that
        pays for its parameters. Several add a dim ``factors`` and show how the answer depends on
        it; None leaves the null out.
    repeats : int
        Simulated layers of the null; its interval is taken over them.
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
        ``residual_correlation_heldout`` and ``residual_correlation`` with dims ``(run, epoch,
        subset, subset_size)``; ``sampling_floor`` :math:`\sqrt{2 / (π \, dof)}` with dof =
        samples − 1 − w ``(run, epoch, subset_size)``; of the matched null, with the same dims,
        ``null``, ``null_low`` and ``null_high`` (90 %), ``excess`` (measured / null),
        ``consistent`` and the ``verdict`` in words, and ``n_factors`` and
        ``factors_converged (run, epoch)``, all with the dim ``factors`` after ``epoch`` if
        several were asked for; with ``eigenvalues``, ``largest_eigenvalue (run, epoch, subset,
        subset_size)`` and ``marchenko_pastur_edge (run, epoch, subset_size)``; ``alive`` and
        ``count (run, epoch)``. NaN where fewer than two neurons are outside. Lazy: nothing is
        read until values are asked for.

    Raises
    ------
    InvalidParameterError
        If a size is below 1 or above the width, or ``factors`` is no number, rule or list of them.
    InvalidDataError
        On asking for values, if every neuron is dead.
    NotInStoreError
        If a run does not hold the split or the layer.

    Notes
    -----
    About 10,000 samples are needed: with N samples independent residuals still show a mean of
    ``sampling_floor``. The floor is a lower bound, since a regression on noisy neurons injects an
    error that the residuals share. The **matched null** has it too: a factor model ΛΛᵀ + Ψ
    (shared signals and independent noise) is fitted to the measured covariance by maximum
    likelihood, the co-moments of as many Gaussian samples as were measured are drawn from it,
    and the same subsets evaluated: tails heavier than a Gaussian's are not in the null. Each
    simulation evaluates a few of them, in turn, so that all have the same weight: subsets differ
    by more than simulations do. A measurement is ``consistent`` with independent
    noise if its mean over subsets is no more than 5 % above the null or within its interval. The
    number of factors matters: too few leave shared signals in the residuals, and enough of them
    explain any correlated noise. "gap" and "bic" bracket the answer; it is firm where both give
    the same. Factors that independent noise would show too are not counted, so ``n_factors`` can
    be less than was asked for. In small subsets the error that the regression shares outweighs
    what correlated noise shares: judge by the larger ones.

    References
    ----------
    arXiv 2106.03485, figure 4e of the NeurIPS version (mean correlation of the residuals). The
    held-out value, the floor, the null and the edge are not in the paper: without them a fall to
    zero that is arithmetic looks like independence. Lawley & Maxwell (1971) for the fit; Bartlett
    (1933) for the draws; Marchenko & Pastur (1967).

    Examples
    --------
    >>> from actstore.testing import planted_dataset
    >>> result = noise(planted_dataset(), subset_size=[8, 16])
    >>> bool((result.residual_correlation <= result.residual_correlation_heldout).all())
    True
    """
    check_positive(subsets=subsets, repeats=repeats)
    check_seed_and_ridge(rng_seed, ridge)
    wanted = check_factors(factors)
    found = sources(data, split=split, layer=layer)
    warn_of_few_samples(found)
    sizes = subset_sizes(subset_size, found)
    results = []
    for source in found:
        one = measured(
            source, split, sizes, eigenvalues=eigenvalues, subsets=subsets, rng_seed=rng_seed,
            ridge=ridge, cache=cache, blocks=blocks_for(found, subsets),
        )  # fmt: skip
        if wanted:
            null = null_of(
                source, split, sizes, factors, subsets=subsets, repeats=repeats,
                rng_seed=rng_seed, ridge=ridge, cache=cache,
            )  # fmt: skip
            one = one.assign(null.data_vars).assign_coords(null.coords)
        results.append(one)
    together = concat_runs(results, found)
    return describe(
        judged(together) if wanted else together,
        "noise",
        found,
        split=split,
        layer=layer,
        subsets=subsets,
        factors=factors,
        repeats=repeats,
        eigenvalues=eigenvalues,
        rng_seed=rng_seed,
        ridge=ridge,
    )


def measured(
    source: Source,
    split: str,
    sizes: Sequence[int],
    *,
    eigenvalues: bool,
    subsets: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
    blocks: int,
) -> xr.Dataset:
    """Return the residual correlations of one source, and what noise would give."""
    kept = {k: v for k, v in CORRELATIONS.items() if eigenvalues or k != "largest_eigenvalue"}
    outputs = {**kept, **REFERENCES, **(EDGE if eigenvalues else {})}

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
        w = np.where(np.asarray(sizes) <= n, np.asarray(sizes, float), np.nan)
        dof = layer.samples - 1 - w
        edge = (marchenko_pastur_edge(n - w, dof),) if eigenvalues else ()
        return *whole[: len(kept)], sampling_floor(dof), n, layer.samples, *edge

    return per_epoch(
        kernel, source, (split,), outputs, sizes={SIZE: len(sizes)}, cache=cache, subsets=subsets,
        blocks=blocks,
    ).assign_coords({**size_coords(sizes), SUBSET: np.arange(subsets)})  # fmt: skip

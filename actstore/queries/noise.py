"""Whether what a subset misses of its layer is independent noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.kernels.factors import FactorModel, choose_n_factors, fit_factors, matched_null
from actstore.kernels.independence import (
    marchenko_pastur_edge,
    residual_correlations,
    sampling_floor,
)
from actstore.kernels.reconstruction import random_subsets
from actstore.queries.apply import SUBSET, Layer, Output, concat_runs, describe, per_epoch
from actstore.queries.apply import subset_blocks as blocks_for
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
FACTORS = "factors"
RULES: dict[Any, Literal["gap", "bic"]] = {"gap": "gap", "bic": "bic"}

#: each repeat of the null is a mean over at least this many of the measured subsets
NULL_SUBSETS = 4
#: a measurement this much above the null is still called consistent: fits are no better
TOLERANCE = 0.05
VERDICT = "<U64"

NULL = {
    "null": Output((FACTORS, SIZE), "residual correlation of the matched null, held out"),
    "null_low": Output((FACTORS, SIZE), "matched null, 5 % point of its repeats"),
    "null_high": Output((FACTORS, SIZE), "matched null, 95 % point of its repeats"),
    "n_factors": Output((FACTORS,), "factors of the matched null", dtype="int64"),
    "factors_converged": Output((FACTORS,), "whether the fit of the factors ended", dtype="bool"),
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
    factors: int | str | Sequence[int | str] | None = "gap",
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
    likelihood, as many samples as were measured are drawn from it, and the same subsets
    evaluated. Each simulation evaluates a few of them, in turn, so that all have the same weight:
    subsets differ by more than simulations do. A measurement is ``consistent`` with independent
    noise if its mean over subsets is no more than 5 % above the null or within its interval. The
    number of factors matters: too few leave shared signals in the residuals, and enough of them
    explain any correlated noise. "gap" and "bic" bracket the answer; it is firm where both give
    the same. Factors that independent noise would show too are not counted, so ``n_factors`` can
    be less than was asked for. In small subsets the error that the regression shares outweighs
    what correlated noise shares: judge by the larger ones.

    References
    ----------
    arXiv 2106.03485, section 3 and figure 2 (correlation of the residuals); the null is not in
    the paper. Lawley & Maxwell (1971) for the fit; Marchenko & Pastur (1967).

    Examples
    --------
    >>> from actstore.testing import planted_dataset
    >>> result = noise(planted_dataset(), subset_size=[8, 16])
    >>> bool((result.residual_correlation <= result.residual_correlation_heldout).all())
    True
    """
    check_positive(subsets=subsets, repeats=repeats)
    check_seed_and_ridge(rng_seed, ridge)
    wanted = _check_factors(factors)
    found = sources(data, split=split, layer=layer)
    warn_of_few_samples(found)
    sizes = subset_sizes(subset_size, found)
    results = []
    for source in found:
        one = measured(
            source, split, sizes, eigenvalues=eigenvalues, subsets=subsets, rng_seed=rng_seed,
            ridge=ridge, cache=cache, blocks=blocks_for(found, subsets),
        )  # fmt: skip
        if wanted is not None:
            null = _null(
                source, split, sizes, subsets, wanted, repeats, rng_seed, ridge, cache
            )  # fmt: skip
            several = isinstance(factors, Iterable) and not isinstance(factors, str)
            wanted_null = null if several else null.isel({FACTORS: 0}, drop=True)
            one = one.assign(wanted_null.data_vars)
        results.append(one)
    together = concat_runs(results, found)
    return describe(
        together if wanted is None else _judged(together),
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


def _null(
    source: Source,
    split: str,
    sizes: Sequence[int],
    subsets: int,
    wanted: Sequence[int | str],
    repeats: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
) -> xr.Dataset:
    def kernel(layer: Layer) -> tuple[Array, ...]:
        n, count = len(layer.alive), layer.samples
        covariance = layer.comoment / (count - 1)
        orders = random_subsets(n, subsets=subsets, seed=rng_seed)
        # a null needs two neurons outside to correlate
        exist = np.flatnonzero(np.asarray(sizes) <= n - 2)
        levels = np.full((3, len(wanted), len(sizes)), np.nan)
        numbers, converged = np.zeros(len(wanted), int), np.ones(len(wanted), bool)
        for k, asked in enumerate(wanted):
            number = (
                choose_n_factors(covariance, count=count, rule=RULES[asked])
                if isinstance(asked, str)
                else asked
            )
            model = fit_factors(covariance, n_factors=min(number, n - 1), count=count)
            numbers[k], converged[k] = model.n_factors, model.converged
            if len(exist):
                levels[:, k, exist] = _simulated(
                    model, orders, repeats=repeats, rng_seed=rng_seed,
                    sizes=np.asarray(sizes)[exist].tolist(), count=count, ridge=ridge,
                )  # fmt: skip
        return levels[0], levels[1], levels[2], numbers, converged

    lengths = {SIZE: len(sizes), FACTORS: len(wanted)}
    null = per_epoch(kernel, source, (split,), NULL, sizes=lengths, cache=cache)
    names = [str(asked) for asked in wanted]
    return null.assign_coords({FACTORS: (FACTORS, names, {"long_name": "factors asked for"})})


def _simulated(
    model: FactorModel, orders: Array, *, repeats: int, rng_seed: int, **measurement: Any
) -> Array:
    """Return the mean of the null over all subsets, and its 5 and 95 % points ``(level, size)``.

    A few subsets can lie 10 % off the mean of all, at every draw alike. So they are cut into
    groups, and each group is evaluated on draws of its own, two at least: between groups subsets
    differ, within a group draws do, and only that belongs in the interval.
    """
    most = max(1, min(len(orders) // NULL_SUBSETS, repeats // 2))
    groups = max(g for g in range(1, most + 1) if repeats % g == 0)
    each = repeats // groups
    seeds = np.random.SeedSequence(rng_seed).generate_state(groups)
    drawn = [
        matched_null(model, part, repeats=each, seed=int(seed), **measurement)
        for part, seed in zip(np.array_split(orders, groups), seeds, strict=True)
    ]
    shares = [len(part) / len(orders) for part in np.array_split(orders, groups)]
    mean = np.average([one.mean(0) for one in drawn], axis=0, weights=shares)
    spread = np.concatenate([one / one.mean(0) - 1 for one in drawn])
    spread *= np.sqrt(each / max(each - 1, 1))  # the mean of a group was fitted to it
    return np.stack([mean, *(mean * (1 + np.quantile(spread, [0.05, 0.95], axis=0)))])


def _judged(answer: xr.Dataset) -> xr.Dataset:
    # In one step: dask.compute(dataset) loses a variable that another one is made of
    # (https://github.com/pydata/xarray/issues/11329).
    excess, consistent, verdict = xr.apply_ufunc(
        _judge, answer["null"], answer["null_high"], answer["factors_converged"],
        answer["residual_correlation_heldout"].mean(SUBSET),
        output_core_dims=[[], [], []], dask="parallelized",
        output_dtypes=["float64", "bool", VERDICT],
    )  # fmt: skip
    return answer.assign(
        excess=excess.assign_attrs(long_name="measured / matched null", units="1"),
        consistent=consistent.assign_attrs(long_name="no more than the matched null", units="1"),
        verdict=verdict.assign_attrs(long_name="verdict"),
    )


def _judge(null: Array, high: Array, converged: Array, measured: Array) -> tuple[Array, ...]:
    excess = measured / null
    consistent = (excess <= high / null) | (excess <= 1 + TOLERANCE)
    return excess, consistent, _in_words(excess, consistent, converged)


def _in_words(excess: Array, consistent: Array, converged: Array) -> Array:
    excess, consistent, converged = np.broadcast_arrays(excess, consistent, converged)
    words = np.full(excess.shape, "", dtype=VERDICT)
    for place in np.ndindex(excess.shape):
        if np.isfinite(excess[place]):
            words[place] = (
                "consistent with independent noise"
                if consistent[place]
                else f"{excess[place]:.2g} x the null"
            ) + ("" if converged[place] else ", whose fit did not converge")
    return words


def _check_factors(
    factors: int | str | Sequence[int | str] | None,
) -> list[int | str] | None:
    """Return the numbers of factors and the rules that were asked for."""
    if factors is None:
        return None
    one_only = isinstance(factors, str) or not isinstance(factors, Iterable)
    several: list[Any] = [factors] if one_only else list(factors)  # type: ignore[arg-type]
    if not several:
        raise InvalidParameterError(
            "no number of factors was given; 'gap' chooses one, None leaves the null out"
        )
    for one in several:
        if one not in RULES and (not isinstance(one, int | np.integer) or one < 0):
            raise InvalidParameterError(
                f"factors={one!r} was asked for; give a number from 0, 'gap', 'bic' or None"
            )
    return [one if isinstance(one, str) else int(one) for one in several]

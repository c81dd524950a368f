"""The matched null of residual correlations: what independent noise would give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore.errors import InvalidParameterError
from actstore.kernels.factors import FactorModel, choose_n_factors, fit_factors, matched_null
from actstore.kernels.reconstruction import random_subsets
from actstore.queries.apply import SUBSET, Layer, Output, per_epoch
from actstore.queries.reconstruction import SIZE
from actstore.queries.sources import Source

Array: TypeAlias = npt.NDArray[Any]
#: a number of factors, a rule that chooses it, several of these, or none
Factors: TypeAlias = int | str | Sequence[int | str] | None

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


def null_of(
    source: Source,
    split: str,
    sizes: Sequence[int],
    factors: Factors,
    *,
    subsets: int,
    repeats: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
) -> xr.Dataset:
    """Return the matched null of one source, with the dim ``factors`` if several are given.

    The variables are those of ``NULL``; see :func:`actstore.noise`.
    """
    wanted = check_factors(factors)

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
    null = null.assign_coords({FACTORS: (FACTORS, names, {"long_name": "factors asked for"})})
    return null if _are_several(factors) else null.isel({FACTORS: 0}, drop=True)


def judged(answer: xr.Dataset) -> xr.Dataset:
    """Return the answer with ``excess``, ``consistent`` and ``verdict`` beside the null."""
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


def check_factors(factors: Factors) -> list[int | str]:
    """Return the numbers of factors and the rules that were asked for; none for None.

    Raises
    ------
    InvalidParameterError
        If one is neither a number nor a rule, or the list is empty.
    """
    if factors is None:
        return []
    several: list[Any] = list(factors) if _are_several(factors) else [factors]  # type: ignore[arg-type]
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


def _are_several(factors: Factors) -> bool:
    return isinstance(factors, Iterable) and not isinstance(factors, str)

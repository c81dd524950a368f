"""Which subsets of neurons are clones, how many there are, and how small one can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.kernels.greedy import greedy_partition
from actstore.kernels.partition import (
    clone_to_clone_r2,
    component_bound,
    partition_r2,
    partition_residual_correlation,
    random_partition,
)
from actstore.kernels.reconstruction import critical_size
from actstore.queries.apply import Layer, Output, concat_runs, describe, per_epoch
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.parameters import (
    check_criterion,
    check_positive,
    check_seed_and_ridge,
    check_thresholds,
)
from actstore.queries.reconstruction import SIZE, curves_of
from actstore.queries.sources import Data, Source, sources

Array: TypeAlias = npt.NDArray[Any]

THRESHOLD = "threshold"
CLONE = "clone"
OTHER_CLONE = "other_clone"
RESAMPLE = "resample"
RESAMPLES = 200
THRESHOLDS = (0.95,)

SIZES = {
    "critical_size": Output((THRESHOLD,), "smallest subset size whose mean R² is the threshold"),
    "resampled_critical_size": Output(
        (THRESHOLD, RESAMPLE), "critical size of subsets drawn anew from the subsets"
    ),
}
PARTITION = {
    "clone_size": Output((THRESHOLD, CLONE), "neurons in the part"),
    "clone_r2": Output((THRESHOLD, CLONE), "R² of all neurons from the part"),
    "clone_r2_heldout": Output((THRESHOLD, CLONE), "R² of the neurons outside from the part"),
    "clone_residual_correlation": Output(
        (THRESHOLD, CLONE), "mean absolute correlation of the residuals outside the part"
    ),
    "is_clone": Output((THRESHOLD, CLONE), "whether the part is a clone", dtype="bool"),
    "clone_label": Output(
        (THRESHOLD, schema.NEURON), "part of the neuron, -1 for none", dtype="int64"
    ),
    "clone_to_clone_r2": Output((THRESHOLD, CLONE, OTHER_CLONE), "R² of a part from another"),
    "certified_clones": Output(
        (THRESHOLD,), "disjoint parts that are clones by the criterion", dtype="int64"
    ),
}
BOUND = {
    "component_bound": Output(
        (THRESHOLD,), "most clones that can exist, by principal components", dtype="int64"
    )
}


def clones(
    data: Data,
    *,
    threshold: float | Sequence[float] = THRESHOLDS,
    criterion: Literal["heldout", "paper"] = "heldout",
    strategy: Literal["random", "greedy"] = "random",
    parts: int | None = None,
    max_clones: int = 64,
    subsets: int = 40,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    select_split: str | None = None,
    score_split: str | None = None,
    rng_seed: int = 0,
    ridge: float = 1e-8,
    cache: bool | None = None,
) -> xr.Dataset:
    r"""Return the critical size, the number of clones, and a partition into clones.

    The critical size :math:`w_c` is the smallest integer size at which R², averaged over random
    subsets, reaches the threshold, and ``n_clones`` :math:`= W_{alive} / w_c`, a real number.
    Below 2 there are no clones, and ``n_clones`` is NaN: a layer that needs more than half of
    its neurons does not hold "1.3 clones". ``width_ratio`` is :math:`W_{alive} / w_c` always.

    Parameters
    ----------
    data : Store or Dataset
        A store, a selection of it, or a dataset with ``activations (epoch, sample, neuron)``.
    threshold : float or sequence of float
        R² in (0, 1] that makes a subset a clone.
    criterion : "heldout" or "paper"
        R² of the neurons outside the subset, or of all neurons.
    strategy : "random" or "greedy"
        How the partition is made: subsets of :math:`w_c` random neurons, or one clone after
        another by forward selection (Notes).
    parts : int, optional
        Cut the layer into this many random parts of equal size instead.
    max_clones : int
        Length of the dim ``clone``; parts beyond it are counted but not listed.
    subsets : int
        Random subsets a size (the paper: 40).
    split, layer : str
        Which activations.
    select_split, score_split : str, optional
        Choose the partition on one split and certify it on another; both default to ``split``.
        Selection and certification on one split flatter a greedy partition.
    rng_seed : int
        Seed of subsets and partitions.
    ridge : float
        λ relative to the mean variance of the neurons.
    cache : bool, optional
        Whether moments are kept in the store; by default if they are smaller than the activations.

    Returns
    -------
    Dataset
        With dims ``(run, epoch, threshold)``: ``critical_size``, ``critical_size_low`` and
        ``_high`` (90 %, bootstrap over subsets), ``width_ratio``, ``n_clones``, ``has_clones``,
        ``component_bound``, ``certified_clones``; with ``clone``: ``clone_size``, ``clone_r2``,
        ``clone_r2_heldout``, ``clone_residual_correlation``, ``is_clone``; with ``neuron``:
        ``clone_label``; with ``(clone, other_clone)``: ``clone_to_clone_r2``, of ``other_clone``
        from ``clone``; ``alive (run, epoch)``. Padded with NaN, -1 or False where there are fewer
        parts. Lazy: nothing is read until values are asked for.

    Raises
    ------
    InvalidParameterError
        If a threshold is outside (0, 1], or ``parts`` does not divide a width.
    InvalidDataError
        On asking for values, if every neuron is dead.
    NotInStoreError
        If a run does not hold a split or the layer.

    Notes
    -----
    The paper counts W / w_c with R² of all neurons (``criterion="paper"``), in which the subset's
    own neurons count as explained. A principal-component argument bounds the number: a clone of
    w neurons explains no more than the first w components.

    References
    ----------
    arXiv 2106.03485, section 3; Çivril & Magdon-Ismail (2012) for forward selection.

    Examples
    --------
    >>> from actstore.testing import planted_dataset
    >>> result = clones(planted_dataset(), threshold=0.8)
    >>> bool(result.has_clones.any())
    True
    """
    thresholds = check_thresholds(threshold)
    r2_name = check_criterion(criterion)
    check_positive(subsets=subsets, max_clones=max_clones)
    check_seed_and_ridge(rng_seed, ridge)
    if strategy not in ("random", "greedy"):
        raise InvalidParameterError(
            f"strategy {strategy!r} was asked for; it is 'random' or 'greedy'"
        )
    select, score = select_split or split, score_split or select_split or split
    found = sources(data, split=select, layer=layer)
    _check_parts(parts, found)
    results = []
    for source in found:
        sizes = critical_sizes(
            source, select, thresholds, r2_name, subsets=subsets, rng_seed=rng_seed, ridge=ridge,
            cache=cache, blocks=blocks_for(found, subsets),
        )  # fmt: skip
        partition = _partition(
            source, (select, score), sizes["critical_size"], thresholds, criterion=criterion,
            strategy=strategy, parts=parts, max_clones=max_clones, rng_seed=rng_seed,
            ridge=ridge, cache=cache,
        )  # fmt: skip
        results.append(xr.merge([counted(sizes), partition], combine_attrs="drop_conflicts"))
    return describe(
        concat_runs(results, found),
        "clones",
        found,
        criterion=criterion,
        strategy=strategy,
        parts=parts,
        split=score,
        select_split=select,
        score_split=score,
        layer=layer,
        subsets=subsets,
        rng_seed=rng_seed,
        ridge=ridge,
    )


def critical_sizes(
    source: Source,
    split: str,
    thresholds: Sequence[float],
    r2_name: str,
    *,
    subsets: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
    blocks: int,
) -> xr.Dataset:
    """Return ``critical_size (epoch, threshold)`` and what it is with the subsets drawn anew."""
    curves = curves_of(
        source, (split,), range(1, source.width + 1), subsets=subsets, rng_seed=rng_seed,
        ridge=ridge, cache=cache, blocks=blocks,
    )  # fmt: skip
    whole = curves.chunk({"subset": -1})

    def kernel(r2: Array, alive: Array) -> tuple[Array, Array]:
        found, anew = [], []
        for one, n in zip(r2, alive, strict=True):
            drawn = one[:, : int(n)]
            rng = np.random.default_rng(rng_seed)
            weights = rng.multinomial(len(drawn), np.full(len(drawn), 1 / len(drawn)), RESAMPLES)
            means = weights @ drawn / len(drawn)
            found.append([critical_size(drawn.mean(0), t) for t in thresholds])
            anew.append([[critical_size(mean, t) for mean in means] for t in thresholds])
        return np.asarray(found, float), np.asarray(anew, float)

    results = xr.apply_ufunc(
        kernel,
        whole[r2_name],
        whole["alive"],
        input_core_dims=[["subset", SIZE], []],
        output_core_dims=[list(o.dims) for o in SIZES.values()],
        dask="parallelized",
        output_dtypes=["float64"] * len(SIZES),
        dask_gufunc_kwargs={"output_sizes": {THRESHOLD: len(thresholds), RESAMPLE: RESAMPLES}},
    )
    sizes = {
        name: array.assign_attrs(long_name=output.long_name, units="neurons")
        for (name, output), array in zip(SIZES.items(), results, strict=True)
    }
    return xr.Dataset({**sizes, "alive": curves["alive"]}).assign_coords(
        {
            THRESHOLD: (
                THRESHOLD,
                list(thresholds),
                {"long_name": f"R² of a clone ({r2_name})", "units": "1"},
            )
        }
    )


def counted(sizes: xr.Dataset) -> xr.Dataset:
    """Return critical sizes with their interval, and the number of clones that follows."""
    drawn = sizes["resampled_critical_size"]
    ratio = sizes["alive"] / sizes["critical_size"]
    out = sizes.drop_vars("resampled_critical_size").assign(
        width_ratio=ratio.assign_attrs(long_name="alive neurons / critical size", units="1"),
        n_clones=ratio.where(ratio >= 2).assign_attrs(
            long_name="number of clones (none below 2)", units="1"
        ),
        has_clones=(ratio >= 2).assign_attrs(long_name="two clones or more", units="1"),
    )
    for name, q in (("low", 0.05), ("high", 0.95)):
        out[f"critical_size_{name}"] = drawn.quantile(q, RESAMPLE).drop_vars("quantile")
        out[f"critical_size_{name}"].attrs = {
            "long_name": f"critical size, {q:.0%} point of the bootstrap over subsets",
            "units": "neurons",
        }
    return out


def _partition(
    source: Source,
    splits: tuple[str, str],
    critical: xr.DataArray,
    thresholds: Sequence[float],
    *,
    criterion: Literal["heldout", "paper"],
    strategy: str,
    parts: int | None,
    max_clones: int,
    rng_seed: int,
    ridge: float,
    cache: bool | None,
) -> xr.Dataset:
    room = min(max_clones, source.width)

    def cut(layer: Layer, threshold: float, size: float) -> Array:
        n = len(layer.alive)
        if parts is not None:
            labels = random_partition(n, max(1, n // parts), seed=rng_seed)
            labels[labels >= parts] = -1  # dead neurons can leave enough over for another part
            return labels
        if strategy == "random":
            return random_partition(n, int(size), seed=rng_seed)
        return greedy_partition(
            layer.comoment, threshold, criterion=criterion, ridge=ridge, seed=rng_seed
        )

    def kernel(layer: Layer, sizes: Array) -> tuple[Any, ...]:
        rows = []
        certify = layer.moments[-1].comoment
        for threshold, size in zip(thresholds, sizes, strict=True):
            labels = cut(layer, threshold, size)
            r2, heldout = partition_r2(certify, labels, ridge=ridge)
            # the whole layer is the one part of a layer without clones: nothing is outside it
            reached = (heldout if criterion == "heldout" else r2) >= threshold
            rows.append(
                (
                    _padded(np.bincount(labels[labels >= 0]), room),
                    _padded(r2, room),
                    _padded(heldout, room),
                    _padded(partition_residual_correlation(certify, labels, ridge=ridge), room)
                    if len(r2)
                    else np.full(room, np.nan),
                    _padded(reached, room) == 1,
                    layer.spread(labels, fill=-1),
                    _square(clone_to_clone_r2(certify, labels, ridge=ridge), room)
                    if len(r2)
                    else np.full((room, room), np.nan),
                    int(reached.sum()),
                )
            )
        return tuple(np.stack([row[k] for row in rows]) for k in range(len(PARTITION)))

    used = splits if splits[0] != splits[1] else splits[:1]
    lengths = {
        THRESHOLD: len(thresholds),
        CLONE: room,
        OTHER_CLONE: room,
        schema.NEURON: source.width,
    }
    partition = per_epoch(
        kernel, source, used, PARTITION, sizes=lengths, cache=cache, extra=[critical]
    )
    bound = per_epoch(
        lambda layer: ([component_bound(layer.comoment, t) for t in thresholds],),
        source, splits[:1], BOUND, sizes=lengths, cache=cache,
    )  # fmt: skip
    return xr.merge([partition, bound])


def _padded(values: Array, room: int) -> Array:
    row = np.full(room, np.nan)
    row[: len(values)] = values[:room]
    return row


def _square(values: Array, room: int) -> Array:
    whole = np.full((room, room), np.nan)
    kept = min(len(values), room)
    whole[:kept, :kept] = values[:kept, :kept]
    return whole


def _check_parts(parts: int | None, found: Sequence[Source]) -> None:
    if parts is None:
        return
    check_positive(parts=parts)
    for source in found:
        if source.width % parts:
            divisors = [d for d in range(1, source.width + 1) if source.width % d == 0]
            raise InvalidParameterError(
                f"{parts} parts of run {source.name!r} were asked for, and its width "
                f"{source.width} does not divide by {parts}; it divides by "
                f"{', '.join(map(str, divisors))}"
            )

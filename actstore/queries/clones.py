"""Which subsets of neurons are clones, how many there are, and how small one can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.kernels.reconstruction import critical_size
from actstore.queries.apply import Output, concat_runs, describe
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.graph import over_epochs
from actstore.queries.parameters import (
    check_criterion,
    check_positive,
    check_seed_and_ridge,
    check_thresholds,
)
from actstore.queries.partition import CLONE, THRESHOLD, check_parts, clone_errors, partitioned
from actstore.queries.reconstruction import curves_of
from actstore.queries.sources import Data, Source, sources, warn_of_few_samples

Array: TypeAlias = npt.NDArray[Any]

RESAMPLE = "resample"
RESAMPLES = 200
THRESHOLDS = (0.95,)

SIZES = {
    "critical_size": Output(
        (THRESHOLD,), "smallest subset size whose mean R² is the threshold", "neurons"
    ),
    "resampled_critical_size": Output(
        (THRESHOLD, RESAMPLE), "critical size of subsets drawn anew from the subsets", "neurons"
    ),
    "critical_size_low": Output(
        (THRESHOLD,), "critical size, 5 % point of the bootstrap over subsets", "neurons"
    ),
    "critical_size_high": Output(
        (THRESHOLD,), "critical size, 95 % point of the bootstrap over subsets", "neurons"
    ),
    "width_ratio": Output((THRESHOLD,), "alive neurons / critical size"),
    "n_clones": Output((THRESHOLD,), "number of clones (none below 2)"),
    "has_clones": Output((THRESHOLD,), "two clones or more", dtype="bool"),
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
    select_threshold: float | None = None,
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
    select_threshold : float, optional
        R² up to which a greedy partition builds each clone; by default the threshold itself. A
        little more leaves room for the loss from one split to the other.
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
        ``clone_r2_heldout``, ``clone_residual_correlation``, ``is_clone``, and, of a store with
        readouts, ``clone_error_<split>`` of each split under the trained readout; with ``neuron``:
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
    own neurons count as explained, at sizes W, W/2, W/4, …; interpolating between those is 5 to
    15 % off, so here every integer is looked at. ``critical_size`` is of *random* subsets: it
    says that most subsets of that size carry the layer, not that the layer splits into so many.
    ``certified_clones`` counts disjoint parts of one partition that each pass by themselves; of
    random parts of :math:`w_c` neurons, whose mean is at the threshold, many do not. No
    partition exceeds ``component_bound``, :math:`⌊W_{alive} / k⌋` with k the principal components
    that the threshold needs: a clone of w neurons explains no more than the first w components.

    ``greedy`` takes the free neuron that explains most of what is left of the whole layer until
    the threshold is reached, then starts the next clone (forward selection, a pivoted Cholesky
    factorisation restricted to free neurons). Selected and certified on the same samples, it
    flatters: give ``select_split`` and ``score_split``.

    The bootstrap draws the subsets anew; it speaks of this network on these samples.

    References
    ----------
    arXiv 2106.03485, abstract: neurons "split into groups that carry identical information" (its
    partitions are random); Eckart & Young (1936) for the bound; Çivril & Magdon-Ismail (2012) for
    forward selection.

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
    if select_threshold is not None:
        check_thresholds(select_threshold)
    if strategy not in ("random", "greedy"):
        raise InvalidParameterError(
            f"strategy {strategy!r} was asked for; it is 'random' or 'greedy'"
        )
    select, score = select_split or split, score_split or select_split or split
    found = sources(data, split=select, layer=layer)
    if select == score:
        warn_of_few_samples(found)
    check_parts(parts, found)
    results = []
    for source in found:
        sizes = critical_sizes(
            source, select, thresholds, r2_name, subsets=subsets, rng_seed=rng_seed, ridge=ridge,
            cache=cache, blocks=blocks_for(found, subsets),
        )  # fmt: skip
        partition = partitioned(
            source, (select, score), sizes["critical_size"], thresholds, criterion=criterion,
            select_threshold=select_threshold, strategy=strategy, parts=parts,
            max_clones=max_clones, rng_seed=rng_seed, ridge=ridge, cache=cache,
        )  # fmt: skip
        partition = partition.merge(
            clone_errors(source, layer, partition["clone_label"], partition.sizes[CLONE])
        )
        results.append(sizes.drop_vars("resampled_critical_size").assign(partition.data_vars))
    return describe(
        concat_runs(results, found),
        "clones",
        found,
        criterion=criterion,
        strategy=strategy,
        parts=parts,
        max_clones=max_clones,
        split=score,
        select_split=select,
        score_split=score,
        select_threshold=select_threshold,
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
    curves: xr.Dataset | None = None,
) -> xr.Dataset:
    """Return critical sizes ``(epoch, threshold)``, with the subsets drawn anew, and the clones.

    ``curves`` are those of every size, if they are at hand.
    """
    if curves is None:
        curves = curves_of(
            source, (split,), range(1, source.width + 1), subsets=subsets, rng_seed=rng_seed,
            ridge=ridge, cache=cache, blocks=blocks,
        )  # fmt: skip

    def kernel(_epoch: int, r2: Array, alive: Array) -> tuple[Array, ...]:
        drawn = r2[:, : int(alive)]
        rng = np.random.default_rng(rng_seed)
        weights = rng.multinomial(len(drawn), np.full(len(drawn), 1 / len(drawn)), RESAMPLES)
        means = weights @ drawn / len(drawn)
        found = np.array([critical_size(drawn.mean(0), t) for t in thresholds])
        anew = np.array([[critical_size(mean, t) for mean in means] for t in thresholds])
        ratio = alive / found
        low, high = np.quantile(anew, [0.05, 0.95], axis=1)
        return found, anew, low, high, ratio, np.where(ratio >= 2, ratio, np.nan), ratio >= 2

    sizes = over_epochs(
        kernel,
        [curves[r2_name], curves["alive"]],
        SIZES,
        epochs=source.epochs,
        sizes={THRESHOLD: len(thresholds), RESAMPLE: RESAMPLES},
    )
    label = {"long_name": f"R² of a clone ({r2_name})", "units": "1"}
    return sizes.assign(alive=curves["alive"]).assign_coords(
        {THRESHOLD: (THRESHOLD, list(thresholds), label)}
    )

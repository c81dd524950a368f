"""What the trained readout gets wrong when it sees only a subset of the neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.queries.apply import concat_runs, describe
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.ensemble_error import check_error_inf, errors_of_widest
from actstore.queries.graph import Output
from actstore.queries.parameters import (
    check_positive,
    check_seed_and_ridge,
    subset_sizes,
)
from actstore.queries.reconstruction import SIZE
from actstore.queries.refit import REFIT_SUBSET, refitted
from actstore.queries.size_law import size_law
from actstore.queries.sources import Data
from actstore.queries.subset_errors import SPLIT, errors_of, readable, shares_of, usual_splits

REFIT = {
    "error_refit": Output(
        (SPLIT, REFIT_SUBSET, SIZE), "error of the subset with its readout fitted anew"
    )
}


def error(
    data: Data,
    *,
    subset_size: int | Sequence[int] | str | None = None,
    subsets: int = 100,
    splits: str | Sequence[str] | None = None,
    layer: str = schema.DEFAULT_LAYER,
    refit: int = 0,
    fit_split: str = "train",
    error_inf: float | Literal["ensemble"] | None = None,
    window: tuple[float, float] | None = None,
    rng_seed: int = 0,
    ridge: float = 1e-8,
    cache: bool | None = None,
) -> xr.Dataset:
    r"""Return error and loss of random subsets under the trained readout.

    The logits of a subset S are :math:`X_S A_S^T + b` with the readout as it was trained at that
    epoch: no refit and no rescaling, as in the paper; beside it with the subset's part rescaled
    by W / w. With ``refit``, a linear readout is fitted anew to each subset by least squares on
    one-hot labels, from the moments of ``fit_split``.

    Parameters
    ----------
    data : Store
        A store or a selection of it, recorded with its readout.
    subset_size : int, sequence of int, "all" or None
        Sizes w to answer for; None is the width, its half, its quarter, … 1.
    subsets : int
        Random subsets a size (the paper: 100). They are drawn from all neurons, dead ones too.
    splits : str or sequence of str, optional
        Where errors are counted; by default on "train" and "test", as far as every run holds them.
    layer : str
        The input of the readout.
    refit : int
        Subsets a size whose readout is fitted anew; 0 leaves it out.
    fit_split : str
        Where the readout is fitted anew.
    error_inf : float or "ensemble", optional
        Error at infinite size in :math:`error - error_{inf} = a w^{-γ}`: a number, that of all
        seeds of the widest width of the selection with their logits averaged (for each setting of
        the hyper-parameters, epoch and split), or fitted.
    window : (low, high), optional
        Subset sizes of that fit; by default all above one.
    rng_seed : int
        Seed of the subsets.
    ridge : float
        Ridge of the refit, relative to the mean variance of the neurons.
    cache : bool, optional
        Whether moments are kept in the store (refit only).

    Returns
    -------
    Dataset
        ``error``, ``loss``, ``error_rescaled``, ``loss_rescaled`` with dims ``(run, epoch, split,
        subset, subset_size)``, error in [0, 1] and loss the mean cross-entropy; with ``refit``,
        ``error_refit (run, epoch, split, refit_subset, subset_size)``; of the fit of the mean
        error against size ``gamma``, ``gamma_low``, ``gamma_high`` (95 %), ``error_inf``,
        ``window_low``, ``window_high`` with dims ``(run, epoch, split)``. The error of the whole
        network is that of the largest size. Lazy: nothing is read until values are asked for.

    Raises
    ------
    NotInStoreError
        If a run holds no readout, split or layer, or a network of the ensemble lacks an epoch.
    InvalidDataError
        If the data are not a store, labels are not classes of the readout, or the networks of the
        ensemble differ in samples or labels.
    InvalidParameterError
        If a size is below 1 or above the width, no split is given, ``error_inf`` or ``window`` is
        not what it says, or the widest width has one seed where an ensemble is asked for.

    Notes
    -----
    γ depends on the window: it is part of the answer. Sizes whose mean error is zero tell nothing
    of γ and are left out; ``window_low`` and ``window_high`` are those of the sizes that are left.
    An interval of (0, inf) says that the sizes do not determine γ; it is NaN where there are no
    more sizes than parameters. The interval joins the scatter of the sizes about the law and, by
    bootstrap, the draw of the subsets: nested subsets err alike, so that the scatter alone is too
    small. It speaks of this layer on these samples, not of other samples or seeds, and takes an
    ``error_inf`` that is given or that of an ensemble as exact. Where one epoch of each run is
    selected, the ensemble is of these, with a warning if they are different ones.

    References
    ----------
    arXiv 2106.03485, figures 3b (test) and 4b (train) of the NeurIPS version: error of a "chunk"
    under the trained readout, no refit, no rescaling, 100 subsets. Otherwise than there,
    ``error_inf`` is fitted unless it is given or ``"ensemble"``, for the exponent depends on it,
    and the sizes of one subset are nested. arXiv 2306.00183 for the refit, a linear probe that is
    trained anew, here by least squares.
    """
    check_positive(subsets=subsets)
    check_seed_and_ridge(rng_seed, ridge)
    if refit < 0:
        raise InvalidParameterError(f"refit={refit} was asked for; give a number of subsets from 0")
    check_error_inf(error_inf)
    if window is not None and not 0 < window[0] < window[1]:
        raise InvalidParameterError(
            f"window {tuple(window)} was asked for; give the smallest and the largest subset, "
            "as 32 256"
        )
    splits = usual_splits(data) if splits is None else splits
    names = [splits] if isinstance(splits, str) else list(dict.fromkeys(splits))
    found = readable(data, layer=layer, splits=names)
    sizes = subset_sizes(subset_size, found)
    if error_inf == "ensemble":
        limits: Sequence[float | xr.DataArray | None] = errors_of_widest(found, names, layer)
    else:
        limits = [error_inf] * len(found)
    results = []
    for source, inf in zip(found, limits, strict=True):
        one = errors_of(
            source, names, layer, sizes, subsets=subsets, rng_seed=rng_seed,
            blocks=blocks_for(found, 4),
        )  # fmt: skip
        law = size_law(one["error"], sizes, error_inf=inf, window=window, rng_seed=rng_seed)
        if refit:
            counts = refitted(source, fit_split, names, layer, sizes, refit, rng_seed, ridge, cache)
            lengths = {SPLIT: len(names), REFIT_SUBSET: refit, SIZE: len(sizes)}
            again = shares_of(source.epochs, counts, REFIT, lengths)
            one = one.assign(again.data_vars).assign_coords({REFIT_SUBSET: np.arange(refit)})
        results.append(one.assign(law.data_vars))
    return describe(
        concat_runs(results, found),
        "error",
        found,
        splits=names,
        layer=layer,
        subsets=subsets,
        refit=refit,
        fit_split=fit_split if refit else None,
        error_inf=error_inf,
        window=window,
        rng_seed=rng_seed,
        ridge=ridge,
    )

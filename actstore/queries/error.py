"""What the trained readout gets wrong when it sees only a subset of the neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidDataError, InvalidParameterError, NotInStoreError
from actstore.kernels.fits import DecayLaw, decay_law
from actstore.kernels.readout import subset_errors
from actstore.kernels.reconstruction import random_subsets
from actstore.queries.apply import concat_runs, describe
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.graph import SUBSET, Output, over_epochs
from actstore.queries.parameters import (
    check_positive,
    check_seed_and_ridge,
    subset_sizes,
)
from actstore.queries.reconstruction import SIZE, size_coords
from actstore.queries.refit import REFIT_SUBSET, Counts, refitted, sample_blocks
from actstore.queries.sources import Data, Source, sources

Array: TypeAlias = npt.NDArray[Any]

SPLIT = "split"
#: times that subsets are drawn anew to see how much γ owes to which were drawn
RESAMPLES = 25

ERRORS = {
    name: Output(
        (SPLIT, SUBSET, SIZE),
        f"{name.split('_')[0]} of the subset"
        + (", its part of the logits rescaled by width / size" if "_" in name else ""),
    )
    for name in ("error", "loss", "error_rescaled", "loss_rescaled")
}
REFIT = {
    "error_refit": Output(
        (SPLIT, REFIT_SUBSET, SIZE), "error of the subset with its readout fitted anew"
    )
}
LAW = {
    "gamma": Output((SPLIT,), "exponent of error - error_inf against subset size"),
    "gamma_low": Output((SPLIT,), "exponent, low end of its 95 % interval"),
    "gamma_high": Output((SPLIT,), "exponent, high end of its 95 % interval"),
    "error_inf": Output((SPLIT,), "error that is left at infinite size"),
    "window_low": Output((SPLIT,), "smallest subset of the fit", "neurons"),
    "window_high": Output((SPLIT,), "largest subset of the fit", "neurons"),
}


def error(
    data: Data,
    *,
    subset_size: int | Sequence[int] | str | None = None,
    subsets: int = 100,
    splits: str | Sequence[str] = ("train", "test"),
    layer: str = schema.DEFAULT_LAYER,
    refit: int = 0,
    fit_split: str = "train",
    error_inf: float | None = None,
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
    splits : str or sequence of str
        Where errors are counted.
    layer : str
        The input of the readout.
    refit : int
        Subsets a size whose readout is fitted anew; 0 leaves it out.
    fit_split : str
        Where the readout is fitted anew.
    error_inf : float, optional
        Error at infinite size in :math:`error - error_{inf} = a w^{-γ}`; fitted if not given.
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
        If a run holds no readout, split or layer.
    InvalidDataError
        If the data are not a store, or labels are not classes of the readout.
    InvalidParameterError
        If a size is below 1 or above the width, no split is given, or ``error_inf`` or
        ``window`` is not what it says.

    Notes
    -----
    γ depends on the window: it is part of the answer. Sizes whose mean error is zero tell nothing
    of γ and are left out; ``window_low`` and ``window_high`` are those of the sizes that are left.
    An interval of (0, inf) says that the sizes do not determine γ; it is NaN where there are no
    more sizes than parameters. The interval joins the scatter of the sizes about the law and, by
    bootstrap, the draw of the subsets: nested subsets err alike, so that the scatter alone is too
    small. It speaks of this layer on these samples, not of other samples or seeds.

    References
    ----------
    arXiv 2106.03485, section 4 and figure 2 (error of a chunk); arXiv 2306.00183 for the refit.
    """
    check_positive(subsets=subsets)
    check_seed_and_ridge(rng_seed, ridge)
    if refit < 0:
        raise InvalidParameterError(f"refit={refit} was asked for; give a number of subsets from 0")
    if error_inf is not None and not 0 <= error_inf <= 1:
        raise InvalidParameterError(
            f"error_inf={error_inf} was asked for; give a number in [0, 1], or nothing to fit it"
        )
    if window is not None and not 0 < window[0] < window[1]:
        raise InvalidParameterError(
            f"window {tuple(window)} was asked for; give the smallest and the largest subset, "
            "as 32 256"
        )
    names = [splits] if isinstance(splits, str) else list(dict.fromkeys(splits))
    found = readable(data, layer=layer, splits=names)
    sizes = subset_sizes(subset_size, found)
    results = []
    for source in found:
        counted = [
            _counted(source, split, layer, sizes, subsets, rng_seed, blocks_for(found, 4))
            for split in names
        ]
        if refit:
            counted += refitted(
                source, fit_split, names, layer, sizes, refit, rng_seed, ridge, cache
            )
        one = _shares(
            source, counted, len(names), sizes, subsets, refit, error_inf, window, rng_seed
        )
        results.append(one.assign_coords({SPLIT: names}))
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


def readable(data: Data, *, layer: str, splits: Sequence[str]) -> list[Source]:
    """Return the sources whose samples, labels and readout can be read.

    Raises
    ------
    InvalidDataError
        If the data are not a store, or the layer is not the input of the readout.
    NotInStoreError
        If a run lacks its readout or a split.
    InvalidParameterError
        If there is no split.
    """
    if not splits:
        raise InvalidParameterError("no split was given; 'train' and 'test' are the usual ones")
    found = sources(data, split=splits[0], layer=layer)
    for source in found:
        if source.run is None:
            raise InvalidDataError(
                "errors were asked of a dataset, which has no readout; ask them of a store"
            )
        if not source.run.has_readout:
            raise NotInStoreError(
                f"run {source.name!r} was recorded without its readout, so errors of subsets "
                "cannot be counted; record it with the readout"
            )
        taken = source.run.array(f"{schema.READOUT}/{schema.WEIGHT}").shape[-1]
        if taken != source.width:
            raise InvalidDataError(
                f"layer {layer!r} of run {source.name!r} has {source.width} neurons and its "
                f"readout takes {taken}; name the layer that the readout reads"
            )
        for split in splits:
            source.run.check(split, layer)
    return found


def _counted(
    source: Source,
    split: str,
    layer: str,
    sizes: Sequence[int],
    subsets: int,
    rng_seed: int,
    blocks: int,
) -> Counts:
    """Return wrong samples and summed losses of each block of samples."""
    assert source.run is not None
    recorded = source.run.dataset(split, layer)
    readout = source.run.readout()
    width = source.width  # a closure over the source would carry its data
    exist = np.flatnonzero(np.asarray(sizes) <= width)
    wanted = np.asarray(sizes)[exist].tolist()

    def kernel(
        _epoch: int, x: Array, label: Array, weight: Array, bias: Array, numbers: Array
    ) -> tuple[Array]:
        orders = random_subsets(width, subsets=subsets, seed=rng_seed)[numbers]
        out = np.full((len(numbers), len(ERRORS), len(sizes)), np.nan)
        # a run narrower than every size that was asked for has nothing to count
        for k, rescale in ((0, False), (2, True)) if wanted else ():
            found = subset_errors(
                x, label, weight, bias, orders=orders, sizes=wanted, rescale=rescale
            )
            out[:, k, exist] = found.wrong
            out[:, k + 1, exist] = found.loss * len(label)
        return (out,)

    parts = [
        over_epochs(
            kernel,
            [block[schema.ACTIVATIONS], block[schema.LABEL], *readout.data_vars.values()],
            {"counts": Output(("kind", SIZE), "wrong samples and summed losses")},
            epochs=source.epochs,
            sizes={SIZE: len(sizes), "kind": len(ERRORS)},
            subsets=subsets,
            blocks=blocks,
        )
        for block in sample_blocks(recorded)
    ]
    return Counts([part["counts"] for part in parts], recorded.sizes[schema.SAMPLE])


def _widened(fit: DecayLaw, drawn: Sequence[float]) -> tuple[float, float]:
    """Return the interval of γ with the spread of γ over subsets drawn anew, in quadrature."""
    finite = np.asarray(drawn)[np.isfinite(drawn)]
    reach = 1.96 * finite.std(ddof=1) if len(finite) > 1 else 0.0
    low = fit.gamma - np.hypot(fit.gamma - fit.low, reach)
    return max(0.0, low) if np.isfinite(low) else low, fit.gamma + np.hypot(
        fit.high - fit.gamma, reach
    )


def _shares(
    source: Source,
    counted: Sequence[Counts],
    splits: int,
    sizes: Sequence[int],
    subsets: int,
    refit: int,
    error_inf: float | None,
    window: tuple[float, float] | None,
    rng_seed: int,
) -> xr.Dataset:
    """Put blocks and splits together, and fit the decay of the mean error over subset sizes."""
    low_high = window or (2.0, float(max(sizes)))
    samples = [one.samples for one in counted]
    lengths = [len(one.parts) for one in counted]

    def kernel(_epoch: int, *parts: Array) -> tuple[Array, ...]:
        rng = np.random.default_rng(rng_seed)
        left = iter(parts)
        shares = [
            sum(next(left) for _ in range(n)) / count
            for n, count in zip(lengths, samples, strict=True)
        ]
        means = np.stack(shares[:splits])  # (split, subset, kind, size)
        law = []
        for errors in means[:, :, 0]:  # (subset, size)
            held = np.isfinite(errors[0])
            w = np.asarray(sizes, float)[held]
            fit = decay_law(w, errors[:, held].mean(0), error_inf=error_inf, window=low_high)
            drawn = [
                decay_law(w, errors[again][:, held].mean(0), error_inf=error_inf, window=low_high)
                for again in (rng.integers(subsets, size=subsets) for _ in range(RESAMPLES))
                if np.isfinite(fit.gamma)
            ]
            low, high = _widened(fit, [one.gamma for one in drawn])
            law.append((fit.gamma, low, high, fit.error_inf, *fit.window))
        again = [np.stack(shares[splits:])] if refit else []
        return *np.moveaxis(means, 2, 0), *again, *np.asarray(law, float).T

    outputs = {**ERRORS, **(REFIT if refit else {}), **LAW}
    return over_epochs(
        kernel,
        [part for one in counted for part in one.parts],
        outputs,
        epochs=source.epochs,
        sizes={SPLIT: splits, SUBSET: subsets, SIZE: len(sizes), REFIT_SUBSET: refit},
    ).assign_coords(
        {
            **size_coords(sizes),
            SUBSET: np.arange(subsets),
            **({REFIT_SUBSET: np.arange(refit)} if refit else {}),
        }
    )

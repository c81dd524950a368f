"""When in training clones appear, beside the error and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidDataError
from actstore.kernels.spectrum import effective_rank, participation_ratio
from actstore.kernels.spectrum import spectrum as eigenvalues_of
from actstore.queries.apply import Layer, Output, concat_runs, describe, per_epoch
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.clones import THRESHOLDS, critical_sizes
from actstore.queries.noise import measured as residuals
from actstore.queries.null import Factors, check_factors, judged, null_of
from actstore.queries.parameters import (
    check_criterion,
    check_positive,
    check_seed_and_ridge,
    check_thresholds,
    subset_sizes,
)
from actstore.queries.reconstruction import at_sizes, curves_of
from actstore.queries.sources import Data, Source, sources, warn_of_few_samples
from actstore.queries.subset_errors import errors_of, readable

Array: TypeAlias = npt.NDArray[Any]

#: of residuals, what is followed beside the null
RESIDUALS = ["residual_correlation_heldout", "residual_correlation", "sampling_floor"]

RANKS = {
    "participation_ratio": Output((), "participation ratio of the eigenvalues"),
    "effective_rank": Output((), "exponential of the entropy of the eigenvalues"),
}


def dynamics(
    data: Data,
    *,
    threshold: float | Sequence[float] = THRESHOLDS,
    criterion: Literal["heldout", "paper"] = "heldout",
    subset_size: int | Sequence[int] | str | None = None,
    subsets: int = 40,
    splits: str | Sequence[str] | None = None,
    factors: Factors = None,
    repeats: int = 20,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    rng_seed: int = 0,
    ridge: float = 1e-8,
    cache: bool | None = None,
) -> xr.Dataset:
    """Return clones, directions and errors at every recorded epoch, and when clones begin.

    Parameters
    ----------
    data : Store or Dataset
        A store, a selection of it, or a dataset with ``activations (epoch, sample, neuron)``.
    threshold : float or sequence of float
        R² in (0, 1] that makes a subset a clone.
    criterion : "heldout" or "paper"
        R² of the neurons outside the subset, or of all neurons.
    subset_size : int, sequence of int, "all" or None
        If given, R² and residual correlation of subsets of these sizes are followed too. None
        is the width, its half, its quarter, … 1 where ``splits`` or ``factors`` is given.
    subsets : int
        Random subsets a size (the paper: 40).
    splits : str or sequence of str, optional
        If given, error and loss of the subsets under the trained readout are followed on these
        splits, as in :func:`~actstore.queries.error`; it takes a store with readouts.
    factors : int, "gap", "bic", a sequence of these, or None
        If given, the matched null of the residual correlation is followed, as in
        :func:`~actstore.queries.noise`.
    repeats : int
        Simulated layers of the null.
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
        ``critical_size`` with ``_low`` and ``_high``, ``width_ratio``, ``n_clones`` and
        ``has_clones`` as in :func:`~actstore.queries.clones`, with dims ``(run, epoch,
        threshold)``; the metrics that were logged, such as ``train_error`` and ``train_loss``,
        ``participation_ratio``, ``effective_rank`` and ``alive (run, epoch)``;
        ``interpolation_epoch (run)``, the first of the selected epochs with zero train error;
        ``clone_epoch (run, threshold)``, the first of them with two clones or more;
        ``lag``, clone epoch − interpolation epoch (all NaN where it never happens).

        Of subsets that are followed: ``r2``, ``r2_heldout``, ``residual_correlation`` and
        ``residual_correlation_heldout (run, epoch, subset, subset_size)`` and
        ``sampling_floor (run, epoch, subset_size)``; with ``splits``, ``error``, ``loss``,
        ``error_rescaled`` and ``loss_rescaled (run, epoch, split, subset, subset_size)``; with
        ``factors``, ``null``, ``null_low``, ``null_high``, ``excess``, ``consistent``,
        ``verdict``, ``n_factors`` and ``factors_converged``, with the dims that they have in
        ``noise``. Lazy: nothing but the metrics is read until values are asked for.

    Raises
    ------
    InvalidParameterError
        If a threshold is outside (0, 1], or an option of subsets is out of range.
    InvalidDataError
        On asking for values, if every neuron is dead; if ``splits`` are asked of a dataset.
    NotInStoreError
        If a run does not hold a split, the layer, or the readout that ``splits`` need.

    Notes
    -----
    Only epochs that were recorded and selected are seen: an event lies between the epoch given
    and the one before it; with ``store.sel(epoch=[10, 50])`` it is 10 or 50. The paper's claim is
    that clones need training to go on until the train error is zero: ``lag`` tells whether they
    came after it here, which does not say that they came of it.

    References
    ----------
    arXiv 2106.03485, abstract: redundant neurons appear "only when the training process reaches
    interpolation". The two events and their lag are not in the paper: a claim about an order needs
    a time for each.
    """
    thresholds = check_thresholds(threshold)
    r2_name = check_criterion(criterion)
    check_positive(subsets=subsets, repeats=repeats)
    check_seed_and_ridge(rng_seed, ridge)
    wanted = check_factors(factors)
    scored = [splits] if isinstance(splits, str) else list(dict.fromkeys(splits or ()))
    if splits is not None:
        readable(data, layer=layer, splits=scored)
    found = sources(data, split=split, layer=layer)
    warn_of_few_samples(found)
    follow = subset_size is not None or bool(scored or wanted)
    sizes = subset_sizes(subset_size, found) if follow else []
    drawn: dict[str, Any] = {"subsets": subsets, "rng_seed": rng_seed}
    shared = {**drawn, "ridge": ridge, "cache": cache, "blocks": blocks_for(found, subsets)}
    results = []
    for source in found:
        every = curves_of(source, (split,), range(1, source.width + 1), **shared)
        clones = critical_sizes(source, split, thresholds, r2_name, **shared, curves=every)
        metrics = _metrics(source)
        parts = [
            clones.drop_vars("resampled_critical_size"),
            per_epoch(_ranks, source, (split,), RANKS, sizes={}, cache=cache),
            metrics,
            _events(clones["has_clones"], metrics),
        ]
        if follow:
            parts += [
                at_sizes(every, sizes),
                residuals(source, split, sizes, eigenvalues=False, **shared)[RESIDUALS],
            ]
        if wanted:
            parts.append(
                null_of(
                    source,
                    split,
                    sizes,
                    factors,
                    **drawn,
                    repeats=repeats,
                    ridge=ridge,
                    cache=cache,
                )
            )
        if scored:
            parts.append(
                errors_of(source, scored, layer, sizes, **drawn, blocks=blocks_for(found, 4))
            )
        one = xr.Dataset()
        for part in parts:
            one = one.assign(part.data_vars).assign_coords(part.coords)
        results.append(one)
    together = concat_runs(results, found)
    return describe(
        judged(together) if wanted else together,
        "dynamics",
        found,
        criterion=criterion,
        split=split,
        splits=scored or None,
        factors=factors,
        repeats=repeats,
        layer=layer,
        subsets=subsets,
        rng_seed=rng_seed,
        ridge=ridge,
    )


def _ranks(layer: Layer) -> tuple[float, float]:
    values = eigenvalues_of(layer.comoment, layer.samples)
    return participation_ratio(values), effective_rank(values)


def _metrics(source: Source) -> xr.Dataset:
    if source.run is None:
        return xr.Dataset(coords={schema.EPOCH: source.epochs})
    return source.run.metrics()


def _first(has: Array, *, epochs: Array) -> Array:
    return np.where(has.any(0), epochs[np.argmax(has, 0)], np.nan)


def _events(has_clones: xr.DataArray, metrics: xr.Dataset) -> xr.Dataset:
    epochs = has_clones[schema.EPOCH].values
    if not len(epochs):
        raise InvalidDataError("no epoch is selected; choose one that is stored")
    zero = metrics["train_error"].values <= 0 if "train_error" in metrics else np.zeros(0, bool)
    interpolation = float(epochs[np.argmax(zero)]) if zero.any() else np.nan

    whole = has_clones.data.rechunk({0: -1})
    found = whole.map_blocks(
        _first, epochs=epochs, drop_axis=0, meta=np.empty((0,) * (whole.ndim - 1))
    )
    begin = xr.Variable(has_clones.dims[1:], found)
    texts = {
        "interpolation_epoch": "first selected epoch of zero train error",
        "clone_epoch": "first selected epoch with two clones or more",
        "lag": "clone epoch - interpolation epoch",
    }
    events = xr.Dataset(
        {"interpolation_epoch": interpolation, "clone_epoch": begin, "lag": begin - interpolation}
    )
    for name, text in texts.items():  # Dataset.map would drop the attributes again
        events[name].attrs.update(long_name=text, units="epochs")
    return events

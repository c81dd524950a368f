"""How the number of clones grows with the width of the layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.kernels.fits import (
    critical_width,
    critical_widths,
    power_law,
    power_law_exponents,
)
from actstore.queries.apply import describe
from actstore.queries.apply import subset_blocks as blocks_for
from actstore.queries.clones import RESAMPLES, THRESHOLDS, critical_sizes
from actstore.queries.graph import Output, over_epochs
from actstore.queries.parameters import (
    check_criterion,
    check_positive,
    check_seed_and_ridge,
    check_thresholds,
)
from actstore.queries.partition import THRESHOLD
from actstore.queries.settings import SETTING, WIDTH, Settings
from actstore.queries.sources import (
    Data,
    compared_epochs,
    last_epoch,
    sources,
    warn_of_few_samples,
)
from actstore.queries.width_law import width_law

Array: TypeAlias = npt.NDArray[Any]

_BY_WIDTH = (SETTING, WIDTH, THRESHOLD)
_PER_WIDTH = {
    "critical_size": Output(
        _BY_WIDTH, "smallest subset size whose mean R² is the threshold, mean over seeds", "neurons"
    ),
    "critical_size_low": Output(_BY_WIDTH, "critical size, 5 % point of the bootstrap", "neurons"),
    "critical_size_high": Output(
        _BY_WIDTH, "critical size, 95 % point of the bootstrap", "neurons"
    ),
    "width_ratio": Output(_BY_WIDTH, "alive neurons / critical size, mean over seeds"),
    "width_ratio_low": Output(
        _BY_WIDTH, "alive neurons / critical size, 5 % point of the bootstrap"
    ),
    "width_ratio_high": Output(
        _BY_WIDTH, "alive neurons / critical size, 95 % point of the bootstrap"
    ),
}
_PER_SETTING = {
    "exponent": Output(
        (SETTING, THRESHOLD), "exponent of n_clones against width within the window"
    ),
    "exponent_low": Output((SETTING, THRESHOLD), "exponent, 5 % point of the bootstrap"),
    "exponent_high": Output((SETTING, THRESHOLD), "exponent, 95 % point of the bootstrap"),
    "window_low": Output(
        (SETTING, THRESHOLD), "narrowest width of the fit of the exponent", "neurons"
    ),
    "window_high": Output(
        (SETTING, THRESHOLD), "widest width of the fit of the exponent", "neurons"
    ),
    "critical_width": Output(
        (SETTING, THRESHOLD), "width at which a broken line through n_clones bends", "neurons"
    ),
    "critical_width_low": Output(
        (SETTING, THRESHOLD), "critical width, 5 % point of the bootstrap", "neurons"
    ),
    "critical_width_high": Output(
        (SETTING, THRESHOLD), "critical width, 95 % point of the bootstrap", "neurons"
    ),
    "clones_per_neuron": Output(
        (SETTING, THRESHOLD), "slope of the broken line above the critical width"
    ),
}


def scaling(
    data: Data,
    *,
    threshold: float | Sequence[float] = THRESHOLDS,
    criterion: Literal["heldout", "paper"] = "heldout",
    window: tuple[float, float] | None = None,
    error_inf: float | Literal["ensemble"] | None = None,
    subsets: int = 40,
    split: str = "test",
    layer: str = schema.DEFAULT_LAYER,
    rng_seed: int = 0,
    ridge: float = 1e-8,
    cache: bool | None = None,
) -> xr.Dataset:
    r"""Return the number of clones against width, for each setting of the hyper-parameters.

    Each run counts at the last of its selected epochs. Two fits of the ratio
    :math:`W_{alive} / w_c`, mean over seeds, go with the numbers: its exponent a, by least squares
    of :math:`\log(W_{alive} / w_c) = a \log W + c` within a window of widths, and a broken line
    :math:`1 + s \max(0, W - W_c)` over all widths, by relative least squares: a layer without
    clones needs all its neurons, and above the critical width :math:`W_c` each neuron adds s
    clones. A third, :math:`error - error_{inf} = a W^{-γ}`, is of the logged error of whole
    networks.

    Parameters
    ----------
    data : Store or Dataset
        A store or a selection of it.
    threshold : float or sequence of float
        R² in (0, 1] that makes a subset a clone.
    criterion : "heldout" or "paper"
        R² of the neurons outside the subset, or of all neurons.
    window : (low, high), optional
        Widths of the fits of the exponent and of γ; by default from the first width from which
        on every width has clones to the widest, and for γ all widths. A window of fewer than
        three widths gives NaN.
    error_inf : float or "ensemble", optional
        Error at infinite width in :math:`error - error_{inf} = a W^{-γ}`: a number, that of all
        seeds of the widest width with their logits averaged, or fitted.
    subsets : int
        Random subsets a size (the paper: 40).
    split, layer : str
        Which activations.
    rng_seed : int
        Seed of subsets and bootstrap.
    ridge : float
        λ relative to the mean variance of the neurons.
    cache : bool, optional
        Whether moments are kept in the store; by default if they are smaller than the activations.

    Returns
    -------
    Dataset
        With dims ``(setting, width, threshold)``: ``critical_size``, ``width_ratio`` (alive
        neurons / critical size), each with ``_low`` and ``_high`` (90 %, bootstrap over seeds and
        subsets), ``n_clones`` with ``_low`` and ``_high`` (NaN where the ratio is below 2: no
        clones) and ``has_clones``. With dims ``(setting, threshold)``: ``exponent`` and
        ``critical_width``, each with ``_low`` and ``_high`` (90 %, the same bootstrap),
        ``window_low``, ``window_high``, and ``clones_per_neuron`` (s). With
        ``(setting, width)``: ``seeds``, ``train_error``, ``test_error``; with ``(setting,)``:
        ``gamma`` with ``gamma_low`` and ``gamma_high`` (95 %), ``error_inf``,
        ``gamma_window_low`` and ``gamma_window_high`` of the logged error of ``split``. Lazy: no
        activations are read until values are asked for.

    Raises
    ------
    InvalidParameterError
        If a threshold is outside (0, 1], the window is not an interval, or ``error_inf`` is not
        in [0, 1], or is "ensemble" where the widest width has one seed or no readout.
    InvalidDataError
        On asking for values, if every neuron of a run is dead.
    NotInStoreError
        If a run does not hold the split or the layer.

    Notes
    -----
    The number depends on the threshold: if the private noise of the neurons exceeds 1 −
    threshold, the critical size is a fixed share of the width whatever the data do. Ask for
    several.

    The bootstrap draws seeds of each width anew, and for each of them its subsets. Its 90 %
    percentiles speak of networks trained again and measured on these samples; with one seed a
    width they cover the draw of subsets alone, and with fewer than about five they are too short.
    Neither the choice of the window nor departures from the law widen them.

    The 95 % interval of γ reaches at each end to the farther of two: the profile interval of the
    fit, which knows the scatter of the widths about the law, and the percentiles of a bootstrap
    over the seeds of each width (with one seed, the first alone). An ``error_inf`` that is given
    or is that of an ensemble is taken as exact. Where the interval is (0, inf), the widths do
    not determine γ; three widths with ``error_inf`` free leave no scatter to judge by.

    Runs that stopped at different epochs are compared with a warning, and ``epochs`` in the
    attributes names them.

    References
    ----------
    arXiv 2106.03485, abstract: the number of clones "increases linearly with the width of the
    layer, but only if the width is above a critical value". The fits are not the paper's: whether
    a growth is linear, an exponent with an interval says.
    """
    thresholds = check_thresholds(threshold)
    r2_name = check_criterion(criterion)
    check_positive(subsets=subsets)
    check_seed_and_ridge(rng_seed, ridge)
    if window is not None and not 0 < window[0] < window[1]:
        raise InvalidParameterError(
            f"window {window} was asked for; give the narrowest and the widest width, as 32 512"
        )
    found = sources(last_epoch(data), split=split, layer=layer)
    warn_of_few_samples(found)
    epochs = compared_epochs(found)
    blocks = blocks_for(found, subsets)
    runs = [
        critical_sizes(
            source, split, thresholds, r2_name, subsets=subsets, rng_seed=rng_seed, ridge=ridge,
            cache=cache, blocks=blocks,
        )
        for source in found
    ]  # fmt: skip
    settings = Settings(found)
    growth = _Growth(settings.widths, settings.shape, settings.members)

    def kernel(_: int, *parts: Array) -> tuple[Array, ...]:
        size, drawn, alive = (np.stack(parts[k::3]) for k in range(3))
        rng = np.random.default_rng(rng_seed)
        return growth.answer(size, drawn, alive, thresholds, window, rng)

    names = ("critical_size", "resampled_critical_size", "alive")
    answer = over_epochs(
        kernel,
        [run[name] for run in runs for name in names],
        {**_PER_WIDTH, **_PER_SETTING},
        epochs=np.zeros(1, int),  # each run counts at one epoch, its own last
        sizes={
            **dict(zip((SETTING, WIDTH), settings.shape, strict=True)),
            THRESHOLD: len(thresholds),
        },
    ).isel({schema.EPOCH: 0}, drop=True)
    known = {name: settings.metric(name) for name in ("train_error", "test_error")}
    known["seeds"] = settings.seeds()
    law = width_law(
        settings, split=split, layer=layer, error_inf=error_inf, window=window, rng_seed=rng_seed
    )
    return describe(
        _with_clones(answer.assign_coords({THRESHOLD: runs[0][THRESHOLD]}))
        .assign(known)
        .assign(law.data_vars)
        .assign_coords(settings.coords()),
        "scaling",
        found,
        epochs=epochs,
        criterion=criterion,
        split=split,
        layer=layer,
        window=window,
        error_inf=error_inf,
        subsets=subsets,
        rng_seed=rng_seed,
        ridge=ridge,
    )


class _Growth(NamedTuple):
    """The numbers and fits of a scaling, from the critical sizes of the runs.

    A task carries it to wherever it runs: plain values of :class:`Settings`, and no sources.
    """

    widths: list[int]
    shape: tuple[int, int]
    members: dict[tuple[int, int], list[int]]

    def answer(
        self,
        size: Array,
        drawn: Array,
        alive: Array,
        thresholds: Sequence[float],
        window: tuple[float, float] | None,
        rng: np.random.Generator,
    ) -> tuple[Array, ...]:
        """Return all variables from the critical sizes of the runs.

        Parameters
        ----------
        size : (run, threshold)
        drawn : (run, threshold, resample)
        alive : (run,)
        """
        shape = (*self.shape, len(thresholds))
        sizes, ratios = np.full((2, *shape), np.nan)
        drawn_sizes, drawn_ratios = np.full((2, *shape, RESAMPLES), np.nan)
        ratio = alive[:, None] / size
        drawn_ratio = alive[:, None, None] / drawn
        every = np.arange(RESAMPLES)
        for place, runs in self.members.items():
            sizes[place], ratios[place] = size[runs].mean(0), ratio[runs].mean(0)
            # a bootstrap over seeds (which runs) and subsets (which resample of each)
            again = rng.choice(runs, (RESAMPLES, len(runs)))
            for whole, each in ((drawn_sizes, drawn), (drawn_ratios, drawn_ratio)):
                whole[place] = each[again, :, every[:, None]].mean(1).T
        per_width = [sizes, *_interval(drawn_sizes), ratios, *_interval(drawn_ratios)]
        per_setting = np.full((len(_PER_SETTING), shape[0], len(thresholds)), np.nan)
        for s in range(shape[0]):
            for t in range(len(thresholds)):
                per_setting[:, s, t] = self._fits(ratios[s, :, t], drawn_ratios[s, :, t], window)
        return (*per_width, *per_setting)

    def _fits(self, ratio: Array, drawn: Array, window: tuple[float, float] | None) -> list[float]:
        held = np.isfinite(ratio)
        widths, ratio, drawn = np.asarray(self.widths, float)[held], ratio[held], drawn[held].T
        low, high = window or _window(widths, ratio)
        inside = (widths >= low) & (widths <= high)
        slopes = [np.nan] * 3
        if inside.sum() >= 3:
            w = widths[inside]
            again = power_law_exponents(w, drawn[:, inside])
            fitted = power_law(w, ratio[inside]).exponent
            slopes = [fitted, *np.quantile(again, [0.05, 0.95])]
        bend = critical_width(widths, ratio)
        bends = _quantiles(critical_widths(widths, drawn))
        return [*slopes, low, high, bend.critical_width, *bends, bend.slope]


def _with_clones(answer: xr.Dataset) -> xr.Dataset:
    ratio = answer["width_ratio"]
    out = answer.assign(
        has_clones=(ratio >= 2).assign_attrs(long_name="two clones or more", units="1")
    )
    for end in ("", "_low", "_high"):
        out[f"n_clones{end}"] = (
            answer[f"width_ratio{end}"]
            .where(ratio >= 2)
            .assign_attrs(long_name=f"number of clones (none below 2){end}", units="1")
        )
    return out


def _window(widths: Array, ratio: Array) -> tuple[float, float]:
    """From the first width from which on every width has clones, to the widest."""
    below = np.flatnonzero(ratio < 2)
    first = below[-1] + 1 if below.size else 0
    if first >= len(widths):
        return (np.nan, np.nan)
    return (float(widths[first]), float(widths[-1]))


def _interval(drawn: Array) -> list[Array]:
    kept = np.where(np.isnan(drawn).all(-1, keepdims=True), 0.0, drawn)
    missing = np.isnan(drawn).all(-1)
    return [np.where(missing, np.nan, np.quantile(kept, q, axis=-1)) for q in (0.05, 0.95)]


def _quantiles(values: Array) -> list[float]:
    finite = values[np.isfinite(values)]
    if len(finite) < len(values) / 2:  # the bend is not there in most resamples
        return [np.nan, np.nan]
    return [float(q) for q in np.quantile(finite, [0.05, 0.95])]

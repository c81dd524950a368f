"""How the error of whole networks falls with their width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.kernels.fits import decay_exponents, decay_law
from actstore.queries.ensemble_error import check_error_inf, error_of_widest
from actstore.queries.settings import SETTING, Settings
from actstore.queries.subset_errors import SPLIT

Array: TypeAlias = npt.NDArray[Any]

#: seeds drawn anew, to see how much γ owes to which were trained
RESAMPLES = 200

LAW = {
    "gamma": ("exponent of error - error_inf against width", "1"),
    "gamma_low": ("exponent of the error, low end of its 95 % interval", "1"),
    "gamma_high": ("exponent of the error, high end of its 95 % interval", "1"),
    "error_inf": ("error that is left at infinite width", "1"),
    "gamma_window_low": ("narrowest width of the fit of the error", "neurons"),
    "gamma_window_high": ("widest width of the fit of the error", "neurons"),
}


def width_law(
    settings: Settings,
    *,
    split: str,
    layer: str,
    error_inf: float | Literal["ensemble"] | None,
    window: tuple[float, float] | None,
    rng_seed: int,
) -> xr.Dataset:
    r"""Return the fit of :math:`error - error_{inf} = a W^{-γ}` over widths, for each setting.

    The errors are those that were logged as ``<split>_error``, mean over seeds. With
    ``error_inf="ensemble"`` it is the error of all seeds of the widest width, logits averaged.

    The interval of γ reaches to the farther of two at each end: the profile interval, which
    knows the scatter of the widths about the law, and the 95 % percentiles of a bootstrap over
    the seeds of each width. Either alone is too short where the other is not: of intervals
    simulated with 2, 3 and 5 seeds of 7 widths those of the bootstrap held the truth in 87 to
    93 %, both together in 95 to 99 %.
    """
    errors = settings.logged(f"{split}_error")
    widths, shape = np.asarray(settings.widths, float), settings.shape

    def fit(known: Array) -> tuple[Array, ...]:
        rng = np.random.default_rng(rng_seed)
        rows = []
        for setting, inf in enumerate(known):
            seeds = [errors.get((setting, w), np.empty(0)) for w in range(shape[1])]
            held = np.array([len(each) > 0 and bool(np.isfinite(each).all()) for each in seeds])
            seeds = [each for each, there in zip(seeds, held, strict=True) if there]
            options: dict[str, Any] = {
                "error_inf": None if np.isnan(inf) else float(inf), "window": window
            }  # fmt: skip
            law = decay_law(widths[held], [each.mean() for each in seeds], **options)
            low, high = law.low, law.high
            if np.isfinite(law.gamma) and any(len(each) > 1 for each in seeds):
                again = decay_exponents(widths[held], _drawn_anew(seeds, rng), **options)
                least, most = _percentiles(again)
                low, high = np.fmin(low, least), np.fmax(high, most)
            rows.append((law.gamma, low, high, law.error_inf, *law.window))
        return tuple(np.asarray(rows, float).T)

    check_error_inf(error_inf)
    if error_inf == "ensemble":
        limits = [
            error_of_widest(settings, s, [split], layer).isel(
                {schema.EPOCH: 0, SPLIT: 0}, drop=True
            )
            for s in range(shape[0])
        ]
        known = xr.concat(limits, dim=SETTING).chunk({SETTING: -1})
    else:
        value = np.nan if error_inf is None else error_inf
        known = xr.DataArray(np.full(shape[0], value), dims=SETTING).chunk()
    results = xr.apply_ufunc(
        fit,
        known,
        input_core_dims=[[SETTING]],
        output_core_dims=[[SETTING]] * len(LAW),
        dask="parallelized",
        output_dtypes=["float64"] * len(LAW),
    )
    return xr.Dataset(
        {
            name: array.assign_attrs(long_name=text, units=units)
            for (name, (text, units)), array in zip(LAW.items(), results, strict=True)
        }
    )


def _drawn_anew(seeds: Sequence[Array], rng: np.random.Generator) -> Array:
    """Return mean errors of seeds drawn anew from those of each width ``(resample, width)``."""
    columns = []
    for each in seeds:
        n, mean = len(each), each.mean()
        drawn = each[rng.integers(n, size=(RESAMPLES, n))].mean(1)
        # n values drawn from n have a variance that is 1 - 1/n of the true one
        columns.append(mean + (drawn - mean) * np.sqrt(n / max(n - 1, 1)))
    return np.stack(columns, axis=1)


def _percentiles(gammas: Array) -> tuple[float, float]:
    """Return the ends of the 95 % interval; errors drawn anew that do not decay bound nothing."""
    ends = [
        np.quantile(np.where(np.isnan(gammas), unbounded, gammas), q, method="inverted_cdf")
        for unbounded, q in ((0.0, 0.025), (np.inf, 0.975))
    ]
    return float(ends[0]), float(ends[1])

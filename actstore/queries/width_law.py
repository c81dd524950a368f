"""How the error of whole networks falls with their width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from actstore import schema
from actstore.errors import InvalidParameterError
from actstore.kernels.fits import decay_law
from actstore.queries.logits import logits_of, same_labels
from actstore.queries.settings import SETTING, Settings

Array: TypeAlias = npt.NDArray[Any]

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
) -> xr.Dataset:
    r"""Return the fit of :math:`error - error_{inf} = a W^{-γ}` over widths, for each setting.

    The errors are those that were logged as ``<split>_error``, mean over seeds. With
    ``error_inf="ensemble"`` it is the error of all seeds of the widest width, logits averaged.
    """
    errors = settings.metric(f"{split}_error").values
    widths = np.asarray(settings.widths, float)

    def fit(known: Array) -> tuple[Array, ...]:
        rows = []
        for one, inf in zip(errors, known, strict=True):
            held = np.isfinite(one)
            law = decay_law(
                widths[held],
                one[held],
                error_inf=None if np.isnan(inf) else float(inf),
                window=window,
            )
            rows.append((law.gamma, law.low, law.high, law.error_inf, *law.window))
        return tuple(np.asarray(rows, float).T)

    if error_inf == "ensemble":
        known = xr.concat([e.expand_dims(SETTING) for e in _ensembles(settings, split, layer)],
                          dim=SETTING).chunk({SETTING: -1})  # fmt: skip
    else:
        if isinstance(error_inf, str) or (error_inf is not None and not 0 <= error_inf <= 1):
            raise InvalidParameterError(
                f"error_inf={error_inf!r} was asked for; give a number in [0, 1], 'ensemble' "
                "or nothing to fit it"
            )
        value = np.nan if error_inf is None else error_inf
        known = xr.DataArray(np.full(settings.shape[0], value), dims=SETTING).chunk()
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


def _ensembles(settings: Settings, split: str, layer: str) -> Sequence[xr.DataArray]:
    """Return the error of the ensemble of the widest width of each setting."""
    errors = []
    for setting in range(settings.shape[0]):
        widest = max(w for s, w in settings.members if s == setting)
        runs = settings.members[setting, widest]
        members = [settings.found[r] for r in runs]
        if not all(m.run is not None and m.run.has_readout for m in members):
            raise InvalidParameterError(
                "error_inf='ensemble' was asked for, and the runs hold no readout; give a number"
            )
        if len(runs) < 2:
            raise InvalidParameterError(
                f"error_inf='ensemble' was asked for, and width {settings.widths[widest]}, the "
                f"widest of {settings.names()[setting]}, has one seed; record more, or give a "
                "number"
            )
        y = same_labels(members, split).values

        def error(*logits: Array, y: Array = y) -> Array:
            return np.asarray((sum(logits).argmax(-1) != y).mean())  # type: ignore[union-attr]

        errors.append(
            xr.apply_ufunc(
                error,
                *(logits_of(member, split, layer) for member in members),
                input_core_dims=[[schema.SAMPLE, schema.OUTPUT]] * len(runs),
                dask="parallelized",
                dask_gufunc_kwargs={"allow_rechunk": True},
                output_dtypes=["float64"],
            )
        )
    return errors
